"""The right to prepare a study's shared files: who has it, and for how long."""

import time
from typing import Any

import pytest
import study_databases
from study_databases import Studies

from tuner.study import preparation
from tuner.study.store import StudyStore

url, studies = study_databases.url, study_databases.studies

LATER = 9e9  # seconds since 1970


def acquire(store: StudyStore, worker: str, seconds: float = 60.0) -> bool:
    with store.database.rdb.transaction() as session:
        return preparation.acquire(session, store.key, worker, seconds)


def renew(store: StudyStore, worker: str, seconds: float) -> None:
    with store.database.rdb.transaction() as session:
        preparation.renew(session.connection(), store.key, worker, seconds)


def release(store: StudyStore, worker: str) -> None:
    with store.database.rdb.transaction() as session:
        preparation.release(session, store.key, worker)


def right(store: StudyStore, studies: Studies) -> tuple[Any, ...]:
    """Who has the right, and until when."""
    query = "SELECT preparer, preparer_until FROM tuner_studies WHERE study_id = :study"
    [found] = studies.rows(query, study=store.study_id)
    return found


def test_only_its_worker_renews_and_releases_the_right(studies: Studies) -> None:
    store = studies.create()
    assert acquire(store, "one")
    assert not acquire(store, "two", 600.0)
    until = right(store, studies)
    renew(store, "two", 600.0)
    release(store, "two")
    assert right(store, studies) == until == ("one", pytest.approx(time.time() + 60, abs=30))
    renew(store, "one", 600.0)
    assert right(store, studies) == ("one", pytest.approx(time.time() + 600, abs=30))
    release(store, "one")
    assert acquire(store, "two")


def test_each_study_has_a_right_of_its_own(studies: Studies) -> None:
    first, second = studies.create(), studies.create(name="other")
    assert acquire(second, "one")
    studies.rows(f"UPDATE tuner_studies SET preparer_until = {LATER}")
    assert acquire(first, "one")
    assert right(second, studies) == ("one", LATER)
    renew(first, "one", 600.0)
    assert right(second, studies) == ("one", LATER)
    release(first, "one")
    assert right(second, studies) == ("one", LATER)


def test_a_right_from_before_the_clock_was_set_back_ends_in_time(studies: Studies) -> None:
    store = studies.create()
    assert acquire(store, "one")
    studies.rows(f"UPDATE tuner_studies SET preparer_until = {LATER}")
    assert not acquire(store, "two", 60.0)
    assert right(store, studies) == ("one", pytest.approx(time.time() + 60, abs=30))
