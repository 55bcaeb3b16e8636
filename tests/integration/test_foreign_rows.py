"""Trials that other Optuna clients queue, run or add are refused with a reason, or left out."""

import json
from typing import Any

import optuna
import pytest
import study_databases
from builders import DATASET, RANGES, epoch
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial
from study_databases import EXPIRE_LEASES, Studies, claim, run

from tuner.errors import one_line
from tuner.study import steering
from tuner.study.claims import Idle
from tuner.study.session import WorkerSession
from tuner.study.verdict import Complete, Fail

url, studies, sqlite = study_databases.url, study_databases.studies, study_databases.sqlite

SPACE = RANGES.replace("beta1 =", "batch_size = [32, 64]\nbeta1 =")
SAMPLERS = {
    "random": "name = 'random'",
    "tpe": "name = 'tpe'\nn_startup_trials = 1",
    "qmc": "name = 'qmc'",
}
RATE = FloatDistribution(1e-4, 1e-2, log=True)
SIZES, BETA = CategoricalDistribution([32, 64]), FloatDistribution(0.0, 0.9)
OURS: dict[str, Any] = {"learning_rate": RATE, "batch_size": SIZES, "beta1": BETA}
POINT: dict[str, Any] = {"learning_rate": 1e-3, "batch_size": 64, "beta1": 0.5}


def space(sampler: str = "random", pruner: str = "none") -> str:
    return f"{SPACE}\n[sampler]\n{SAMPLERS[sampler]}\n[pruner]\nname = '{pruner}'\n"


OUTSIDE: list[tuple[dict[str, Any], str]] = [
    ({"batch_size": 48}, "batch_size = '48' is outside the search space: one of 32, 64"),
    ({"learning_rate": 1.0}, "learning_rate = '1.0' is outside the search space: 0.0001 to 0.01"),
    ({"learning_rate": "fast"}, "learning_rate = 'fast' is outside"),
    ({"learning_rate": float("nan")}, "learning_rate = 'nan' is outside"),
    ({"beta1": None}, "beta1 = 'None' is outside"),
    ({"batch_size": [32]}, "batch_size = '[32]' is outside"),
    ({"width": 8}, "width = '8' is not searched by this study"),
    ({"x": 1}, "x = '1' is not searched by this study"),
    *(({"batch_size": size}, "is outside") for size in range(20)),
]


def test_queued_points_outside_the_space_fail_with_the_reason(studies: Studies) -> None:
    """The worker skips any number of such trials."""
    studies.create(space(), trials=1)
    for queued, _ in OUTSIDE:
        studies.optuna_study().enqueue_trial(queued)
    session = studies.join()
    assert run(session, [20.0], Complete()).number == len(OUTSIDE)
    assert session.claim(DATASET) is Idle.ENDED
    *refused, last = studies.store().trials()
    assert last.state == "COMPLETE"
    for trial, message, (_, reason) in zip(refused, studies.messages, OUTSIDE, strict=True):
        assert trial.state == "FAIL"
        assert reason in str(trial.reason)
        assert reason in message


@pytest.mark.parametrize("sort", [list, str, int])
def test_an_invalid_queued_point_fails_with_the_reason(studies: Studies, sort: type) -> None:
    store = studies.create(space(), trials=2)
    running = claim(studies.join())
    studies.optuna_study().enqueue_trial({})
    value, queued = json.dumps(sort("7")), "key = 'fixed_params'"
    studies.rows(f"UPDATE trial_system_attributes SET value_json = :v WHERE {queued}", v=value)
    assert claim(studies.join()).number == 2
    assert "is queued with" in str(store.trial(1).reason)
    assert store.trial(running.number).state == "RUNNING"


# Other distributions of the study's parameters, each with a valid value.
OTHER_DISTRIBUTIONS = [
    ("learning_rate", FloatDistribution(1e-4, 1e-2), 1e-3),
    ("learning_rate", FloatDistribution(1e-6, 1.0, log=True), 0.5),
    ("learning_rate", IntDistribution(1, 10), 3),
    ("learning_rate", CategoricalDistribution(["fast", None]), None),
    ("batch_size", CategoricalDistribution([16, 32]), 16),
    ("batch_size", CategoricalDistribution([64, 32]), 64),
    ("batch_size", IntDistribution(1, 100), 48),
    ("beta1", CategoricalDistribution([0.5, "x"]), "x"),
    ("other", FloatDistribution(0, 1), 0.5),
]


@pytest.mark.parametrize("sampler", ["tpe", "qmc"])
def test_samplers_ignore_trials_of_other_distributions(sqlite: Studies, sampler: str) -> None:
    """Optuna requires later trials to have the distributions of the first."""
    for study, (name, other, value) in enumerate(OTHER_DISTRIBUTIONS):
        sqlite.create(space(sampler), trials=5, name=f"s{study}")
        params, kinds = POINT | {name: value}, OURS | {name: other}
        for state in (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING):
            worth = 1e-6 if state == TrialState.COMPLETE else None
            sqlite.optuna_study(f"s{study}").add_trial(
                create_trial(state=state, params=params, distributions=kinds, value=worth)
            )
        session = sqlite.join(f"s{study}")
        for fid in (30.0, 20.0):
            found = run(session, [fid], Complete())
            assert set(found.params) == set(OURS)
            assert found.params["batch_size"] in (32, 64)


FOREIGN_TRIALS: list[dict[str, Any]] = [
    {"params": {}, "value": 1e-6},
    {"params": {"learning_rate": 1e-3}, "value": 1e-6},
    {"value": float("inf")},
    {"value": float("-inf")},
    {"state": TrialState.PRUNED, "intermediate_values": {3: float("nan")}},
    {"value": 2.0, "system_attrs": {"completed_rung_0": "low", "constraints": [1.0]}},
    {"state": TrialState.RUNNING, "system_attrs": {"tpe:relative_params:0": "[1]"}},
    {"state": TrialState.RUNNING, "system_attrs": {"tpe:relative_params:x": 7}},
    {
        "state": TrialState.RUNNING,
        "params": {},
        "system_attrs": {"tpe:relative_params:0": json.dumps(POINT | {"batch_size": 48})},
    },
]


def test_samplers_and_pruners_ignore_foreign_trials(sqlite: Studies) -> None:
    for study, foreign in enumerate(FOREIGN_TRIALS):
        sqlite.create(space("tpe", "successive_halving"), trials=8, name=f"s{study}")
        about = {"params": POINT} | foreign
        kinds = {name: OURS[name] for name in about["params"]}
        sqlite.optuna_study(f"s{study}").add_trial(create_trial(**about, distributions=kinds))
        session = sqlite.join(f"s{study}")
        for fid in (30.0, 20.0, 25.0):
            found = run(session, [fid], Complete())
            assert found.params["batch_size"] in (32, 64)
        assert session.store.best().value is not None


def test_an_added_result_within_the_space_counts_for_the_sampler(studies: Studies) -> None:
    """Even if it was added with a wider distribution."""
    studies.create(space("tpe"), trials=3)
    wider = {"learning_rate": FloatDistribution(1e-6, 1.0, log=True)}
    studies.optuna_study().add_trial(
        create_trial(params=POINT, distributions=OURS | wider, value=1.0)
    )
    session = studies.join()
    [seen] = session._search.study.trials
    assert seen.params == POINT
    assert seen.distributions == OURS


@pytest.mark.parametrize("params", [{"batch_size": 16}, {"beta1": 0.5, "other": 1.0}])
def test_a_foreign_trial_outside_the_space_is_refused(
    studies: Studies, params: dict[str, Any]
) -> None:
    store = studies.create(space(), trials=1)
    kinds: dict[str, Any] = {"batch_size": CategoricalDistribution([16, 32])}
    known = {name: kinds.get(name, FloatDistribution(0, 1)) for name in params}
    begun = create_trial(state=TrialState.RUNNING, params=params, distributions=known)
    studies.optuna_study().add_trial(begun)
    session = studies.join()
    assert session.claim(DATASET) is Idle.WAIT  # the other program may still run it
    studies.rows(EXPIRE_LEASES)
    assert claim(session).number == 1
    assert "space" in str(store.trial(0).reason) or "searched" in str(store.trial(0).reason)


def test_a_sampler_that_keeps_failing_stops_the_worker(
    studies: Studies, monkeypatch: pytest.MonkeyPatch
) -> None:
    studies.create(space(), trials=2)

    def broken(*_: Any) -> Any:
        raise KeyError("a bug")

    with monkeypatch.context() as patch:
        patch.setattr(optuna.samplers.RandomSampler, "sample_independent", broken)
        with pytest.raises(Exception, match="5 trials in a row could not be begun") as caught:
            studies.join().claim(DATASET)
        assert "\n" not in str(caught.value)
    assert [t.state for t in studies.trials()] == [TrialState.FAIL] * 5
    assert studies.store().trial(4).reason == "KeyError: 'a bug'"


HOSTILE = "a\0b \ud800 \x1b[31m c"


def test_every_text_can_be_stored_and_shown(studies: Studies) -> None:
    """Failure messages, tracebacks, notes, machines and prune reasons."""
    store = studies.create(space(), trials=3)
    machine = {"device": HOSTILE, "host": HOSTILE}
    session = WorkerSession(studies.store(), machine, studies.messages.append)
    with session.joined():
        first = claim(session)
        session.finish(
            first,
            Fail(HOSTILE),
            traceback=HOSTILE,
            note=HOSTILE,
            attributes={"tuner:x": [HOSTILE]},
        )
        second = claim(session)
        steering.request_prune(store, second.number, HOSTILE)
        prune_reason = session.report(second, epoch(1, 20.0), [])
        assert prune_reason is not None
        studies.optuna_study().enqueue_trial({"batch_size": HOSTILE.replace("\0", "")})
        assert session.claim(DATASET) != Idle.ENDED
        shown = [*store.trials(), *store.workers(), store.traceback(0)]
        shown += [prune_reason, *studies.messages]
    text = str(shown)
    assert text.encode()
    assert "\\x00" not in text
    assert "\\ud800" not in text
    assert "a\N{REPLACEMENT CHARACTER}b ?" in str(store.trial(0).reason)


def test_any_error_text_becomes_one_printable_line() -> None:
    assert one_line(ValueError(f"{HOSTILE}\n{HOSTILE}"), str).encode()
