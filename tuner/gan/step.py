"""One iteration of a trial: the discriminator's updates, then the generator's, as pure functions.

Parameters are float32 throughout. With ``precision = "bfloat16"`` the networks compute with rounded
copies of them; losses and penalties are still float32.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import Array

from tuner.gan.augmentation import adapted, differentiable, flipped, noisy
from tuner.gan.gradient_penalties import (
    Critic,
    around,
    between,
    gradient_penalty,
    normalised,
    squared_slope,
    with_slopes,
)
from tuner.gan.losses import LOSSES
from tuner.gan.optimizers import Side, make_optimizer
from tuner.gan.packing import Unpack
from tuner.gan.schedules import at_step, ema_decay, images_seen, rate_factor
from tuner.gan.state import GanState, Variables, networks
from tuner.spec import traits
from tuner.trial import Hyperparameters, Program

_STEP = 2  # folded into the trial's key: see training
# Folded into the key of an update or a batch, in addition to its splits.
_POINTS, _FLIPS, _AUGMENTATION, _NOISE, _REAL = range(10, 15)


class StepLosses(NamedTuple):
    """Scalars. The loss ratio compares the last two, which have no penalties."""

    d_loss: Array
    g_loss: Array
    d_adversarial: Array
    g_measure: Array


class Batch(NamedTuple):
    """Real images (batch, h, w, c) in [-1, 1], and labels (batch,) for conditional networks."""

    images: Array
    labels: Array | None


class _StepContext(NamedTuple):
    """Settings shared by the updates of D and G in one iteration."""

    program: Program
    h: Hyperparameters  # at this step
    step: Array
    unpack: Unpack | None = None  # if G's parameters are packed

    def generate(self, params: Any, labels: Array | None, key: Array) -> Array:
        """Generate a batch of fakes."""
        nets = networks(self.program)
        rounded = self._rounded(params if self.unpack is None else self.unpack(params))
        generator = nnx.merge(nets.generator, rounded, nets.blank_statistics, copy=True)
        z = jax.random.normal(key, (self.program.batch_size, self.program.latent_dim))
        images: Array = generator(self._rounded(z), labels, train=True)
        return images.astype(jnp.float32)

    def critic(
        self, params: Variables, statistics: Variables, labels: Array | None, key: Array
    ) -> Critic:
        """The discriminator with augmentation and noise in front of it.

        The auxiliary output of the critic is the discriminator's new statistics.
        """
        program, h = self.program, self.h
        graph = networks(program).discriminator

        def discriminate(images: Array) -> tuple[Array, Any]:
            discriminator = nnx.merge(graph, self._rounded(params), statistics, copy=True)
            logits: Array = discriminator(
                self._rounded(images), labels, rate=h.dropout, key=key, train=True
            )
            return logits.astype(jnp.float32), nnx.state(discriminator, nnx.Not(nnx.Param))

        bounded = traits.LOSSES[program.loss].bounds_gradients
        chosen = normalised(discriminate) if bounded else discriminate
        return lambda images: chosen(self._prepared(images, key))

    def _prepared(self, images: Array, key: Array) -> Array:
        if self.program.augment:
            folded = jax.random.fold_in(key, _AUGMENTATION)
            probability = self.h.augment_probability if self.program.augment_some else None
            images = differentiable(images, self.program.augment, folded, probability)
        if self.program.instance_noise:  # its standard deviation falls linearly to 0
            seen = images_seen(self.program, self.step)
            deviation = self.h.instance_noise * jnp.maximum(0.0, 1.0 - seen / self.h.total_images)
            images = noisy(images, deviation, jax.random.fold_in(key, _NOISE))
        return images

    def _rounded(self, tree: Any) -> Any:
        if self.program.precision == "float32":
            return tree
        return jax.tree.map(lambda x: x.astype(jnp.bfloat16), tree)


def train_step(
    program: Program,
    state: GanState,
    hyperparameters: Hyperparameters,
    reals: Array,
    labels: Array | None = None,
    unpack: Unpack | None = None,
) -> tuple[GanState, StepLosses]:
    """One iteration: D on each real batch and a new fake one, then G on new latents.

    ``reals`` is float32 (d_steps, batch_size, h, w, c) in [-1, 1]; ``labels``, int32
    (d_steps, batch_size), are needed if the program has classes. A fake batch has the classes of
    the real batch that it is paired with. ``unpack`` belongs to a packed state (see ``packing``).
    """
    h = at_step(program, hyperparameters, state.step)
    if state.adaptive is not None:
        probability: Any = state.adaptive.probability
        h = h._replace(augment_probability=probability)
    context = _StepContext(program, h, state.step, unpack)
    key = jax.random.fold_in(jax.random.fold_in(state.key, _STEP), state.step)
    g_key, *d_keys = jax.random.split(key, 1 + program.d_steps)
    d_loss, d_adversarial, signs = jnp.float32(0), jnp.float32(0), []
    for i, d_key in enumerate(d_keys):
        batch = Batch(reals[i], None if labels is None else labels[i])
        if program.flips:
            mirrored = flipped(batch.images, jax.random.fold_in(d_key, _FLIPS))
            batch = batch._replace(images=mirrored)
        state, loss, (adversarial, sign) = _update_discriminator(context, state, batch, d_key)
        d_loss += loss / program.d_steps
        d_adversarial += adversarial / program.d_steps
        signs.append(sign)
    if state.adaptive is not None:
        sign = sum(signs) / program.d_steps
        state = state._replace(adaptive=adapted(program, h, state.adaptive, sign, state.step))
    state, g_loss, g_measure = _update_generator(context, state, batch, g_key)
    return state._replace(step=state.step + 1), StepLosses(d_loss, g_loss, d_adversarial, g_measure)


def _update_discriminator(
    context: _StepContext, state: GanState, batch: Batch, key: Array
) -> tuple[GanState, Array, tuple[Array, Any]]:
    """The state after one update of D, D's loss, the loss without penalties, and the mean sign of
    its logits on real images if augmentation adapts."""
    loss = functools.partial(_discriminator_loss, context, state, batch, key)
    state, value, (found, statistics) = _descend(context, "discriminator", state, loss)
    if (
        "weight_clip" in traits.LOSSES[context.program.loss].uses
    ):  # Arjovsky et al. 2017, algorithm 1
        limit = context.h.weight_clip
        clipped = jax.tree.map(lambda x: jnp.clip(x, -limit, limit), state.discriminator)
        state = state._replace(discriminator=clipped)
    return state._replace(discriminator_statistics=statistics), value, found


def _discriminator_loss(
    context: _StepContext, state: GanState, batch: Batch, key: Array, params: Variables
) -> tuple[Array, tuple[tuple[Array, Any], Variables]]:
    """D's loss with penalties; the loss without them, and the mean sign of D's logits on real
    images if augmentation adapts; D's new statistics."""
    program, h, loss = context.program, context.h, LOSSES[context.program.loss]
    z_key, real_key, fake_key = jax.random.split(key, 3)
    fakes = context.generate(state.generator, batch.labels, z_key)
    critic = functools.partial(context.critic, params)
    at_real = critic(state.discriminator_statistics, batch.labels, real_key)
    real, statistics, penalty_real = _with_penalty(at_real, batch.images, "r1" in program.penalties)
    at_fake = critic(statistics, batch.labels, fake_key)
    fake, statistics, penalty_fake = _with_penalty(at_fake, fakes, "r2" in program.penalties)
    adversarial = loss.discriminator(real, fake, h.label_smoothing)
    total = adversarial + h.r1 * penalty_real + h.r2 * penalty_fake
    if "gradient_penalty" in program.penalties:
        folded = jax.random.fold_in(key, _POINTS)
        if loss.penalty_points == "around":
            points = around(batch.images, folded)
        else:
            points = between(batch.images, fakes, folded)
        at_points = critic(statistics, batch.labels, folded)
        total += h.gradient_penalty * gradient_penalty(at_points, points)
    sign = jnp.mean(jnp.sign(real)) if program.augment_adapts else None
    return total, ((adversarial, sign), statistics)


def _with_penalty(critic: Critic, images: Array, wanted: bool) -> tuple[Array, Any, Array]:
    """Logits, D's statistics, and half the mean squared slope if ``wanted``, else 0."""
    if not wanted:
        return *critic(images), jnp.float32(0)
    logits, statistics, slopes = with_slopes(critic, images)
    return logits, statistics, squared_slope(slopes)


def _update_generator(
    context: _StepContext, state: GanState, batch: Batch, key: Array
) -> tuple[GanState, Array, Array]:
    """The state after one update of G, G's loss, and the measure of G."""
    loss = functools.partial(_generator_loss, context, state, batch, key)
    state, value, measure = _descend(context, "generator", state, loss)
    return state._replace(ema=_average(context, state.ema, state.generator)), value, measure


def _generator_loss(
    context: _StepContext, state: GanState, batch: Batch, key: Array, params: Variables
) -> tuple[Array, Array]:
    loss = LOSSES[context.program.loss]
    z_key, critic_key = jax.random.split(key)
    critic = functools.partial(
        context.critic, state.discriminator, state.discriminator_statistics, batch.labels
    )
    fake, _ = critic(critic_key)(context.generate(params, batch.labels, z_key))
    real = jnp.zeros_like(fake)
    if loss.relative:  # separate batches, as in the discriminator's update
        real, _ = critic(jax.random.fold_in(critic_key, _REAL))(batch.images)
    return loss.generator(fake, real), loss.generator_measure(fake, real)


def _descend(
    context: _StepContext,
    side: Side,
    state: GanState,
    loss: Callable[[Variables], tuple[Array, Any]],
) -> tuple[GanState, Array, Any]:
    """The state after one step of a network's optimizer, the loss, and its auxiliary output."""
    gradient = jax.value_and_grad(loss, has_aux=True)
    (value, auxiliary), gradients = gradient(getattr(state, side))
    return _apply_gradients(context, side, state, gradients), value, auxiliary


def _apply_gradients(
    context: _StepContext, side: Side, state: GanState, gradients: Variables
) -> GanState:
    """The state after one step of a network's optimizer."""
    params = getattr(state, side)
    optimizer = make_optimizer(context.program, context.h, side)
    updates, optimizer_state = optimizer.update(
        gradients, getattr(state, f"{side}_optimizer"), params
    )
    factor = rate_factor(context.program, context.h, context.step)
    params = optax.apply_updates(params, optax.tree.scale(factor, updates))
    return state._replace(**{side: params, f"{side}_optimizer": optimizer_state})


def _average(context: _StepContext, ema: Variables | None, params: Variables) -> Variables | None:
    """The exponential moving average after this step."""
    if ema is None:
        return None
    decay = ema_decay(context.program, context.h, context.step)
    average: Variables = jax.tree.map(
        lambda old, new: decay * old + (1.0 - decay) * new, ema, params
    )
    return average
