"""``ImageSet``, the images to train on, and the types that sources return."""

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from tuner.spec.data import Fit

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]

AT_ONCE = 4096  # images hashed or copied at a time
SETTLED = 2.0  # seconds after which a later change would show in a file's modification time


class ImageSet(NamedTuple):
    """Images to train on."""

    images: Images  # uint8 (n, h, w, c), possibly a memory-mapped file
    labels: Labels | None  # int64 (n,) from 0 to ``classes`` - 1
    fingerprint: str  # a hash of images and labels
    names: tuple[str, ...] = ()  # of the labels, if they have names
    held_out: Images | None = None  # other images, never trained on; None if there are none

    @property
    def shape(self) -> tuple[int, int, int]:
        height, width, channels = self.images.shape[1:]
        return height, width, channels

    @property
    def classes(self) -> int:
        """Number of label values; 0 without labels."""
        return 0 if self.labels is None else int(self.labels.max()) + 1


class Announce(Protocol):
    """Shows a message to the user, with the fraction done (0 to 1) if known."""

    def __call__(self, text: str, part: float | None = None) -> None: ...


def silent(text: str, part: float | None = None) -> None:
    """Show nothing."""


class Item(NamedTuple):
    """An image before decoding."""

    content: str | bytes | Images  # a path, a file's bytes, or pixels (h, w) or (h, w, 3 or 4)
    label: int | str | None
    name: str  # in messages


class Arrays(NamedTuple):
    """A source that is read at once: uint8 images (n, h, w, 1 or 3) and their labels (n,)."""

    images: Images
    labels: Labels | None
    fit: Fit | None = None  # the default, if it does not depend on the size


class Opened(NamedTuple):
    """A source that is read image by image."""

    items: Iterator[Item]
    total: int | None  # number of images, if known in advance
    others: int = 0  # files that are not images
    names: Sequence[str] = ()  # of the labels 0, 1, …
    fit: Fit = "crop"  # the default


class Files(NamedTuple):
    """The state of a source's files: a hash of names, sizes and times, and the newest time."""

    digest: str
    newest: float  # seconds since 1970

    @property
    def settled(self) -> bool:
        """Whether any later change would show in a file's modification time."""
        return abs(time.time() - self.newest) > SETTLED


class FileSource(NamedTuple):
    """A source of files, whose decoded images are cached on this machine."""

    where: str  # its path or name, part of the cache's key
    files: Files
    open: Callable[[], Opened]


def fingerprint(images: Images, labels: Labels | None) -> str:
    """Hash shape, pixels and labels to 16 hexadecimal digits."""
    digest = hashlib.sha256(repr(images.shape).encode())
    for start in range(0, len(images), AT_ONCE):
        digest.update(images[start : start + AT_ONCE].tobytes())
    digest.update(b"" if labels is None else labels.tobytes())
    return digest.hexdigest()[:16]


def ranked(
    labels: Sequence[int | str] | Labels, names: Sequence[str] = ()
) -> tuple[Labels | None, tuple[str, ...]]:
    """Renumber labels as 0, 1, … in sorted order; return them with the name of each.

    A label that is an index into ``names`` gets that name, any other its own text. If all labels
    are the same, they are useless: the result is None, without names.
    """
    values, ranks = np.unique(np.asarray(labels), return_inverse=True)
    if len(values) < 2:
        return None, ()
    named = tuple(names[value] if value in range(len(names)) else str(value) for value in values)
    return ranks.reshape(-1).astype(np.int64), named
