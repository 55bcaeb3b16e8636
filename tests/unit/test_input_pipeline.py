"""Streamed batches against batches from the device, bit for bit."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from builders import hyperparameters
from steps_by_hand import LinearGenerator, TwoLayerDiscriminator

from tuner.gan import input_pipeline
from tuner.gan.input_pipeline import portions
from tuner.gan.networks import DISCRIMINATORS, GENERATORS
from tuner.gan.state import init_state
from tuner.gan.training import epoch_order, train_epoch
from tuner.trial import Program

COUNT = 48
PROGRAM = Program(
    *("linear", "two_layers", 2, 9, (32, 32, 1), 4, "non_saturating", "adam", "adam", 1, False),
    classes=3,
)  # 12 iterations per epoch, of 4 KiB each


@pytest.fixture
def images(tmp_path: Path) -> np.ndarray:
    """A memory-mapped file, as for data sets that exceed the device's memory."""
    file = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.uint8, (COUNT, 32, 32, 1))
    file[:] = np.random.default_rng(0).integers(0, 256, file.shape, np.uint8)
    return file


@pytest.mark.parametrize(("limit", "lengths"), [(1, [4, 4, 4]), (33_000, [8, 4]), (2**20, [12])])
def test_streamed_batches_follow_the_epochs_order(
    images: np.ndarray, limit: int, lengths: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(input_pipeline, "PORTION_BYTES", limit)
    labels = jnp.arange(COUNT, dtype=jnp.int32)
    order = epoch_order(PROGRAM, COUNT, jax.random.key(0), 2)
    found = list(portions(images, labels, order, 4))
    assert [len(part.order) for part in found] == lengths
    batches = np.concatenate([part.images[part.order] for part in found])
    np.testing.assert_array_equal(batches, images[np.asarray(order)])
    streamed = [part.labels[part.order] for part in found if part.labels is not None]
    np.testing.assert_array_equal(np.concatenate(streamed), order)


def test_streamed_images_train_like_resident_ones(
    images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(input_pipeline, "PORTION_BYTES", 33_000)
    monkeypatch.setitem(GENERATORS, "linear", LinearGenerator)
    monkeypatch.setitem(DISCRIMINATORS, "two_layers", TwoLayerDiscriminator)
    h, labels = hyperparameters(), jnp.arange(COUNT, dtype=jnp.int32) % 3
    ends = []
    for source in (images, jax.device_put(images)):
        state, losses = train_epoch(PROGRAM, init_state(PROGRAM, h, 0), h, source, labels, 0)
        ends.append(jax.tree.leaves((state.generator, state.discriminator, losses)))
    for streamed, resident in zip(*ends, strict=True):
        np.testing.assert_array_equal(streamed, resident)


def test_read_errors_are_raised(images: np.ndarray) -> None:
    order = epoch_order(PROGRAM, COUNT, jax.random.key(0), 0) + COUNT
    with pytest.raises(IndexError):
        list(portions(images, None, order, 4))
