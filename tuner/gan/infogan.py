"""InfoGAN's networks without its codes, as in "Are GANs Created Equal?"."""

import jax.numpy as jnp
from flax import nnx
from jax import Array

from tuner.gan.layers import Conv, ConvTranspose, Dense, leaky_relu, projection_logits
from tuner.gan.norms import discriminator_norm, generator_norm
from tuner.trial import Program

_SLOPE = 0.2


def _refuse_labels(program: Program) -> None:
    if program.classes:
        raise ValueError("infogan cannot be conditioned on labels")


class Generator(nnx.Module):
    """The generator of Lucic et al. 2018, after Chen et al. 2016 (table 1).

    At the papers' width of 64: Dense to 1,024 units, Dense to a quarter of the image's size and 128
    channels, then 4x4 stride-2 transposed convolutions to 64 channels and the image, with batch
    norm and LeakyReLU of slope 0.2 between. The papers end in a sigmoid, equivalent up to scale.
    At latent size 64 and one channel it has 8,614,081 parameters for 32x32 pixels, 33,853,633 for
    64x64 and 134,811,841 for 128x128.
    """

    def __init__(self, program: Program, *, rngs: nnx.Rngs) -> None:
        _refuse_labels(program)
        width, (size, _, channels) = program.width, program.image_shape
        self.start = size // 4
        grid = self.start**2 * 2 * width
        self.dense1 = Dense(program.latent_dim, 16 * width, rngs=rngs)
        self.norm1 = generator_norm(program, 16 * width)
        self.dense2 = Dense(16 * width, grid, rngs=rngs)
        self.norm2 = generator_norm(program, grid)
        self.deconv1 = ConvTranspose(2 * width, width, size=4, stride=2, use_bias=True, rngs=rngs)
        self.norm3 = generator_norm(program, width)
        self.deconv2 = ConvTranspose(width, channels, size=4, stride=2, use_bias=True, rngs=rngs)

    def __call__(self, z: Array, labels: Array | None = None, *, train: bool) -> Array:
        x = leaky_relu(self.norm1(self.dense1(z), train=train), _SLOPE)
        x = leaky_relu(self.norm2(self.dense2(x), train=train), _SLOPE)
        x = x.reshape(x.shape[0], self.start, self.start, -1)
        x = leaky_relu(self.norm3(self.deconv1(x), train=train), _SLOPE)
        return jnp.tanh(self.deconv2(x))


class Discriminator(nnx.Module):
    """The discriminator of Lucic et al. 2018, after Chen et al. 2016 (table 1).

    At the papers' width of 64: 4x4 stride-2 convolutions to 64 and 128 channels, Dense to 1,024
    units and to one logit, LeakyReLU of slope 0.2 between; batch norm in the middle two layers.
    With one channel it has 8,525,249 parameters for 32x32 pixels, 33,691,073 for 64x64 and
    134,354,369 for 128x128. It has no dropout: ``rate`` is ignored.
    """

    def __init__(self, program: Program, *, rngs: nnx.Rngs) -> None:
        _refuse_labels(program)
        width, (size, _, channels) = program.width, program.image_shape
        spectral = program.discriminator_norm == "spectral"
        grid = (size // 4) ** 2 * 2 * width
        self.conv1 = Conv(channels, width, size=4, stride=2, spectral=spectral, rngs=rngs)
        self.conv2 = Conv(width, 2 * width, size=4, stride=2, spectral=spectral, rngs=rngs)
        self.norm2 = discriminator_norm(program, 2 * width)
        self.dense3 = Dense(grid, 16 * width, spectral=spectral, rngs=rngs)
        self.norm3 = discriminator_norm(program, 16 * width)
        self.dense4 = Dense(16 * width, 1, spectral=spectral, rngs=rngs)

    def __call__(
        self, x: Array, labels: Array | None = None, *, rate: Array, key: Array | None, train: bool
    ) -> Array:
        x = leaky_relu(self.conv1(x, train=train), _SLOPE)
        x = leaky_relu(self.norm2(self.conv2(x, train=train), train=train), _SLOPE)
        x = self.dense3(x.reshape(x.shape[0], -1), train=train)
        x = leaky_relu(self.norm3(x, train=train), _SLOPE)
        return projection_logits(x, self.dense4, None, None, train=train)
