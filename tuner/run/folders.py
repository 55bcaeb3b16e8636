"""Files in a folder of this machine, or of several; and what files may be called."""

import contextlib
import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from tuner.errors import InputError, StorageError, TunerError

# Parts that begin with a letter, a digit or "_" go neither up nor out, are not hidden, and mean
# nothing but themselves to a file system, S3 or fsspec.
_PART = "[A-Za-z0-9_][A-Za-z0-9_.=+-]*"
NAME = re.compile(f"{_PART}(/{_PART})*")

# What the system says of a disk or a network that may come back, or be less busy; and of a folder
# that another process removed just when a file was to be put in it.
PASSING = {
    errno.ENOENT,
    *(errno.EIO, errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.ENOLCK, errno.ENOTEMPTY),
    *(errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.ESTALE, errno.ETIMEDOUT),
    *(errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH, errno.ENETRESET),
    *(errno.ENOTCONN, errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED, errno.EPIPE),
}


def checked(name: str) -> str:
    """The name; ValueError for an impossible one."""
    if not NAME.fullmatch(name):
        raise ValueError(f"found {name!r} as a name in a store, expected {NAME.pattern}")
    return name


class DirectoryStore:
    """A folder of this machine, or one that several machines have mounted."""

    def __init__(self, folder: str | Path) -> None:
        """It is made when the first file is written."""
        if not str(folder):
            raise InputError("artifacts: found nothing, expected a folder or a URL")
        self._root = Path(os.path.abspath(folder))
        self.url = str(self._root)

    def write(self, name: str, data: bytes) -> None:
        path = self._path(name)
        # Hidden from names(), should this process be killed; and of no other process or machine.
        part = path.with_name(f".{secrets.token_hex(8)}.part")
        with _disk_errors(path, "written"):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with part.open("xb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                part.replace(path)
            finally:
                part.unlink(missing_ok=True)
            _sync_folder(path.parent)

    def read(self, name: str) -> bytes | None:
        path = self._path(name)
        with _disk_errors(path, "read"), contextlib.suppress(FileNotFoundError, IsADirectoryError):
            return path.read_bytes()
        return None

    def names(self, prefix: str) -> list[str]:
        folder = self._path(prefix)
        found: list[str] = []
        with _disk_errors(folder, "listed"):
            if not folder.is_dir():
                return []
            for parent, _, files in os.walk(folder, onerror=_raise_unless_gone):
                place = Path(parent).relative_to(self._root).as_posix()
                found += [f"{place}/{file}" for file in files]
        return sorted(filter(NAME.fullmatch, found))

    def remove(self, name: str) -> None:
        path = self._path(name)
        with _disk_errors(path, "removed"), contextlib.suppress(IsADirectoryError):
            path.unlink(missing_ok=True)

    def remove_all(self, prefix: str) -> None:
        folder = self._path(prefix)
        with _disk_errors(folder, "removed"):
            while folder.is_dir():  # again where another process changed something meanwhile
                try:
                    shutil.rmtree(folder)
                except OSError as error:
                    if error.errno not in (errno.ENOENT, errno.ENOTEMPTY):
                        raise

    def locate(self, name: str) -> str:
        return str(self._path(name))

    def _path(self, name: str) -> Path:
        return self._root / checked(name)


def _sync_folder(folder: Path) -> None:
    """Make the names in a folder outlive a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems can't, and need not
            raise
    finally:
        os.close(descriptor)


def _raise_unless_gone(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


@contextlib.contextmanager
def _disk_errors(path: Path, done: str) -> Iterator[None]:
    """Turn what the operating system says into one line that names the file."""
    try:
        yield
    except OSError as error:
        message = f"{path}: can't be {done}: {error.strerror or error}"
        if error.errno in PASSING:
            raise StorageError(message, transient=True) from error
        raise TunerError(message) from error
