"""The DCGAN of TensorFlow's tutorial at 32x32 pixels, with more stages for larger images."""

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
    dropout,
    leaky_relu,
    projection_logits,
)
from tuner.gan.norms import discriminator_norm, generator_norm
from tuner.trial import Program


def _widths(program: Program) -> list[int]:
    """Channels after each of the discriminator's convolutions, down to 8x8 pixels."""
    stages = program.image_shape[0].bit_length() - 4
    return [program.width * 2**i for i in range(stages)]


class Generator(nnx.Module):
    """The generator of TensorFlow's DCGAN tutorial.

    At 32x32 pixels and the tutorial's width of 64: Dense to 8x8x256, then 5x5 transposed
    convolutions to 8x8x128, 16x16x64 and the image, with batch norm and LeakyReLU between. Layers
    before batch norm and the last layer have no biases. At latent size 100 and one channel it has
    2,697,152 parameters. Each doubling of the image size adds a stage and doubles the width at 8x8:
    7,645,632 parameters at 64 pixels, 24,096,192 at 128.
    """

    def __init__(self, program: Program, *, rngs: nnx.Rngs) -> None:
        widths = _widths(program)[::-1]
        bare = program.generator_norm == "none"
        top, self.stages = 2 * widths[0], len(widths)
        self.dense = Dense(program.latent_dim, 64 * top, use_bias=bare, rngs=rngs)
        self.norm1 = generator_norm(program, 64 * top)
        for i, (inputs, outputs) in enumerate(itertools.pairwise([top, *widths]), 1):
            stride = 1 if i == 1 else 2
            deconv = ConvTranspose(inputs, outputs, stride=stride, use_bias=bare, rngs=rngs)
            setattr(self, f"deconv{i}", deconv)
            setattr(self, f"norm{i + 1}", generator_norm(program, outputs))
        last = ConvTranspose(program.width, program.image_shape[2], stride=2, rngs=rngs)
        setattr(self, f"deconv{self.stages + 1}", last)

    def __call__(self, z: Array, labels: Array | None = None, *, train: bool) -> Array:
        x = leaky_relu(self.norm1(self.dense(z), labels, train=train))
        x = x.reshape(x.shape[0], 8, 8, -1)
        for i in range(1, self.stages + 1):
            deconv, norm = getattr(self, f"deconv{i}"), getattr(self, f"norm{i + 1}")
            x = leaky_relu(norm(deconv(x), labels, train=train))
        last = getattr(self, f"deconv{self.stages + 1}")
        return jnp.tanh(last(x))


class Discriminator(nnx.Module):
    """The discriminator of TensorFlow's DCGAN tutorial.

    At 32x32 pixels and the tutorial's width of 64: 5x5 stride-2 convolutions to 16x16x64 and
    8x8x128, LeakyReLU and dropout after each, Dense to one logit. With one channel it has 214,785
    parameters. Each doubling of the image size adds a convolution of doubled width: 1,042,433
    parameters at 64 pixels, 4,336,129 at 128. A norm follows every convolution except the first, as
    in the DCGAN of Radford et al. 2016.
    """

    def __init__(self, program: Program, *, rngs: nnx.Rngs) -> None:
        widths, channels = _widths(program), program.image_shape[2]
        spectral = program.discriminator_norm == "spectral"
        self.stages = len(widths)
        for i, (inputs, outputs) in enumerate(itertools.pairwise([channels, *widths]), 1):
            conv = Conv(inputs, outputs, size=5, stride=2, spectral=spectral, rngs=rngs)
            setattr(self, f"conv{i}", conv)
            if i > 1:
                setattr(self, f"norm{i}", discriminator_norm(program, outputs))
        features = 64 * widths[-1]
        self.dense = Dense(features, 1, spectral=spectral, rngs=rngs)
        self.embedding = class_embedding(program, features, rngs=rngs)

    def __call__(
        self, x: Array, labels: Array | None = None, *, rate: Array, key: Array | None, train: bool
    ) -> Array:
        for i in range(1, self.stages + 1):
            x = getattr(self, f"conv{i}")(x, train=train)
            if i > 1:
                x = getattr(self, f"norm{i}")(x, labels, train=train)
            x = leaky_relu(x)
            if key is not None:
                x = dropout(x, rate, jax.random.fold_in(key, i - 1))
        x = x.reshape(x.shape[0], -1)
        return projection_logits(x, self.dense, self.embedding, labels, train=train)
