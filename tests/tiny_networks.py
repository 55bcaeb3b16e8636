"""Two networks of few operations, for tests of what surrounds training: they compile quickly."""

import math

import jax.numpy as jnp
import pytest
from flax import nnx
from jax import Array

from tuner.gan.layers import Dense, class_embedding, dropout, leaky_relu, projection_logits
from tuner.gan.networks import DISCRIMINATORS, GENERATORS
from tuner.gan.norms import generator_norm
from tuner.trial import Program

CHANNELS = 8


class TinyGenerator(nnx.Module):
    """Two dense layers with a norm between them."""

    def __init__(self, program: Program, *, rngs: nnx.Rngs) -> None:
        self.shape = program.image_shape
        self.first = Dense(program.latent_dim, CHANNELS, use_bias=False, rngs=rngs)
        self.norm = generator_norm(program, CHANNELS)
        self.last = Dense(CHANNELS, math.prod(self.shape), rngs=rngs)

    def __call__(self, z: Array, labels: Array | None = None, *, train: bool) -> Array:
        x = leaky_relu(self.norm(self.first(z), labels, train=train))
        return jnp.tanh(self.last(x)).reshape(-1, *self.shape)


class TinyDiscriminator(nnx.Module):
    """Dropout and a dense layer."""

    def __init__(self, program: Program, *, rngs: nnx.Rngs) -> None:
        features = math.prod(program.image_shape)
        self.dense = Dense(features, 1, rngs=rngs)
        self.embedding = class_embedding(program, features, rngs=rngs)

    def __call__(
        self, x: Array, labels: Array | None = None, *, rate: Array, key: Array | None, train: bool
    ) -> Array:
        x = x.reshape(len(x), -1)
        if key is not None:
            x = dropout(x, rate, key)
        return projection_logits(x, self.dense, self.embedding, labels, train=train)


@pytest.fixture
def tiny_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put them in the place of dcgan, the default. What is compiled is kept by program, so a test
    needs programs that no other file has."""
    monkeypatch.setitem(GENERATORS, "dcgan", TinyGenerator)
    monkeypatch.setitem(DISCRIMINATORS, "dcgan", TinyDiscriminator)
