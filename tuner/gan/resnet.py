"""The ResNet of the spectral normalisation and projection discriminator papers."""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from tuner.gan.layers import Conv, Dense, class_embedding, projection_logits
from tuner.gan.norms import discriminator_norm, generator_norm
from tuner.trial import Program


class _Widths(NamedTuple):
    """Channels as multiples of the program's width, at an image size."""

    generator: tuple[int, ...]  # at 4x4, then after each block, which doubles the size
    discriminator: tuple[int, ...]  # after each block
    halvings: int  # number of the discriminator's blocks, from the first, that halve the size


_WIDTHS = {
    32: _Widths((4, 4, 4, 4), (2, 2, 2, 2), 2),  # Miyato et al. 2018, table 4
    64: _Widths((16, 8, 4, 2, 1), (1, 2, 4, 8, 16), 5),  # the authors' code for 64x64
    128: _Widths((16, 16, 8, 4, 2, 1), (1, 2, 4, 8, 16, 16), 5),  # their table 6
    256: _Widths((16, 16, 8, 8, 4, 2, 1), (1, 2, 4, 8, 8, 16, 16), 6),  # Brock et al. 2019, table 6
}
_GLOROT_TIMES_ROOT_2 = nnx.initializers.variance_scaling(2.0, "fan_avg", "uniform")


def _doubled(x: Array) -> Array:
    """(batch, h, w, c) -> (batch, 2 h, 2 w, c): repeat each pixel four times."""
    return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)


def _halved(x: Array) -> Array:
    """(batch, h, w, c) -> (batch, h / 2, w / 2, c): means of 2x2 pixels."""
    batch, height, width, channels = x.shape
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).mean((2, 4))


class _GeneratorBlock(nnx.Module):
    """Norm, ReLU, doubling, 3x3; norm, ReLU, 3x3; plus a 1x1 shortcut."""

    def __init__(self, program: Program, inputs: int, outputs: int, *, rngs: nnx.Rngs) -> None:
        self.norm1 = generator_norm(program, inputs)
        self.conv1 = Conv(inputs, outputs, size=3, initial=_GLOROT_TIMES_ROOT_2, rngs=rngs)
        self.norm2 = generator_norm(program, outputs)
        self.conv2 = Conv(outputs, outputs, size=3, initial=_GLOROT_TIMES_ROOT_2, rngs=rngs)
        self.shortcut = Conv(inputs, outputs, size=1, rngs=rngs)

    def __call__(self, x: Array, labels: Array | None, *, train: bool) -> Array:
        y = _doubled(jax.nn.relu(self.norm1(x, labels, train=train)))
        y = jax.nn.relu(self.norm2(self.conv1(y), labels, train=train))
        # A 1x1 convolution and doubling commute: this order is four times cheaper.
        return self.conv2(y) + _doubled(self.shortcut(x))


class Generator(nnx.Module):
    """The ResNet generator of Miyato et al. 2018 (tables 4 and 6; 64x64 as in the authors' code;
    256x256 with the channels of Brock et al. 2019, table 6).

    Dense to 4x4, residual blocks that double the size, batch norm, ReLU, a 3x3 convolution. At
    latent size 128, 3 channels and the papers' width of 64 (256 channels at 32x32 pixels)
    it has 4,276,739 parameters for 32x32 pixels, 12,220,675 for 64x64 and 32,150,787 for 128x128.
    The norms of the blocks are conditional on classes; the last norm is not.
    """

    def __init__(self, program: Program, *, rngs: nnx.Rngs) -> None:
        size, _, channels = program.image_shape
        widths = [multiple * program.width for multiple in _WIDTHS[size].generator]
        self.dense = Dense(program.latent_dim, 16 * widths[0], rngs=rngs)
        self.blocks = nnx.List(
            _GeneratorBlock(program, inputs, outputs, rngs=rngs)
            for inputs, outputs in itertools.pairwise(widths)
        )
        self.norm = generator_norm(program._replace(classes=0), widths[-1])  # as in their code
        self.last = Conv(widths[-1], channels, size=3, rngs=rngs)

    def __call__(self, z: Array, labels: Array | None = None, *, train: bool) -> Array:
        x = self.dense(z).reshape(z.shape[0], 4, 4, -1)
        for block in self.blocks:
            x = block(x, labels, train=train)
        return jnp.tanh(self.last(jax.nn.relu(self.norm(x, train=train))))


class _DiscriminatorBlock(nnx.Module):
    """Norm, ReLU, 3x3; norm, ReLU, 3x3, halving; plus a 1x1 shortcut.

    The first block, whose input is images, has no norm and no ReLU before its first convolution.
    """

    def __init__(
        self,
        program: Program,
        inputs: int,
        outputs: int,
        *,
        first: bool,
        halves: bool,
        rngs: nnx.Rngs,
    ) -> None:
        self.first, self.halves = first, halves
        hidden = outputs if first else inputs
        spectral = program.discriminator_norm == "spectral"
        initial = _GLOROT_TIMES_ROOT_2
        self.conv1 = Conv(inputs, hidden, size=3, spectral=spectral, initial=initial, rngs=rngs)
        self.conv2 = Conv(hidden, outputs, size=3, spectral=spectral, initial=initial, rngs=rngs)
        self.norm1 = nnx.data(None if first else discriminator_norm(program, inputs))
        self.norm2 = discriminator_norm(program, hidden)
        self.shortcut = nnx.data(
            Conv(inputs, outputs, size=1, spectral=spectral, rngs=rngs)
            if halves or inputs != outputs
            else None
        )

    def __call__(self, x: Array, *, train: bool) -> Array:
        y = x if self.norm1 is None else jax.nn.relu(self.norm1(x, train=train))
        y = jax.nn.relu(self.norm2(self.conv1(y, train=train), train=train))
        y = self.conv2(y, train=train)
        if self.halves:
            x, y = _halved(x), _halved(y)  # a 1x1 convolution and halving commute
        return y + (x if self.shortcut is None else self.shortcut(x, train=train))


class Discriminator(nnx.Module):
    """The ResNet discriminator of Miyato et al. 2018 (tables 4 and 6; 64x64 as in their code).

    Residual blocks, the first of which halve the size, ReLU, the sum over pixels, Dense to one
    logit; with classes the projection of Miyato and Koyama 2018. At 3 channels and the papers'
    width of 64 (128 channels at 32x32 pixels) it has 1,053,825 parameters for 32x32 pixels,
    10,141,441 for 64x64 and 29,017,857 for 128x128. Layer or batch norm precedes each ReLU except
    the last. It has no dropout: ``rate`` is ignored.
    """

    def __init__(self, program: Program, *, rngs: nnx.Rngs) -> None:
        size, _, channels = program.image_shape
        table = _WIDTHS[size]
        widths = [channels, *(multiple * program.width for multiple in table.discriminator)]
        self.blocks = nnx.List(
            _DiscriminatorBlock(
                program, inputs, outputs, first=i == 0, halves=i < table.halvings, rngs=rngs
            )
            for i, (inputs, outputs) in enumerate(itertools.pairwise(widths))
        )
        spectral = program.discriminator_norm == "spectral"
        self.dense = Dense(widths[-1], 1, spectral=spectral, rngs=rngs)
        self.embedding = class_embedding(program, widths[-1], rngs=rngs)

    def __call__(
        self, x: Array, labels: Array | None = None, *, rate: Array, key: Array | None, train: bool
    ) -> Array:
        for block in self.blocks:
            x = block(x, train=train)
        features = jax.nn.relu(x).sum((1, 2))
        return projection_logits(features, self.dense, self.embedding, labels, train=train)
