"""Normalisation: batch, conditional batch, layer and spectral norm, and none of them.

All compute in at least float32 and give back what they were given. Those of activations share one
signature, ``norm(x, labels, train=...)``: x (batch, ..., channels), int32 labels (batch,) or None.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array, lax

from tuner.trial import Program

BATCH_NORM_EPSILON = 1e-3
LAYER_NORM_EPSILON = 1e-5
_SMALLEST_NORM = 1e-12  # of a vector that is divided by its length


def wide(x: Array) -> Array:
    """x in float32, or wider where it is."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


class BatchNorm(nnx.Module):
    """Batch normalisation over all axes but the last.

    With ``train=True`` the batch's own statistics are used and recorded; with ``train=False`` the
    ones recorded last. No running average is kept: before a generator is evaluated its statistics
    are measured afresh for the weights at hand (see ``sampling.generator_of``), which makes
    an average over past weights, always a little wrong, needless. A discriminator's are no use at
    all, as it is trained on real and on generated batches by turns: it is always asked with
    ``train=True`` (see ``sampling.discriminate``).
    """

    def __init__(self, channels: int) -> None:
        self.scale = nnx.Param(jnp.ones(channels))
        self.bias = nnx.Param(jnp.zeros(channels))
        self.mean = nnx.BatchStat(jnp.zeros(channels))
        self.variance = nnx.BatchStat(jnp.ones(channels))

    def __call__(self, x: Array, labels: Array | None = None, *, train: bool) -> Array:
        return _normalised(self, x, self.scale[...], self.bias[...], train=train)


class ConditionalBatchNorm(nnx.Module):
    """Batch normalisation with a gain and a bias for each class (Dumoulin et al. 2017, eq. 5)."""

    def __init__(self, channels: int, classes: int) -> None:
        self.scale = nnx.Param(jnp.ones((classes, channels)))
        self.bias = nnx.Param(jnp.zeros((classes, channels)))
        self.mean = nnx.BatchStat(jnp.zeros(channels))
        self.variance = nnx.BatchStat(jnp.ones(channels))

    def __call__(self, x: Array, labels: Array | None = None, *, train: bool) -> Array:
        if labels is None:  # None would index the tables all the same
            raise ValueError("found no labels, expected those that the network is conditioned on")
        channels = x.shape[-1]
        y = _normalised(self, x, jnp.ones(channels), jnp.zeros(channels), train=train)
        shape = (-1, *[1] * (x.ndim - 2), channels)
        gain, bias = (table[labels].reshape(shape) for table in (self.scale[...], self.bias[...]))
        return (wide(y) * wide(gain) + wide(bias)).astype(x.dtype)


def _normalised(
    norm: BatchNorm | ConditionalBatchNorm, x: Array, scale: Array, bias: Array, *, train: bool
) -> Array:
    if train:
        y, mean, variance = _batch_norm(x, scale, bias)
        norm.mean.set_value(mean)
        norm.variance.set_value(variance)
        return y
    inverse = lax.rsqrt(norm.variance[...] + BATCH_NORM_EPSILON) * scale
    return (wide(x) * inverse + (bias - norm.mean[...] * inverse)).astype(x.dtype)


@jax.custom_vjp
def _batch_norm(x: Array, scale: Array, bias: Array) -> tuple[Array, Array, Array]:
    """Normalised x, and the batch's mean and (biased) variance per channel."""
    out: tuple[Array, Array, Array] = _batch_norm_forward(x, scale, bias)[0]
    return out


def _batch_norm_forward(x: Array, scale: Array, bias: Array) -> tuple[Any, Any]:
    axes = tuple(range(x.ndim - 1))
    mean = wide(x).mean(axes)
    variance = jnp.square(wide(x) - mean).mean(axes)
    inverse = lax.rsqrt(variance + BATCH_NORM_EPSILON)
    y = wide(x) * (inverse * scale) + (bias - mean * inverse * scale)
    return (y.astype(x.dtype), mean, variance), (x, scale, mean, inverse)


def _batch_norm_backward(saved: Any, cotangents: Any) -> tuple[Array, Array, Array]:
    """Ioffe and Szegedy 2015, section 3; the recorded statistics carry no gradient."""
    x, scale, mean, inverse = saved
    dy = wide(cotangents[0])
    axes = tuple(range(x.ndim - 1))
    count = x.size // x.shape[-1]
    dbias = dy.sum(axes)
    dscale = (dy * (wide(x) - mean)).sum(axes) * inverse
    slope = inverse * scale
    # dx = slope * (dy - mean(dy) - x_hat * mean(dy * x_hat)), as one pass a*dy + b*x + c
    b = -slope * inverse * dscale / count
    dx = dy * slope + wide(x) * b + (-slope * dbias / count - mean * b)
    return dx.astype(x.dtype), dscale.astype(scale.dtype), dbias.astype(scale.dtype)


_batch_norm.defvjp(_batch_norm_forward, _batch_norm_backward)


class LayerNorm(nnx.Module):
    """Each image's features to mean 0 and variance 1 over all of them, then a gain and a bias per
    channel (Ba et al. 2016, eq. 3; for images as Kurach et al. 2019 run it)."""

    def __init__(self, channels: int) -> None:
        self.scale = nnx.Param(jnp.ones(channels))
        self.bias = nnx.Param(jnp.zeros(channels))

    def __call__(self, x: Array, labels: Array | None = None, *, train: bool) -> Array:
        axes = tuple(range(1, x.ndim))
        centred = wide(x) - wide(x).mean(axes, keepdims=True)
        variance = jnp.square(centred).mean(axes, keepdims=True)
        y = centred * lax.rsqrt(variance + LAYER_NORM_EPSILON)
        return (y * self.scale[...] + self.bias[...]).astype(x.dtype)


class NoNorm(nnx.Module):
    """What stands where a norm could."""

    def __call__(self, x: Array, labels: Array | None = None, *, train: bool) -> Array:
        return x


Norm = BatchNorm | ConditionalBatchNorm | LayerNorm | NoNorm


def generator_norm(program: Program, channels: int) -> Norm:
    """Of the program's kind. Conditional networks learn their class here and nowhere else."""
    if program.generator_norm == "batch":
        classes = program.classes
        return ConditionalBatchNorm(channels, classes) if classes else BatchNorm(channels)
    if program.classes:
        raise ValueError("found classes without batch norm in the generator, which tells them")
    return NoNorm()


def discriminator_norm(program: Program, channels: int) -> Norm:
    """Of the program's kind, for activations; spectral norm is the layers' own affair."""
    if program.discriminator_norm == "batch":
        return BatchNorm(channels)
    return LayerNorm(channels) if program.discriminator_norm == "layer" else NoNorm()


class SpectralNorm(nnx.Module):
    """A kernel (..., outputs) over its largest singular value as a matrix (rest, outputs), by power
    iteration (Miyato et al. 2018, algorithm 1).

    With ``train=True`` one iteration is made and its vector u kept; with ``train=False`` the u
    kept last is used. The gradient takes u and v for constants (their appendix A).
    """

    def __init__(self, outputs: int, *, rngs: nnx.Rngs) -> None:
        self.u = nnx.BatchStat(_unit(jax.random.normal(rngs.params(), (outputs,))))

    def __call__(self, kernel: Array, *, train: bool) -> Array:
        matrix = wide(kernel).reshape(-1, kernel.shape[-1])
        fixed, u = lax.stop_gradient(matrix), self.u[...]
        v = _unit(_times(fixed, u))
        if train:
            u = _unit(_times(fixed.T, v))
            self.u.set_value(u)
        sigma = jnp.vdot(v, _times(matrix, u), precision="highest")
        return (wide(kernel) / sigma).astype(kernel.dtype)


def _times(matrix: Array, vector: Array) -> Array:
    return jnp.matmul(matrix, vector, precision="highest")


def _unit(vector: Array) -> Array:
    return vector / jnp.maximum(jnp.linalg.norm(vector), _SMALLEST_NORM)
