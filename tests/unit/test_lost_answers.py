"""The line to the database breaks at any COMMIT, before or after the database carried it out: what
is repeated then comes out as if nothing had happened."""

import random

import optuna
import pytest
import workplace
from builders import PREMISES, RANGES, epoch
from workplace import RANDOM, Cut, Studies, claim, each_cut, report

from tuner.errors import StorageError
from tuner.study import patience, steering
from tuner.study.membership import Claim, Membership
from tuner.study.verdict import Complete, Prune

url, studies = workplace.url, workplace.studies

HALVING = RANGES + "[sampler]\nname = 'random'\n[pruner]\nname = 'successive_halving'\n"
POINT = {"beta1": 0.5, "learning_rate": 1e-3}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Optuna's pauses between attempts, and ours, are short."""
    short = random.Random()
    monkeypatch.setattr(short, "random", lambda: 0.001)
    monkeypatch.setattr(short, "uniform", lambda low, high: 0.01)
    monkeypatch.setattr(optuna.storages._rdb.storage, "random", short)
    monkeypatch.setattr(patience, "random", short)


def worker(studies: Studies, toml: str = RANDOM) -> Membership:
    """One of a study in which there is always a trial left."""
    studies.make(toml, trials=200)
    return studies.join()


def begun(member: Membership) -> Claim:
    claimed = claim(member)
    report(member, claimed, [30.0])
    return claimed


@pytest.mark.parametrize("queued", [False, True])
def test_one_trial_is_asked_for(queued: bool, studies: Studies) -> None:
    """The total leaves no room for another."""
    studies.make(trials=1)
    member, number = studies.join(), -1
    for number, line in enumerate(each_cut(member)):
        if queued:
            steering.enqueue(member.store, dict(POINT), {})
        member.store.raise_total(number + 1)
        with line:
            claimed = claim(member)
        trials = studies.trials()
        assert len(trials) == number + 1
        assert (claimed.number, claimed.params) == (number, trials[number].params)
        assert set(claimed.params) == {"beta1", "learning_rate"}
        assert queued == (claimed.params == POINT)
        held = [lease[2:6] for lease in studies.leases() if lease[1] == "held"]
        assert held == [(member.worker, 1, 0, 0)]
        member.finish(claimed, Prune("bad"))
    assert number > 10  # so many COMMITs there were


def test_one_trial_is_taken_over(studies: Studies) -> None:
    other, member = worker(studies), studies.join()
    for number, line in enumerate(each_cut(member)):
        other.release(claim(other))
        with line:
            claimed = claim(member)
        assert claimed.number == number
        assert studies.leases()[number][1:6] == ("held", member.worker, 2, 0, 0)
        member.finish(claimed, Prune("bad"))


def test_an_epoch_is_reported_once(studies: Studies) -> None:
    member = worker(studies)
    for number, line in enumerate(each_cut(member)):
        claimed = begun(member)
        studies.rows("UPDATE tuner_leases SET prune_reason = 'a wish' WHERE status = 'held'")
        with line:
            assert member.report(claimed, epoch(2, 20.0), [epoch(1, 30.0)]) == "a wish"
        assert studies.trials()[number].intermediate_values == {1: 30.0, 2: 20.0}
        assert member.store.trial(number).reports == (epoch(1, 30.0), epoch(2, 20.0))
        assert studies.leases()[number][1:6] == ("held", member.worker, 1, 2, 0)
        member.finish(claimed, Prune("bad"))


def test_the_pruners_word_is_the_same(studies: Studies) -> None:
    member = worker(studies, HALVING)
    for number, line in enumerate(each_cut(member)):
        claimed = claim(member)
        fid = 99.0 - number  # the best so far
        report(member, claimed, [fid])
        with line:
            assert member.pruner_says_stop(claimed) is False
        assert studies.trials()[number].system_attrs == {"completed_rung_0": fid}
        member.finish(claimed, Prune("bad"))


def test_a_trial_ends_once(studies: Studies) -> None:
    member = worker(studies)
    for number, line in enumerate(each_cut(member)):
        claimed = begun(member)
        with line:
            member.finish(claimed, Complete(), "kept.safetensors")
        trial = studies.trials()[number]
        assert (trial.state.name, trial.value) == ("COMPLETE", 30.0)
        assert trial.user_attrs["tuner:generator"] == "kept.safetensors"
        assert studies.leases()[number][1:6] == ("done", member.worker, 1, 1, 0)


def test_a_trial_is_given_back_once(studies: Studies) -> None:
    member = worker(studies)
    for number, line in enumerate(each_cut(member)):
        claimed = claim(member)
        with line:
            member.release(claimed)
        assert studies.leases()[0][1:6] == ("free", None, number + 1, 0, 0)


def test_a_worker_joins_once(studies: Studies) -> None:
    store = studies.make()
    for answer_only in (True, False):
        member = Membership(store, {}, studies.said.append)
        with Cut(member, answer_only=answer_only), member:
            rows = studies.rows("SELECT worker FROM tuner_workers WHERE left_at IS NULL")
            assert rows == [(member.worker,)]
    assert len(studies.said) == 4


def test_one_worker_prepares(studies: Studies) -> None:
    member, other = worker(studies), studies.join()
    for answer_only in (True, False):
        with Cut(member, answer_only=answer_only):
            assert member.may_prepare()
        assert not other.may_prepare()
        with Cut(member, answer_only=answer_only):
            member.prepared()
        assert other.may_prepare()
        other.prepared()


def test_what_lasts_longer_than_the_patience_is_said(studies: Studies) -> None:
    studies.make()
    member = studies.join(patience=0.0)
    with Cut(member), pytest.raises(StorageError, match="gave up after 0 s") as caught:
        member.claim(PREMISES)
    assert workplace.BROKEN in str(caught.value)
    assert claim(member).number == 0
