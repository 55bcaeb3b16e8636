"""A training step with plain gradient descent, written out for networks of one or two layers."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from tuner.gan.augmentation import differentiable, flipped
from tuner.gan.gradient_penalties import around, between
from tuner.gan.state import GanState
from tuner.gan.step import _AUGMENTATION, _FLIPS, _NOISE, _POINTS, _REAL, _STEP, StepLosses
from tuner.trial import Hyperparameters, Program

FAST = {"xla_backend_optimization_level": 0}  # compiles faster
Weights = list[Array]  # one array per layer


def linear_images(kernels: Array, labels: Array, z: Array, shape: tuple[int, ...]) -> Array:
    """Images from one linear layer with separate kernels for each class."""
    return jnp.tanh(jnp.einsum("bz,bzp->bp", z, kernels[labels])).reshape(-1, *shape)


def two_layer_logits(first: Array, second: Array, labels: Array, images: Array) -> Array:
    """Logits from two layers; the second, and so the gradient, depends on the class."""
    hidden = jax.nn.softplus(images.reshape(len(images), -1) @ first)
    logits: Array = (hidden * second[labels]).sum(1)
    return logits


class LinearGenerator(nnx.Module):
    def __init__(self, program: Program, *, rngs: nnx.Rngs) -> None:
        self.shape = program.image_shape
        kernels = (program.classes, program.latent_dim, int(np.prod(self.shape)))
        self.kernels = nnx.Param(0.4 * jax.random.normal(rngs.params(), kernels))

    def __call__(self, z: Array, labels: Array, *, train: bool) -> Array:
        assert z.dtype == self.kernels[...].dtype
        return linear_images(self.kernels[...], labels, z, self.shape)


class TwoLayerDiscriminator(nnx.Module):
    def __init__(self, program: Program, *, rngs: nnx.Rngs) -> None:
        first = (int(np.prod(program.image_shape)), program.width)
        second = (program.classes, program.width)
        self.first = nnx.Param(0.3 * jax.random.normal(rngs.params(), first))
        self.second = nnx.Param(jax.random.normal(rngs.params(), second))

    def __call__(self, x: Array, labels: Array, *, rate: Array, key: Array, train: bool) -> Array:
        assert x.dtype == self.first[...].dtype
        return two_layer_logits(self.first[...], self.second[...], labels, x)


class StepInputs(NamedTuple):
    """Inputs of ``step_by_hand``, including what the schedules should yield."""

    h: Hyperparameters
    rate_factor: Any  # of the learning rates, by the schedule
    deviation: Any  # of the instance noise
    reals: Array  # (d_steps, batch, h, w, c)
    labels: Array  # (d_steps, batch)


@functools.partial(jax.jit, static_argnums=0, compiler_options=FAST)
def step_by_hand(
    program: Program, step: StepInputs, state: GanState
) -> tuple[Weights, Weights, StepLosses]:
    """Return the weights of G and D after the step, and the losses."""
    g, d = jax.tree.leaves(state.generator), jax.tree.leaves(state.discriminator)
    key = jax.random.fold_in(jax.random.fold_in(state.key, _STEP), state.step)
    g_key, *d_keys = jax.random.split(key, 1 + program.d_steps)
    d_values = []
    for reals, labels, d_key in zip(step.reals, step.labels, d_keys, strict=True):
        if program.flips:
            reals = flipped(reals, jax.random.fold_in(d_key, _FLIPS))
        losses = _Losses(program, step, reals, labels)
        values, gradient = jax.value_and_grad(losses.d_loss, has_aux=True)(d, g, d_key)
        d = _descend(d, gradient, step.rate_factor * step.h.discriminator_learning_rate)
        if program.loss == "wasserstein":
            d = [jnp.clip(w, -step.h.weight_clip, step.h.weight_clip) for w in d]
        d_values.append(values)
    g_value, gradient = jax.value_and_grad(losses.g_loss)(g, d, g_key)
    g = _descend(g, gradient, step.rate_factor * step.h.generator_learning_rate)
    d_value, d_adversarial = (sum(x) / program.d_steps for x in zip(*d_values, strict=True))
    return g, d, StepLosses(d_value, g_value, d_adversarial, g_value)


def _descend(weights: Weights, gradient: Weights, rate: Array) -> Weights:
    return [w - rate * slope for w, slope in zip(weights, gradient, strict=True)]


class _Losses(NamedTuple):
    program: Program
    step: StepInputs
    reals: Array
    labels: Array

    def d_loss(self, d: Weights, g: Weights, key: Array) -> tuple[Array, Array]:
        """Return D's loss, and its adversarial part."""
        h, penalties = self.step.h, self.program.penalties
        z_key, real_key, fake_key = jax.random.split(key, 3)
        fakes = self.fakes(g, z_key)
        real = self.logits(d, real_key, self.reals)
        fake = self.logits(d, fake_key, fakes)
        adversarial = total = D_LOSSES[self.program.loss](real, fake, h.label_smoothing)
        if "r1" in penalties:
            total += h.r1 / 2 * jnp.mean(self.norms(d, real_key, self.reals) ** 2)
        if "r2" in penalties:
            total += h.r2 / 2 * jnp.mean(self.norms(d, fake_key, fakes) ** 2)
        if "gradient_penalty" in penalties:
            folded = jax.random.fold_in(key, _POINTS)
            if self.program.loss == "dragan":
                points = around(self.reals, folded)
            else:
                points = between(self.reals, fakes, folded)
            total += h.gradient_penalty * jnp.mean((self.norms(d, folded, points) - 1) ** 2)
        return total, adversarial

    def g_loss(self, g: Weights, d: Weights, key: Array) -> Array:
        z_key, d_key = jax.random.split(key)
        fake = self.logits(d, d_key, self.fakes(g, z_key))
        real = self.logits(d, jax.random.fold_in(d_key, _REAL), self.reals)
        value: Array = G_LOSSES[self.program.loss](fake, real)
        return value

    def fakes(self, g: Weights, key: Array) -> Array:
        z = jax.random.normal(key, (self.program.batch_size, self.program.latent_dim))
        return linear_images(g[0], self.labels, z, self.program.image_shape)

    def logits(self, d: Weights, key: Array, images: Array) -> Array:
        """D's logits of augmented images with instance noise."""
        if self.program.augment:
            folded = jax.random.fold_in(key, _AUGMENTATION)
            images = differentiable(images, self.program.augment, folded)
        if self.program.instance_noise:
            noise = jax.random.normal(jax.random.fold_in(key, _NOISE), images.shape)
            images += self.step.deviation * noise
        return two_layer_logits(d[0], d[1], self.labels, images)

    def norms(self, d: Weights, key: Array, images: Array) -> Array:
        """Norms (batch) of the gradient of each logit at its own image."""
        gradient = jax.jacrev(functools.partial(self.logits, d, key))(images)
        own = jnp.stack([gradient[i, i].ravel() for i in range(len(images))])
        return jnp.sqrt(jnp.sum(own**2, axis=1))


def _log_probability(logits: Array) -> Array:
    """The mean log-probability, under D, that images are real."""
    return jnp.mean(jnp.log(1 / (1 + jnp.exp(-logits))))


def _cross_entropy(real: Array, fake: Array, smoothing: Array) -> Array:
    at_real = (1 - smoothing) * _log_probability(real) + smoothing * _log_probability(-real)
    return -at_real - _log_probability(-fake)


def _wasserstein(real: Array, fake: Array, smoothing: Array) -> Array:
    return fake.mean() - real.mean()


D_LOSSES: dict[str, Any] = {
    "non_saturating": _cross_entropy,
    "dragan": _cross_entropy,
    "wasserstein": _wasserstein,
    "wasserstein_gp": _wasserstein,
    "relativistic": lambda real, fake, smoothing: -_log_probability(real - fake),
}
G_LOSSES: dict[str, Any] = {
    "non_saturating": lambda fake, real: -_log_probability(fake),
    "dragan": lambda fake, real: -_log_probability(fake),
    "wasserstein": lambda fake, real: -fake.mean(),
    "wasserstein_gp": lambda fake, real: -fake.mean(),
    "relativistic": lambda fake, real: -_log_probability(fake - real),
}
