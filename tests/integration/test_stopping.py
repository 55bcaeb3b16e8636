"""Searches that end early: which trials count, what still runs, and how the search continues."""

from typing import Any

import pytest
import study_databases
from builders import DATASET, RANGES, epoch
from study_databases import RANDOM, Studies, claim, each_lost_commit, run

from tuner.study import steering
from tuner.study.claims import Claim, Idle
from tuner.study.session import WorkerSession
from tuner.study.snapshot import StudyPoller, seconds_left
from tuner.study.verdict import Complete, Fail, Prune

url, studies = study_databases.url, study_databases.studies

ASHA = RANGES + "[sampler]\nname = 'random'\n[pruner]\nname = 'asha'\nreduction_factor = 2\n"
REASON = "stop.patience: 2 trials in a row have not improved the FID of 5 of trial 0"
# The values are the same for any parameters, so the nearest neighbours show no noise.
SAME = [5.0, 5.0, 5.0]


def create(studies: Studies, toml: str = RANDOM, patience: int = 2, **study: Any) -> WorkerSession:
    studies.create(f"{toml}[stop]\npatience = {patience}\n", **{"trials": 9, "epochs": 1} | study)
    return studies.join()


def reason(studies: Studies) -> str | None:
    [(found,)] = studies.rows("SELECT ended_reason FROM tuner_studies")
    return None if found is None else str(found)


def test_a_search_ends_after_so_many_trials_without_an_improvement(studies: Studies) -> None:
    session = create(studies)
    for fid in SAME:
        run(session, [fid], Complete())
    assert reason(studies) is None  # until another trial would begin
    assert session.claim(DATASET) is Idle.ENDED
    assert reason(studies) == REASON
    store = studies.store()
    assert (store.ended_reason, store.remaining(), store.summary().ended_reason) == (
        *(REASON, 0, REASON),
    )
    session.leave_at_once()
    found = StudyPoller(store).snapshot()
    assert (found.ended_reason, found.to_begin, found.ended) == (REASON, 0, True)
    assert seconds_left(found, 1) == 0.0


def test_a_search_that_has_all_its_trials_has_not_ended_early(studies: Studies) -> None:
    session = create(studies, trials=3)
    for fid in SAME:
        run(session, [fid], Complete())
    assert session.claim(DATASET) is Idle.ENDED
    assert reason(studies) is None


def test_failed_trials_do_not_count_and_pruned_ones_do(studies: Studies) -> None:
    session = create(studies)
    run(session, [5.0], Complete())
    run(session, [1.0], Prune("its value does not count"))
    run(session, [1.0], Fail("a bug"))
    last = claim(session)
    session.report(last, epoch(1, 6.0), [])
    session.finish(last, Prune("as bad"))
    assert session.claim(DATASET) is Idle.ENDED


def test_trials_that_violate_a_constraint_do_not_count(studies: Studies) -> None:
    session = create(studies)
    run(session, [5.0], Complete())
    for _ in range(3):
        run(session, [], Prune("constraint.parameters: 9 weights, at most 8 allowed"))
    run(session, [5.0], Complete())
    assert claim(session).number == 5
    assert reason(studies) is None


def test_running_trials_finish_and_all_workers_agree(studies: Studies) -> None:
    session = create(studies)
    other, late = studies.join(), studies.join()
    running = claim(other)
    for fid in SAME:
        run(session, [fid], Complete())
    assert session.claim(DATASET) is Idle.WAIT
    assert studies.store().remaining() == 1
    other.report(running, epoch(1, 1.0), [])
    other.finish(running, Complete())
    # The best value so far, but the search has ended.
    for worker in (session, other, late):
        assert worker.claim(DATASET) is Idle.ENDED
    assert "of 5 of trial 1" in str(reason(studies))


def test_trials_count_in_the_order_of_their_ends(studies: Studies) -> None:
    session, other = create(studies), studies.join()
    first = claim(other)
    for fid in (9.0, 9.0):
        run(session, [fid], Complete())
    other.report(first, epoch(1, 5.0), [])
    other.finish(first, Complete())  # begun first, it ends last and is an improvement
    # The noise of 9, 9 and 5 is unknown or 0 among the better half.
    assert isinstance(session.claim(DATASET), Claim)


def test_queued_trials_run_first_and_later(studies: Studies) -> None:
    session = create(studies, RANDOM + "[[baseline]]\nbeta1 = 0.5\n" * 4)
    for _ in range(4):
        run(session, [5.0], Complete())
    assert session.claim(DATASET) is Idle.ENDED
    assert steering.enqueue(studies.store(), {"beta1": 0.25}, {}) == 9
    store = studies.store()
    assert (store.ended_reason is not None, store.remaining()) == (True, 1)
    claimed = run(session, [4.0], Complete())
    assert claimed.params["beta1"] == 0.25
    assert session.claim(DATASET) is Idle.ENDED


def test_a_raised_total_goes_on_with_full_patience(studies: Studies) -> None:
    session = create(studies)
    for fid in SAME:
        run(session, [fid], Complete())
    assert session.claim(DATASET) is Idle.ENDED
    studies.store().raise_total(9)  # not raised
    assert session.claim(DATASET) is Idle.ENDED
    studies.store().raise_total(10)
    assert reason(studies) is None
    assert studies.store().remaining() == 7
    for _ in range(2):
        run(session, [5.0], Complete())
    assert session.claim(DATASET) is Idle.ENDED
    assert "4 trials" not in str(reason(studies))
    assert len(studies.trials()) == 5


def test_paused_trials_count_and_end_with_the_search(studies: Studies) -> None:
    session = create(studies, ASHA, patience=3, epochs=2)
    ended, pauses = [], 0
    while isinstance(claimed := session.claim(DATASET), Claim):
        if claimed.prune_reason is not None:
            session.finish(claimed, Prune(claimed.prune_reason))
            ended.append(claimed.number)
            continue
        history = list(claimed.history)
        for number in range(len(history) + 1, 3):
            history.append(epoch(number, 5.0 + claimed.number))
            session.report(claimed, history[-1], history[:-1])
            if number < 2 and session.pruner_decision(claimed, number) is not None:
                session.pause(claimed, 1)
                pauses += 1
                break
        else:
            session.finish(claimed, Complete())
    assert claimed is Idle.ENDED
    assert reason(studies) is not None
    assert "of 5 of trial 0" in str(reason(studies))
    states = [trial.state.name for trial in studies.trials()]
    assert len(states) < 9
    assert set(states) == {"COMPLETE", "PRUNED"}
    # All were paused first; those that were not promoted ended with the search.
    assert pauses == len(states)
    assert len(ended) == states.count("PRUNED")


def test_a_confirmation_begins_once_the_search_has_ended(studies: Studies) -> None:
    session = create(studies, f"{RANDOM}[confirm]\ntop = 1\nseeds = 2\n")
    for fid in SAME:
        run(session, [fid], Complete())
    seeds = [claim(session).confirms, claim(studies.join()).confirms]
    assert seeds == [(0, 0), (0, 1)]
    assert studies.store().remaining() == 2


def test_improvements_below_the_seed_noise_do_not_count(studies: Studies) -> None:
    """Two trials with the same parameters differ by 2: the noise is 1.4."""
    session = create(studies, RANDOM + "[[baseline]]\nbeta1 = 0.5\nlearning_rate = 1e-3\n" * 2)
    for fid in (10.0, 8.0):
        run(session, [fid], Complete())
    for fid in (7.5, 7.0):
        run(session, [fid], Complete())
    assert session.claim(DATASET) is Idle.ENDED
    assert str(reason(studies)).endswith("of 8 of trial 1 by more than the seed noise of 1.41")


def test_lost_answers_store_one_reason(studies: Studies) -> None:
    session = create(studies, trials=99)
    run(session, [5.0], Complete())
    for lost_commit in each_lost_commit(session):
        studies.store().raise_total(studies.store().total + 1)
        for _ in range(2):
            run(session, [5.0], Complete())
        with lost_commit:
            assert session.claim(DATASET) is Idle.ENDED
        assert str(reason(studies)).startswith("stop.patience: ")


@pytest.mark.parametrize("patience", [None, 5])
def test_a_search_goes_on_within_its_patience(studies: Studies, patience: int | None) -> None:
    if patience is None:
        studies.create(trials=9, epochs=1)
        session = studies.join()
    else:
        session = create(studies, patience=patience)
    for _ in range(5):
        run(session, [5.0], Complete())
    assert isinstance(session.claim(DATASET), Claim)
