"""Row locks on Postgres: claims and reports do not wait for each other."""

import contextlib
from collections.abc import Iterator

import pytest
import sqlalchemy
import study_databases
from builders import RANGES
from optuna.trial import TrialState
from study_databases import Studies, claim, report

from tuner.study import connections
from tuner.study.connections import Address
from tuner.study.verdict import Complete

url, studies = study_databases.url, study_databases.studies
pytestmark = pytest.mark.parametrize("url", ["postgres"], indirect=True)

TOML = RANGES + "[[baseline]]\nbeta1 = 0.5\n[pruner]\nname = 'successive_halving'\n"


@pytest.fixture(autouse=True)
def short_lock_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make statements fail that would have to wait."""
    monkeypatch.setitem(connections.POSTGRES_LIMITS, "lock_timeout", "500ms")


@contextlib.contextmanager
def locked(studies: Studies, query: str) -> Iterator[None]:
    engine = sqlalchemy.create_engine(Address(studies.url).url)  # without tuner's limits
    try:
        with engine.begin() as connection:
            connection.execute(sqlalchemy.text(query))
            yield
    finally:
        engine.dispose()


def test_claiming_does_not_block_reports_of_other_trials(studies: Studies) -> None:
    studies.create(TOML)
    session = studies.join(retry_seconds=0)
    claimed = claim(session)
    with locked(studies, "SELECT 1 FROM studies FOR UPDATE"):
        report(session, claimed, [30.0])
        assert session.pruner_decision(claimed, 1) is None  # and stores its marks
        session._heart.beat()
        session.finish(claimed, Complete(), "kept.safetensors")
    assert studies.trials()[0].state == TrialState.COMPLETE


def test_taking_from_the_queue_skips_locked_trials(studies: Studies) -> None:
    """Another worker has taken the trial, and is about to report on it."""
    studies.create(TOML)
    other, session = studies.join(retry_seconds=0), studies.join(retry_seconds=0)
    taken = claim(other)
    with locked(studies, f"SELECT 1 FROM trials WHERE trial_id = {taken.trial_id} FOR KEY SHARE"):
        assert claim(session).number == 1
