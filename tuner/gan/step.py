"""One iteration of a trial: the discriminator's updates, then the generator's, as pure functions.

A step's losses are of the networks as the program says: with its penalties, its regularisers and
its precision. Parameters are float32 throughout; with ``precision = "bfloat16"`` the networks
compute with rounded copies of them, and losses and penalties are float32 again.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import Array

from tuner.gan.augmentation import differentiable, flipped, noisy
from tuner.gan.critics import (
    Critic,
    around,
    between,
    gradient_penalty,
    normalised,
    squared_slope,
    with_slopes,
)
from tuner.gan.losses import LOSSES
from tuner.gan.optimizers import images_seen, make_optimizers, rate_factor
from tuner.gan.state import GanState, Variables, networks
from tuner.trial import Hyperparameters, Program

_STEP = 2  # what the trial's key is folded with: see training
# What an update's key, or a batch's, is folded with, beside what it is split into.
_POINTS, _FLIPS, _AUGMENTATION, _NOISE = range(10, 14)


class StepLosses(NamedTuple):
    """Scalars. The last two are what the loss ratio compares: without penalties."""

    d_loss: Array
    g_loss: Array
    d_adversarial: Array
    g_measure: Array


class Batch(NamedTuple):
    """Real images (batch, h, w, c) in [-1, 1], and their labels (batch,) where the networks are
    told."""

    images: Array
    labels: Array | None


class _Game(NamedTuple):
    """What both players' updates of one iteration need to know."""

    program: Program
    h: Hyperparameters
    step: Array

    def generate(self, params: Variables, labels: Array | None, key: Array) -> Array:
        """A batch of fakes."""
        nets = networks(self.program)
        generator = nnx.merge(
            nets.generator, self._rounded(params), nets.blank_statistics, copy=True
        )
        z = jax.random.normal(key, (self.program.batch_size, self.program.latent_dim))
        images: Array = generator(self._rounded(z), labels, train=True)
        return images.astype(jnp.float32)

    def critic(
        self, params: Variables, statistics: Variables, labels: Array | None, key: Array
    ) -> Critic:
        """The discriminator behind all that changes images on their way to it. What else it says
        are its statistics."""
        program, h = self.program, self.h
        graph = networks(program).discriminator

        def judge(images: Array) -> tuple[Array, Any]:
            discriminator = nnx.merge(graph, self._rounded(params), statistics, copy=True)
            logits: Array = discriminator(
                self._rounded(images), labels, rate=h.dropout, key=key, train=True
            )
            return logits.astype(jnp.float32), nnx.state(discriminator, nnx.Not(nnx.Param))

        chosen = normalised(judge) if program.loss == "gradient_normalized" else judge
        return lambda images: chosen(self._prepared(images, key))

    def _prepared(self, images: Array, key: Array) -> Array:
        if self.program.augment:
            folded = jax.random.fold_in(key, _AUGMENTATION)
            images = differentiable(images, self.program.augment, folded)
        if self.program.instance_noise:
            images = noisy(images, self._deviation(), jax.random.fold_in(key, _NOISE))
        return images

    def _deviation(self) -> Array:
        """Of the instance noise, which fades evenly until the trial's end."""
        seen = images_seen(self.program, self.step)
        return self.h.instance_noise * jnp.maximum(0.0, 1.0 - seen / self.h.total_images)

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
) -> tuple[GanState, StepLosses]:
    """One iteration: D on each real batch and a fresh fake one, then G on fresh latents.

    ``reals`` is float32 (d_steps, batch_size, h, w, c) in [-1, 1]; ``labels``, int32
    (d_steps, batch_size), are needed where the program has classes. Fakes are of the classes of
    the real images beside them.
    """
    game = _Game(program, hyperparameters, state.step)
    key = jax.random.fold_in(jax.random.fold_in(state.key, _STEP), state.step)
    g_key, *d_keys = jax.random.split(key, 1 + program.d_steps)
    d_loss, d_adversarial = jnp.float32(0), jnp.float32(0)
    batch = Batch(reals[0], None)
    for i in range(program.d_steps):
        batch = Batch(reals[i], None if labels is None else labels[i])
        if program.flips:
            mirrored = flipped(batch.images, jax.random.fold_in(d_keys[i], _FLIPS))
            batch = batch._replace(images=mirrored)
        state, loss, adversarial = _update_discriminator(game, state, batch, d_keys[i])
        d_loss += loss / program.d_steps
        d_adversarial += adversarial / program.d_steps
    state, g_loss, g_measure = _update_generator(game, state, batch, g_key)
    return state._replace(step=state.step + 1), StepLosses(d_loss, g_loss, d_adversarial, g_measure)


def _update_discriminator(
    game: _Game, state: GanState, batch: Batch, key: Array
) -> tuple[GanState, Array, Array]:
    """The state after one update of D, D's loss, and the adversarial part of it."""
    loss = functools.partial(_discriminator_loss, game, state, batch, key)
    (value, (adversarial, statistics)), gradients = jax.value_and_grad(loss, has_aux=True)(
        state.discriminator
    )
    optimizer = make_optimizers(game.program, game.h)[1]
    params, optimizer_state = _updated(
        game, optimizer, state.discriminator, state.discriminator_optimizer, gradients
    )
    if game.program.loss == "wasserstein":  # Arjovsky et al. 2017, algorithm 1
        limit = game.h.weight_clip
        params = jax.tree.map(lambda weights: jnp.clip(weights, -limit, limit), params)
    state = state._replace(
        discriminator=params,
        discriminator_statistics=statistics,
        discriminator_optimizer=optimizer_state,
    )
    return state, value, adversarial


def _discriminator_loss(
    game: _Game, state: GanState, batch: Batch, key: Array, params: Variables
) -> tuple[Array, tuple[Array, Variables]]:
    """D's loss with penalties; its adversarial part, and D's statistics, beside it."""
    program, h = game.program, game.h
    z_key, real_key, fake_key = jax.random.split(key, 3)
    fakes = game.generate(state.generator, batch.labels, z_key)
    critic = functools.partial(game.critic, params)
    at_real = critic(state.discriminator_statistics, batch.labels, real_key)
    real, statistics, penalty_real = _with_penalty(at_real, batch.images, "r1" in program.penalties)
    at_fake = critic(statistics, batch.labels, fake_key)
    fake, statistics, penalty_fake = _with_penalty(at_fake, fakes, "r2" in program.penalties)
    adversarial = LOSSES[program.loss].discriminator(real, fake, h.label_smoothing)
    total = adversarial + h.r1 * penalty_real + h.r2 * penalty_fake
    if "gradient_penalty" in program.penalties:
        folded = jax.random.fold_in(key, _POINTS)
        near = program.loss == "dragan"
        points = around(batch.images, folded) if near else between(batch.images, fakes, folded)
        at_points = critic(statistics, batch.labels, folded)
        total += h.gradient_penalty * gradient_penalty(at_points, points)
    return total, (adversarial, statistics)


def _with_penalty(critic: Critic, images: Array, wanted: bool) -> tuple[Array, Any, Array]:
    """Logits, D's statistics, and half the mean squared slope where it is ``wanted``, else 0."""
    if not wanted:
        return *critic(images), jnp.float32(0)
    logits, statistics, slopes = with_slopes(critic, images)
    return logits, statistics, squared_slope(slopes)


def _update_generator(
    game: _Game, state: GanState, batch: Batch, key: Array
) -> tuple[GanState, Array, Array]:
    """The state after one update of G, G's loss, and the measure of its standing."""
    loss = functools.partial(_generator_loss, game, state, batch, key)
    (value, measure), gradients = jax.value_and_grad(loss, has_aux=True)(state.generator)
    optimizer = make_optimizers(game.program, game.h)[0]
    params, optimizer_state = _updated(
        game, optimizer, state.generator, state.generator_optimizer, gradients
    )
    state = state._replace(
        generator=params,
        generator_optimizer=optimizer_state,
        ema=_average(state.ema, params, game.h.ema_decay, state.step),
    )
    return state, value, measure


def _generator_loss(
    game: _Game, state: GanState, batch: Batch, key: Array, params: Variables
) -> tuple[Array, Array]:
    loss = LOSSES[game.program.loss]
    z_key, judge_key = jax.random.split(key)
    critic = game.critic(
        state.discriminator, state.discriminator_statistics, batch.labels, judge_key
    )
    fake, _ = critic(game.generate(params, batch.labels, z_key))
    real = critic(batch.images)[0] if loss.relative else jnp.zeros_like(fake)
    return loss.generator(fake, real), loss.generator_measure(fake, real)


def _updated(
    game: _Game,
    optimizer: optax.GradientTransformation,
    params: Variables,
    state: optax.OptState,
    gradients: Any,
) -> tuple[Any, optax.OptState]:
    updates, state = optimizer.update(gradients, state, params)
    factor = rate_factor(game.program, game.h, game.step)
    return optax.apply_updates(params, optax.tree.scale(factor, updates)), state


def _average(
    ema: Variables | None, params: Variables, decay: float | Array, step: Array
) -> Variables | None:
    """The exponential moving average, warmed up: decay min(decay, (1 + t) / (10 + t)) at step t."""
    if ema is None:
        return None
    decay = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    average: Variables = jax.tree.map(
        lambda old, new: decay * old + (1.0 - decay) * new, ema, params
    )
    return average
