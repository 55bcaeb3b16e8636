"""Pruner decisions after each report, and the attributes that are stored with them."""

import random
from typing import Any

import optuna
import pytest
import study_databases
from builders import RANGES, epoch
from optuna.trial import TrialState
from study_databases import EXPIRE_LEASES, Studies, claim, report

from tuner.study.claims import Claim
from tuner.study.samplers import make_pruner
from tuner.study.session import WorkerSession
from tuner.study.storage import FencedStorage
from tuner.study.verdict import Complete, Prune

url, studies = study_databases.url, study_databases.studies
sqlite = study_databases.sqlite

RANDOM = RANGES + "[sampler]\nname = 'random'\n[pruner]\n"
# The first trial to reach a rung is never promoted, so it is pruned there.
STRICT = RANDOM + "name = 'successive_halving'\nbootstrap_count = 1\n"
HALVING = RANDOM + "name = 'successive_halving'\nreduction_factor = 2\n"


def decisions(session: WorkerSession, claimed: Claim, fids: list[float]) -> list[bool]:
    """Report these FIDs; whether the pruner stops the trial after each epoch."""
    found = []
    for number, fid in enumerate(fids, 1):
        earlier = [epoch(n, f) for n, f in enumerate(fids[: number - 1], 1)]
        session.report(claimed, epoch(number, fid), earlier)
        found.append(session.pruner_decision(claimed, number) is not None)
    return found


def stopped(session: WorkerSession, claimed: Claim) -> bool:
    """Whether the pruner stops the trial after its first epoch."""
    return session.pruner_decision(claimed, 1) is not None


def test_the_pruner_judges_the_best_value_so_far(studies: Studies) -> None:
    studies.create(RANDOM + "name = 'threshold'\nupper = 10\nn_warmup_steps = 2")
    session = studies.join()
    first = claim(session)
    # The best value so far is 9, so 99 in epoch 3 does not prune the trial.
    assert decisions(session, first, [99.0, 9.0, 99.0]) == [False, False, False]
    session.finish(first, Complete())
    assert decisions(session, claim(session), [99.0, 99.0]) == [False, True]


def test_rungs_of_a_continuing_trial_are_stored_at_once(studies: Studies) -> None:
    studies.create(HALVING)
    session = studies.join()
    assert decisions(session, claim(session), [30.0, 20.0]) == [False, False]
    [trial] = studies.trials()
    assert trial.system_attrs == {"completed_rung_0": 30.0, "completed_rung_1": 20.0}


def test_rungs_of_a_pruned_trial_are_stored_when_it_ends(studies: Studies) -> None:
    studies.create(STRICT)
    session = studies.join()
    claimed = claim(session)
    assert decisions(session, claimed, [30.0]) == [True]
    assert studies.trials()[0].system_attrs == {}
    session.finish(claimed, Prune("bad"))
    [trial] = studies.trials()
    assert (trial.state, trial.system_attrs) == (TrialState.PRUNED, {"completed_rung_0": 30.0})


def test_a_trial_ends_with_its_rungs_or_not_at_all(
    studies: Studies, monkeypatch: pytest.MonkeyPatch
) -> None:
    studies.create(STRICT)
    session = studies.join()
    claimed = claim(session)
    decisions(session, claimed, [30.0])
    before = studies.all_rows()
    with monkeypatch.context() as patch:
        patch.setattr(FencedStorage, "_set_trial_value_without_commit", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            session.finish(claimed, Prune("bad"), "kept.safetensors")
    assert studies.all_rows() == before
    session.finish(claimed, Prune("bad"), "kept.safetensors")
    [trial] = studies.trials()
    assert trial.system_attrs == {"completed_rung_0": 30.0}
    assert trial.user_attrs["tuner:generator"] == "kept.safetensors"


@pytest.mark.parametrize(("toml", "stops"), [(STRICT, True), (HALVING, False)])
def test_the_pruner_decides_the_same_after_a_crash(
    toml: str, stops: bool, studies: Studies
) -> None:
    for crash in ("before", "after"):  # the pruner decides
        studies.create(toml, name=crash)
        lost, session = studies.join(crash), studies.join(crash)
        claimed = claim(lost)
        report(lost, claimed, [30.0])
        if crash == "after":
            assert stopped(lost, claimed) is stops
        studies.rows(EXPIRE_LEASES)
        taken = claim(session)
        assert [found.fid for found in taken.history] == [30.0]
        assert stopped(session, taken) is stops
        assert stopped(session, taken) is stops
        session.finish(taken, Prune("bad"))
        [trial] = studies.trials(crash)
        assert trial.system_attrs == {"completed_rung_0": 30.0}


@pytest.mark.parametrize("pruner", ["successive_halving", "hyperband"])
def test_the_pruner_decides_as_it_does_in_optunas_own_loop(pruner: str, sqlite: Studies) -> None:
    store = sqlite.create(f"{RANDOM}name = '{pruner}'\n", value="last", epochs=9, trials=7)
    session = sqlite.join()
    plain = optuna.create_study(pruner=make_pruner(store.spec), study_name="s")
    draw = random.Random(7)
    for _ in range(7):
        level = draw.uniform(10, 100)
        fids = [level / number + draw.uniform(0, 9) for number in range(1, 10)]
        expected: list[bool] = []
        trial = plain.ask()
        for number, fid in enumerate(fids, 1):
            trial.report(fid, number)
            expected.append(trial.should_prune())
            if expected[-1]:
                break
        claimed = claim(session)
        assert decisions(session, claimed, fids[: len(expected)]) == expected
        stopped = expected[-1] and len(expected) < 9
        session.finish(claimed, Prune("bad") if stopped else Complete())
        ended: dict[str, Any] = {"state": TrialState.PRUNED} if stopped else {"values": fid}
        plain.tell(trial, **ended)
    ours, theirs = sqlite.trials(), plain.trials
    assert [t.system_attrs for t in ours] == [t.system_attrs for t in theirs]
    assert [t.value for t in ours] == [t.value for t in theirs]
    # Some trials were pruned, others were not.
    assert {len(t.intermediate_values) for t in theirs} > {9}
