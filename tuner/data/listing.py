"""Where a source's files are, and what a folder of images holds, found without opening any."""

import hashlib
import os
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tuner.data.decoding import image_suffixes
from tuner.data.images import Item, Opened
from tuner.errors import InputError
from tuner.spec import DataSpec

DATA_VARIABLE = "TUNER_DATA"
SETTLED = 2.0  # seconds after which a further change would show in a file's time


class Files(NamedTuple):
    """What files were found: a hash of their names, sizes and times, and the newest's time."""

    digest: str
    newest: float

    @property
    def settled(self) -> bool:
        """Whether these files can't have changed since without its showing."""
        return abs(time.time() - self.newest) > SETTLED


class Source(NamedTuple):
    """Files with images, and how to open them."""

    files: Files
    open: Callable[[], Opened]


def counted(count: int, what: str) -> str:
    """``1 image``, ``2,000 images``."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def data_path(spec: DataSpec, folder: str | None, expected: str) -> str:
    """Where the data are: what the command line says, or the variable, or the study file;
    InputError where none does."""
    path = folder or os.environ.get(DATA_VARIABLE) or spec.path
    if not path:
        raise InputError(
            f"data.path: found neither a path nor the variable {DATA_VARIABLE} nor --data, "
            f"expected {expected}"
        )
    return path


class _Tally:
    """What a walk finds."""

    def __init__(self, suffixes: Collection[str] | None) -> None:
        self._suffixes, self._digest = suffixes, hashlib.sha256()
        self._seen: set[tuple[int, int]] = set()
        self.others, self.newest = 0, 0

    def files(self) -> Files:
        return Files(self._digest.hexdigest(), self.newest / 1e9)

    def take(self, folder: str) -> tuple[list[str], list[str]]:
        """The names, sorted, of a folder's files that count, and of its sub-folders. Hidden ones
        are passed over, and so is a folder that was seen, where a link leads back to it."""
        files, folders = [], []
        info = os.stat(folder)
        if (info.st_dev, info.st_ino) in self._seen:
            return [], []
        self._seen.add((info.st_dev, info.st_ino))
        with os.scandir(folder) as entries:
            for entry in entries:
                name = entry.name
                if name[0] == ".":
                    continue
                if self._counts(name) and entry.is_file():
                    info = entry.stat()
                    files.append((name, info.st_size, info.st_mtime_ns))
                elif entry.is_dir():
                    folders.append(name)
                else:
                    self.others += 1
        files.sort()
        self.newest = max(self.newest, max((time for _, _, time in files), default=0))
        named = (os.path.basename(folder), files)
        self._digest.update(repr(named).encode(errors="surrogateescape"))
        return [name for name, _, _ in files], sorted(folders)

    def _counts(self, name: str) -> bool:
        return self._suffixes is None or name[name.rfind(".") :].lower() in self._suffixes

    def walk(self, root: str, within: str) -> Iterator[tuple[str, list[str]]]:
        """A folder and its sub-folders, as paths from ``root``, with the files of each."""
        files, folders = self.take(os.path.join(root, within))
        if files:
            yield within, files
        for name in folders:
            yield from self.walk(root, os.path.join(within, name))


def files_in(path: str, suffixes: Collection[str] | None = None) -> Files:
    """A file, or all files of a folder, or those that end so."""
    with _listed(path):
        if not os.path.isdir(path):
            info = os.stat(path)
            return Files(f"{info.st_size} {info.st_mtime_ns}", info.st_mtime)
        tally = _Tally(suffixes)
        for _ in tally.walk(path, ""):
            pass
        return tally.files()


@contextmanager
def _listed(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"{error.filename or path}: can't be read: {error.strerror}") from None


def image_folder(spec: DataSpec, folder: str | None) -> tuple[str, Source]:
    """The folder, and its images: those of each sub-folder are a class; those in the folder itself
    have no labels.

    InputError where there are none, or some of both.
    """
    root = data_path(spec, folder, "a folder of images")
    if not Path(root).expanduser().is_dir():
        raise InputError(f"data.path: found no folder {root}, expected one with images")
    root = str(Path(root).expanduser().resolve())
    tally = _Tally(image_suffixes())
    with _listed(root):
        direct, folders = tally.take(root)
        groups = [(name, list(tally.walk(root, name))) for name in folders]
    groups = [group for group in groups if group[1]]
    if direct and groups:
        raise InputError(
            f"{root}: found {counted(len(direct), 'image')} beside sub-folders with images, "
            "expected all in sub-folders, one for each class, or all beside each other"
        )
    if not direct and not groups:
        found = f"no images ({counted(tally.others, 'other file')})"
        raise InputError(f"{root}: found {found}, expected files that Pillow reads, as .png")

    def items() -> Iterator[Item]:
        for label, (_, parts) in enumerate(groups or [("", [("", direct)])]):
            for within, files in parts:
                for file in files:
                    name = os.path.join(within, file)
                    yield Item(os.path.join(root, name), label, name)

    total = len(direct) + sum(len(files) for _, parts in groups for _, files in parts)
    names = [name for name, _ in groups] or [""]
    return root, Source(tally.files(), lambda: Opened(items(), total, tally.others, names))
