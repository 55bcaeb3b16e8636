"""``BucketStore``: files in the bucket of a cloud service, through fsspec."""

import contextlib
import logging
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

from tuner.environment import Place
from tuner.errors import InputError, StorageError, TunerError
from tuner.files.folders import MAX_BYTES, NAME, checked
from tuner.hints import require

# Time limits in seconds: for a connection, for the next bytes of a response, for a whole call, and
# for a call that reads a file. Only the limit of the call applies to a stalled upload.
CONNECT_S, SILENCE_S, CALL_S, READ_S = 5, 20, 60, 180
MIN_RATE = 1_000_000  # bytes/s, below which an upload counts as stalled
PARALLEL_REMOVALS = 16  # files
FRESH = {"skip_instance_cache": True, "use_listings_cache": False}  # for fsspec file systems

# Transient HTTP statuses, in addition to all from 500 on except "not implemented".
BUSY = {408, 409, 425, 429}
NOT_IMPLEMENTED = 501
EMPTY = 416  # "range not satisfiable": an empty file has no first byte
CERTIFICATES = ("SSLCertVerificationError", "FileNotFoundError")  # configured but unusable


class BucketStore(ABC):
    """An artifact store in a bucket, or in a folder of one; a subclass for each service.

    Credentials, endpoint and region come from the usual environment variables and files.
    """

    scheme: ClassVar[str]  # of URLs; also the extra that installs the package
    package: ClassVar[str]  # of the fsspec file system
    permanent: ClassVar[tuple[str, ...]]  # errors of credentials and settings, by class name

    def __init__(self, place: str) -> None:
        """``place`` is the URL after the scheme: //BUCKET or //BUCKET/PREFIX."""
        self._root = place.removeprefix("//").rstrip("/")
        self.url = f"{self.scheme}://{self._root}"
        if not place.startswith("//") or not NAME.fullmatch(self._root):
            bucket = f"{self.scheme}://BUCKET"
            raise InputError(
                f"artifacts: not a valid {self.scheme} URL; write {bucket} or {bucket}/PREFIX, of "
                "letters, digits and _.=+-, without credentials"
            )
        require(self.package, self.scheme, f"artifacts: {self.scheme}://")
        # It also logs the errors that it raises; shown only if the program sets up logging.
        logging.getLogger(self.package).addHandler(logging.NullHandler())
        self._by_process: dict[int, Any] = {}

    @abstractmethod
    def _open(self) -> Any:
        """An fsspec file system with time limits, and with the options ``FRESH``."""

    @abstractmethod
    def _status(self, error: BaseException) -> int | None:
        """The HTTP status in an error of the service's package."""

    def write(self, name: str, data: bytes) -> None:
        limit = CALL_S + len(data) / MIN_RATE
        with self._errors(self._place(name), "written"):
            self._files().pipe_file(self._place(name), data, timeout=limit)

    def read(self, name: str, max_bytes: int = MAX_BYTES) -> bytes | None:
        data: bytes | None = None
        with self._errors(self._place(name), "read", or_missing=True):
            options = {"start": 0, "end": max_bytes + 1, "timeout": READ_S}
            try:
                data = self._files().cat_file(self._place(name), **options)
            except Exception as error:
                if self._status_in(error) != EMPTY:
                    raise
                data = b""
        if data is not None and len(data) > max_bytes:
            raise TunerError(
                f"{self.locate(name)}: can't be read: larger than {max_bytes / 1e6:,.0f} MB"
            )
        return data

    def names(self, prefix: str) -> list[str]:
        names = (place.removeprefix(f"{self._root}/") for place in self._places(prefix))
        return sorted(filter(NAME.fullmatch, names))

    def remove(self, name: str) -> None:
        self._remove(self._place(name))

    def remove_all(self, prefix: str) -> None:
        # One by one: in bulk, s3fs does not report the files that S3 refused to remove.
        with ThreadPoolExecutor(PARALLEL_REMOVALS) as pool:
            list(pool.map(self._remove, self._places(prefix)))

    def locate(self, name: str) -> str:
        return f"{self.scheme}://{self._place(name)}"

    def place(self, folder: str) -> Place:
        return Place("", self.locate(folder))

    def _place(self, name: str) -> str:
        return f"{self._root}/{checked(name)}"

    def _places(self, prefix: str) -> list[str]:
        """List everything in a folder, including files that names() omits."""
        with self._errors(self._place(prefix), "listed"):
            # With a prefix, this takes one request; for a path, fsspec also looks for a file.
            found = self._files().find(self._root, prefix=f"{prefix}/", timeout=CALL_S)
        return list(found)

    def _remove(self, place: str) -> None:
        with self._errors(place, "removed", or_missing=True):
            self._files().rm_file(place, timeout=CALL_S)

    def _files(self) -> Any:
        """The file system of this process: a forked process can't use or close its parent's."""
        process = os.getpid()
        if process not in self._by_process:
            self._by_process.setdefault(process, self._open())
        return self._by_process[process]

    @contextlib.contextmanager
    def _errors(self, place: str, done: str, *, or_missing: bool = False) -> Iterator[None]:
        """Raise errors of fsspec, cloud packages and HTTP as one line that names the file.

        With ``or_missing`` the file may be missing, but not the bucket or a local settings file.
        """
        try:
            yield
        except Exception as error:
            is_missing = isinstance(error, FileNotFoundError) and error.errno is None
            if or_missing and is_missing and not _is_of_bucket(error):
                return
            reason = "no such bucket" if is_missing else _reason(error)
            message = f"{self.scheme}://{place}: can't be {done}: {reason}"
            if self._is_transient(error):
                raise StorageError(message, transient=True) from error
            raise TunerError(message) from error

    def _is_transient(self, error: Exception) -> bool:
        """Whether to retry later: yes, unless the error is known to be permanent."""
        if isinstance(error, TimeoutError):  # also S3's RequestTimeout, which has status 400
            return True
        status = self._status_in(error)
        if status is not None:
            return status in BUSY or (status >= 500 and status != NOT_IMPLEMENTED)
        if isinstance(error, PermissionError | FileNotFoundError | ValueError):
            return False
        names = {type(cause).__name__ for cause in _causes(error)}
        return names.isdisjoint((*self.permanent, *CERTIFICATES))

    def _status_in(self, error: Exception) -> int | None:
        """The HTTP status in an error or in its causes, if any."""
        return next(filter(None, map(self._status, _causes(error))), None)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _is_of_bucket(error: Exception) -> bool:
    """Whether S3 reports that the bucket is missing, not the file."""
    response = getattr(error.__cause__, "response", None) or {}
    return bool(response.get("Error", {}).get("Code") == "NoSuchBucket")


def _reason(error: Exception) -> str:
    """Describe an error in one line, without credentials in the endpoint's URL."""
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    text = " ".join(text.split())
    if not text:
        text = "no answer in time" if isinstance(error, TimeoutError) else type(error).__name__
    return re.sub(r"\S+@", "…@", text)
