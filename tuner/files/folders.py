"""``DirectoryStore``: files in a local or mounted folder; valid file names."""

import contextlib
import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from tuner.environment import Place, place_of_file
from tuner.errors import InputError, StorageError, TunerError
from tuner.paths import local_path, open_file

# Parts that start with a letter, a digit or "_" can't leave the folder, are not hidden, and have
# no special meaning to a file system, S3 or fsspec.
_PART = "[A-Za-z0-9_][A-Za-z0-9_.=+-]*"
NAME = re.compile(f"{_PART}(/{_PART})*")

# Errors of a disk or network that may recover. ENOENT is among them because another process may
# remove the folder just before a file is written to it.
TRANSIENT = {
    errno.ENOENT,
    *(errno.EIO, errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.ENOLCK, errno.ENOTEMPTY),
    *(errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.ESTALE, errno.ETIMEDOUT),
    *(errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH, errno.ENETRESET),
    *(errno.ENOTCONN, errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED, errno.EPIPE),
}

ATTEMPTS = 100  # to create a folder while other processes remove it
MAX_BYTES, MAX_ARRAY_BYTES = 64 * 2**20, 4 * 2**30  # largest file: in general, and with arrays


def checked(name: str) -> str:
    """Return the name; ValueError if it is invalid."""
    if not NAME.fullmatch(name):
        raise ValueError(f"invalid file name {name!r}: it must match {NAME.pattern}")
    return name


class DirectoryStore:
    """An artifact store in a local folder, or in one that several machines mount."""

    def __init__(self, folder: str | Path) -> None:
        """The folder is created when the first file is written."""
        if not str(folder):
            raise InputError("artifacts: empty; give a folder or a URL")
        self._root = Path(os.path.abspath(local_path(folder, "artifacts")))
        self.url = str(self._root)

    def write(self, name: str, data: bytes) -> None:
        path = self._path(name)
        # Hidden, so names() omits it if this process is killed. Random, so that no other process
        # writes to it.
        part = path.with_name(f".{secrets.token_hex(8)}.part")
        with _disk_errors(path, "written"):
            _make_folder(path.parent)
            try:
                with part.open("xb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                part.replace(path)
            finally:
                part.unlink(missing_ok=True)
            _sync_folder(path.parent)

    def read(self, name: str, max_bytes: int = MAX_BYTES) -> bytes | None:
        path = self._path(name)
        with _disk_errors(path, "read"), contextlib.suppress(FileNotFoundError):
            return None if path.is_dir() else read_file(path, max_bytes)
        return None

    def names(self, prefix: str) -> list[str]:
        folder = self._path(prefix)
        found: list[str] = []
        with _disk_errors(folder, "listed"):
            if not folder.is_dir():
                return []
            for parent, _, files in os.walk(folder, onerror=_raise_unless_gone):
                found += [os.path.relpath(f"{parent}/{file}", self._root) for file in files]
        return sorted(filter(NAME.fullmatch, found))

    def remove(self, name: str) -> None:
        path = self._path(name)
        with _disk_errors(path, "removed"), contextlib.suppress(IsADirectoryError):
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # a folder is removed with its last file
            for folder in list(path.relative_to(self._root).parents)[:-1]:
                (self._root / folder).rmdir()

    def remove_all(self, prefix: str) -> None:
        folder = self._path(prefix)
        with _disk_errors(folder, "removed"):
            while folder.is_dir():  # again if another process added or removed a file
                try:
                    shutil.rmtree(folder)
                except OSError as error:
                    if error.errno not in (errno.ENOENT, errno.ENOTEMPTY):
                        raise

    def locate(self, name: str) -> str:
        return str(self._path(name))

    def place(self, folder: str) -> Place:
        path = self._path(folder)
        with _disk_errors(path, "inspected"):
            return place_of_file(path)

    def _path(self, name: str) -> Path:
        return self._root / checked(name)


def _make_folder(folder: Path) -> None:
    """Create a folder and its parents, even while another process removes it."""
    for _ in range(ATTEMPTS - 1):
        with contextlib.suppress(FileExistsError):  # raised if the folder was there and is gone
            return folder.mkdir(parents=True, exist_ok=True)
    return folder.mkdir(parents=True, exist_ok=True)  # something else has that name


def read_file(path: Path, max_bytes: int) -> bytes:
    """Read a regular file of at most ``max_bytes``; OSError for anything else."""
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > max_bytes:
            problem = f"{size / 1e6:,.0f} MB, more than the {max_bytes / 1e6:,.0f} MB allowed"
            raise OSError(errno.EFBIG, problem, str(path))
        return file.read(max(size, 2**16) + 1)


def _sync_folder(folder: Path) -> None:
    """Make renames in a folder survive a power loss."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems can't and don't need to
            raise
    finally:
        os.close(descriptor)


def _raise_unless_gone(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


@contextlib.contextmanager
def _disk_errors(path: Path, done: str) -> Iterator[None]:
    """Raise errors of the operating system as one line that names the file."""
    try:
        yield
    except RecursionError:
        raise TunerError(f"{path}: can't be {done}: folders are nested too deeply") from None
    except OSError as error:
        message = f"{path}: can't be {done}: {error.strerror or error}"
        if error.errno in TRANSIENT:
            raise StorageError(message, transient=True) from error
        raise TunerError(message) from error
