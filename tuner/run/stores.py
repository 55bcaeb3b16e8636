"""Where a study's workers share files: a folder, or a bucket of S3 or of Google's storage."""

import re
from typing import Protocol
from urllib.parse import unquote

from tuner.errors import InputError
from tuner.run.buckets import PACKAGES, RemoteStore
from tuner.run.folders import DirectoryStore

SCHEMES = (*PACKAGES, "file")


class ArtifactStore(Protocol):
    """Files that a study's workers share, named by '/'-separated paths such as "study/a.png".

    Every method may be called from any thread. StorageError, ``transient``, where the store can't
    be reached now; TunerError for what does not pass by itself; ValueError for an impossible name.
    """

    url: str  # opens the same store again, here or elsewhere; holds no credentials

    def write(self, name: str, data: bytes) -> None:
        """Write a file whole or not at all, replacing what is there."""

    def read(self, name: str) -> bytes | None:
        """A file's content; None where there is no such file."""

    def names(self, prefix: str) -> list[str]:
        """All files in the folder ``prefix`` and in its folders, sorted; [] where it is not.

        Others' files whose names are impossible here are left out.
        """

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""

    def remove_all(self, prefix: str) -> None:
        """Remove the folder ``prefix`` with all that is in it, if it is there."""

    def locate(self, name: str) -> str:
        """Where a person finds a file: a path or a URL."""


def open_store(url: str) -> ArtifactStore:
    """The store at a path, its file URL, s3://BUCKET/PREFIX or gs://BUCKET/PREFIX.

    Nothing is asked of it yet. InputError where that is not a place for a store; it does not show
    the URL, in which there may be a password.
    """
    scheme, colon, rest = url.partition(":")
    if not colon or (scheme not in SCHEMES and not re.match(r"[A-Za-z][\w+.-]*://", url)):
        return DirectoryStore(url)
    if scheme == "file":
        return DirectoryStore(_path_of(rest))
    if scheme in PACKAGES:
        return RemoteStore(scheme, rest)
    known = ", ".join(f"{known}://" for known in SCHEMES)
    raise InputError(f"artifacts: found a URL with {scheme}://, expected a folder or {known}")


def _path_of(rest: str) -> str:
    """The path of a file URL without its scheme."""
    path = unquote(rest.removeprefix("//").removeprefix("localhost"))
    if not rest.startswith("//") or not path.startswith("/"):
        expected = "file:// and a path that begins with /"
        raise InputError(f"artifacts: found file: and no place for a store, expected {expected}")
    return path
