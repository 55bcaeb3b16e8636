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
from tuner.environment import image_cache
from tuner.paths import check_file, open_file
from tuner.spec.data import DataSpec

VERSION = 1  # part of the key: increase it with any change to decoding or the format
ABOUT, IMAGES, LABELS = "about.json", "images.npy", "labels.npy"


class Skipped(NamedTuple):
    """Files that were left out."""

    unreadable: int = 0  # images
    first: tuple[str, ...] = ()  # the first unreadable ones, with reasons
    others: int = 0  # files that are not images


def entry_folder(spec: DataSpec, where: str, files: Files) -> Path:
    """The cache folder for these files, decoded with these settings."""
    keys = spec.model_dump(exclude={"path", "modes", "unreadable", "holdout"})
    named = json.dumps([VERSION, where, files.digest, keys], sort_keys=True)
    return image_cache() / hashlib.sha256(named.encode()).hexdigest()[:32]


def load(entry: Path) -> tuple[ImageSet, Skipped] | None:
    """Load a cache entry, images memory-mapped; None if it is missing or damaged."""
    try:
        with open_file(entry / ABOUT) as file:
            about = json.load(file)
        images = _array(entry / IMAGES, np.uint8, 4)
        labels = np.array(_array(entry / LABELS, np.int64, 1)) if about["labelled"] else None
        if not len(images) or (labels is not None and len(labels) != len(images)):
            return None
        kept = ImageSet(images, labels, about["fingerprint"], tuple(about["names"]))
        return kept, Skipped(about["unreadable"], tuple(about["first"]), about["others"])
    except Exception:  # NumPy may raise anything for a damaged file
        return None


def _array(path: Path, kind: type[np.generic], rank: int) -> Any:
    check_file(path)
    found = np.load(path, mmap_mode="r", allow_pickle=False)
    if found.dtype != kind or found.ndim != rank:
        raise ValueError(f"{path}: found {found.dtype} of shape {found.shape}")
    return found


def new_part(entry: Path, locked: bool) -> tempfile.TemporaryDirectory[str]:
    """Create a temporary folder that can become ``entry``. Raises OSError if that fails.

    If the entry is ``locked``, the leftovers of killed processes are removed.
    """
    entry.parent.mkdir(parents=True, exist_ok=True)
    if locked:
        for leftover in entry.parent.glob(f"{entry.name}-*.part"):
            shutil.rmtree(leftover, ignore_errors=True)
    return tempfile.TemporaryDirectory(
        ".part", f"{entry.name}-", entry.parent, ignore_cleanup_errors=True
    )


def store(part: Path, entry: Path, found: ImageSet, skipped: Skipped) -> None:
    """Add all but the images to ``part``, and move it to ``entry``. May raise OSError."""
    if found.labels is not None:
        np.save(part / LABELS, found.labels)
    about = {
        "fingerprint": found.fingerprint,
        "names": found.names,
        "labelled": found.labels is not None,
        **skipped._asdict(),
    }
    (part / ABOUT).write_text(json.dumps(about))
    if load(entry) is None:  # missing or damaged
        shutil.rmtree(entry, ignore_errors=True)
        os.rename(part, entry)


@contextmanager
def lock(entry: Path, announce: Announce) -> Iterator[bool]:
    """Hold the lock of a cache entry, waiting while another process decodes the same images.

    Yields False if the lock can't be taken; another process may then be decoding them too.
    """
    with ExitStack() as stack:
        locked = True
        try:
            entry.parent.mkdir(parents=True, exist_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK
            file = stack.enter_context(open(os.open(f"{entry}.lock", flags, 0o666), "w"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                announce("waiting for another process that is decoding these images")
                fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            locked = False
        yield locked
