"""``StudyFiles``: the folder of a study in its artifact store, and which database owns it.

A study's folder contains a file ``token`` that identifies the study. A copied database has the same
token, so the file also records the owner: the database that the folder belongs to, and the identity
of the folder itself, which differs in a copied folder. A study in a copied database reads the
folder of the original and writes to one of its own.
"""

import json
import secrets
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, Self

from tuner.environment import Place, default_artifacts, image_memory
from tuner.errors import StorageError
from tuner.files.folders import MAX_ARRAY_BYTES, MAX_BYTES
from tuner.files.stores import ArtifactStore, open_store
from tuner.spec.study import StudySpec
from tuner.study.creation import create_study
from tuner.study.database import Database
from tuner.study.edits import requested_total
from tuner.study.store import StudyStore

TOKEN = "token"  # the file that identifies a study's folder


class Owner(NamedTuple):
    """The database that a study's folder belongs to, and the identity of the folder."""

    database: Place
    shown: str  # the database, for messages
    folder: Place


class StudyFiles:
    """The folder of one study; file names are relative to it."""

    def __init__(
        self,
        store: ArtifactStore,
        folder: str,
        exists: Callable[[], bool] = lambda: True,
        copied_from: Sequence[str] = (),
        claim: Callable[[], list[str]] | None = None,
    ) -> None:
        """``exists`` returns whether the database still has the study.

        Files missing from the folder are read from the folders ``copied_from``. ``claim`` is called
        before the first write: it makes sure that this database owns a folder, and returns all
        folders, its own first.
        """
        self.store, self._folder = store, folder
        self._exists, self._copied_from = exists, list(copied_from)
        self._claim, self._claiming = claim, threading.Lock()
        self.is_own = True  # whether the folder is known to belong to this database
        self.keep_reason: str | None = None  # why the folder is not removed with the study
        self.notice: str | None = None  # announced by workers

    @property
    def place(self) -> str:
        """The folder's path or URL, for messages."""
        return self.store.locate(self._folder)

    def begin(self, token: str, owner: Owner | None = None) -> Self:
        """Write the token, which must exist before any other file."""
        record = f"\n{json.dumps(owner._asdict())}\n" if owner else ""
        self.store.write(f"{self._folder}/{TOKEN}", (token + record).encode())
        return self

    def claim(self) -> None:
        """Make sure that files are written to a folder that this database owns."""
        with self._claiming:
            if self._claim is not None:
                self._folder, *self._copied_from = self._claim()
                self._claim = None

    def write(self, name: str, data: bytes) -> None:
        """Write a whole file atomically.

        StorageError if the study was deleted, or if its token is missing: an unmounted folder must
        not be mistaken for an empty store.
        """
        self.claim()
        self.check()
        self.store.write(f"{self._folder}/{name}", data)
        self.check(name)

    def write_shared(self, name: str, data: bytes) -> None:
        """Write a file outside the study's folder, shared by all studies of the store."""
        self.claim()
        self.check()
        self.store.write(name, data)

    def check(self, written: str | None = None) -> None:
        """StorageError if the token is gone; a file ``written`` to a deleted study is removed."""
        if self.store.read(f"{self._folder}/{TOKEN}") is not None:
            return
        if self._exists():
            raise StorageError(
                f"{self.store.locate(f'{self._folder}/{TOKEN}')}: missing, so nothing is written "
                "there; mount the artifact store again, or restore that file",
                transient=True,
            )
        if written:
            self.remove(written)
        raise StorageError(f"{self._folder}: the study was deleted, and its files with it")

    def read(self, name: str, max_bytes: int = MAX_BYTES) -> bytes | None:
        """Return a file's content, or None; TunerError for a file of more than ``max_bytes``."""
        return self._find(name, max_bytes)[1]

    def _find(self, name: str, max_bytes: int) -> tuple[str, bytes | None]:
        """Return the folder that has the file, and the file's content."""
        for folder in (self._folder, *self._copied_from):
            if (data := self.store.read(f"{folder}/{name}", max_bytes)) is not None:
                return folder, data
        return self._folder, None

    def names(self, folder: str) -> list[str]:
        """List all readable files in a folder of the study, sorted."""
        places = (self._folder, *self._copied_from)
        return sorted({name for place in places for name in self._names(place, folder)})

    def own_names(self, folder: str = "") -> list[str]:
        """List files in a folder, except those of the study that this one was copied from."""
        return self._names(self._folder, folder)

    def _names(self, place: str, folder: str) -> list[str]:
        found = self.store.names(f"{place}/{folder}".rstrip("/"))
        return [name.removeprefix(f"{place}/") for name in found]

    def remove(self, name: str) -> None:
        self.store.remove(f"{self._folder}/{name}")

    def remove_all(self, folder: str = "") -> None:
        """Remove a folder, or by default all files of a study deleted from the database.

        The token is removed first, so that a worker that is writing a file checks the database.
        """
        if not folder:
            self.remove(TOKEN)
        self.store.remove_all(f"{self._folder}/{folder}".rstrip("/"))

    def locate(self, name: str) -> str:
        """A file's path or URL, for messages."""
        place = self._find(name, MAX_ARRAY_BYTES)[0] if self._copied_from else self._folder
        return self.store.locate(f"{place}/{name}")


def begin_study(
    database: Database,
    spec: StudySpec,
    url: str | None = None,
    *,
    trials: int | None = None,
    raise_total: bool = False,
    announce: Callable[[str], None] = lambda text: None,
) -> tuple[StudyStore, StudyFiles]:
    """Open a study and its files; create the study if the database has none of its name.

    Raises its total to ``trials``; with ``raise_total`` by default to the study file's, unless that
    has been edited since. The image memory setting and the artifact store are tried before a study
    is created.
    """
    if spec.study.name not in database.study_names():
        image_memory()
        artifacts, name = open_store(url or default_artifacts()), f"tried-{secrets.token_hex(8)}"
        artifacts.write(name, b"")
        artifacts.remove(name)
    store = create_study(database, spec, announce)
    files = open_files(store, url)
    wanted = requested_total(store, spec) if trials is None and raise_total else trials
    if wanted is not None:
        store.raise_total(wanted)
    return store, files


def open_files(store: StudyStore, url: str | None = None) -> StudyFiles:
    """Open a study's files at the recorded location, or at ``url`` if it differs on this machine.

    Creates the folder of a new study at ``url`` or the default location. StorageError if the store
    can't be reached, or is not the one that the study's other workers use.
    """
    if store.artifacts is None:
        with store.database.address.exclusive():
            if not store.has_artifacts():  # another worker may have created them meanwhile
                artifacts = open_store(url or default_artifacts())
                _own(store, artifacts, store.folder)
                store.record_artifacts(artifacts.url)
    places = [url] if url else store.artifact_places()
    here = store.database.location()
    found = [files for place in places if (files := _open_at(store, place, here, given=bool(url)))]
    if not found:
        known = "" if url is None or places == [store.artifacts] else f", but at {store.artifacts}"
        raise StorageError(
            f"artifacts: no files of study {store.name!r} at {open_store(places[0]).url}{known}; "
            "mount that store, or give its location on this machine with --artifacts"
        )
    # The folder that records this database as its owner; else the one next to the SQLite file.
    return next((files for files in found if files.is_own), found[-1])


def _open_at(store: StudyStore, url: str, here: Place, *, given: bool) -> StudyFiles | None:
    """Open the study's files at ``url``; None if they are not there.

    ``here`` is the location of the database; ``given`` is true if the user gave the ``url``.
    """
    artifacts, folders = open_store(url), store.folders()
    tokens = [artifacts.read(f"{folder}/{TOKEN}") or b"" for folder in folders]
    if store.token.encode() not in [data.partition(b"\n")[0] for data in tokens]:
        return None
    owner = _owner_of(artifacts, folders[0])
    copied = owner is not None and not owner.database.is_same(here)
    if copied:
        folders = [_new_folder(store), *folders]
    claim = None if owner and owner.database == here else partial(_claim, store, artifacts)
    files = StudyFiles(artifacts, folders[0], store.exists, folders[1:], claim)
    files.is_own = owner is not None and not copied
    if owner and copied:
        place = artifacts.locate(folders[1])
        files.keep_reason = f"those in {place} belong to {owner.shown}"
        files.notice = (
            f"{store.database.place} is a copy of {owner.shown}: the files in {place} are only "
            "read; new files go to a separate folder"
        )
    elif not (owner or given or store.moves_with_database(url)):
        files.keep_reason = (
            f"{files.place} is not known to belong to {store.database.place}; to delete it, "
            f"add --artifacts {artifacts.url}"
        )
    return files


def _owner_of(artifacts: ArtifactStore, folder: str) -> Owner | None:
    """The recorded owner of a study's folder; None if unreadable, or if the folder is a copy."""
    data = artifacts.read(f"{folder}/{TOKEN}") or b""
    try:
        record = json.loads(data.partition(b"\n")[2])
        recorded = Place(*record["folder"])
        owner = Owner(Place(*record["database"]), str(record["shown"]), recorded)
    except (ValueError, TypeError, LookupError, RecursionError):
        return None
    return owner if recorded.is_same(artifacts.place(folder)) else None


def _claim(store: StudyStore, artifacts: ArtifactStore) -> list[str]:
    """Make sure that this database owns the first of the study's folders; return all of them."""
    with store.database.address.exclusive():
        folders = store.folders()
        StudyFiles(artifacts, folders[0]).check()
        owner = _owner_of(artifacts, folders[0])
        if owner is None or owner.database.is_same(store.database.location()):
            _own(store, artifacts, folders[0])
            return folders
        folders = [_new_folder(store), *folders]
        _own(store, artifacts, folders[0])
        store.record_folders(folders)
        return folders


def _own(store: StudyStore, artifacts: ArtifactStore, folder: str) -> None:
    """Create the study's folder, or record this database as its owner."""
    files = StudyFiles(artifacts, folder)
    if artifacts.read(f"{folder}/{TOKEN}") is None:
        files.begin(store.token)  # only an existing folder has an identity
    here, address = store.database.location(), store.database.address
    shown = here.path if address.is_sqlite else address.place
    files.begin(store.token, Owner(here, shown, artifacts.place(folder)))


def _new_folder(store: StudyStore) -> str:
    return f"{store.name}-{secrets.token_hex(4)}"
