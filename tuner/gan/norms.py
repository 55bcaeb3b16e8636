"""Normalisation: batch, conditional batch, layer and spectral norm, or none.

All compute in at least float32 and return the dtype of their input. Norms of activations share one
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
_SMALLEST_NORM = 1e-12  # avoids division by zero


def at_least_float32(x: Array) -> Array:
    """x as float32, or as its own dtype if that is wider."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


class BatchNorm(nnx.Module):
    """Batch normalisation over all axes but the last.

    With ``train=True`` the statistics of the batch are used and recorded, with ``train=False`` the
    last recorded ones. There is no running average, which would lag behind the weights: before
    each evaluation a generator's statistics are measured again (see ``sampling.generator_of``).
    A discriminator is trained on real and generated batches in turn, so its recorded statistics are
    useless; it is always called with ``train=True`` (see ``sampling.discriminate``).
    """

    def __init__(self, channels: int) -> None:
        self.scale = nnx.Param(jnp.ones(channels))
        self.bias = nnx.Param(jnp.zeros(channels))
        self.mean = nnx.BatchStat(jnp.zeros(channels))
        self.variance = nnx.BatchStat(jnp.ones(channels))

    def __call__(self, x: Array, labels: Array | None = None, *, train: bool) -> Array:
        return self._normalise(x, self.scale[...], self.bias[...], train=train)

    def _normalise(self, x: Array, scale: Array, bias: Array, *, train: bool) -> Array:
        if train:
            y, mean, variance = _batch_norm(x, scale, bias)
            self.mean.set_value(mean)
            self.variance.set_value(variance)
            return y
        inverse = lax.rsqrt(self.variance[...] + BATCH_NORM_EPSILON) * scale
        return (at_least_float32(x) * inverse + (bias - self.mean[...] * inverse)).astype(x.dtype)


class ConditionalBatchNorm(BatchNorm):
    """Batch norm with a gain and a bias for each class (Dumoulin et al. 2017, equation 5)."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__(channels)
        self.scale = nnx.Param(jnp.ones((classes, channels)))
        self.bias = nnx.Param(jnp.zeros((classes, channels)))

    def __call__(self, x: Array, labels: Array | None = None, *, train: bool) -> Array:
        if labels is None:  # indexing with None would not fail
            raise ValueError("no labels given; the network is conditioned on them")
        channels = x.shape[-1]
        y = self._normalise(x, jnp.ones(channels), jnp.zeros(channels), train=train)
        shape = (-1, *[1] * (x.ndim - 2), channels)
        # Products with one-hot rows select exactly; the gradient of indexing is a slow scatter.
        chosen = jax.nn.one_hot(labels, len(self.scale[...]), dtype=self.scale[...].dtype)
        gain, bias = (
            jnp.dot(chosen, table, precision=lax.Precision.HIGHEST).reshape(shape)
            for table in (self.scale[...], self.bias[...])
        )
        y = at_least_float32(y) * at_least_float32(gain) + at_least_float32(bias)
        return y.astype(x.dtype)


@jax.custom_vjp
def _batch_norm(x: Array, scale: Array, bias: Array) -> tuple[Array, Array, Array]:
    """Normalised x, and the batch's mean and biased variance per channel."""
    out: tuple[Array, Array, Array] = _batch_norm_forward(x, scale, bias)[0]
    return out


def _batch_norm_forward(x: Array, scale: Array, bias: Array) -> tuple[Any, Any]:
    axes = tuple(range(x.ndim - 1))
    mean = at_least_float32(x).mean(axes)
    variance = jnp.square(at_least_float32(x) - mean).mean(axes)
    inverse = lax.rsqrt(variance + BATCH_NORM_EPSILON)
    y = at_least_float32(x) * (inverse * scale) + (bias - mean * inverse * scale)
    return (y.astype(x.dtype), mean, variance), (x, scale, mean, inverse)


def _batch_norm_backward(saved: Any, cotangents: Any) -> tuple[Array, Array, Array]:
    """Ioffe and Szegedy 2015, section 3; the recorded statistics carry no gradient."""
    x, scale, mean, inverse = saved
    dy = at_least_float32(cotangents[0])
    axes = tuple(range(x.ndim - 1))
    count = x.size // x.shape[-1]
    dbias = dy.sum(axes)
    dscale = (dy * (at_least_float32(x) - mean)).sum(axes) * inverse
    slope = inverse * scale
    # dx = slope * (dy - mean(dy) - x_hat * mean(dy * x_hat)), as one pass a*dy + b*x + c
    b = -slope * inverse * dscale / count
    dx = dy * slope + at_least_float32(x) * b + (-slope * dbias / count - mean * b)
    return dx.astype(x.dtype), dscale.astype(scale.dtype), dbias.astype(scale.dtype)


_batch_norm.defvjp(_batch_norm_forward, _batch_norm_backward)


class LayerNorm(nnx.Module):
    """Normalise over all features of each image, with a gain and a bias per channel.

    Ba et al. 2016, equation 3; for images as in Kurach et al. 2019.
    """

    def __init__(self, channels: int) -> None:
        self.scale = nnx.Param(jnp.ones(channels))
        self.bias = nnx.Param(jnp.zeros(channels))

    def __call__(self, x: Array, labels: Array | None = None, *, train: bool) -> Array:
        axes = tuple(range(1, x.ndim))
        centred = at_least_float32(x) - at_least_float32(x).mean(axes, keepdims=True)
        variance = jnp.square(centred).mean(axes, keepdims=True)
        y = centred * lax.rsqrt(variance + LAYER_NORM_EPSILON)
        return (y * self.scale[...] + self.bias[...]).astype(x.dtype)


class NoNorm(nnx.Module):
    """The identity."""

    def __call__(self, x: Array, labels: Array | None = None, *, train: bool) -> Array:
        return x


Norm = BatchNorm | LayerNorm | NoNorm


def generator_norm(program: Program, channels: int) -> Norm:
    """The program's norm for the generator: conditional if the program has classes."""
    if program.generator_norm == "batch":
        classes = program.classes
        return ConditionalBatchNorm(channels, classes) if classes else BatchNorm(channels)
    if program.classes:
        raise ValueError("a generator without batch norm cannot be conditioned on classes")
    return NoNorm()


def discriminator_norm(program: Program, channels: int) -> Norm:
    """The program's norm for D's activations; layers apply spectral norm to their kernels."""
    if program.discriminator_norm == "batch":
        return BatchNorm(channels)
    return LayerNorm(channels) if program.discriminator_norm == "layer" else NoNorm()


class SpectralNorm(nnx.Module):
    """Divide a kernel (..., outputs) by its largest singular value as a matrix (rest, outputs).

    Power iteration (Miyato et al. 2018, algorithm 1): with ``train=True`` one step, whose vector u
    is kept; with ``train=False`` the last u is used. The gradient treats u and v as constants
    (appendix A).
    """

    def __init__(self, outputs: int, *, rngs: nnx.Rngs) -> None:
        self.u = nnx.BatchStat(_unit(jax.random.normal(rngs.params(), (outputs,))))

    def __call__(self, kernel: Array, *, train: bool) -> Array:
        matrix = at_least_float32(kernel).reshape(-1, kernel.shape[-1])
        fixed, u = lax.stop_gradient(matrix), self.u[...]
        v = _unit(_times(fixed, u))
        if train:
            u = _unit(_times(fixed.T, v))
            self.u.set_value(u)
        sigma = jnp.vdot(v, _times(matrix, u), precision="highest")
        return (at_least_float32(kernel) / sigma).astype(kernel.dtype)


def _times(matrix: Array, vector: Array) -> Array:
    return jnp.matmul(matrix, vector, precision="highest")


def _unit(vector: Array) -> Array:
    return vector / jnp.maximum(jnp.linalg.norm(vector), _SMALLEST_NORM)
