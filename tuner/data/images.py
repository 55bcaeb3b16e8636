"""``ImageSet``: images, labels and a hash of both; and what it is made with."""

import hashlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from tuner.spec import Fit

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]

AT_ONCE = 4096  # images that are hashed, or copied, at once


class ImageSet(NamedTuple):
    """uint8 images (n, h, w, c), which may be a file mapped into memory; int64 labels (n,) from 0
    to ``classes`` - 1, or None; a hash of both; and the labels' names, where they have any."""

    images: Images
    labels: Labels | None
    fingerprint: str
    names: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, int, int]:
        height, width, channels = self.images.shape[1:]
        return height, width, channels

    @property
    def classes(self) -> int:
        """How many label values there are; 0 without labels."""
        return 0 if self.labels is None else int(self.labels.max()) + 1


class Announce(Protocol):
    """Tells a person what happens, and how much of it is done (0 to 1) where that is known."""

    def __call__(self, text: str, part: float | None = None) -> None: ...


def silent(text: str, part: float | None = None) -> None:
    """Announces nothing."""


class Item(NamedTuple):
    """An image before it is decoded: its file's path, its file's bytes, or its pixels (h, w) or
    (h, w, 3 or 4); its label; and what errors call it."""

    content: str | bytes | Images
    label: int | str | None
    name: str


class Opened(NamedTuple):
    """A source that is read one image after another."""

    items: Iterator[Item]
    total: int | None  # images, where that is known beforehand
    others: int = 0  # files that are no images
    names: Sequence[str] = ()  # of the labels 0, 1, …
    fit: Fit = "crop"  # unless the study file says


def fingerprint(images: Images, labels: Labels | None) -> str:
    """A hash of shape, pixels and labels, 16 hexadecimal digits."""
    digest = hashlib.sha256(repr(images.shape).encode())
    for start in range(0, len(images), AT_ONCE):
        digest.update(images[start : start + AT_ONCE].tobytes())
    digest.update(b"" if labels is None else labels.tobytes())
    return digest.hexdigest()[:16]


def ranked(
    labels: Sequence[int | str] | Labels, names: Sequence[str] = ()
) -> tuple[Labels, tuple[str, ...]]:
    """Labels as 0, 1, … in sorted order, without gaps, and what each is called: by ``names``
    where the labels are places in it."""
    kinds, ranks = np.unique(np.asarray(labels), return_inverse=True)
    called = tuple(names[kind] for kind in kinds) if names else tuple(map(str, kinds))
    return ranks.reshape(-1).astype(np.int64), called
