"""Decoded images, kept on this machine so that the next start need not decode them again."""

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TextIO

import numpy as np

from tuner.data.images import Announce, ImageSet
from tuner.data.listing import Files
from tuner.places import decoded_images
from tuner.spec import DataSpec

VERSION = 1  # of how images are decoded and kept
ABOUT, IMAGES, LABELS = "about.json", "images.npy", "labels.npy"
PAUSE = 0.2  # seconds between looks whether another process has decoded them


class Left(NamedTuple):
    """What was left out: images that can't be read, the first few with their reasons, and files
    that are no images."""

    unreadable: int = 0
    first: tuple[str, ...] = ()
    others: int = 0


def place_of(spec: DataSpec, where: str, files: Files) -> Path:
    """The folder that keeps these files' images, decoded as the study file says."""
    keys = spec.model_dump(exclude={"path", "modes", "unreadable"})
    named = json.dumps([VERSION, where, files.digest, keys], sort_keys=True)
    return decoded_images() / hashlib.sha256(named.encode()).hexdigest()[:32]


def find(place: Path) -> tuple[ImageSet, Left] | None:
    """What was kept there, its images mapped into memory; None where nothing was, or it is
    damaged."""
    try:
        about = json.loads((place / ABOUT).read_text())
        images = np.load(place / IMAGES, mmap_mode="r", allow_pickle=False)
        labels = np.load(place / LABELS, allow_pickle=False) if about["labelled"] else None
        kept = ImageSet(images, labels, about["fingerprint"], tuple(about["names"]))
        return kept, Left(about["unreadable"], tuple(about["first"]), about["others"])
    except (OSError, ValueError, EOFError, LookupError):
        return None


def new_part(place: Path, alone: bool) -> Path:
    """A folder of this process's own, to become ``place``; OSError where it can't be made. What
    killed processes left is removed by whoever is ``alone``."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if alone:
        for left in place.parent.glob(f"{place.name}-*.part"):
            shutil.rmtree(left, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{place.name}-", suffix=".part", dir=place.parent))


def keep(part: Path, place: Path, found: ImageSet, left: Left) -> None:
    """Make ``part``, which has the images, what ``find`` finds. OSError where it can't be done."""
    if found.labels is not None:
        np.save(part / LABELS, found.labels)
    about = {
        "fingerprint": found.fingerprint,
        "names": found.names,
        "labelled": found.labels is not None,
        **left._asdict(),
    }
    (part / ABOUT).write_text(json.dumps(about))
    if find(place) is None:  # damaged, if it is there at all
        shutil.rmtree(place, ignore_errors=True)
        os.rename(part, place)


@contextmanager
def alone_with(place: Path, announce: Announce) -> Iterator[bool]:
    """Waits while another process of this machine decodes the same images. Whether it can be told
    that none does: not where files can't be written, or locked."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        lock = place.with_name(f"{place.name}.lock").open("w")
    except OSError:
        yield False
        return
    with lock:
        yield _locked(lock, announce)


def _locked(lock: TextIO, announce: Announce) -> bool:
    waiting = False
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not waiting:
                announce("waiting for another process, which decodes these images")
            waiting = True
            time.sleep(PAUSE)
        except OSError:
            return False
        else:
            return True
