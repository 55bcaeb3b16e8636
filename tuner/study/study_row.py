"""``StudyRow``: what the database holds about a study as a whole, apart from its trials."""

import json
import os
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import optuna
import pydantic
from optuna.study import StudyDirection
from sqlalchemy import ColumnElement, select, update

from tuner.errors import InputError
from tuner.spec.study import STUDY_NAME, StudySpec
from tuner.study import rows, tables
from tuner.study.database import Database
from tuner.study.fingerprint import Parts, disagreements
from tuner.study.rows import printable
from tuner.version import __version__

FOLDERS = "tuner:folders"  # an attribute of a study in a copied database: see StudyRow.folders


class StudyRow:
    """A study's file, total, fingerprint and artifact store, as the database holds them."""

    def __init__(self, database: Database, name: str) -> None:
        """InputError if the database has no such study, or its row is damaged."""
        self.database, self.name = database, name
        names = database.study_names()
        if name not in names:
            raise InputError(_why_missing(database, name, names))
        with database.errors():
            self.study = optuna.load_study(storage=database.rdb, study_name=name)
            self.study_id = self.study._study_id
            row = self._read()
            directions = self.study.directions
        stored = row._mapping
        damaged = [k for k in ("spec", "token", "tuner_version") if not rows.text(stored[k])]
        damaged += ["total"] if rows.whole(row.total) is None else []
        if damaged or directions != [StudyDirection.MINIMIZE]:
            what = f"{', '.join(damaged)} in tuner_studies" if damaged else "study_directions"
            raise InputError(
                f"study {name!r}: another program has changed {what} in {database.place} to what "
                "tuner can't read; restore it, or delete the study there"
            )
        self._stored_spec: str = row.spec
        self._version: str = row.tuner_version
        self.total: int = row.total
        self.token: str = row.token
        self.key = tables.StudyKey(self.study_id, self.token)
        self._noted_artifacts: str | None = row.artifacts
        # Several databases with studies of one name may share an artifact store.
        self.folder = f"{name}-{row.token[:8]}"

    def _read(self) -> Any:
        """Read our row of the study. StorageError if it is gone."""
        query = select(tables.studies).where(tables.studies.c.study_id == self.study_id)
        with self.database.reading() as connection:
            row = connection.execute(query).one_or_none()
            if row is None or row.token != getattr(self, "token", row.token):
                raise KeyError("the study")
        return row

    def mine(self) -> ColumnElement[bool]:
        """A condition on ``tuner_studies``: this study's row, while the study exists."""
        return (tables.studies.c.study_id == self.study_id) & self.key.lives()

    def exists(self) -> bool:
        """Whether the database still has this study, not another with its id. Thread-safe.

        StorageError if the database is away.
        """
        with self.database.address.connected() as connection:
            return bool(connection.execute(select(self.key.lives())).scalar_one())

    # The study file and the total

    @cached_property
    def spec(self) -> StudySpec:
        """The study file; InputError if another version's, which this one can't read."""
        try:
            return StudySpec.model_validate_json(self._stored_spec)
        except pydantic.ValidationError:
            raise InputError(
                f"study {self.name!r} in {self.database.place} has a study file of tuner "
                f"{self._version}, which tuner {__version__} can't read"
            ) from None

    def check_version(self) -> None:
        """InputError if another minor version of tuner computed the study's numbers."""
        if self._version.split(".")[:2] != __version__.split(".")[:2]:
            raise InputError(
                f"study {self.name!r} in {self.database.place} was made by tuner {self._version}, "
                f"but this is {__version__}: its numbers could not be compared"
            )

    def raise_total(self, trials: int) -> None:
        """Raise the study's total to ``trials``; a lower number changes nothing."""
        lower = self.key.row() & (tables.studies.c.total < trials)
        self.database.execute(update(tables.studies).where(lower).values(total=trials))
        self.total = self._read().total

    def request_stop(self) -> None:
        """Ask all workers that have joined so far to leave after their epoch.

        They notice that the time of the request has changed, whatever it was before.
        """
        stop = update(tables.studies).where(self.key.row()).values(stop_at=tables.db_now())
        self.database.execute(stop)

    # The artifact store

    @property
    def artifacts(self) -> str | None:
        """The artifact store noted in the database; None before the study has files."""
        noted = self._noted_artifacts
        return None if noted is None else self._folder_of(noted)

    def artifact_places(self) -> list[str]:
        """All places where the study's files may be, once a store is noted: one, unless an absolute
        path was noted and the study may have been moved or copied with its files."""
        noted = str(self._noted_artifacts)
        return [self._folder_of(noted), *self._folders_beside(noted)]

    def has_beside(self, url: str) -> bool:
        """Whether a place of the study's files is moved and copied with the SQLite file."""
        noted = str(self._noted_artifacts)
        absolute = noted.startswith("/") or "://" in noted
        return not absolute or url in self._folders_beside(noted)

    def keep_artifacts_at(self, url: str) -> None:
        """Note the artifact store for workers that join, unless one is noted already."""
        unknown = self.key.row() & tables.studies.c.artifacts.is_(None)
        noted = self._stored_folder(url)
        self.database.execute(update(tables.studies).where(unknown).values(artifacts=noted))
        self._noted_artifacts = self._read().artifacts

    def has_artifacts(self) -> bool:
        """Read again whether an artifact store is noted."""
        self._noted_artifacts = self._read().artifacts
        return self._noted_artifacts is not None

    @property
    def _home(self) -> str:
        """The folder of the SQLite file."""
        return os.path.dirname(os.path.realpath(self.database.address.file))

    def _stored_folder(self, url: str) -> str:
        """How the database notes a store's place: relative to the SQLite file if the folder lies
        below the file's folder, or both below the working directory, so that both can be moved."""
        if not self.database.address.is_sqlite or not url.startswith("/"):
            return url
        home, project = self._home, os.getcwd()
        folder = os.path.join(os.path.realpath(os.path.dirname(url)), os.path.basename(url))
        together = project != "/" and all(Path(p).is_relative_to(project) for p in (home, folder))
        return (
            os.path.relpath(folder, home) if together or Path(folder).is_relative_to(home) else url
        )

    def _folder_of(self, stored: str) -> str:
        """The place that ``_stored_folder`` noted."""
        if "://" in stored or not self.database.address.is_sqlite:
            return stored
        return os.path.normpath(os.path.join(self._home, stored))

    def _folders_beside(self, stored: str) -> list[str]:
        """Other places of files whose place was noted as an absolute path: moved or copied with
        the SQLite file, they are in its folder, under the same name or the last two."""
        if not self.database.address.is_sqlite or not stored.startswith("/"):
            return []
        parts = Path(stored).parts[1:]
        return [os.path.join(self._home, *parts[-length:]) for length in (1, 2)]

    def folders(self) -> list[str]:
        """The study's folders in its artifact store: the one it writes to, then read-only those of
        the databases that this one is a copy of."""
        with self.database.errors():
            found = self.database.rdb.get_study_system_attrs(self.study_id).get(FOLDERS)
        names = found if isinstance(found, list) else []
        pattern = re.compile(re.escape(self.name) + "-[0-9a-f]{8}")
        known = [name for name in names if isinstance(name, str) and pattern.fullmatch(name)]
        return known or [self.folder]

    def keep_folders(self, names: Sequence[str]) -> None:
        """Note the study's folders in its artifact store."""
        with self.database.errors():
            self.database.rdb.set_study_system_attr(self.study_id, FOLDERS, list(names))

    # The fingerprint

    def fingerprint(self) -> Parts:
        """What the study's numbers depend on; empty before the first worker is ready to measure."""
        parts = rows.attribute(self._read().fingerprint or "{}")
        if not isinstance(parts, dict):
            return {"data": "unreadable: the study's fingerprint in the database is damaged"}
        return {printable(name): printable(str(value)) for name, value in parts.items()}

    def check_fingerprint(self, parts: Parts) -> None:
        """InputError, naming the parts that differ, if these are not the study's."""
        problems = disagreements(parts, self.fingerprint())
        if problems:
            raise InputError(
                f"study {self.name!r}: {'; '.join(problems)}, with which its trials were measured: "
                "their numbers could not be compared"
            )

    def bind(self, parts: Parts) -> None:
        """Store the fingerprint if there is none yet; InputError if there is a different one."""
        if not self.fingerprint():  # readers may have no right to write
            unknown = self.key.row() & tables.studies.c.fingerprint.is_(None)
            row = update(tables.studies).where(unknown).values(fingerprint=json.dumps(parts))
            self.database.execute(row)
        self.check_fingerprint(parts)


def _why_missing(database: Database, name: str, names: Sequence[str]) -> str:
    """Why tuner has no study of this name in the database."""
    known = ", ".join(sorted(names)) or "none"
    # A name that no study can have is not repeated: a pasted URL may hold a password.
    what = f"study {name!r}" if re.fullmatch(STUDY_NAME, name) else "study of that name"
    with database.errors():
        if all(study.study_name != name for study in database.rdb.get_all_studies()):
            return f"{database.place}: found no {what}, expected one of: {known}"
    return (
        f"{database.place}: study {name!r} was made, copied or renamed by a program other than "
        f"tuner, and has no epochs and files; expected one of: {known}"
    )
