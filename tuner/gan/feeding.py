"""Real images on their way to the training loop: from the device, or streamed from the host.

Streamed, an epoch's batches are gathered on the host in the same order, portion by portion, by a
thread that is one portion ahead; so the batches are the same, bit for bit.
"""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

PORTION_BYTES = 64 * 2**20

Images = Array | NDArray[np.uint8]  # on the device, or on the host


class Portion(NamedTuple):
    """Some of an epoch's iterations: images and labels on the device, and which of them each
    batch holds: ``order``, int32 (iterations, d_steps, batch_size)."""

    images: Array
    labels: Array | None
    order: Array


def portions(
    images: Images, labels: Array | None, order: Array, multiple: int
) -> Iterator[Portion]:
    """An epoch's iterations in ``order``: in one portion where the images, uint8 (n, h, w, c), are
    on the device, else in several of at most ``PORTION_BYTES``, or of ``multiple`` iterations, a
    multiple of which each holds."""
    if isinstance(images, Array):
        yield Portion(images, labels, order)
        return
    places = np.asarray(order)
    size = places[0].size * images[0].nbytes
    length = max(1, PORTION_BYTES // (size * multiple)) * multiple
    parts = [places[start : start + length] for start in range(0, len(places), length)]
    with ThreadPoolExecutor(1, "images") as thread:
        coming: Future[Portion] = thread.submit(_gathered, images, labels, parts[0])
        for following in parts[1:]:
            ready, coming = coming, thread.submit(_gathered, images, labels, following)
            yield ready.result()
        yield coming.result()


def _gathered(
    images: NDArray[np.uint8], labels: Array | None, places: NDArray[np.int32]
) -> Portion:
    flat = places.reshape(-1)
    ascending = np.argsort(flat, kind="stable")  # a file is read forwards
    found = np.empty((len(flat), *images.shape[1:]), np.uint8)
    found[ascending] = images[flat[ascending]]
    order = jnp.arange(len(flat), dtype=jnp.int32).reshape(places.shape)
    return Portion(jax.device_put(found), None if labels is None else labels[flat], order)
