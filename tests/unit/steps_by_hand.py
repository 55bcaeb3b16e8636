"""What a step of plain gradient descent comes to, written out, for networks of a layer or two."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from tuner.gan.augmentation import differentiable, flipped
from tuner.gan.critics import around, between
from tuner.gan.state import GanState
from tuner.gan.step import _AUGMENTATION, _FLIPS, _NOISE, _POINTS, _STEP, StepLosses
from tuner.trial import Hyperparameters, Program

FAST = {"xla_backend_optimization_level": 0}  # to compile
Weights = list[Array]  # of a network, by layer


def painted(kernels: Array, labels: Array, z: Array, shape: tuple[int, ...]) -> Array:
    """Images of one layer, which each class has of its own."""
    return jnp.tanh(jnp.einsum("bz,bzp->bp", z, kernels[labels])).reshape(-1, *shape)


def judged(first: Array, second: Array, labels: Array, images: Array) -> Array:
    """Logits of two layers, the second of which each class has of its own: so have the slopes."""
    hidden = jax.nn.softplus(images.reshape(len(images), -1) @ first)
    logits: Array = (hidden * second[labels]).sum(1)
    return logits


class Painter(nnx.Module):
    """A generator."""

    def __init__(self, program: Program, *, rngs: nnx.Rngs) -> None:
        self.shape = program.image_shape
        kernels = (program.classes, program.latent_dim, int(np.prod(self.shape)))
        self.kernels = nnx.Param(0.4 * jax.random.normal(rngs.params(), kernels))

    def __call__(self, z: Array, labels: Array, *, train: bool) -> Array:
        assert z.dtype == self.kernels[...].dtype
        return painted(self.kernels[...], labels, z, self.shape)


class Judge(nnx.Module):
    """A discriminator."""

    def __init__(self, program: Program, *, rngs: nnx.Rngs) -> None:
        first = (int(np.prod(program.image_shape)), program.width)
        second = (program.classes, program.width)
        self.first = nnx.Param(0.3 * jax.random.normal(rngs.params(), first))
        self.second = nnx.Param(jax.random.normal(rngs.params(), second))

    def __call__(self, x: Array, labels: Array, *, rate: Array, key: Array, train: bool) -> Array:
        assert x.dtype == self.first[...].dtype
        return judged(self.first[...], self.second[...], labels, x)


class Step(NamedTuple):
    """What the written-out step is told: nothing that it should find itself."""

    h: Hyperparameters
    share: Any  # of the learning rates, that the schedule has left
    deviation: Any  # of the instance noise
    reals: Array  # (d_steps, batch, h, w, c)
    labels: Array  # (d_steps, batch)


@functools.partial(jax.jit, static_argnums=0, compiler_options=FAST)
def step_by_hand(
    program: Program, step: Step, state: GanState
) -> tuple[Weights, Weights, StepLosses]:
    """G's weights and D's after the step, and its losses."""
    painter, judge = jax.tree.leaves(state.generator), jax.tree.leaves(state.discriminator)
    key = jax.random.fold_in(jax.random.fold_in(state.key, _STEP), state.step)
    g_key, *d_keys = jax.random.split(key, 1 + program.d_steps)
    d_values = []
    for reals, labels, d_key in zip(step.reals, step.labels, d_keys, strict=True):
        if program.flips:
            reals = flipped(reals, jax.random.fold_in(d_key, _FLIPS))
        game = _Game(program, step, reals, labels)
        values, slopes = jax.value_and_grad(game.d_loss, has_aux=True)(judge, painter, d_key)
        judge = _descended(judge, slopes, step.share * step.h.discriminator_learning_rate)
        if program.loss == "wasserstein":
            judge = [jnp.clip(w, -step.h.weight_clip, step.h.weight_clip) for w in judge]
        d_values.append(values)
    g_value, slopes = jax.value_and_grad(game.g_loss)(painter, judge, g_key)
    painter = _descended(painter, slopes, step.share * step.h.generator_learning_rate)
    d_value, d_adversarial = (sum(x) / program.d_steps for x in zip(*d_values, strict=True))
    return painter, judge, StepLosses(d_value, g_value, d_adversarial, g_value)


def _descended(weights: Weights, slopes: Weights, rate: Array) -> Weights:
    return [w - rate * slope for w, slope in zip(weights, slopes, strict=True)]


class _Game(NamedTuple):
    program: Program
    step: Step
    reals: Array
    labels: Array

    def d_loss(self, judge: Weights, painter: Weights, key: Array) -> tuple[Array, Array]:
        """D's loss, and its adversarial part."""
        h, penalties = self.step.h, self.program.penalties
        z_key, real_key, fake_key = jax.random.split(key, 3)
        fakes = self.fakes(painter, z_key)
        real = self.logits(judge, real_key, self.reals)
        fake = self.logits(judge, fake_key, fakes)
        adversarial = total = D_LOSSES[self.program.loss](real, fake, h.label_smoothing)
        if "r1" in penalties:
            total += h.r1 / 2 * jnp.mean(self.norms(judge, real_key, self.reals) ** 2)
        if "r2" in penalties:
            total += h.r2 / 2 * jnp.mean(self.norms(judge, fake_key, fakes) ** 2)
        if "gradient_penalty" in penalties:
            folded = jax.random.fold_in(key, _POINTS)
            if self.program.loss == "dragan":
                points = around(self.reals, folded)
            else:
                points = between(self.reals, fakes, folded)
            total += h.gradient_penalty * jnp.mean((self.norms(judge, folded, points) - 1) ** 2)
        return total, adversarial

    def g_loss(self, painter: Weights, judge: Weights, key: Array) -> Array:
        z_key, judge_key = jax.random.split(key)
        fake = self.logits(judge, judge_key, self.fakes(painter, z_key))
        real = self.logits(judge, judge_key, self.reals)
        value: Array = G_LOSSES[self.program.loss](fake, real)
        return value

    def fakes(self, painter: Weights, key: Array) -> Array:
        z = jax.random.normal(key, (self.program.batch_size, self.program.latent_dim))
        return painted(painter[0], self.labels, z, self.program.image_shape)

    def logits(self, judge: Weights, key: Array, images: Array) -> Array:
        """D's, of images that are augmented, then noisy."""
        if self.program.augment:
            folded = jax.random.fold_in(key, _AUGMENTATION)
            images = differentiable(images, self.program.augment, folded)
        if self.program.instance_noise:
            noise = jax.random.normal(jax.random.fold_in(key, _NOISE), images.shape)
            images += self.step.deviation * noise
        return judged(judge[0], judge[1], self.labels, images)

    def norms(self, judge: Weights, key: Array, images: Array) -> Array:
        """Of the slope of each logit at its own image, out of those at all images."""
        slopes = jax.jacrev(functools.partial(self.logits, judge, key))(images)
        own = jnp.stack([slopes[i, i].ravel() for i in range(len(images))])
        return jnp.sqrt(jnp.sum(own**2, axis=1))


def _likely(logits: Array) -> Array:
    """The mean log-likelihood that D gives to images, taken for real ones."""
    return jnp.mean(jnp.log(1 / (1 + jnp.exp(-logits))))


def _cross_entropy(real: Array, fake: Array, smoothing: Array) -> Array:
    at_real = (1 - smoothing) * _likely(real) + smoothing * _likely(-real)
    return -at_real - _likely(-fake)


def _distance(real: Array, fake: Array, smoothing: Array) -> Array:
    return fake.mean() - real.mean()


D_LOSSES: dict[str, Any] = {
    "non_saturating": _cross_entropy,
    "dragan": _cross_entropy,
    "wasserstein": _distance,
    "wasserstein_gp": _distance,
    "relativistic": lambda real, fake, smoothing: -_likely(real - fake),
}
G_LOSSES: dict[str, Any] = {
    "non_saturating": lambda fake, real: -_likely(fake),
    "dragan": lambda fake, real: -_likely(fake),
    "wasserstein": lambda fake, real: -fake.mean(),
    "wasserstein_gp": lambda fake, real: -fake.mean(),
    "relativistic": lambda fake, real: -_likely(fake - real),
}
