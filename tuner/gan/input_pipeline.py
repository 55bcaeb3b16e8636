"""Feed real images to the training loop: from the device, or streamed from the host.

When streaming, a thread gathers the batches of an epoch on the host, portion by portion and one
portion ahead. The order of images is the same either way, so the batches are bitwise identical.
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
    """Part of an epoch: images and labels on the device, and the indices of each batch.

    ``order`` is int32 (iterations, d_steps, batch_size).
    """

    images: Array
    labels: Array | None
    order: Array


def portions(
    images: Images, labels: Array | None, order: Array, multiple: int
) -> Iterator[Portion]:
    """Split an epoch, with batches in ``order``, into portions.

    ``images`` are uint8 (n, h, w, c). If they are on the device, there is one portion. Otherwise
    a portion has at most ``PORTION_BYTES``, or ``multiple`` iterations if those are larger. Its
    number of iterations is divisible by ``multiple``.
    """
    if isinstance(images, Array):
        yield Portion(images, labels, order)
        return
    indices = np.asarray(order)
    lengths = portion_lengths(len(indices), indices[0].size * images[0].nbytes, multiple)
    parts = np.split(indices, np.cumsum(lengths)[:-1])
    with ThreadPoolExecutor(1, "images") as thread:
        coming: Future[Portion] = thread.submit(_gathered, images, labels, parts[0])
        for following in parts[1:]:
            ready, coming = coming, thread.submit(_gathered, images, labels, following)
            yield ready.result()
        yield coming.result()


def portion_lengths(iterations: int, size: int, multiple: int) -> list[int]:
    """The iterations in each portion, if the images of one iteration have ``size`` bytes."""
    length = max(1, PORTION_BYTES // (size * multiple)) * multiple
    return [min(length, iterations - start) for start in range(0, iterations, length)]


def _gathered(
    images: NDArray[np.uint8], labels: Array | None, indices: NDArray[np.int32]
) -> Portion:
    flat = indices.reshape(-1)
    ascending = np.argsort(flat, kind="stable")  # read a memory-mapped file in order
    found = np.empty((len(flat), *images.shape[1:]), np.uint8)
    found[ascending] = images[flat[ascending]]
    order = jnp.arange(len(flat), dtype=jnp.int32).reshape(indices.shape)
    return Portion(jax.device_put(found), None if labels is None else labels[flat], order)
