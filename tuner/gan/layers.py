"""The layers that the GANs here are built of, with Keras' semantics and fast gradients on a CPU.

Keras' semantics: kernels Glorot-uniform, biases zero, batch norm with epsilon 1e-3, and SAME
padding as TensorFlow pads (at stride 2 an even image gets more padding on the lower right side).
Images are NHWC throughout.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array, lax

BATCH_NORM_EPSILON = 1e-3
_NHWC = ("NHWC", "HWIO", "NHWC")
_glorot_uniform = nnx.initializers.glorot_uniform()


class Dense(nnx.Module):
    """x (batch, inputs) -> (batch, outputs)."""

    def __init__(self, inputs: int, outputs: int, *, use_bias: bool = True, rngs: nnx.Rngs) -> None:
        self.kernel = nnx.Param(_glorot_uniform(rngs.params(), (inputs, outputs), jnp.float32))
        self.bias = nnx.data(nnx.Param(jnp.zeros(outputs)) if use_bias else None)

    def __call__(self, x: Array) -> Array:
        y = x @ self.kernel[...]
        return y if self.bias is None else y + self.bias[...]


class Conv(nnx.Module):
    """A square convolution, SAME padding: (batch, h, w, inputs) -> (batch, h/s, w/s, outputs)."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        size: int,
        stride: int = 1,
        use_bias: bool = True,
        rngs: nnx.Rngs,
    ) -> None:
        shape = (size, size, inputs, outputs)
        self.kernel = nnx.Param(_glorot_uniform(rngs.params(), shape, jnp.float32))
        self.bias = nnx.data(nnx.Param(jnp.zeros(outputs)) if use_bias else None)
        self.stride = stride

    def __call__(self, x: Array) -> Array:
        strides = (self.stride, self.stride)
        y = lax.conv_general_dilated(x, self.kernel[...], strides, "SAME", dimension_numbers=_NHWC)
        return y if self.bias is None else y + self.bias[...]


class ConvTranspose(nnx.Module):
    """A 5x5 transposed convolution without bias, as Keras' ``Conv2DTranspose(padding="same")``.

    The kernel has Keras' shape (5, 5, outputs, inputs). At stride 2 it is not run as a transposed
    convolution, whose weight gradient is about thirty times slower than its forward pass on a CPU,
    but as the same linear map in sub-pixel form: a 3x3 convolution to 4 x outputs channels, then
    each group of four channels spread over a 2x2 block of pixels.
    """

    def __init__(self, inputs: int, outputs: int, *, stride: int, rngs: nnx.Rngs) -> None:
        if stride not in (1, 2):
            raise ValueError(f"stride must be 1 or 2, found {stride}")
        # Keras takes fan-in and fan-out from the last two axes: here they are (outputs, inputs),
        # and Glorot's range does not care which is which.
        shape = (5, 5, outputs, inputs)
        self.kernel = nnx.Param(_glorot_uniform(rngs.params(), shape, jnp.float32))
        self.stride = stride

    def __call__(self, x: Array) -> Array:
        kernel = self.kernel[...]
        if self.stride == 1:
            # The transpose of a stride-1 SAME correlation is the correlation with the kernel
            # turned by half a circle.
            turned = kernel[::-1, ::-1].transpose(0, 1, 3, 2)
            return lax.conv_general_dilated(x, turned, (1, 1), "SAME", dimension_numbers=_NHWC)
        y = lax.conv_general_dilated(
            x, _subpixel_kernel(kernel), (1, 1), "SAME", dimension_numbers=_NHWC
        )
        return _depth_to_space(y)


def _subpixel_kernel(kernel: Array) -> Array:
    """(5, 5, outputs, inputs), stride 2 -> (3, 3, inputs, 4 * outputs) for stride 1.

    SAME padding at stride 2 and size 5 pads 1 before and 2 after, so input pixel i contributes
    with tap t to output pixel o = 2 i + t - 1. For output o = 2 q + r, input q + d therefore has
    tap t = r + 1 - 2 d, for d = -1, 0, 1; taps outside 0..4 are zero.
    """
    padded = jnp.pad(kernel, ((0, 1), (0, 1), (0, 0), (0, 0)))  # tap 5 is zero
    taps = np.array([[r + 1 - 2 * d for r in (0, 1)] for d in (-1, 0, 1)])  # (3, 2)
    taps = np.where((taps < 0) | (taps > 4), 5, taps)
    rows = padded[taps]  # (3, 2, 6, outputs, inputs)
    blocks = rows[:, :, taps]  # (3, 2, 3, 2, outputs, inputs)
    inputs, outputs = kernel.shape[3], kernel.shape[2]
    return blocks.transpose(0, 2, 5, 1, 3, 4).reshape(3, 3, inputs, 4 * outputs)


def _depth_to_space(y: Array) -> Array:
    """(batch, h, w, 2 * 2 * channels) -> (batch, 2 h, 2 w, channels)."""
    batch, height, width, depth = y.shape
    blocks = y.reshape(batch, height, width, 2, 2, depth // 4)
    return blocks.transpose(0, 1, 3, 2, 4, 5).reshape(batch, 2 * height, 2 * width, depth // 4)


class BatchNorm(nnx.Module):
    """Batch normalisation over all axes but the last.

    With ``train=True`` the batch's own statistics are used and recorded; with ``train=False`` the
    ones recorded last. No running average is kept: before a generator is evaluated its statistics
    are measured afresh for the weights at hand (see ``sampling.generator_of``), which makes
    an average over past weights, always a little wrong, needless.
    """

    def __init__(self, channels: int) -> None:
        self.scale = nnx.Param(jnp.ones(channels))
        self.bias = nnx.Param(jnp.zeros(channels))
        self.mean = nnx.BatchStat(jnp.zeros(channels))
        self.variance = nnx.BatchStat(jnp.ones(channels))

    def __call__(self, x: Array, *, train: bool) -> Array:
        if not train:
            inverse = lax.rsqrt(self.variance[...] + BATCH_NORM_EPSILON) * self.scale[...]
            return x * inverse + (self.bias[...] - self.mean[...] * inverse)
        y, mean, variance = _batch_norm(x, self.scale[...], self.bias[...])
        self.mean.set_value(mean)
        self.variance.set_value(variance)
        return y


@jax.custom_vjp
def _batch_norm(x: Array, scale: Array, bias: Array) -> tuple[Array, Array, Array]:
    """Normalised x, and the batch's mean and (biased) variance per channel."""
    out: tuple[Array, Array, Array] = _batch_norm_forward(x, scale, bias)[0]
    return out


def _batch_norm_forward(x: Array, scale: Array, bias: Array) -> tuple[Any, Any]:
    axes = tuple(range(x.ndim - 1))
    mean = x.mean(axes)
    variance = jnp.square(x - mean).mean(axes)
    inverse = lax.rsqrt(variance + BATCH_NORM_EPSILON)
    y = x * (inverse * scale) + (bias - mean * inverse * scale)
    return (y, mean, variance), (x, scale, mean, inverse)


def _batch_norm_backward(saved: Any, cotangents: Any) -> tuple[Array, Array, Array]:
    """Ioffe and Szegedy 2015, section 3; the recorded statistics carry no gradient."""
    x, scale, mean, inverse = saved
    dy = cotangents[0]
    axes = tuple(range(x.ndim - 1))
    count = x.size // x.shape[-1]
    dbias = dy.sum(axes)
    dscale = (dy * (x - mean)).sum(axes) * inverse
    slope = inverse * scale
    # dx = slope * (dy - mean(dy) - x_hat * mean(dy * x_hat)), as one pass a*dy + b*x + c
    b = -slope * inverse * dscale / count
    dx = dy * slope + x * b + (-slope * dbias / count - mean * b)
    return dx, dscale, dbias


_batch_norm.defvjp(_batch_norm_forward, _batch_norm_backward)


def leaky_relu(x: Array, slope: float = 0.3) -> Array:
    """max(x, slope * x); Keras' default slope."""
    return jnp.maximum(x, slope * x)


def dropout(x: Array, rate: Array, key: Array) -> Array:
    """Zero each element with probability ``rate`` (traced; 0 keeps all) and scale up the rest.

    The mask comes from hashing element number and key, a few integer operations that XLA fuses
    into its neighbours: threefry bits would cost a tenth of a training step on a CPU.
    """
    threshold = (jnp.clip(rate, 0.0, 1.0) * np.float32(2**32 - 2**8)).astype(jnp.uint32)
    keep = _hash_bits(x.shape, key) >= threshold
    return jnp.where(keep, x / (1.0 - rate), 0.0)


def _hash_bits(shape: tuple[int, ...], key: Array) -> Array:
    """uint32 of ``shape``: two keyed rounds of the mixer "lowbias32" (Wellons 2018)."""
    words = jax.random.bits(key, (2,), jnp.uint32)
    size = int(np.prod(shape))
    bits = lax.iota(jnp.uint32, size).reshape(shape) * np.uint32(0x9E3779B9) + words[0]
    return _mix(_mix(bits) ^ words[1])


def _mix(x: Array) -> Array:
    x = (x ^ (x >> 16)) * np.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * np.uint32(0x846CA68B)
    return x ^ (x >> 16)
