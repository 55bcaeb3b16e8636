"""Files in a bucket of S3 (or what speaks as S3 does) or of Google's storage, through fsspec."""

import contextlib
import importlib
import logging
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tuner.errors import InputError, StorageError, TunerError
from tuner.run.folders import NAME, checked

# Packages by scheme, which is also what the extra that installs them is called.
PACKAGES = {"s3": "s3fs", "gs": "gcsfs"}

# Seconds until a remote store must have taken a connection, said its next word, and done a call.
# Only the last holds while it keeps a file that is written waiting. A slower line counts as broken.
CONNECT_S, SILENCE_S, CALL_S, READ_S = 5, 20, 60, 180
SLOWEST = 1_000_000  # bytes a second
ATTEMPTS = 2  # the second at once, as an idle connection may have been closed meanwhile
AT_ONCE = 16  # files removed

# Answers of a server that is busy; so is any from 500 on, but for "not implemented".
BUSY = {408, 409, 425, 429}
NOT_IMPLEMENTED = 501

# What no waiting makes right, by class name, for none of these packages need be installed.
HOPELESS = {
    *("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound"),  # botocore
    *("ParamValidationError", "InvalidRegionError", "ConfigParseError"),
    *("UnauthorizedSSOTokenError", "SSOTokenLoadError"),
    "DefaultCredentialsError",  # google-auth
    *("SSLCertVerificationError", "FileNotFoundError"),  # of certificates that are configured
}


class RemoteStore:
    """A bucket of S3 (or what speaks as S3 does) or of Google's storage, or a folder in one.

    Credentials, and S3's endpoint and region, come from the environment as usual.
    """

    def __init__(self, scheme: str, place: str) -> None:
        """``place`` is the URL's rest, //BUCKET or //BUCKET/PREFIX."""
        self._root = place.removeprefix("//").rstrip("/")
        if not place.startswith("//") or not NAME.fullmatch(self._root):
            bucket = f"{scheme}://BUCKET"
            raise InputError(
                f"artifacts: found {scheme}: and no place for a store, expected {bucket} or "
                f"{bucket}/PREFIX of letters, digits and _.=+-, without credentials"
            )
        try:
            importlib.import_module(PACKAGES[scheme])
        except ImportError:
            raise InputError(
                f"artifacts: {scheme}:// needs the package {PACKAGES[scheme]}; install tuner with "
                f"its extra '{scheme}'"
            ) from None
        # It also logs what it raises, tracebacks and all: seen only where logging is set up.
        logging.getLogger(PACKAGES[scheme]).addHandler(logging.NullHandler())
        self.url = f"{scheme}://{self._root}"
        self._scheme = scheme
        self._by_process: dict[int, Any] = {}

    def write(self, name: str, data: bytes) -> None:
        place = self._place(name)
        limit = CALL_S + len(data) / SLOWEST
        with _remote_errors(self.locate(name), "written"):
            self._files().pipe_file(place, data, timeout=limit)

    def read(self, name: str) -> bytes | None:
        place = self._place(name)
        with _remote_errors(self.locate(name), "read"), _suppress_missing():
            data: bytes = self._files().cat_file(place, timeout=READ_S)
            return data
        return None

    def names(self, prefix: str) -> list[str]:
        names = (place.removeprefix(f"{self._root}/") for place in self._places(prefix))
        return sorted(filter(NAME.fullmatch, names))

    def remove(self, name: str) -> None:
        self._remove(self._place(name))

    def remove_all(self, prefix: str) -> None:
        # One by one, for s3fs says nothing of the files that S3 keeps of those removed together.
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(self._remove, self._places(prefix)))

    def locate(self, name: str) -> str:
        return f"{self.url}/{checked(name)}"

    def _place(self, name: str) -> str:
        return f"{self._root}/{checked(name)}"

    def _places(self, prefix: str) -> list[str]:
        """Where all that is in a folder is, also what names() leaves out, not being a name."""
        with _remote_errors(self.locate(prefix), "listed"):
            # By prefix, which is one listing; a path would also be looked for as a file.
            found = self._files().find(self._root, prefix=f"{prefix}/", timeout=CALL_S)
        return list(found)

    def _remove(self, place: str) -> None:
        with _remote_errors(f"{self._scheme}://{place}", "removed"), _suppress_missing():
            self._files().rm_file(place, timeout=CALL_S)

    def _files(self) -> Any:
        """This process' file system: a forked one can't use its parent's, nor may it close it."""
        process = os.getpid()
        if process not in self._by_process:
            self._by_process.setdefault(process, _file_system(self._scheme))
        return self._by_process[process]


def _file_system(scheme: str) -> Any:
    """An fsspec file system that remembers no listing and waits for no answer for long."""
    fresh = {"skip_instance_cache": True, "use_listings_cache": False}
    if scheme == "gs":
        timeout = importlib.import_module("aiohttp").ClientTimeout
        limits = timeout(sock_connect=CONNECT_S, sock_read=SILENCE_S)
        # The plain one: the package's own first choice asks for the bucket's kind before each call.
        return importlib.import_module("gcsfs.core").GCSFileSystem(requests_timeout=limits, **fresh)
    config = {
        "connect_timeout": CONNECT_S,
        "read_timeout": SILENCE_S,
        "retries": {"total_max_attempts": ATTEMPTS, "mode": "standard"},
    }
    system = importlib.import_module("s3fs").S3FileSystem(
        config_kwargs=config,
        max_concurrency=1,  # a file read in parts could be half of what it was, half of what it is
        **fresh,
    )
    system.retries = 1  # its own, each of so many attempts of botocore's
    return system


@contextlib.contextmanager
def _suppress_missing() -> Iterator[None]:
    """Pass over a file that isn't there, but not over a bucket, nor a local file of settings."""
    try:
        yield
    except FileNotFoundError as error:
        if error.errno is not None or _code(error) == "NoSuchBucket":
            raise


@contextlib.contextmanager
def _remote_errors(url: str, done: str) -> Iterator[None]:
    """Turn whatever fsspec, a cloud's packages and HTTP raise into one line that names the file."""
    try:
        yield
    except Exception as error:
        message = f"{url}: can't be {done}: {_reason(error)}"
        if _may_pass(error):
            raise StorageError(message, transient=True) from error
        raise TunerError(message) from error


def _may_pass(error: Exception) -> bool:
    """Whether to try again later: so unless it is known to be in vain."""
    if isinstance(error, TimeoutError):  # also S3's word for it, which it sends as a bad request
        return True
    status = _status(error)
    if status is not None:
        return status in BUSY or (status >= 500 and status != NOT_IMPLEMENTED)
    if isinstance(error, PermissionError | FileNotFoundError | ValueError):
        return False
    if str(error).startswith("Forbidden: "):  # gcsfs gives no other sign of it
        return False
    return not any(type(cause).__name__ in HOPELESS for cause in _causes(error))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _status(error: Exception) -> int | None:
    """The HTTP status that an error tells of, if any."""
    for cause in _causes(error):
        response = getattr(cause, "response", None)
        if isinstance(response, dict) and "ResponseMetadata" in response:  # botocore
            return int(response["ResponseMetadata"]["HTTPStatusCode"])
        if type(cause).__name__ == "HttpError":  # gcsfs
            return int(getattr(cause, "code", None) or 0) or None
    return None


def _code(error: Exception) -> str | None:
    """S3's own name for an error, if it is one of S3's."""
    response = getattr(error.__cause__, "response", None) or {}
    code: str | None = response.get("Error", {}).get("Code")
    return code


def _reason(error: Exception) -> str:
    """An error in one line, without what may be a password in the endpoint's URL."""
    if isinstance(error, FileNotFoundError) and error.errno is None:  # no file is no error
        return "found no such bucket"
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    text = " ".join(text.split())
    if not text:
        text = "no answer in time" if isinstance(error, TimeoutError) else type(error).__name__
    return re.sub(r"\S+@", "…@", text)
