"""Generators and discriminators.

A generator maps latents (batch, latent_dim) to images (batch, size, size, channels) in [-1, 1];
``train`` says whether batch norm uses the batch's own statistics. A discriminator maps images to
logits (batch,), higher where it believes an image real; ``key`` makes its dropout random, and
``None`` turns dropout off.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from tuner.gan.layers import BatchNorm, Conv, ConvTranspose, Dense, dropout, leaky_relu
from tuner.trial import Program


class DCGANGenerator(nnx.Module):
    """The generator of TensorFlow's DCGAN tutorial, for 32x32 images.

    At width 64: Dense to 8x8x256, then 5x5 transposed convolutions to 8x8x128, 16x16x64 and the
    image, with batch norm and LeakyReLU between; no biases. Its kernels hold 100 * 16,384 +
    819,200 + 204,800 + 1,600 * channels numbers at latent size 100.
    """

    def __init__(self, program: Program, *, rngs: nnx.Rngs) -> None:
        width, (size, _, channels) = program.width, program.image_shape
        self.start = (size // 4, size // 4, 4 * width)
        self.dense = Dense(program.latent_dim, size * size // 4 * width, use_bias=False, rngs=rngs)
        self.norm1 = BatchNorm(size * size // 4 * width)
        self.deconv1 = ConvTranspose(4 * width, 2 * width, stride=1, rngs=rngs)
        self.norm2 = BatchNorm(2 * width)
        self.deconv2 = ConvTranspose(2 * width, width, stride=2, rngs=rngs)
        self.norm3 = BatchNorm(width)
        self.deconv3 = ConvTranspose(width, channels, stride=2, rngs=rngs)

    def __call__(self, z: Array, labels: Array | None = None, *, train: bool) -> Array:
        x = leaky_relu(self.norm1(self.dense(z), train=train))
        x = x.reshape(-1, *self.start)
        x = leaky_relu(self.norm2(self.deconv1(x), train=train))
        x = leaky_relu(self.norm3(self.deconv2(x), train=train))
        return jnp.tanh(self.deconv3(x))


class DCGANDiscriminator(nnx.Module):
    """The discriminator of TensorFlow's DCGAN tutorial, for 32x32 images.

    At width 64: 5x5 stride-2 convolutions to 16x16x64 and 8x8x128, LeakyReLU and dropout after
    each, Dense to one logit: 1,600 * channels + 64, 204,928 and 8,193 numbers.
    """

    def __init__(self, program: Program, *, rngs: nnx.Rngs) -> None:
        width, (size, _, channels) = program.width, program.image_shape
        self.conv1 = Conv(channels, width, size=5, stride=2, rngs=rngs)
        self.conv2 = Conv(width, 2 * width, size=5, stride=2, rngs=rngs)
        self.dense = Dense((size // 4) ** 2 * 2 * width, 1, rngs=rngs)

    def __call__(
        self,
        x: Array,
        labels: Array | None = None,
        *,
        rate: Array,
        key: Array | None = None,
        train: bool = False,
    ) -> Array:
        x = leaky_relu(self.conv1(x))
        if key is not None:
            x = dropout(x, rate, jax.random.fold_in(key, 0))
        x = leaky_relu(self.conv2(x))
        if key is not None:
            x = dropout(x, rate, jax.random.fold_in(key, 1))
        return self.dense(x.reshape(x.shape[0], -1))[:, 0]


# Both grow when somebody's own networks are admitted: see run.own_networks.
GENERATORS: dict[str, Callable[..., nnx.Module]] = {"dcgan": DCGANGenerator}
DISCRIMINATORS: dict[str, Callable[..., nnx.Module]] = {"dcgan": DCGANDiscriminator}
