"""Confirming a winner: which runs begin, on which worker, and what counts."""

from typing import Any

import pytest
import study_databases
from builders import DATASET, RANGES, epoch
from optuna.trial import TrialState
from study_databases import EXPIRE_LEASES, Studies, claim, each_lost_commit, run

from tuner.study.claims import Claim, Idle
from tuner.study.confirmation import FIRST_SEED, results
from tuner.study.records import FRESH, Confirms
from tuner.study.screening import screened
from tuner.study.session import WorkerSession
from tuner.study.snapshot import StudyPoller
from tuner.study.space import trial_config
from tuner.study.steering import dequeue
from tuner.study.verdict import Complete, Fail, Prune

url, studies = study_databases.url, study_databases.studies

STUDY = RANGES + (
    "[sampler]\nname = 'random'\n[pruner]\nname = 'none'\n[confirm]\ntop = 2\nseeds = SEEDS\n"
)
FIDS = [30.0, 10.0, 40.0, 20.0]  # of the search's trials; the baseline is the third


def searched(studies: Studies, seeds: int = 3, more: str = "") -> WorkerSession:
    """A worker of a study whose search has ended; trials 1 and 3 are its best."""
    studies.create(STUDY.replace("SEEDS", str(seeds)) + more, trials=len(FIDS), epochs=1)
    session = studies.join()
    for fid in FIDS:
        run(session, [fid], Complete())
    return session


def confirm(session: WorkerSession, claimed: Claim, fid: float, fresh: float | None = None) -> None:
    """End a run with this FID, and this one on fresh latents."""
    session.report(claimed, epoch(1, fid), [])
    session.finish(claimed, Complete(), attributes={} if fresh is None else {FRESH: fresh})


def confirmed_trials(session: WorkerSession) -> set[int]:
    """Run the whole confirmation; returns the trials that it repeats."""
    begun = set()
    while isinstance(claimed := session.claim(DATASET), Claim):
        assert claimed.confirms is not None
        begun.add(claimed.confirms.trial)
        confirm(session, claimed, 10.0)
    return begun


def test_the_best_configurations_are_trained_again_in_rounds(studies: Studies) -> None:
    session = searched(studies)
    begun = []
    while isinstance(claimed := session.claim(DATASET), Claim):
        assert claimed.confirms is not None
        begun.append(claimed.confirms)
        assert claimed.params == studies.store().trial(claimed.confirms.trial).params
        assert session.pruner_decision(claimed, 1) is None
        confirm(session, claimed, 10.0 + claimed.confirms.seed + claimed.confirms.trial)
    assert claimed is Idle.ENDED
    assert begun == [Confirms(trial, seed) for seed in range(3) for trial in (1, 3)]
    assert all(trial.datetime_start for trial in studies.trials())
    assert studies.store().remaining() == 0


def test_all_configurations_get_the_same_seeds(studies: Studies) -> None:
    session = searched(studies)
    found: dict[int, set[int]] = {}
    while isinstance(claimed := session.claim(DATASET), Claim):
        assert claimed.confirms is not None
        found.setdefault(claimed.confirms.seed, set()).add(claimed.config.seed)
        confirm(session, claimed, 10.0)
    spec = session.spec
    expected = {
        s: {trial_config(spec, claimed_params(studies), FIRST_SEED + s, DATASET).seed}
        for s in range(3)
    }
    assert found == expected
    assert len(set.union(*found.values())) == 3


def claimed_params(studies: Studies) -> dict[str, Any]:
    return studies.trials()[1].params


def test_a_configuration_that_can_not_be_the_best_gets_no_further_seed(studies: Studies) -> None:
    session = searched(studies, seeds=5)
    begun = []
    while isinstance(claimed := session.claim(DATASET), Claim):
        assert claimed.confirms is not None
        trial, seed = claimed.confirms
        begun.append(trial)
        confirm(session, claimed, {1: 90.0, 3: 50.0}[trial] + 0.01 * seed)
    assert begun.count(3) == 5  # the winner's interval deserves all seeds
    assert begun.count(1) == 2
    found = studies.store().confirmation()
    assert found.race.racing == ("trial 3",)
    best, other = results(session.spec.confirm, found, "fid")
    assert (best.trial.number, other.trial.number) == (3, 1)
    assert (best.value.n, best.left) == (5, None)
    assert other.left is not None
    assert "after 2 seeds" in other.left


def test_values_on_fresh_latents_count(studies: Studies) -> None:
    session = searched(studies, seeds=2)
    while isinstance(claimed := session.claim(DATASET), Claim):
        assert claimed.confirms is not None
        confirm(session, claimed, 10.0, fresh={1: 12.0, 3: 11.0}[claimed.confirms.trial])
    store = studies.store()
    best, other = results(session.spec.confirm, store.confirmation(reports=True), "fid")
    assert (best.trial.number, best.value.mean) == (3, 11.0)
    assert (best.best_epoch.mean, best.last_epoch.mean) == (10.0, 10.0)
    assert other.value.mean == 12.0


def test_the_baseline_takes_part(studies: Studies) -> None:
    """Although it is not among the best."""
    session = searched(studies, seeds=2, more="[[baseline]]\nbeta1 = 0.5\n")
    store = studies.store()
    baseline = next(trial.number for trial in store.trials() if trial.baseline)
    begun = set()
    while isinstance(claimed := session.claim(DATASET), Claim):
        assert claimed.confirms is not None
        begun.add(claimed.confirms.trial)
        confirm(session, claimed, 10.0 + claimed.confirms.trial + 0.1 * claimed.confirms.seed)
    assert begun == {1, 3, baseline}
    found = store.confirmation(reports=True)
    assert found.baseline == baseline
    made = {r.trial.number: r for r in results(session.spec.confirm, found, "fid")}
    over = made[1].over_baseline
    assert over is not None
    assert over.mean == pytest.approx(1.0 - baseline)
    assert made[baseline].over_baseline is None


def test_a_baseline_that_was_removed_from_the_queue_does_not_take_part(studies: Studies) -> None:
    baseline = "[[baseline]]\nbeta1 = 0.5\n"
    store = studies.create(STUDY.replace("SEEDS", "2") + baseline, trials=2, epochs=1)
    dequeue(store, [0])
    session = studies.join()
    for fid in (30.0, 10.0):
        run(session, [fid], Complete())
    assert confirmed_trials(session) == {1, 2}


def test_a_baseline_that_violates_the_constraint_does_not_take_part(studies: Studies) -> None:
    baseline = "[[baseline]]\nbeta1 = 0.5\n"
    studies.create(STUDY.replace("SEEDS", "2") + baseline, trials=3, epochs=1)
    session = studies.join()
    run(session, [], Prune("constraint.parameters: 9 weights, at most 8 allowed"))
    for fid in (30.0, 10.0):
        run(session, [fid], Complete())
    assert confirmed_trials(session) == {1, 2}


def test_runs_do_not_count_as_trials_of_the_search(studies: Studies) -> None:
    session = searched(studies, seeds=2)
    confirm(session, claim(session), 1.0)
    running = claim(session)
    store = studies.store()
    assert [trial.number for trial in store.trials()] == [0, 1, 2, 3]
    assert store.best().number == 1  # although a run has a lower value
    assert [t.confirms for t in store.confirmation_trials()] == [Confirms(1, 0), Confirms(3, 0)]
    assert store.search_remaining() == 0
    assert store.summary().states == {"COMPLETE": 4}
    snapshot = StudyPoller(store).snapshot()
    assert (snapshot.finished, snapshot.total, snapshot.confirmed) == (4, 4, 1)
    seen = screened(store.study, store.spec).get_trials(deepcopy=False)
    assert [trial.number for trial in seen] == [0, 1, 2, 3]
    session.finish(running, Fail("a bug"))
    # A failed run is repeated; it makes no room for another trial of the search.
    assert claim(session).confirms == Confirms(3, 0)


def test_a_run_that_diverges_counts_against_its_configuration(studies: Studies) -> None:
    session = searched(studies, seeds=2)
    while isinstance(claimed := session.claim(DATASET), Claim):
        assert claimed.confirms is not None
        if claimed.confirms == (1, 0):
            session.report(claimed, epoch(1, None, finite=False), [])
            session.finish(claimed, Prune("non-finite values in epoch 1"))
        else:
            confirm(session, claimed, 30.0)
    found = studies.store().confirmation()
    best, other = results(session.spec.confirm, found, "fid")
    assert best.trial.number == 3
    assert other.value.mean == float("inf")


def test_a_run_that_keeps_failing_is_given_up(studies: Studies) -> None:
    session = searched(studies, seeds=2)
    failed = 0
    while isinstance(claimed := session.claim(DATASET), Claim):
        if claimed.confirms == (1, 0):
            failed += 1
            session.finish(claimed, Fail("a bug"))
        else:
            confirm(session, claimed, 30.0)
    assert claimed is Idle.ENDED
    assert failed == 3


def test_two_workers_never_begin_the_same_run(studies: Studies) -> None:
    one = searched(studies)
    others = [studies.join() for _ in range(4)]
    begun = [claim(session).confirms for session in (one, *others[:3])]
    assert sorted(b for b in begun if b) == [(1, 0), (1, 1), (3, 0), (3, 1)]
    # The third round waits for the first two.
    assert others[3].claim(DATASET) is Idle.WAIT


def test_a_run_whose_worker_died_is_taken_over(studies: Studies) -> None:
    lost = searched(studies)
    before = claim(lost)
    studies.rows(EXPIRE_LEASES)
    taken = claim(studies.join())
    assert (taken.number, taken.confirms, taken.config) == (
        before.number,
        before.confirms,
        before.config,
    )


def test_no_run_begins_while_the_search_goes_on(studies: Studies) -> None:
    studies.create(STUDY.replace("SEEDS", "2"), trials=2, epochs=1)
    session, other = studies.join(), studies.join()
    running = claim(other)
    run(session, [5.0], Complete())
    assert session.claim(DATASET) is Idle.WAIT
    other.report(running, epoch(1, 6.0), [])
    other.finish(running, Complete())
    assert claim(session).confirms == Confirms(1, 0)


def test_a_raised_total_goes_on_with_the_search(studies: Studies) -> None:
    session = searched(studies, seeds=2)
    confirm(session, claim(session), 11.0)
    studies.store().raise_total(5)
    fresh = claim(session)
    assert fresh.confirms is None
    session.report(fresh, epoch(1, 1.0), [])
    session.finish(fresh, Complete())
    # The new best takes part; the configuration that it replaces stays, but only with its run.
    begun = claim(session).confirms
    assert begun is not None
    assert begun == (fresh.number, 0)


def test_lost_answers_begin_each_run_once(studies: Studies) -> None:
    session = searched(studies, seeds=30)
    for lost_commit in each_lost_commit(session):
        with lost_commit:
            claimed = claim(session)
        confirm(session, claimed, 10.0)
    runs = studies.store().confirmation_trials()
    assert len({trial.confirms for trial in runs}) == len(runs) >= 3
    assert all(trial.state == TrialState.COMPLETE.name for trial in runs)


def test_the_confirmed_winner_is_delivered_not_the_luckiest_trial(studies: Studies) -> None:
    studies.create(STUDY.replace("SEEDS", "2"), trials=2, epochs=1)
    session = studies.join()
    for fid in (10.0, 20.0):
        trial = claim(session)
        session.report(trial, epoch(1, fid), [])
        session.finish(trial, Complete(), f"trial-{trial.number:05d}-1.safetensors")
    store = studies.store()
    assert (store.winner(), store.best_kept().number) == (None, 0)
    while isinstance(claimed := session.claim(DATASET), Claim):
        assert claimed.confirms is not None
        confirm(session, claimed, {0: 30.0, 1: 20.0}[claimed.confirms.trial])
    winner = store.winner()
    assert winner is not None
    assert (winner.number, store.best_kept().number, store.best().number) == (1, 1, 0)
