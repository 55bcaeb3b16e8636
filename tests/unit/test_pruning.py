"""The pruner is asked after each report, and what it notes is written with its decision."""

import random
from typing import Any

import optuna
import pytest
import workplace
from builders import RANGES, epoch
from optuna.trial import TrialState
from workplace import LONG_AGO, Studies, claim, report

from tuner.study.membership import Claim, Membership
from tuner.study.search import make_pruner
from tuner.study.storage import FencedStorage
from tuner.study.verdict import Complete, Prune

url, studies = workplace.url, workplace.studies
sqlite = workplace.sqlite

RANDOM = RANGES + "[sampler]\nname = 'random'\n[pruner]\n"
# The first at a rung is promoted to none: it is always pruned there.
STRICT = RANDOM + "name = 'successive_halving'\nbootstrap_count = 1\n"
HALVING = RANDOM + "name = 'successive_halving'\nreduction_factor = 2\n"


def asked(member: Membership, claimed: Claim, fids: list[float]) -> list[bool]:
    """The pruner's word after each of these epochs."""
    found = []
    for number, fid in enumerate(fids, 1):
        earlier = [epoch(n, f) for n, f in enumerate(fids[: number - 1], 1)]
        member.report(claimed, epoch(number, fid), earlier)
        found.append(member.pruner_says_stop(claimed))
    return found


def test_the_pruner_is_asked_about_the_best_so_far(studies: Studies) -> None:
    studies.make(RANDOM + "name = 'threshold'\nupper = 10\nn_warmup_steps = 2")
    member = studies.join()
    first = claim(member)
    # Its best so far is 9, so its 99 in epoch 3 is borne.
    assert asked(member, first, [99.0, 9.0, 99.0]) == [False, False, False]
    member.finish(first, Complete())
    assert asked(member, claim(member), [99.0, 99.0]) == [False, True]


def test_a_note_that_comes_with_going_on_is_written_at_once(studies: Studies) -> None:
    studies.make(HALVING)
    member = studies.join()
    assert asked(member, claim(member), [30.0, 20.0]) == [False, False]
    [trial] = studies.trials()
    assert trial.system_attrs == {"completed_rung_0": 30.0, "completed_rung_1": 20.0}


def test_a_note_that_comes_with_the_end_is_written_with_the_end(studies: Studies) -> None:
    studies.make(STRICT)
    member = studies.join()
    claimed = claim(member)
    assert asked(member, claimed, [30.0]) == [True]
    assert studies.trials()[0].system_attrs == {}
    member.finish(claimed, Prune("says the pruner"))
    [trial] = studies.trials()
    assert (trial.state, trial.system_attrs) == (TrialState.PRUNED, {"completed_rung_0": 30.0})


def test_the_end_and_its_notes_are_one(studies: Studies, monkeypatch: pytest.MonkeyPatch) -> None:
    studies.make(STRICT)
    member = studies.join()
    claimed = claim(member)
    asked(member, claimed, [30.0])
    before = studies.everything()
    with monkeypatch.context() as patch:
        patch.setattr(FencedStorage, "_set_trial_value_without_commit", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            member.finish(claimed, Prune("says the pruner"), "kept.safetensors")
    assert studies.everything() == before
    member.finish(claimed, Prune("says the pruner"), "kept.safetensors")
    [trial] = studies.trials()
    assert trial.system_attrs == {"completed_rung_0": 30.0}
    assert trial.user_attrs["tuner:generator"] == "kept.safetensors"


@pytest.mark.parametrize(("toml", "stops"), [(STRICT, True), (HALVING, False)])
def test_after_a_crash_the_pruner_says_the_same(toml: str, stops: bool, studies: Studies) -> None:
    for crash in ("before", "after"):  # the pruner said its word
        studies.make(toml, name=crash)
        lost, member = studies.join(crash), studies.join(crash)
        claimed = claim(lost)
        report(lost, claimed, [30.0])
        if crash == "after":
            assert lost.pruner_says_stop(claimed) is stops
        studies.rows(LONG_AGO)
        taken = claim(member)
        assert [found.fid for found in taken.history] == [30.0]
        assert member.pruner_says_stop(taken) is stops
        assert member.pruner_says_stop(taken) is stops
        member.finish(taken, Prune("bad"))
        [trial] = studies.trials(crash)
        assert trial.system_attrs == {"completed_rung_0": 30.0}


@pytest.mark.parametrize("pruner", ["successive_halving", "hyperband"])
def test_the_pruner_decides_as_it_does_in_optunas_own_loop(pruner: str, sqlite: Studies) -> None:
    store = sqlite.make(f"{RANDOM}name = '{pruner}'\n", value="last", epochs=9, trials=7)
    member = sqlite.join()
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
        claimed = claim(member)
        assert asked(member, claimed, fids[: len(expected)]) == expected
        stopped = expected[-1] and len(expected) < 9
        member.finish(claimed, Prune("bad") if stopped else Complete())
        ended: dict[str, Any] = {"state": TrialState.PRUNED} if stopped else {"values": fid}
        plain.tell(trial, **ended)
    ours, theirs = sqlite.trials(), plain.trials
    assert [t.system_attrs for t in ours] == [t.system_attrs for t in theirs]
    assert [t.value for t in ours] == [t.value for t in theirs]
    assert {len(t.intermediate_values) for t in theirs} > {9}  # some were pruned, some were not
