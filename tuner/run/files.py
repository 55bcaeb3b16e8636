"""A study's files in its artifact store, and whether this is the store they are in."""

import secrets
from typing import Self

from tuner.errors import StorageError
from tuner.places import default_artifacts, image_memory
from tuner.run.stores import ArtifactStore, open_store
from tuner.spec import StudySpec
from tuner.study.creation import create_study
from tuner.study.database import Database
from tuner.study.store import StudyStore

TOKEN = "token"  # the file that tells a study's folder from all others


class StudyFiles:
    """The folder of one study; names are within it."""

    def __init__(self, store: ArtifactStore, folder: str) -> None:
        self.store, self._folder = store, folder

    def begin(self, token: str) -> Self:
        """Write the token, without which there are no files."""
        self.store.write(f"{self._folder}/{TOKEN}", token.encode())
        return self

    def write(self, name: str, data: bytes) -> None:
        """Whole or not at all. TunerError, or StorageError where the store can't be reached, or
        where the study is deleted: what is written while it goes would make its folder anew."""
        self.store.write(f"{self._folder}/{name}", data)
        if self.read(TOKEN) is None:
            self.remove_all()
            raise StorageError(f"{self._folder}: the study was deleted, and its files with it")

    def read(self, name: str) -> bytes | None:
        """None where there is no such file."""
        return self.store.read(f"{self._folder}/{name}")

    def names(self, folder: str) -> list[str]:
        """All files in a folder of the study's, sorted."""
        prefix = f"{self._folder}/"
        return [name.removeprefix(prefix) for name in self.store.names(f"{prefix}{folder}")]

    def remove(self, name: str) -> None:
        self.store.remove(f"{self._folder}/{name}")

    def remove_all(self, folder: str = "") -> None:
        """Remove a folder of the study's, or all; then the token first, so that who writes a file
        that is not seen here anymore sees that the study is gone."""
        if not folder:
            self.remove(TOKEN)
        self.store.remove_all(f"{self._folder}/{folder}".rstrip("/"))

    def locate(self, name: str) -> str:
        """Where a file is, for people."""
        return self.store.locate(f"{self._folder}/{name}")


def begin_study(
    database: Database, spec: StudySpec, url: str | None = None
) -> tuple[StudyStore, StudyFiles]:
    """The study, added where the database has none of its name, and its files as ``open_files``
    has them. What this machine can't do is found out before there is a study."""
    if spec.study.name not in database.study_names():
        image_memory()
        _try_to_write(open_store(url or default_artifacts()))
    store = create_study(database, spec)
    return store, open_files(store, url)


def _try_to_write(store: ArtifactStore) -> None:
    name = f"tried-{secrets.token_hex(8)}"
    store.write(name, b"")
    store.remove(name)


def open_files(store: StudyStore, url: str | None = None) -> StudyFiles:
    """The study's files: where the study says, or at ``url``, where this machine reaches them.

    A study that has none yet begins them there, by default in the default place. StorageError
    where the store can't be reached, or is not the one that the study's other workers use.
    """
    if store.artifacts is None:
        begun = open_store(url or default_artifacts())
        files = StudyFiles(begun, store.folder).begin(store.token)
        store.keep_artifacts_at(files.store.url)
        if store.artifacts != files.store.url:  # another worker was faster, at another place
            files.remove(TOKEN)
    files = StudyFiles(open_store(url or str(store.artifacts)), store.folder)
    if files.read(TOKEN) != store.token.encode():
        raise StorageError(
            f"artifacts: found no files of study {store.name!r} at {files.store.url}, expected "
            f"those at {store.artifacts}; --artifacts says where this machine finds them"
        )
    return files
