"""Generate images and extract their features on the device, timing each of the two."""

from collections import deque
from collections.abc import Collection
from typing import NamedTuple

from jax import Array

from tuner.gan.sampling import Generator, Latents, generate
from tuner.metrics.extractors import Extractor
from tuner.trial import Program
from tuner.xla import running_time

AHEAD = 2  # chunks under way while the results of an earlier one are awaited


class Generated(NamedTuple):
    """The results of generating images, on the device, chunk by chunk, and the seconds of each
    part."""

    features: list[Array]  # in parts: see ``Extractor.extract``
    finite: list[Array]  # whether all images of a chunk are
    images: list[Array]  # float32 images of the first chunks
    pixels: dict[int, Array]  # uint8 images of the chunks to keep, by number
    generate_seconds: float
    extract_seconds: float


def generate_features(
    extractor: Extractor,
    program: Program,
    generator: Generator,
    latents: Latents,
    image_chunks: int,
    pixel_chunks: Collection[int],
) -> Generated:
    """Generate the images of ``latents`` and extract their features.

    Images are kept of the first ``image_chunks`` chunks, pixels of those numbered in
    ``pixel_chunks``.
    """
    features, finite, images = list[Array](), list[Array](), list[Array]()
    pixels: dict[int, Array] = {}
    clock = _Clock()
    for number, chunk in enumerate(generate(program, generator, latents)):
        parts = extractor.extract(chunk.pixels, chunk.length)
        features.extend(parts)
        finite.append(chunk.finite)
        if number < image_chunks:
            images.append(chunk.images)
        if number in pixel_chunks:
            pixels[number] = chunk.pixels
        clock.add(chunk.finite, parts)
    clock.wait()
    return Generated(
        features, finite, images, pixels, clock.generate_seconds, clock.extract_seconds
    )


class _Clock:
    """Divides the time of an evaluation between generating images and extracting features.

    The device computes chunks in turn. Waiting for their results in that order, a few chunks behind
    the newest, never leaves it idle, and limits the memory of the chunks under way.
    """

    def __init__(self) -> None:
        self.generate_seconds = self.extract_seconds = 0.0
        self._pending = deque[tuple[Array, list[Array]]]()
        self._now = running_time()

    def add(self, generated: Array, features: list[Array]) -> None:
        """Follow a chunk's results; wait for those of an earlier chunk."""
        self._pending.append((generated, features))
        if len(self._pending) > AHEAD:
            self._wait_for_one()

    def wait(self) -> None:
        """Wait for all results."""
        while self._pending:
            self._wait_for_one()

    def _wait_for_one(self) -> None:
        generated, features = self._pending.popleft()
        self.generate_seconds += self._seconds_until(generated)
        self.extract_seconds += self._seconds_until(*features)

    def _seconds_until(self, *results: Array) -> float:
        before = self._now
        for result in results:
            result.block_until_ready()
        self._now = running_time()
        return self._now - before
