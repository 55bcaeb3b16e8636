"""Trials that pause at a rung, are promoted, or end when nothing can be promoted any more."""

import functools
from itertools import pairwise
from typing import Any

import pytest
import study_databases
from builders import DATASET, RANGES, epoch
from optuna.trial import TrialState
from study_databases import (
    EXPIRE_LEASES,
    Studies,
    claim,
    each_lost_commit,
    report,
)

from tuner.errors import InputError, LeaseLostError
from tuner.study.claims import Claim, Idle
from tuner.study.curves import Curve
from tuner.study.screening import screened
from tuner.study.session import WorkerSession
from tuner.study.simulation import simulate
from tuner.study.snapshot import StudyPoller
from tuner.study.steering import request_prune
from tuner.study.verdict import Complete, Fail, Pause, Prune

url, studies = study_databases.url, study_databases.studies

ASHA = RANGES + "[sampler]\nname = 'random'\n[pruner]\nname = 'asha'\nreduction_factor = 2\n"
SIZE = 1000  # bytes of a checkpoint


def create(studies: Studies, trials: int = 4, **study: Any) -> WorkerSession:
    """A worker of a study with rungs at epochs 1, 2 and 4 of 5."""
    studies.create(ASHA, **{"trials": trials, "epochs": 5} | study)
    return studies.join()


def train(session: WorkerSession, claimed: Claim, fid: float) -> str:
    """Train the trial with this FID until it pauses or ends; returns how, and at which epoch."""
    history = list(claimed.history)
    if claimed.prune_reason is not None:
        session.finish(claimed, Prune(claimed.prune_reason))
        return f"pruned {len(history)}"
    for number in range(len(history) + 1, 6):
        new = epoch(number, fid)
        session.report(claimed, new, history)
        history.append(new)
        if number == 5:
            session.finish(claimed, Complete())
            return "complete 5"
        if session.pruner_decision(claimed, number) is not None:
            session.pause(claimed, SIZE)
            return f"paused {number}"
    raise AssertionError


def play(session: WorkerSession, fids: dict[int, float]) -> list[tuple[int, str]]:
    """Run the study to its end on one worker."""
    found = []
    while isinstance(claimed := session.claim(DATASET), Claim):
        found.append((claimed.number, train(session, claimed, fids[claimed.number])))
    assert claimed is Idle.ENDED
    return found


def test_one_worker_plays_the_algorithm(studies: Studies) -> None:
    session = create(studies)
    poller = StudyPoller(studies.store())
    assert poller.snapshot().epochs_ahead == 4 + 2 + 2 + 1  # from rung to rung
    train(session, first := claim(session), 10.0)
    assert (first.number, poller.snapshot().epochs_ahead) == (0, 3 + 2 + 2 + 1)
    assert [(0, "paused 1"), *play(session, {0: 10.0, 1: 9.0, 2: 11.0, 3: 8.0})] == [
        (0, "paused 1"),  # nothing to compare with
        (1, "paused 2"),  # the better of two passes the first rung, and is alone at the second
        (2, "paused 1"),
        (3, "paused 4"),  # the best of four at epoch 1, of two at epoch 2, alone at epoch 4
        # Of four trials at epoch 1, two have passed; none is promotable and none can begin. As no
        # trial is complete, the first one is promoted.
        (3, "complete 5"),
        (0, "pruned 1"),
        (1, "pruned 2"),
        (2, "pruned 1"),
    ]
    states = [trial.state for trial in studies.trials()]
    assert states == [TrialState.PRUNED] * 3 + [TrialState.COMPLETE]
    found = poller.snapshot()
    assert (sum(found.epochs.values()), found.epochs_ahead) == (9, 0)
    reasons = [trial.user_attrs["tuner:reason"] for trial in studies.trials()]
    assert reasons[0] == "not promoted from epoch 1 (rung 1): 10, 9 needed"
    assert reasons[1] == "not promoted from epoch 2 (rung 2): 9, 8 needed"


def test_a_worker_does_what_the_simulation_says(studies: Studies) -> None:
    fids = {0: 7.0, 1: 9.0, 2: 8.0, 3: 6.0, 4: 6.5, 5: 5.0, 6: 9.5}
    session = create(studies, trials=len(fids))
    curves = [
        Curve(number, "COMPLETE", dict.fromkeys(range(1, 6), fid), dict.fromkeys(range(1, 6), 1.0))
        for number, fid in fids.items()
    ]
    spec = session.spec
    expected = simulate(curves, spec.pruner, spec)
    ran = [(number, how.split()[1]) for number, how in play(session, fids) if "pruned" not in how]
    assert ran == [
        (one.trial, str(one.epoch))
        for one, after in pairwise([*expected.epochs, None])
        if one and (after is None or after.trial != one.trial)
    ]
    assert 0 < len(expected.ends) < len(fids)
    ends = {number: max(t.intermediate_values) for number, t in enumerate(studies.trials())}
    assert ends == dict.fromkeys(fids, 5) | expected.ends


def test_a_paused_trial_is_promoted_once_it_is_among_the_best(studies: Studies) -> None:
    session = create(studies)
    assert train(session, claim(session), 5.0) == "paused 1"
    assert train(session, claim(session), 6.0) == "paused 1"  # and now the first is promotable
    with pytest.raises(
        InputError, match=r"trial yet; the best so far is trial 0 \(paused\): FID 5$"
    ):
        studies.store().best()
    promoted = claim(session)
    assert (promoted.number, promoted.rung, len(promoted.history)) == (0, 1, 1)
    assert promoted.token == 2
    assert session.pruner_decision(promoted, 1) is None  # it has passed


def test_promotions_come_before_new_trials_and_after_those_left_behind(studies: Studies) -> None:
    session = create(studies)
    left = claim(studies.join())
    for fid in (5.0, 6.0):
        train(session, claim(session), fid)
    studies.rows(EXPIRE_LEASES)
    numbers = []
    for _ in range(3):
        numbers.append((claimed := claim(session)).number)
        session.finish(claimed, Complete())
    assert numbers == [left.number, 1, 3]


def test_two_workers_never_promote_one_trial(studies: Studies) -> None:
    session, other = create(studies), studies.join()
    for fid in (5.0, 6.0):
        train(session, claim(session), fid)
    assert {claim(session).number, claim(other).number} == {0, 2}


def test_paused_trials_wait_while_another_can_change_what_is_promotable(studies: Studies) -> None:
    session, other = create(studies, trials=2), studies.join()
    running = claim(other)
    train(session, claim(session), 6.0)
    assert session.claim(DATASET) is Idle.WAIT
    assert train(other, running, 7.0) == "paused 1"
    assert claim(session).number == 1


def test_a_paused_trial_outlives_its_worker_and_any_lease(studies: Studies) -> None:
    session = create(studies, trials=1)
    train(session, claim(session), 6.0)
    session.leave_at_once()
    studies.rows(EXPIRE_LEASES)
    snapshot = StudyPoller(studies.store()).snapshot()
    assert (snapshot.trials, snapshot.running) == ({"PAUSED": 1}, {})
    assert snapshot.left_behind == []
    assert not snapshot.ended
    [record] = studies.store().trials()
    assert (record.state, record.has_ended) == ("PAUSED", False)
    assert studies.store().summary().states == {"PAUSED": 1}


def test_samplers_see_a_paused_trial_as_pruned_with_its_value(studies: Studies) -> None:
    session = create(studies)
    claimed = claim(session)
    train(session, claimed, 6.0)
    [seen] = screened(session.store.study, session.spec).get_trials(deepcopy=False)
    assert (seen.state, seen.value, seen.params) == (TrialState.PRUNED, 6.0, claimed.params)
    [stored] = studies.trials()
    assert stored.state == TrialState.RUNNING
    train(session, claim(session), 7.0)
    promoted = claim(session)
    assert promoted.number == 0
    session.report(promoted, epoch(2, 5.0), promoted.history)
    trials = screened(session.store.study, session.spec).get_trials(deepcopy=False)
    assert trials[0].state == TrialState.RUNNING


def test_the_worker_that_paused_a_trial_can_no_longer_write_to_it(studies: Studies) -> None:
    session = create(studies)
    claimed = claim(session)
    train(session, claimed, 6.0)
    assert session._last is not None
    session._storage.held[claimed.trial_id] = session._last[1]
    for write in (
        functools.partial(session.finish, claimed, Fail("stale")),
        functools.partial(session.report, claimed, epoch(2), claimed.history),
    ):
        with pytest.raises(LeaseLostError):
            write()


@pytest.mark.parametrize("crash", ["before the decision", "after it", "while pausing"])
def test_a_worker_that_dies_at_a_rung_loses_nothing(studies: Studies, crash: str) -> None:
    session, lost = create(studies), studies.join()
    train(session, claim(session), 6.0)
    claimed = claim(lost)
    report(lost, claimed, [5.0])
    if crash != "before the decision":
        assert lost.pruner_decision(claimed, 1) is None  # the better of two
    if crash == "while pausing":  # at the next rung, where it is alone
        new = epoch(2, 5.0)
        lost.report(claimed, new, [epoch(1, 5.0)])
        assert isinstance(lost.pruner_decision(claimed, 2), Pause)
    studies.rows(EXPIRE_LEASES)
    taken = claim(session)
    assert taken.number == claimed.number
    assert taken.rung == (0 if crash == "before the decision" else 1)
    last = len(taken.history)
    assert isinstance(session.pruner_decision(taken, last), Pause) is (last == 2)
    with pytest.raises(LeaseLostError):
        lost.pause(claimed, SIZE)


def test_a_passed_rung_stays_passed(studies: Studies) -> None:
    """Better trials that reach the rung later do not send the trial back."""
    session, other = create(studies), studies.join()
    train(session, claim(session), 6.0)
    claimed = claim(other)
    report(other, claimed, [5.0])
    assert other.pruner_decision(claimed, 1) is None
    assert train(session, claim(session), 1.0) == "paused 2"
    studies.rows(EXPIRE_LEASES)
    taken = claim(session)
    assert taken.number == claimed.number
    assert session.pruner_decision(taken, 1) is None


def test_lost_answers_change_nothing(studies: Studies) -> None:
    studies.create(ASHA.replace("= 2", "= 50"), trials=40, epochs=5)  # every trial pauses
    session = studies.join()
    for number, lost_commit in enumerate(each_lost_commit(session)):
        claimed = claim(session)
        assert claimed.number == number
        report(session, claimed, [10.0])
        with lost_commit:
            assert isinstance(session.pruner_decision(claimed, 1), Pause)
            session.pause(claimed, SIZE)
        assert studies.store().trials()[number].state == "PAUSED"


def test_checkpoints_of_paused_trials_have_a_budget(studies: Studies) -> None:
    session = create(studies, trials=8, checkpoint_gb=2.5 * SIZE / 1e9)
    for fid in (5.0, 9.0):
        train(session, claim(session), fid)
    assert train(session, claim(session), 5.0) == "paused 2"  # promoted
    assert train(session, claim(session), 7.0) == "paused 1"
    ended = claim(session)
    assert ended.number == 1
    assert ended.prune_reason == "ranked last at epoch 1 (rung 1); study.checkpoint_gb is used up"


def test_the_budget_of_checkpoints_spares_the_baseline(studies: Studies) -> None:
    """It would be the last one ranked."""
    baseline = ASHA + "[[baseline]]\nlearning_rate = 1e-3\n"
    store = studies.create(baseline, trials=5, epochs=5, checkpoint_gb=1.5 * SIZE / 1e9)
    fids = {0: 50.0, 1: 40.0, 2: 30.0, 3: 20.0, 4: 10.0}
    play(studies.join(), fids)
    assert store.trial(0).state == "COMPLETE"
    reasons = [trial.reason for trial in store.trials() if trial.state == "PRUNED"]
    assert any("study.checkpoint_gb is used up" in str(reason) for reason in reasons)


@pytest.mark.parametrize("marked", [True, False])
def test_one_baseline_is_trained_to_the_end(studies: Studies, marked: bool) -> None:
    """The better of two, although both would stay paused."""
    baselines = "[[baseline]]\nlearning_rate = 1e-3\n[[baseline]]\nlearning_rate = 2e-3\n"
    store = studies.create(ASHA + baselines * marked, trials=5, epochs=5)
    play(studies.join(), {0: 50.0, 1: 40.0, 2: 10.0, 3: 20.0, 4: 30.0})
    states = [trial.state for trial in store.trials()]
    assert states == ["PRUNED", "COMPLETE" if marked else "PRUNED", "COMPLETE", "PRUNED", "PRUNED"]


def test_a_paused_trial_can_be_pruned_by_hand(studies: Studies) -> None:
    session = create(studies)
    train(session, claim(session), 6.0)
    request_prune(studies.store(), 0, "enough")
    ended = claim(session)
    assert (ended.number, ended.prune_reason) == (0, "enough")


def test_a_study_goes_on_after_its_total_is_raised(studies: Studies) -> None:
    session = create(studies, trials=2)
    fids = {0: 10.0, 1: 9.0}
    assert play(session, fids)[-1] == (0, "pruned 1")
    studies.store().raise_total(4)
    found = play(session, fids | {2: 8.0, 3: 12.0})
    assert (2, "complete 5") in found or (2, "paused 2") in found
    states = [trial.state for trial in studies.trials()]
    assert TrialState.RUNNING not in states
    assert len(states) == 4
