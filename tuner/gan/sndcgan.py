"""The DCGAN of the spectral normalisation paper, as in large-scale studies."""

import itertools

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from tuner.gan.layers import (
    Conv,
    ConvTranspose,
    Dense,
    class_embedding,
    leaky_relu,
    projection_logits,
)
from tuner.gan.norms import discriminator_norm, generator_norm
from tuner.trial import Program

# The discriminator's convolutions: channels as multiples of the width, kernel size, stride.
_CONVOLUTIONS = ((1, 3, 1), (2, 4, 2), (2, 3, 1), (4, 4, 2), (4, 3, 1), (8, 4, 2), (8, 3, 1))
_SLOPE = 0.1


class Generator(nnx.Module):
    """The generator of SNDCGAN (Miyato et al. 2018, table 3).

    The batch norm after the first layer is from Kurach et al. 2019.

    At the papers' width of 64: Dense to an eighth of the image's size and 512 channels, then 4x4
    stride-2 transposed convolutions to 256, 128 and 64 channels, each with batch norm and ReLU,
    and a 3x3 convolution to the image. At latent size 128 and 3 channels it has 3,828,739
    parameters for 32x32 pixels, 7,048,195 for 64x64 and 19,926,019 for 128x128.
    """

    def __init__(self, program: Program, *, rngs: nnx.Rngs) -> None:
        width, (size, _, channels) = program.width, program.image_shape
        self.start = size // 8
        self.dense = Dense(program.latent_dim, self.start**2 * 8 * width, rngs=rngs)
        widths = [8 * width, 4 * width, 2 * width, width]
        self.deconvs = nnx.List(
            ConvTranspose(inputs, outputs, size=4, stride=2, use_bias=True, rngs=rngs)
            for inputs, outputs in itertools.pairwise(widths)
        )
        self.first_norm = generator_norm(program, self.start**2 * 8 * width)
        self.norms = nnx.List(generator_norm(program, outputs) for outputs in widths[1:])
        self.last = Conv(width, channels, size=3, rngs=rngs)

    def __call__(self, z: Array, labels: Array | None = None, *, train: bool) -> Array:
        x = jax.nn.relu(self.first_norm(self.dense(z), labels, train=train))
        x = x.reshape(x.shape[0], self.start, self.start, -1)
        for deconv, norm in zip(self.deconvs, self.norms, strict=True):
            x = jax.nn.relu(norm(deconv(x), labels, train=train))
        return jnp.tanh(self.last(x))


class Discriminator(nnx.Module):
    """The discriminator of SNDCGAN (Miyato et al. 2018, table 3; widths from Kurach et al. 2019).

    At the papers' width of 64: convolutions, alternately 3x3 and 4x4 at stride 2, to 64, 128, 128,
    256, 256, 512 and 512 channels with LeakyReLU of slope 0.1, then Dense to one logit. With 3
    channels it has 5,860,865 parameters for 32x32 pixels, 5,885,441 for 64x64 and 5,983,745 for
    128x128. Layer or batch norm follows every convolution except the first. It has no dropout:
    ``rate`` is ignored.
    """

    def __init__(self, program: Program, *, rngs: nnx.Rngs) -> None:
        spectral = program.discriminator_norm == "spectral"
        size, _, channels = program.image_shape
        widths = [channels, *(multiple * program.width for multiple, _, _ in _CONVOLUTIONS)]
        self.convs = nnx.List(
            Conv(inputs, outputs, size=kernel, stride=stride, spectral=spectral, rngs=rngs)
            for (inputs, outputs), (_, kernel, stride) in zip(
                itertools.pairwise(widths), _CONVOLUTIONS, strict=True
            )
        )
        self.norms = nnx.List(discriminator_norm(program, outputs) for outputs in widths[2:])
        features = (size // 8) ** 2 * widths[-1]
        self.dense = Dense(features, 1, spectral=spectral, rngs=rngs)
        self.embedding = class_embedding(program, features, rngs=rngs)

    def __call__(
        self, x: Array, labels: Array | None = None, *, rate: Array, key: Array | None, train: bool
    ) -> Array:
        x = leaky_relu(self.convs[0](x, train=train), _SLOPE)
        for conv, norm in zip(self.convs[1:], self.norms, strict=True):
            x = leaky_relu(norm(conv(x, train=train), labels, train=train), _SLOPE)
        x = x.reshape(x.shape[0], -1)
        return projection_logits(x, self.dense, self.embedding, labels, train=train)
