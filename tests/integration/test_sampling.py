"""Sampling from a generator (statistics, chunks, averaged weights) and discriminator logits."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tuner.gan import sampling
from tuner.gan.sampling import (
    CHUNK,
    STATISTICS_LATENTS,
    Generator,
    Latents,
    discriminate,
    draw,
    fixed_latents,
    generate,
    generator_of,
    padded,
)
from tuner.gan.state import GanState, init_state, networks
from tuner.trial import Hyperparameters, Program

LATENTS = 9
PROGRAM = Program("dcgan", "dcgan", 2, LATENTS, (32, 32, 1), 8, "minimax", "sgd", "sgd", 1, False)
NUMBERS = Hyperparameters(*[0.1] * len(Hyperparameters._fields))
SEED = 7


@pytest.fixture(scope="module")
def state() -> GanState:
    return init_state(PROGRAM, NUMBERS, 0)


@pytest.fixture(scope="module")
def generator(state: GanState) -> Generator:
    return generator_of(PROGRAM, state, SEED)


def images_of(generator: Generator, latents: Latents) -> np.ndarray:
    chunks = generate(PROGRAM, generator, latents)
    return np.concatenate([np.asarray(chunk.images)[: chunk.length] for chunk in chunks])


def logits_of(program: Program, state: GanState, images: Any) -> np.ndarray:
    """D's logits of images on the host, passed in chunks."""
    size = sampling.CHUNK
    parts = [np.asarray(images[start : start + size]) for start in range(0, len(images), size)]
    return discriminate(program, state, [padded(part) for part in parts], len(images))


def test_fixed_latents_follow_from_the_seed() -> None:
    z = np.asarray(fixed_latents(3, 5000, 8).z)
    np.testing.assert_array_equal(z, fixed_latents(3, 5000, 8).z)
    assert not np.array_equal(z, fixed_latents(4, 5000, 8).z)
    assert abs(z.mean()) < 5 / np.sqrt(z.size)
    np.testing.assert_allclose(z.std(), 1, rtol=5 / np.sqrt(2 * z.size))


def test_statistics_are_those_of_the_fixed_latents(state: GanState, generator: Generator) -> None:
    nets = networks(PROGRAM)
    network: Any = nnx.merge(nets.generator, state.generator, nets.blank_statistics, copy=True)
    latents = fixed_latents(SEED, STATISTICS_LATENTS, LATENTS)
    z = latents.z
    hidden = np.asarray(z, np.float64) @ np.asarray(network.dense.kernel[...], np.float64)
    statistics: Any = generator.statistics
    mean, variance = (statistics["norm1"][kind][...] for kind in ("mean", "variance"))
    np.testing.assert_allclose(mean, hidden.mean(0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(variance, hidden.var(0), rtol=1e-4)
    network(z, train=True)
    for ours, expected in zip(
        jax.tree.leaves(statistics),
        jax.tree.leaves(nnx.state(network, nnx.Not(nnx.Param))),
        strict=True,
    ):
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-6)
    # The fixed latents therefore give the same images in train mode and in evaluation.
    batch = network(z, train=True)
    np.testing.assert_allclose(images_of(generator, latents), batch, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def many() -> Latents:
    return fixed_latents(0, 2 * CHUNK + 3, LATENTS)


@pytest.fixture(scope="module")
def expected(generator: Generator, many: Latents) -> np.ndarray:
    """The images of ``many``, generated at once."""
    network: Any = nnx.merge(networks(PROGRAM).generator, *generator, copy=True)
    return np.asarray(network(many.z, train=False))


@pytest.mark.parametrize("count", [1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 3])
def test_chunks_change_nothing(
    generator: Generator, many: Latents, expected: np.ndarray, count: int
) -> None:
    chunks = list(generate(PROGRAM, generator, Latents(many.z[:count])))
    assert [chunk.length for chunk in chunks] == [
        min(CHUNK, count - start) for start in range(0, count, CHUNK)
    ]
    assert all(chunk.finite for chunk in chunks)
    found = images_of(generator, Latents(many.z[:count]))
    np.testing.assert_allclose(found, expected[:count], rtol=1e-5, atol=1e-6)


def test_the_chunk_size_changes_nothing(
    generator: Generator,
    many: Latents,
    expected: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sampling, "CHUNK", 32)
    found = images_of(generator, Latents(many.z[:100]))
    np.testing.assert_allclose(found, expected[:100], rtol=1e-5, atol=1e-6)


def test_draw_returns_bytes(generator: Generator) -> None:
    z = fixed_latents(0, CHUNK + 5, LATENTS)
    images, exact = draw(PROGRAM, generator, z), images_of(generator, z)
    assert images.shape == (CHUNK + 5, 32, 32, 1)
    assert images.dtype == np.uint8
    assert np.abs(images / 127.5 - 1 - exact).max() <= 0.5001 / 127.5
    assert images.std() > 1


def test_the_average_is_used_where_it_is_kept(state: GanState, generator: Generator) -> None:
    program = PROGRAM._replace(ema=True)
    both = init_state(PROGRAM, NUMBERS, 1)._replace(ema=state.generator)
    z = fixed_latents(0, 4, LATENTS)
    np.testing.assert_array_equal(
        images_of(generator_of(program, both, SEED), z), images_of(generator, z)
    )
    plain = generator_of(PROGRAM, both._replace(ema=None), SEED)
    assert not np.allclose(images_of(plain, z), images_of(generator, z), atol=1e-3)


def test_bytes_are_exactly_the_rounded_images(generator: Generator) -> None:
    latents = fixed_latents(0, CHUNK, LATENTS)
    (chunk,) = generate(PROGRAM, generator, latents)
    exact = np.asarray(chunk.images)
    expected = np.clip(np.rint((exact + np.float32(1)) * np.float32(127.5)), 0, 255)
    np.testing.assert_array_equal(chunk.pixels, expected.astype(np.uint8))


def test_a_chunk_knows_whether_it_is_finite(generator: Generator) -> None:
    latents = fixed_latents(0, CHUNK + 3, LATENTS)
    z = latents.z.copy()
    z[CHUNK + 1, 0] = np.nan
    chunks = generate(PROGRAM, generator, Latents(z))
    assert [bool(chunk.finite) for chunk in chunks] == [True, False]


def test_logits_are_those_of_the_whole_network(state: GanState) -> None:
    images = np.random.default_rng(0).integers(0, 256, (CHUNK + 3, 32, 32, 1), np.uint8)
    exact = images.astype(np.float32) / np.float32(127.5) - 1
    logits = logits_of(PROGRAM, state, exact)
    assert logits.shape == (CHUNK + 3,)
    network: Any = nnx.merge(networks(PROGRAM).discriminator, state.discriminator, copy=True)
    expected = network(exact, rate=jnp.float32(0.9), key=None, train=False)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


NORMED = PROGRAM._replace(discriminator_norm="batch")


@pytest.fixture(scope="module")
def normed() -> GanState:
    return init_state(NORMED, NUMBERS, 0)


def dark_to_bright(count: int) -> Any:
    """Images of rising brightness, which differ along the set like images sorted by class."""
    noise = np.random.default_rng(1).normal(scale=0.1, size=(count, 32, 32, 1))
    return jnp.float32(noise + np.linspace(-1, 1, count).reshape(-1, 1, 1, 1))


@pytest.mark.parametrize("count", [8, 16, 19])
def test_batch_norm_in_d_uses_batches_of_equal_size(
    normed: GanState, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    monkeypatch.setattr(sampling, "CHUNK", 8)
    images = dark_to_bright(count)
    network: Any = nnx.merge(
        networks(NORMED).discriminator,
        normed.discriminator,
        normed.discriminator_statistics,
        copy=True,
    )
    expected = np.full(count, np.nan)
    batches = {8: 1, 16: 2, 19: 3}[count]
    for i in range(batches):  # every second or third image
        batch = images[i::batches]
        expected[i::batches] = network(batch, rate=jnp.float32(0), key=None, train=True)
    found = logits_of(NORMED, normed, images)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert np.std(expected) > 1e-2


def test_d_logits_do_not_depend_on_recorded_statistics(normed: GanState) -> None:
    """They are those of the last generated batch, from which real images may differ."""
    images = dark_to_bright(6)
    logits = logits_of(NORMED, normed, images)
    recorded = jax.tree.map(lambda x: 100 + 50 * x, normed.discriminator_statistics)
    assert jax.tree.leaves(recorded)
    after = logits_of(NORMED, normed._replace(discriminator_statistics=recorded), images)
    np.testing.assert_array_equal(after, logits)
