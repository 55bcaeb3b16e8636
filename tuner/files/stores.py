"""``ArtifactStore``: files that workers share, in a folder or in a bucket of S3 or GCS."""

import re
from collections.abc import Callable
from typing import Protocol
from urllib.parse import unquote

from tuner.environment import Place
from tuner.errors import InputError
from tuner.files.folders import MAX_BYTES, DirectoryStore
from tuner.files.gcs import GcsStore
from tuner.files.s3 import S3Store


class ArtifactStore(Protocol):
    """Files that workers share, named by '/'-separated paths such as "study/a.png".

    Methods may be called from any thread. They raise a ``transient`` StorageError while the store
    can't be reached, TunerError for permanent failures, and ValueError for an invalid name.
    """

    url: str  # opens the same store again, here or on another machine; contains no credentials

    def write(self, name: str, data: bytes) -> None:
        """Write a whole file atomically and durably, replacing an existing one."""

    def read(self, name: str, max_bytes: int = MAX_BYTES) -> bytes | None:
        """Return a file's content; None if there is no such file.

        TunerError for a file of more than ``max_bytes``, or for an irregular one such as a pipe.
        """

    def names(self, prefix: str) -> list[str]:
        """List all files below the folder ``prefix``, sorted; [] if it does not exist.

        Files of other programs whose names are not valid here are omitted.
        """

    def remove(self, name: str) -> None:
        """Remove a file if it exists."""

    def remove_all(self, prefix: str) -> None:
        """Remove the folder ``prefix`` and everything in it if it exists."""

    def locate(self, name: str) -> str:
        """A file's path or URL, for messages."""

    def place(self, folder: str) -> Place:
        """The identity of an existing folder, which differs from that of a copy."""


def _file_store(place: str) -> DirectoryStore:
    """Open the folder of a file URL; ``place`` is the URL after the scheme."""
    path = unquote(place.removeprefix("//").removeprefix("localhost"))
    if not place.startswith("//") or not path.startswith("/"):
        raise InputError("artifacts: not a valid file URL; write file:// and an absolute path")
    return DirectoryStore(path)


# Functions that open a store, by scheme; each is passed the URL after the scheme.
STORES: dict[str, Callable[[str], ArtifactStore]]
STORES = {"s3": S3Store, "gs": GcsStore, "file": _file_store}


def open_store(url: str) -> ArtifactStore:
    """Open the store at a path, or at a URL with one of the schemes in ``STORES``.

    Does not connect yet. InputError if ``url`` is none of these; the message does not repeat it,
    because it may contain a password.
    """
    scheme, colon, rest = url.strip().partition(":")
    scheme = scheme.lower()
    if colon and scheme in STORES:
        return STORES[scheme](rest)
    if not rest.startswith("//") or not re.fullmatch(r"[a-z][\w+.-]*", scheme):
        return DirectoryStore(url)
    known = ", ".join(f"{known}://" for known in STORES)
    raise InputError(
        f"artifacts: {scheme}:// is not supported; give a folder, or a URL with {known}"
    )
