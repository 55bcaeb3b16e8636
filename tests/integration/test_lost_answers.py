"""Connections lost at any COMMIT, before or after it takes effect; retries repeat nothing."""

import random

import optuna
import pytest
import study_databases
from builders import DATASET, RANGES, epoch
from study_databases import RANDOM, LostConnection, Studies, claim, each_lost_commit, report

from tuner.errors import StorageError
from tuner.study import retrying, steering
from tuner.study.claims import Claim
from tuner.study.session import WorkerSession
from tuner.study.verdict import Complete, Prune

url, studies = study_databases.url, study_databases.studies

HALVING = RANGES + "[sampler]\nname = 'random'\n[pruner]\nname = 'successive_halving'\n"
POINT = {"beta1": 0.5, "learning_rate": 1e-3}


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the pauses between attempts by Optuna and tuner."""
    short = random.Random()
    monkeypatch.setattr(short, "random", lambda: 0.001)
    monkeypatch.setattr(short, "uniform", lambda low, high: 0.01)
    monkeypatch.setattr(optuna.storages._rdb.storage, "random", short)
    monkeypatch.setattr(retrying, "random", short)


def worker(studies: Studies, toml: str = RANDOM) -> WorkerSession:
    """A worker of a study with more trials than COMMITs to lose."""
    studies.create(toml, trials=200)
    return studies.join()


def claim_and_report(session: WorkerSession) -> Claim:
    claimed = claim(session)
    report(session, claimed, [30.0])
    return claimed


@pytest.mark.parametrize("queued", [False, True])
def test_a_lost_answer_creates_one_trial(queued: bool, studies: Studies) -> None:
    """The total leaves no room for a second one."""
    studies.create(trials=1)
    session, number = studies.join(), -1
    for number, lost_commit in enumerate(each_lost_commit(session)):
        if queued:
            steering.enqueue(session.store, dict(POINT), {})
        session.store.raise_total(number + 1)
        with lost_commit:
            claimed = claim(session)
        trials = studies.trials()
        assert len(trials) == number + 1
        assert (claimed.number, claimed.params) == (number, trials[number].params)
        assert set(claimed.params) == {"beta1", "learning_rate"}
        assert queued == (claimed.params == POINT)
        held = [lease[2:6] for lease in studies.leases() if lease[1] == "held"]
        assert held == [(session.worker, 1, 0, 0)]
        session.finish(claimed, Prune("bad"))
    assert number > 10  # the COMMITs of a claim, twice


def test_a_lost_answer_takes_over_one_trial(studies: Studies) -> None:
    other, session = worker(studies), studies.join()
    for number, lost_commit in enumerate(each_lost_commit(session)):
        other.release(claim(other))
        with lost_commit:
            claimed = claim(session)
        assert claimed.number == number
        assert studies.leases()[number][1:6] == ("held", session.worker, 2, 0, 0)
        session.finish(claimed, Prune("bad"))


def test_an_epoch_is_reported_once(studies: Studies) -> None:
    session = worker(studies)
    for number, lost_commit in enumerate(each_lost_commit(session)):
        claimed = claim_and_report(session)
        studies.rows("UPDATE tuner_leases SET prune_reason = 'enough' WHERE status = 'held'")
        with lost_commit:
            assert session.report(claimed, epoch(2, 20.0), [epoch(1, 30.0)]) == "enough"
        assert studies.trials()[number].intermediate_values == {1: 30.0, 2: 20.0}
        assert session.store.trial(number).reports == (epoch(1, 30.0), epoch(2, 20.0))
        assert studies.leases()[number][1:6] == ("held", session.worker, 1, 2, 0)
        session.finish(claimed, Prune("bad"))


def test_the_pruner_decides_the_same_after_a_lost_answer(studies: Studies) -> None:
    session = worker(studies, HALVING)
    for number, lost_commit in enumerate(each_lost_commit(session)):
        claimed = claim(session)
        fid = 99.0 - number  # the best so far
        report(session, claimed, [fid])
        with lost_commit:
            assert session.pruner_decision(claimed, 1) is None
        assert studies.trials()[number].system_attrs == {"completed_rung_0": fid}
        session.finish(claimed, Prune("bad"))


def test_a_trial_ends_once(studies: Studies) -> None:
    session = worker(studies)
    for number, lost_commit in enumerate(each_lost_commit(session)):
        claimed = claim_and_report(session)
        with lost_commit:
            session.finish(claimed, Complete(), "kept.safetensors")
        trial = studies.trials()[number]
        assert (trial.state.name, trial.value) == ("COMPLETE", 30.0)
        assert trial.user_attrs["tuner:generator"] == "kept.safetensors"
        assert studies.leases()[number][1:6] == ("done", session.worker, 1, 1, 0)


def test_a_trial_is_released_once(studies: Studies) -> None:
    session = worker(studies)
    for number, lost_commit in enumerate(each_lost_commit(session)):
        claimed = claim(session)
        with lost_commit:
            session.release(claimed)
        assert studies.leases()[0][1:6] == ("free", None, number + 1, 0, 0)


def test_a_worker_joins_once(studies: Studies) -> None:
    store = studies.create()
    for answer_only in (True, False):
        session = WorkerSession(store, {}, studies.messages.append)
        with LostConnection(session, answer_only=answer_only), session.joined():
            rows = studies.rows("SELECT worker FROM tuner_workers WHERE left_at IS NULL")
            assert rows == [(session.worker,)]
    assert len(studies.messages) == 4


def test_a_lost_answer_makes_one_worker_prepare(studies: Studies) -> None:
    session, other = worker(studies), studies.join()
    for answer_only in (True, False):
        with LostConnection(session, answer_only=answer_only):
            assert session.may_prepare()
        assert not other.may_prepare()
        with LostConnection(session, answer_only=answer_only):
            session.prepared()
        assert other.may_prepare()
        other.prepared()


def test_an_outage_longer_than_the_retries_is_reported(studies: Studies) -> None:
    studies.create()
    session = studies.join(retry_seconds=0.0)
    with LostConnection(session), pytest.raises(StorageError, match="gave up after 0 s") as caught:
        session.claim(DATASET)
    assert study_databases.CONNECTION_ERROR in str(caught.value)
    assert claim(session).number == 0
