"""One training step under each loss and regulariser, on two-dimensional points."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from builders import hyperparameters
from flax import nnx
from jax import Array, lax

from tuner.gan.networks import DISCRIMINATORS, GENERATORS
from tuner.gan.state import GanState, init_state, networks
from tuner.gan.step import StepLosses, train_step
from tuner.spec.traits import LOSSES
from tuner.trial import Hyperparameters, Program

BATCH, UPDATES = 128, 1000
PLAIN = Program(
    *("points", "points", 32, 4, (1, 1, 2), BATCH, "non_saturating", "adam", "adam", 1, False)
)
NUMBERS = hyperparameters(
    generator_learning_rate=1e-3, discriminator_learning_rate=2e-3, dropout=0.0, total_images=1e9
)
# Program changes by loss: its own penalty, or more discriminator updates.
CHANGES: dict[str, dict[str, Any]] = {
    "wasserstein": {
        "d_steps": 5,
        "generator_optimizer": "rmsprop",
        "discriminator_optimizer": "rmsprop",
    },
    "wasserstein_gp": {"d_steps": 3, "penalties": ("gradient_penalty",)},
    "dragan": {"penalties": ("gradient_penalty",)},
    "relativistic": {"penalties": ("r1", "r2")},
}
WEIGHTS = {"gradient_penalty": 1.0, "r1": 0.1, "r2": 0.1, "weight_clip": 0.1}


class PointGenerator(nnx.Module):
    """Two hidden layers, from latents to a point: an image of one pixel with two channels."""

    def __init__(self, program: Program, *, rngs: nnx.Rngs) -> None:
        width = program.width
        self.layers = nnx.List(
            [
                nnx.Linear(program.latent_dim, width, rngs=rngs),
                nnx.Linear(width, width, rngs=rngs),
                nnx.Linear(width, 2, rngs=rngs),
            ]
        )

    def __call__(self, z: Array, labels: Array | None = None, *, train: bool) -> Array:
        first, second, last = self.layers
        points: Array = last(jnp.tanh(second(jnp.tanh(first(z)))))
        return points.reshape(-1, 1, 1, 2) + 1.0  # initially on one side of the ring


class PointDiscriminator(nnx.Module):
    """Two hidden layers, from a point to a logit."""

    def __init__(self, program: Program, *, rngs: nnx.Rngs) -> None:
        width = 2 * program.width
        self.layers = nnx.List(
            [
                nnx.Linear(2, width, rngs=rngs),
                nnx.Linear(width, width, rngs=rngs),
                nnx.Linear(width, 1, rngs=rngs),
            ]
        )

    def __call__(
        self,
        x: Array,
        labels: Array | None = None,
        *,
        rate: Array,
        key: Array | None = None,
        train: bool = False,
    ) -> Array:
        first, second, last = self.layers
        x = x.reshape(len(x), 2)
        logits: Array = last(nnx.softplus(second(nnx.softplus(first(x)))))
        return logits[:, 0]


@pytest.fixture(autouse=True)
def point_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(GENERATORS, "points", PointGenerator)
    monkeypatch.setitem(DISCRIMINATORS, "points", PointDiscriminator)


def ring(key: Array, count: int) -> Array:
    """Points of eight Gaussians on a circle (Metz et al. 2017), as images."""
    mode_key, noise_key = jax.random.split(key)
    angles = jax.random.randint(mode_key, (count,), 0, 8) * (2 * np.pi / 8)
    means = 0.7 * jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=1)
    points = means + 0.02 * jax.random.normal(noise_key, (count, 2))
    return points.reshape(count, 1, 1, 2)


@functools.partial(jax.jit, static_argnums=0)
def trained(program: Program, h: Hyperparameters, state: GanState) -> tuple[GanState, StepLosses]:
    def iterate(state: GanState, key: Array) -> tuple[GanState, StepLosses]:
        reals = ring(key, program.d_steps * BATCH).reshape(program.d_steps, BATCH, 1, 1, 2)
        return train_step(program, state, h, reals)

    keys = jax.random.split(jax.random.key(7), UPDATES)
    state, losses = lax.scan(iterate, state, keys)
    return state, losses


def energy_distance(program: Program, state: GanState) -> float:
    """2 E|X - Y| - E|X - X'| - E|Y - Y'| between fakes and the ring, 0 for equal distributions
    (Székely and Rizzo 2013)."""
    nets = networks(program)
    generator: Any = nnx.merge(nets.generator, state.generator, nets.blank_statistics, copy=True)
    z = jax.random.normal(jax.random.key(1), (500, program.latent_dim))
    fake = np.asarray(generator(z, train=False)).reshape(-1, 2)
    real = np.asarray(ring(jax.random.key(2), 500)).reshape(-1, 2)
    far, within_f, within_r = (
        np.linalg.norm(a[:, None] - b[None], axis=2).mean()
        for a, b in ((fake, real), (fake, fake), (real, real))
    )
    return float(2 * far - within_f - within_r)


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_draws_the_points_towards_the_ring(loss: str) -> None:
    program = PLAIN._replace(loss=loss, **CHANGES.get(loss, {}))
    h = Hyperparameters(*map(jnp.float32, NUMBERS._replace(**WEIGHTS)))
    start = init_state(program, h, 0)
    end, losses = trained(program, h, start)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((end.generator, losses)))
    before, after = (energy_distance(program, state) for state in (start, end))
    assert after < 0.3 * before, f"{loss}: {before:.3f} -> {after:.3f}"
