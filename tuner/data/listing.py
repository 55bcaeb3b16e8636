"""Locate the images of a source, and list its files without opening them."""

import hashlib
import os
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from tuner.data.images import Announce, Files, silent
from tuner.environment import variable
from tuner.errors import InputError
from tuner.paths import check_file, local_path, looks_like_url
from tuner.spec.data import DataSpec
from tuner.spec.traits import SOURCES

DATA_VARIABLE = "TUNER_DATA"
HOW = f"in the study file, with --data or in {DATA_VARIABLE}"
PAUSE = 0.5, 10.0  # seconds between progress messages, with a known total and without
NAMED = 3  # files or folders listed in a message
LONGEST = 300  # characters of a path in a message


def counted(count: int, what: str) -> str:
    """``1 image``, ``2,000 images``."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def printable(text: str) -> str:
    """Text that is safe to print: file names may hold any characters, and be of any length."""
    if len(text) > LONGEST:
        text = f"{text[: LONGEST // 2]}…{text[-LONGEST // 2 :]}"
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def reason(error: BaseException) -> str:
    """The cause of a failed read, in one line."""
    text = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return printable(text.partition("\n")[0]) or type(error).__name__


def data_name(spec: DataSpec, folder: str | None, wanted: str) -> str:
    """The path or name of the data: from --data, the variable or the study file, in this order.

    Raises InputError if none of them gives one; the message asks for ``wanted``.
    """
    named = {"--data": folder, DATA_VARIABLE: variable(DATA_VARIABLE), "data.path": spec.path}
    what, path = next(((key, value) for key, value in named.items() if value), ("", ""))
    if not path:
        raise InputError(f"data.path: not set; give {wanted}, {HOW}")
    return str(local_path(path, what))


def data_path(
    spec: DataSpec, folder: str | None, wanted: str, *, is_folder: bool | None = None
) -> Path:
    """The absolute path of the data, with links resolved.

    Raises InputError if it does not exist, or is a file instead of a folder or vice versa.
    """
    name = data_name(spec, folder, wanted)
    try:
        path = Path(name).resolve(strict=True)
        if is_folder in (None, path.is_dir()):
            return path
        problem = "is not a folder" if is_folder else "is a folder"
    except (FileNotFoundError, NotADirectoryError):
        problem = "does not exist"
    except (OSError, RuntimeError) as error:  # a circular link, a name that is too long
        problem = f"can't be read: {reason(error)}"
    raise InputError(f"data.path: {printable(name)} {problem}; give {wanted}, {HOW}")


def origin(spec: DataSpec, folder: str | None) -> str:
    """The origin of the images, for messages. A URL is not shown; loading refuses it."""
    path = folder or variable(DATA_VARIABLE) or spec.path
    named = path and "path" in SOURCES[spec.source].uses and not looks_like_url(path)
    return path if path and named else spec.source


def check_data_option(spec: DataSpec, folder: str | None) -> None:
    """Raise InputError if --data is given for a source that reads no files."""
    if folder and "path" not in SOURCES[spec.source].uses:
        raise InputError(
            f"--data: data.source = {spec.source!r} reads no files; leave --data out, or set "
            "data.source"
        )


class Progress:
    """Announces progress from time to time."""

    def __init__(self, what: str, announce: Announce, total: int | None = None) -> None:
        self._what, self._total, self._announce = what, total, announce
        self._began = self._last = time.monotonic()

    def show(self, seen: int) -> None:
        now = time.monotonic()
        if now - self._last < PAUSE[self._total is None]:
            return
        self._last = now
        of = f" of {self._total:,}" if self._total else ""
        text = f"{self._what}: {seen:,}{of}, {seen / (now - self._began):,.0f} a second"
        self._announce(text, seen / self._total if self._total else None)


class Listing:
    """Lists the files below a folder and hashes their names, sizes and times."""

    def __init__(self, suffixes: Collection[str] | None, announce: Announce) -> None:
        self._suffixes, self._digest = suffixes, hashlib.sha256()
        self._seen: set[tuple[int, int]] = set()
        self._progress = Progress("listing files", announce)
        self.count, self.others, self.newest = 0, 0, 0

    def files(self) -> Files:
        return Files(self._digest.hexdigest(), self.newest / 1e9)

    def take(self, folder: str) -> tuple[list[str], list[str]]:
        """List a folder: the sorted names of its files with these suffixes, and of its sub-folders.

        Hidden entries are skipped, as is a folder that was listed before, through a link.
        """
        info = os.stat(folder)
        if (info.st_dev, info.st_ino) in self._seen:
            return [], []
        self._seen.add((info.st_dev, info.st_ino))
        files: list[tuple[str, int, int]] = []
        folders: list[str] = []
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name[0] != ".":
                    self._take_entry(entry, files, folders)
                    self.count += 1
                    self._progress.show(self.count)
        files.sort()
        self.newest = max(self.newest, max((time for _, _, time in files), default=0))
        named = (os.path.basename(folder), files)
        self._digest.update(repr(named).encode(errors="surrogateescape"))
        return [name for name, _, _ in files], sorted(folders)

    def _take_entry(
        self, entry: os.DirEntry[str], files: list[tuple[str, int, int]], folders: list[str]
    ) -> None:
        name, info = entry.name, None
        wanted = self._suffixes is None or name[name.rfind(".") :].lower() in self._suffixes
        try:
            if entry.is_dir():
                folders.append(name)
                return
            info = entry.stat() if wanted else None
        except OSError:  # a circular or dangling link, or a file just removed
            pass
        if info is not None:
            files.append((name, info.st_size, info.st_mtime_ns))
        elif wanted or ("." not in name and entry.is_symlink() and not os.path.exists(entry.path)):
            files.append((name, -1, 0))  # a missing image, or a missing folder of images
        else:
            self.others += 1

    def walk(self, root: str, within: str) -> Iterator[tuple[str, list[str]]]:
        """Yield each folder below ``within``, as a path from ``root``, with its files."""
        waiting = [within]
        while waiting:
            within = waiting.pop()
            files, folders = self.take(os.path.join(root, within))
            if files:
                yield within, files
            waiting += [os.path.join(within, name) for name in reversed(folders)]


def files_in(
    path: str, suffixes: Collection[str] | None = None, announce: Announce = silent
) -> Files:
    """The state of a file, or of a folder's files with these suffixes.

    Raises InputError if one of them is missing or not a regular file.
    """
    with reading(path):
        if not os.path.isdir(path):
            check_file(path)
            info = os.stat(path)
            return Files(f"{info.st_size} {info.st_mtime_ns}", info.st_mtime)
        listing = Listing(suffixes, announce)
        for within, names in listing.walk(path, ""):
            for name in names:
                check_file(os.path.join(path, within, name))
        return listing.files()


@contextmanager
def reading(path: str) -> Iterator[None]:
    """Turn an OSError into an InputError that names the file."""
    try:
        yield
    except OSError as error:
        where = printable(str(error.filename or path))
        raise InputError(f"{where}: can't be read: {reason(error)}") from None
