"""Who waits for whom on Postgres: those who begin trials and those who report on theirs must not,
or the two would come to wait for each other."""

import contextlib
from collections.abc import Iterator

import pytest
import sqlalchemy
import workplace
from builders import RANGES
from optuna.trial import TrialState
from workplace import Studies, claim, report

from tuner.study import connections
from tuner.study.connections import Address
from tuner.study.verdict import Complete

url, studies = workplace.url, workplace.studies
pytestmark = pytest.mark.parametrize("url", ["postgres"], indirect=True)

TOML = RANGES + "[[baseline]]\nbeta1 = 0.5\n[pruner]\nname = 'successive_halving'\n"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who would wait fails instead."""
    monkeypatch.setitem(connections.POSTGRES_LIMITS, "lock_timeout", "500ms")


@contextlib.contextmanager
def locked(studies: Studies, query: str) -> Iterator[None]:
    engine = sqlalchemy.create_engine(Address(studies.url).url)  # without our limits
    try:
        with engine.begin() as connection:
            connection.execute(sqlalchemy.text(query))
            yield
    finally:
        engine.dispose()


def test_who_begins_a_trial_does_not_hold_up_those_who_have_one(studies: Studies) -> None:
    studies.make(TOML)
    member = studies.join(patience=0)
    claimed = claim(member)
    with locked(studies, "SELECT 1 FROM studies FOR UPDATE"):
        report(member, claimed, [30.0])
        assert member.pruner_says_stop(claimed) is False  # and takes note of it
        member._heart.beat()
        member.finish(claimed, Complete(), "kept.safetensors")
    assert studies.trials()[0].state == TrialState.COMPLETE


def test_who_takes_from_the_queue_does_not_wait_for_what_is_taken(studies: Studies) -> None:
    """Another was faster, and is about to report on the trial."""
    studies.make(TOML)
    other, member = studies.join(patience=0), studies.join(patience=0)
    taken = claim(other)
    with locked(studies, f"SELECT 1 FROM trials WHERE trial_id = {taken.trial_id} FOR KEY SHARE"):
        assert claim(member).number == 1
