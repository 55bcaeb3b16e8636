"""Cache of decoded images on this machine."""

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tuner.data.images import Announce, Files, ImageSet
from tuner.environment import decoded_images
from tuner.paths import check_file, open_file
from tuner.spec.data import DataSpec

VERSION = 1  # part of the key: raised by any change to decoding or to the format
ABOUT, IMAGES, LABELS = "about.json", "images.npy", "labels.npy"


class Left(NamedTuple):
    """Files that were left out."""

    unreadable: int = 0  # images
    first: tuple[str, ...] = ()  # the first unreadable ones, with reasons
    others: int = 0  # files that are not images


def place_of(spec: DataSpec, where: str, files: Files) -> Path:
    """The cache folder for these files, decoded with these settings."""
    keys = spec.model_dump(exclude={"path", "modes", "unreadable"})
    named = json.dumps([VERSION, where, files.digest, keys], sort_keys=True)
    return decoded_images() / hashlib.sha256(named.encode()).hexdigest()[:32]


def find(place: Path) -> tuple[ImageSet, Left] | None:
    """Load a cache entry, images memory-mapped; None if it is missing or damaged."""
    try:
        with open_file(place / ABOUT) as file:
            about = json.load(file)
        images = _array(place / IMAGES, np.uint8, 4)
        labels = np.array(_array(place / LABELS, np.int64, 1)) if about["labelled"] else None
        if not len(images) or (labels is not None and len(labels) != len(images)):
            return None
        kept = ImageSet(images, labels, about["fingerprint"], tuple(about["names"]))
        return kept, Left(about["unreadable"], tuple(about["first"]), about["others"])
    except Exception:  # NumPy documents no errors for damaged files, and raises any
        return None


def _array(path: Path, kind: type[np.generic], rank: int) -> Any:
    check_file(path)
    found = np.load(path, mmap_mode="r", allow_pickle=False)
    if found.dtype != kind or found.ndim != rank:
        raise ValueError(f"{path}: found {found.dtype} of shape {found.shape}")
    return found


def new_part(place: Path, alone: bool) -> tempfile.TemporaryDirectory[str]:
    """Create a temporary folder that can become ``place``. Raises OSError if that fails.

    With the lock held (``alone``), the leftovers of killed processes are removed.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    if alone:
        for left in place.parent.glob(f"{place.name}-*.part"):
            shutil.rmtree(left, ignore_errors=True)
    return tempfile.TemporaryDirectory(
        ".part", f"{place.name}-", place.parent, ignore_cleanup_errors=True
    )


def keep(part: Path, place: Path, found: ImageSet, left: Left) -> None:
    """Complete ``part``, which holds the images, and move it to ``place``. May raise OSError."""
    if found.labels is not None:
        np.save(part / LABELS, found.labels)
    about = {
        "fingerprint": found.fingerprint,
        "names": found.names,
        "labelled": found.labels is not None,
        **left._asdict(),
    }
    (part / ABOUT).write_text(json.dumps(about))
    if find(place) is None:  # missing or damaged
        shutil.rmtree(place, ignore_errors=True)
        os.rename(part, place)


@contextmanager
def alone_with(place: Path, announce: Announce) -> Iterator[bool]:
    """Hold the lock of a cache entry, waiting while another process decodes the same images.

    Yields False if the file can't be written or locked, so that another process may be decoding.
    """
    with ExitStack() as stack:
        alone = True
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK
            lock = stack.enter_context(open(os.open(f"{place}.lock", flags, 0o666), "w"))
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                announce("waiting for another process, which decodes these images")
                fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError:
            alone = False
        yield alone
