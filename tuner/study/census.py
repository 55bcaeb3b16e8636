"""How many trials a study has, for those who look on while its workers work."""

import threading
import time
from typing import NamedTuple

from optuna.trial import TrialState
from sqlalchemy import func, select

from tuner.errors import StorageError
from tuner.study import tables
from tuner.study.connections import Address
from tuner.study.store import StudyStore

FRESH = 5.0  # seconds for which a count serves all who ask
LONGEST_WAIT = 1.0  # seconds that anybody waits for the database


class Count(NamedTuple):
    """A study's trials at one moment."""

    total: int  # that were asked for
    states: dict[str, int]  # by Optuna's names of all states, in lower case


class Census:
    """Counts a study's trials now and then, for any thread, over a connection of its own that is
    open only meanwhile. A thread waits for the database, which may take its time to fail."""

    def __init__(self, store: StudyStore) -> None:
        self._address: Address = store.database.address
        self._study_id = store.study_id
        self._lock = threading.Lock()
        self._reader: threading.Thread | None = None
        self._began = 0.0  # time.monotonic() of the last count
        self._found: Count | None = None

    def count(self) -> Count | None:
        """The trials, counted no longer ago than ``FRESH`` seconds; None where the database does
        not answer."""
        with self._lock:
            reader = self._reader
            old = time.monotonic() - self._began >= FRESH
            if reader is None or (old and not reader.is_alive()):
                self._began = time.monotonic()
                reader = self._reader = threading.Thread(target=self._read, daemon=True)
                reader.start()
        reader.join(timeout=LONGEST_WAIT)
        return None if reader.is_alive() else self._found

    def _read(self) -> None:
        try:
            self._found = self._query()
        except StorageError:
            self._found = None

    def _query(self) -> Count:
        ours, theirs = tables.studies.c, tables.optuna_trials.c
        query = (
            select(ours.total, theirs.state, func.count(theirs.trial_id))
            .select_from(tables.studies)
            .outerjoin(tables.optuna_trials, theirs.study_id == ours.study_id)
            .where(ours.study_id == self._study_id)
            .group_by(ours.total, theirs.state)
        )
        with self._address.connected() as connection:
            rows = connection.execute(query).all()
        if not rows:
            raise StorageError(f"{self._address.place}: the study is gone")
        found = {state: count for _, state, count in rows}
        states = {state.name.lower(): found.get(state, 0) for state in TrialState}
        return Count(rows[0].total, states)
