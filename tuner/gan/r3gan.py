"""R3GAN: residual networks of grouped convolutions in wide bottlenecks, without norms."""

import math
from itertools import pairwise

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array, lax

from tuner.gan.layers import Conv, Dense, class_projection, leaky_relu, one_hot
from tuner.gan.norms import at_least_float32
from tuner.trial import Program

_BLOCKS = 2  # at each size
_EXPANSION = 2  # of a block's hidden channels
_GROUP = 16  # channels of a hidden group
_SLOPE = 0.2
_LARGEST_KEPT = 2**30  # bytes


def _widths(program: Program) -> list[int]:
    """Channels at 4x4, 8x8 and so on: constant up to 32x32, then halved with each doubling."""
    sizes = [2**i for i in range(2, program.image_shape[0].bit_length())]
    return [16 * program.width * 32 // max(size, 32) for size in sizes]


def _initial(gain: float = 1.0) -> nnx.Initializer:
    """Normal with standard deviation gain / sqrt(fan-in) (He et al. 2015)."""
    return nnx.initializers.variance_scaling(gain**2, "fan_in", "normal")


def _pointwise(inputs: int, outputs: int, *, rngs: nnx.Rngs) -> Conv:
    return Conv(inputs, outputs, size=1, use_bias=False, initial=_initial(), rngs=rngs)


def _linear(inputs: int, outputs: int, *, gain: float = 1.0, rngs: nnx.Rngs) -> Dense:
    return Dense(inputs, outputs, use_bias=False, initial=_initial(gain), rngs=rngs)


class _Block(nnx.Module):
    """A residual block: 1x1 to twice the channels, grouped 3x3, 1x1 back, LeakyReLU between.

    As in Fixup (Zhang et al. 2019) the last kernel starts at zero and the others are scaled down
    with the number of blocks, which replaces norms.
    """

    def __init__(self, channels: int, blocks: int, *, rngs: nnx.Rngs) -> None:
        hidden = _EXPANSION * channels
        groups = hidden // math.gcd(hidden, _GROUP)
        initial = _initial(math.sqrt(2 / (1 + _SLOPE**2)) * blocks**-0.25)
        self.conv1 = Conv(channels, hidden, size=1, initial=initial, rngs=rngs)
        self.conv2 = Conv(hidden, hidden, size=3, groups=groups, initial=initial, rngs=rngs)
        zeros = nnx.initializers.zeros_init()
        self.conv3 = Conv(hidden, channels, size=1, use_bias=False, initial=zeros, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        y = leaky_relu(self.conv1(x), _SLOPE)
        return x + self.conv3(leaky_relu(self.conv2(y), _SLOPE))


class _Transition(nnx.Module):
    """A 1x1 convolution if the number of channels changes, else the identity."""

    def __init__(self, inputs: int, outputs: int, *, rngs: nnx.Rngs) -> None:
        self.conv = nnx.data(_pointwise(inputs, outputs, rngs=rngs) if inputs != outputs else None)

    def __call__(self, x: Array) -> Array:
        return x if self.conv is None else self.conv(x)


def _doubled(x: Array) -> Array:
    """(batch, h, w, c) -> (batch, 2 h, 2 w, c), bilinearly.

    Along each axis a pixel is 3/4 of the nearest one and 1/4 of the next, with zeros beyond the
    edges.
    """
    for axis in (1, 2):
        before, _, after = _windows(x, axis, count=3, stride=1)
        pairs = jnp.stack([0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after], axis + 1)
        x = pairs.reshape(*x.shape[:axis], 2 * x.shape[axis], *x.shape[axis + 1 :])
    return x


def _halved(x: Array) -> Array:
    """(batch, h, w, c) -> (batch, h / 2, w / 2, c), with weights 1/8, 3/8, 3/8 and 1/8 per axis.

    There are zeros beyond the edges.
    """
    for axis in (1, 2):
        a, b, c, d = _windows(x, axis, count=4, stride=2)
        x = 0.125 * (a + d) + 0.375 * (b + c)
    return x


def _windows(x: Array, axis: int, *, count: int, stride: int) -> list[Array]:
    """The first, second, ... pixels of all windows over x, padded with one zero on each side."""
    padded = jnp.pad(x, [(1, 1) if i == axis else (0, 0) for i in range(x.ndim)])
    reach = x.shape[axis] - stride + 1
    return [lax.slice_in_dim(padded, start, start + reach, stride, axis) for start in range(count)]


class _Stage(nnx.Module):
    """The residual blocks at one image size."""

    def __init__(self, channels: int, blocks: int, *, rngs: nnx.Rngs) -> None:
        self.blocks = nnx.List(_Block(channels, blocks, rngs=rngs) for _ in range(_BLOCKS))

    def __call__(self, x: Array, *, recompute: bool) -> Array:
        for block in self.blocks:
            x = jax.checkpoint(block)(x) if recompute else block(x)
        return x


def _hidden_size(program: Program) -> int:
    """Elements per image of the largest activation."""
    height, width, _ = program.image_shape
    return _EXPANSION * _widths(program)[-1] * height * width


def _recomputes(batch: Array, hidden_size: int) -> bool:
    """Whether the backward pass computes the activations inside blocks again (Chen et al. 2016).

    They are recomputed if the largest takes more than 1 GiB: keeping all of them would need about
    39 times as much for training with both penalties.
    """
    return len(batch) * hidden_size * batch.dtype.itemsize > _LARGEST_KEPT


class Generator(nnx.Module):
    """The generator of Huang et al. 2024 (configuration E).

    A learned 4x4 pattern, scaled by a linear map of the latents; then two residual blocks at each
    size, bilinear doubling between; a 1x1 convolution. As in the paper there is no tanh: images
    are unbounded, and clipped to [-1, 1] when converted to uint8. Width 48 is the paper's for
    CIFAR-10 and FFHQ (768 channels up to 32x32). At latent size 64 and 3 channels it has 20,732,160
    parameters for 32x32 pixels, 22,429,824 for 64x64 and 22,910,016 for 128x128. Classes are
    embedded and concatenated with the latents.
    """

    def __init__(self, program: Program, *, rngs: nnx.Rngs) -> None:
        _refuse_norm(program.generator_norm)
        widths, channels = _widths(program), program.image_shape[2]
        blocks = _BLOCKS * len(widths)
        self.pattern = nnx.Param(nnx.initializers.normal(1.0)(rngs.params(), (4, 4, widths[0])))
        inputs = program.latent_dim * (2 if program.classes else 1)
        self.dense = _linear(inputs, widths[0], rngs=rngs)
        self.embedding = nnx.data(
            _linear(program.classes, program.latent_dim, rngs=rngs) if program.classes else None
        )
        self.stages = nnx.List(_Stage(width, blocks, rngs=rngs) for width in widths)
        self.transitions = nnx.List(_Transition(*pair, rngs=rngs) for pair in pairwise(widths))
        self.last = _pointwise(widths[-1], channels, rngs=rngs)
        self.hidden_size = _hidden_size(program)

    def __call__(self, z: Array, labels: Array | None = None, *, train: bool) -> Array:
        if self.embedding is not None:
            z = jnp.concatenate([z, self.embedding(one_hot(labels, self.embedding, z.dtype))], 1)
        recompute = train and _recomputes(z, self.hidden_size)
        x = self.pattern[...] * self.dense(z)[:, None, None, :]
        x = self.stages[0](x, recompute=recompute)
        for transition, stage in zip(self.transitions, self.stages[1:], strict=True):
            x = stage(_doubled(transition(x)), recompute=recompute)
        return self.last(x)


class Discriminator(nnx.Module):
    """The discriminator of Huang et al. 2024 (configuration E), the mirror image of the generator.

    A 1x1 convolution; two residual blocks at each size, halving between; at 4x4 a weighted sum over
    pixels for each channel and a linear map, to one logit or, with classes, to a vector whose inner
    product with the class embedding is the logit. Only the blocks have biases. Width 48 is
    the paper's for CIFAR-10 and FFHQ. At 3 channels it has 20,683,776 parameters for 32x32 pixels,
    22,381,440 for 64x64 and 22,861,632 for 128x128. It has no dropout: ``rate`` is ignored.
    """

    def __init__(self, program: Program, *, rngs: nnx.Rngs) -> None:
        _refuse_norm(program.discriminator_norm)
        self.hidden_size = _hidden_size(program)
        widths, channels = _widths(program)[::-1], program.image_shape[2]
        blocks, last = _BLOCKS * len(widths), widths[-1]
        self.first = _pointwise(channels, widths[0], rngs=rngs)
        self.stages = nnx.List(_Stage(width, blocks, rngs=rngs) for width in widths)
        self.transitions = nnx.List(_Transition(*pair, rngs=rngs) for pair in pairwise(widths))
        # Each channel sums over 16 pixels, so its fan-in is 16.
        self.pattern = nnx.Param(nnx.initializers.normal(1 / 4)(rngs.params(), (4, 4, last)))
        self.dense = _linear(last, last if program.classes else 1, rngs=rngs)
        self.embedding = nnx.data(
            _linear(program.classes, last, gain=last**-0.5, rngs=rngs) if program.classes else None
        )

    def __call__(
        self, x: Array, labels: Array | None = None, *, rate: Array, key: Array | None, train: bool
    ) -> Array:
        recompute = _recomputes(x, self.hidden_size)
        x = self.stages[0](self.first(x), recompute=recompute)
        for transition, stage in zip(self.transitions, self.stages[1:], strict=True):
            x = stage(transition(_halved(x)), recompute=recompute)
        features = self.dense(jnp.einsum("bhwc,hwc->bc", x, self.pattern[...]))
        if self.embedding is None:
            return at_least_float32(features[:, 0])
        return class_projection(features, self.embedding, labels)


def _refuse_norm(kind: str) -> None:
    if kind != "none":
        raise ValueError(f"r3gan has no norms: found norm {kind!r}, expected 'none'")
