"""``StudyRow``: a study in the database, apart from its trials."""

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
from sqlalchemy import case, select, update

from tuner.errors import InputError
from tuner.spec.metrics import ALL_OBJECTIVES
from tuner.spec.study import STUDY_NAME, StudySpec
from tuner.study import rows, tables
from tuner.study.database import Database
from tuner.study.fingerprint import Parts, disagreements
from tuner.study.rows import printable
from tuner.version import __version__

FOLDERS = "tuner:folders"  # an attribute of a study in a copied database: see StudyRow.folders


class StudyRow:
    """A study's file, total, fingerprint and artifact store, as stored in the database."""

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
        self.objectives = _objectives(row.spec)
        if damaged or directions != directions_of(self.objectives):
            what = f"{', '.join(damaged)} in tuner_studies" if damaged else "study_directions"
            raise InputError(
                f"study {name!r}: another program has changed {what} in {database.place} to a "
                "value that tuner can't read; restore it, or delete the study there"
            )
        self._stored_spec: str = row.spec
        self._version: str = row.tuner_version
        self.total: int = row.total
        self.ended_reason = rows.text(row.ended_reason)  # why the search has ended early
        self.token: str = row.token
        self.key = tables.StudyKey(self.study_id, self.token)
        self._recorded_artifacts: str | None = row.artifacts
        self.on_hold = row.on_hold_since is not None
        # Databases that share an artifact store may have studies of the same name.
        self.folder = f"{name}-{row.token[:8]}"

    def _read(self) -> Any:
        """Read our row of the study. StorageError if it is gone."""
        query = select(tables.studies).where(tables.studies.c.study_id == self.study_id)
        with self.database.reading() as connection:
            row = connection.execute(query).one_or_none()
            if row is None or row.token != getattr(self, "token", row.token):
                raise KeyError("the study")
        return row

    def exists(self) -> bool:
        """Whether the database still has this study, not another with its id. Thread-safe.

        StorageError if the database is unavailable.
        """
        with self.database.address.connected() as connection:
            return bool(connection.execute(select(self.key.exists())).scalar_one())

    # The study file and the total

    @cached_property
    def spec(self) -> StudySpec:
        """The study file; InputError if another version wrote it and this one can't read it."""
        return self.parse(self._stored_spec)

    def parse(self, text: str) -> StudySpec:
        """A study file as the database stores it; see ``spec``."""
        try:
            return StudySpec.model_validate_json(text)
        except pydantic.ValidationError:
            raise InputError(
                f"study {self.name!r} in {self.database.place} has a study file of tuner "
                f"{self._version}, which tuner {__version__} can't read"
            ) from None

    def refresh(self) -> None:
        """Read the study file and the total again: ``spec`` is another object if the file was
        edited. StorageError if the study is gone."""
        row = self._read()
        self.on_hold = row.on_hold_since is not None
        self.total, self.ended_reason = row.total, row.ended_reason
        if row.spec != self._stored_spec:
            self._stored_spec = row.spec
            self.__dict__.pop("spec", None)

    def check_version(self) -> None:
        """InputError if another minor version of tuner computed the study's numbers."""
        if self._version.split(".")[:2] != __version__.split(".")[:2]:
            raise InputError(
                f"study {self.name!r} in {self.database.place} was created by tuner "
                f"{self._version}, but this is {__version__}: new numbers would not be comparable"
            )

    def raise_total(self, trials: int) -> None:
        """Raise the study's total to ``trials``; a lower number changes nothing. A search that has
        ended early continues."""
        lower = self.key.row() & (tables.studies.c.total < trials)
        raised = update(tables.studies).where(lower).values(total=trials, **reopened_search())
        self.database.execute(raised)
        row = self._read()
        self.total, self.ended_reason = row.total, row.ended_reason

    def request_stop(self) -> None:
        """Request that all workers that have joined so far leave after their epoch.

        They notice any change of the request's time.
        """
        stop = update(tables.studies).where(self.key.row()).values(stop_at=tables.db_now())
        self.database.execute(stop)

    def hold(self) -> None:
        """Put the study on hold: workers release their trials after the epoch, and wait."""
        self._set_hold(tables.db_now())

    def end_hold(self) -> None:
        """Let the study continue."""
        self._set_hold(None)

    def _set_hold(self, since: Any) -> None:
        row = update(tables.studies).where(self.key.row())
        self.database.execute(row.values(on_hold_since=since))
        self.refresh()

    # The artifact store

    @property
    def artifacts(self) -> str | None:
        """The artifact store recorded in the database; None before the study has files."""
        recorded = self._recorded_artifacts
        return None if recorded is None else self._folder_of(recorded)

    def artifact_places(self) -> list[str]:
        """All places where the study's files may be, once a store is recorded.

        One, unless the path is absolute: then the study and its files may have been moved.
        """
        recorded = str(self._recorded_artifacts)
        return [self._folder_of(recorded), *self._moved_folders(recorded)]

    def moves_with_database(self, url: str) -> bool:
        """Whether the files at ``url`` are moved and copied along with the SQLite file."""
        recorded = str(self._recorded_artifacts)
        absolute = recorded.startswith("/") or "://" in recorded
        return not absolute or url in self._moved_folders(recorded)

    def record_artifacts(self, url: str) -> None:
        """Record the artifact store for workers that join, unless one is recorded already."""
        unset = self.key.row() & tables.studies.c.artifacts.is_(None)
        stored = self._stored_folder(url)
        self.database.execute(update(tables.studies).where(unset).values(artifacts=stored))
        self._recorded_artifacts = self._read().artifacts

    def has_artifacts(self) -> bool:
        """Read again whether an artifact store is recorded."""
        self._recorded_artifacts = self._read().artifacts
        return self._recorded_artifacts is not None

    @property
    def _home(self) -> str:
        """The folder of the SQLite file."""
        return os.path.dirname(os.path.realpath(self.database.address.file))

    def _stored_folder(self, url: str) -> str:
        """The form in which the database stores a location.

        Relative to the SQLite file if the folder lies below the file's folder, or if both lie below
        the working directory, so that they can be moved together.
        """
        if not self.database.address.is_sqlite or not url.startswith("/"):
            return url
        home, project = self._home, os.getcwd()
        folder = os.path.join(os.path.realpath(os.path.dirname(url)), os.path.basename(url))
        together = project != "/" and all(Path(p).is_relative_to(project) for p in (home, folder))
        return (
            os.path.relpath(folder, home) if together or Path(folder).is_relative_to(home) else url
        )

    def _folder_of(self, stored: str) -> str:
        """The location that ``_stored_folder`` returned ``stored`` for."""
        if "://" in stored or not self.database.address.is_sqlite:
            return stored
        return os.path.normpath(os.path.join(self._home, stored))

    def _moved_folders(self, stored: str) -> list[str]:
        """Where files stored at an absolute path would be if moved along with the SQLite file: in
        its folder, under the last one or two parts of the path."""
        if not self.database.address.is_sqlite or not stored.startswith("/"):
            return []
        parts = Path(stored).parts[1:]
        return [os.path.join(self._home, *parts[-length:]) for length in (1, 2)]

    def folders(self) -> list[str]:
        """The study's folders in its artifact store: the one it writes to, then those of the
        databases that this one is a copy of, which it only reads."""
        with self.database.errors():
            found = self.database.rdb.get_study_system_attrs(self.study_id).get(FOLDERS)
        names = found if isinstance(found, list) else []
        pattern = re.compile(re.escape(self.name) + "-[0-9a-f]{8}")
        known = [name for name in names if isinstance(name, str) and pattern.fullmatch(name)]
        return known or [self.folder]

    def record_folders(self, names: Sequence[str]) -> None:
        """Record the study's folders in its artifact store."""
        with self.database.errors():
            self.database.rdb.set_study_system_attr(self.study_id, FOLDERS, list(names))

    # The fingerprint

    def fingerprint(self) -> Parts:
        """The inputs of the study's numbers; empty before the first worker is ready to measure."""
        parts = rows.attribute(self._read().fingerprint or "{}")
        if not isinstance(parts, dict):
            return {"data": "unreadable: the study's fingerprint in the database is damaged"}
        return {printable(name): printable(str(value)) for name, value in parts.items()}

    def check_fingerprint(self, parts: Parts) -> None:
        """InputError, naming the parts that differ, if these are not the study's."""
        problems = disagreements(parts, self.fingerprint())
        if problems:
            raise InputError(
                f"study {self.name!r}: {'; '.join(problems)}; numbers would not be comparable with "
                "those of its trials"
            )

    def bind(self, parts: Parts) -> None:
        """Store the fingerprint if there is none yet; InputError if there is a different one."""
        if not self.fingerprint():  # readers may have no right to write
            unset = self.key.row() & tables.studies.c.fingerprint.is_(None)
            row = update(tables.studies).where(unset).values(fingerprint=json.dumps(parts))
            self.database.execute(row)
        self.check_fingerprint(parts)


def directions_of(objectives: Sequence[str]) -> list[StudyDirection]:
    """Optuna's directions of these objectives."""
    higher = {name for name, objective in ALL_OBJECTIVES.items() if objective.higher}
    both = StudyDirection.MINIMIZE, StudyDirection.MAXIMIZE
    return [both[name in higher] for name in objectives]


def _objectives(spec: Any) -> tuple[str, ...]:
    """The objectives of a stored study file, which another version may have written."""
    match rows.attribute(spec):
        case {"metrics": {"objectives": [str(), str(), *_] as several}}:
            return tuple(map(str, several))
        case {"metrics": {"objective": str(name)}}:
            return (name,)
    return ("fid",)


def reopened_search() -> dict[str, Any]:
    """Column values of ``tuner_studies`` that let a search that has ended early continue, with its
    full patience."""
    ours = tables.studies.c
    early = ours.ended_reason.is_not(None)
    since = case((early, tables.db_now()), else_=ours.patience_from)
    return {"ended_reason": None, "patience_from": since}


def _why_missing(database: Database, name: str, names: Sequence[str]) -> str:
    """Explain why the database has no study of tuner with this name."""
    known = ", ".join(sorted(names)) or "none"
    # A name that no study can have is not repeated: a pasted URL may hold a password.
    what = f"study {name!r}" if re.fullmatch(STUDY_NAME, name) else "study of that name"
    with database.errors():
        if all(study.study_name != name for study in database.rdb.get_all_studies()):
            return f"{database.place}: no {what}, expected one of: {known}"
    return (
        f"{database.place}: study {name!r} was made, copied or renamed by a program other than "
        f"tuner, and has no epochs or files; expected one of: {known}"
    )
