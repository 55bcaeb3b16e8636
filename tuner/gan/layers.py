"""Layers of the GANs, with Keras' semantics and fast gradients on a CPU.

Kernels are Glorot-uniform unless ``initial`` is given, biases zero. SAME padding follows
TensorFlow: at stride 2, with even sizes and a 5x5 kernel, the bottom and right get more padding.
Images are NHWC throughout.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array, lax

from tuner.gan.norms import SpectralNorm, at_least_float32
from tuner.trial import Program

_NHWC = ("NHWC", "HWIO", "NHWC")
_glorot_uniform = nnx.initializers.glorot_uniform()


class Dense(nnx.Module):
    """x (batch, inputs) -> (batch, outputs)."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        use_bias: bool = True,
        spectral: bool = False,
        initial: nnx.Initializer = _glorot_uniform,
        rngs: nnx.Rngs,
    ) -> None:
        self.kernel = nnx.Param(initial(rngs.params(), (inputs, outputs), jnp.float32))
        self.bias = nnx.data(nnx.Param(jnp.zeros(outputs)) if use_bias else None)
        self.norm = nnx.data(SpectralNorm(outputs, rngs=rngs) if spectral else None)

    def __call__(self, x: Array, *, train: bool = False) -> Array:
        kernel = self.kernel[...]
        if self.norm is not None:
            kernel = self.norm(kernel, train=train)
        y = x @ kernel
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
        groups: int = 1,
        use_bias: bool = True,
        spectral: bool = False,
        initial: nnx.Initializer = _glorot_uniform,
        rngs: nnx.Rngs,
    ) -> None:
        shape = (size, size, inputs // groups, outputs)
        self.kernel = nnx.Param(initial(rngs.params(), shape, jnp.float32))
        self.bias = nnx.data(nnx.Param(jnp.zeros(outputs)) if use_bias else None)
        self.norm = nnx.data(SpectralNorm(outputs, rngs=rngs) if spectral else None)
        self.stride, self.groups = stride, groups

    def __call__(self, x: Array, *, train: bool = False) -> Array:
        kernel = self.kernel[...]
        if self.norm is not None:
            kernel = self.norm(kernel, train=train)
        if self.groups == 1:
            y = self._convolve(x, kernel)
        else:  # on a CPU, XLA takes over ten times as long for gradients of grouped convolutions
            y = lax.platform_dependent(x, kernel, cpu=self._as_one_group, default=self._convolve)
        return y if self.bias is None else y + self.bias[...]

    def _convolve(self, x: Array, kernel: Array) -> Array:
        return lax.conv_general_dilated(
            x,
            kernel,
            (self.stride, self.stride),
            "SAME",
            dimension_numbers=_NHWC,
            feature_group_count=x.shape[-1] // kernel.shape[-2],
        )

    def _as_one_group(self, x: Array, kernel: Array) -> Array:
        """The same convolution without groups: its kernel is zero between them."""
        inputs, outputs = kernel.shape[-2:]
        own = jnp.kron(jnp.eye(self.groups), jnp.ones((inputs, outputs // self.groups)))
        return self._convolve(x, jnp.tile(kernel, (1, 1, self.groups, 1)) * own.astype(x.dtype))


class ConvTranspose(nnx.Module):
    """Keras' ``Conv2DTranspose(padding="same")``: 5x5 at stride 1 or 2, or 4x4 at stride 2.

    The kernel has Keras' shape (size, size, outputs, inputs). The weight gradient of a transposed
    convolution is about thirty times slower than its forward pass on a CPU. At stride 2 the same
    linear map is therefore computed in sub-pixel form: a 3x3 convolution to 4 x outputs channels,
    each group of four of which fills a 2x2 block of pixels.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        size: int = 5,
        stride: int,
        use_bias: bool = False,
        rngs: nnx.Rngs,
    ) -> None:
        if (size, stride) not in ((5, 1), (5, 2), (4, 2)):
            expected = "5 and 1, 5 and 2, or 4 and 2"
            raise ValueError(f"size and stride must be {expected}, found {size} and {stride}")
        # Keras takes fan-in and fan-out from the last two axes, here (outputs, inputs). Glorot's
        # range is symmetric in the two.
        shape = (size, size, outputs, inputs)
        self.kernel = nnx.Param(_glorot_uniform(rngs.params(), shape, jnp.float32))
        self.bias = nnx.data(nnx.Param(jnp.zeros(outputs)) if use_bias else None)
        self.stride = stride

    def __call__(self, x: Array) -> Array:
        kernel = self.kernel[...]
        if self.stride == 2:
            kernel = _subpixel_kernel(kernel)
        else:  # the transpose of a SAME correlation is one with the kernel rotated by 180 degrees
            kernel = kernel[::-1, ::-1].transpose(0, 1, 3, 2)
        y = lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=_NHWC)
        if self.stride == 2:
            y = _depth_to_space(y)
        return y if self.bias is None else y + self.bias[...]


def _subpixel_kernel(kernel: Array) -> Array:
    """(size, size, outputs, inputs), stride 2 -> (3, 3, inputs, 4 * outputs) for stride 1.

    SAME padding at stride 2 pads 1 before, and 1 (size 4) or 2 (size 5) after, so input pixel i
    contributes to output pixel o = 2 i + t - 1 with tap t. For output o = 2 q + r, input q + d
    therefore has tap t = r + 1 - 2 d, for d = -1, 0, 1; taps outside the kernel are zero.
    """
    size, _, outputs, inputs = kernel.shape
    sides = (1, 5 - size)  # with these zeros, the taps are -1 to 4
    padded = jnp.pad(kernel, (sides, sides, (0, 0), (0, 0)))
    blocks = padded.reshape(3, 2, 3, 2, outputs, inputs)  # by (1 - d, r) along each axis
    blocks = lax.rev(blocks, (0, 2))
    return blocks.transpose(0, 2, 5, 1, 3, 4).reshape(3, 3, inputs, 4 * outputs)


def _depth_to_space(y: Array) -> Array:
    """(batch, h, w, 2 * 2 * channels) -> (batch, 2 h, 2 w, channels)."""
    batch, height, width, depth = y.shape
    blocks = y.reshape(batch, height, width, 2, 2, depth // 4)
    return blocks.transpose(0, 1, 3, 2, 4, 5).reshape(batch, 2 * height, 2 * width, depth // 4)


def leaky_relu(x: Array, slope: float = 0.3) -> Array:
    """max(x, slope * x); Keras' default slope."""
    return jnp.maximum(x, slope * x)


def class_embedding(program: Program, features: int, *, rngs: nnx.Rngs) -> Dense | None:
    """The class vectors of a projection discriminator; None without classes."""
    if not program.classes:
        return nnx.data(None)
    spectral = program.discriminator_norm == "spectral"
    return Dense(program.classes, features, use_bias=False, spectral=spectral, rngs=rngs)


def projection_logits(
    features: Array, dense: Dense, embedding: Dense | None, labels: Array | None, *, train: bool
) -> Array:
    """The logits (batch,) of a discriminator's last features (batch, n), at least float32.

    If there is an ``embedding`` of classes, the inner product of the features and the vector of the
    image's class is added (Miyato and Koyama 2018, equation 6).
    """
    logits = at_least_float32(dense(features, train=train)[:, 0])
    if embedding is None:
        return logits
    return logits + class_projection(features, embedding, labels, train=train)


def class_projection(
    features: Array, embedding: Dense, labels: Array | None, *, train: bool = False
) -> Array:
    """The inner products (batch,) of features and their classes' vectors, at least float32."""
    vectors = embedding(one_hot(labels, embedding, features.dtype), train=train)
    return jnp.sum(at_least_float32(features) * at_least_float32(vectors), axis=-1)


def one_hot(labels: Array | None, embedding: Dense, dtype: jnp.dtype) -> Array:
    """One-hot labels (batch, classes) for ``embedding``. Raises ValueError without labels."""
    if labels is None:
        raise ValueError("no labels given; the network is conditioned on them")
    return jax.nn.one_hot(labels, embedding.kernel[...].shape[0], dtype=dtype)


def dropout(x: Array, rate: Array, key: Array) -> Array:
    """Zero each element with probability ``rate`` (traced; 0 keeps all) and scale up the rest.

    The mask hashes the element's index in two keyed rounds of "lowbias32" (Wellons 2018), a few
    integer operations that XLA fuses with their neighbours. Threefry bits would take a tenth of a
    training step on a CPU.
    """
    threshold = (jnp.clip(rate, 0.0, 1.0) * np.float32(2**32 - 2**8)).astype(jnp.uint32)
    words = jax.random.bits(key, (2,), jnp.uint32)
    bits = lax.iota(jnp.uint32, x.size).reshape(x.shape) * np.uint32(0x9E3779B9) + words[0]
    keep = _mix(_mix(bits) ^ words[1]) >= threshold
    return jnp.where(keep, (x / (1.0 - rate)).astype(x.dtype), 0.0)


def _mix(x: Array) -> Array:
    x = (x ^ (x >> 16)) * np.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * np.uint32(0x846CA68B)
    return x ^ (x >> 16)
