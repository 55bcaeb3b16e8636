"""Worker sessions: claims, reports and verdicts of trials."""

from typing import Any

import optuna
import pytest
import study_databases
from builders import DATASET, RANGES, SHAPE, epoch
from optuna.trial import TrialState
from study_databases import EXPIRE_LEASES, MACHINE, RANDOM, Studies, claim, report, run

from tuner.epoch_report import EpochReport
from tuner.errors import InputError
from tuner.study.claims import Idle
from tuner.study.space import derive_seed
from tuner.study.steering import enqueue, parse_point, retry
from tuner.study.verdict import Complete, Fail, Prune, Verdict

url, studies, sqlite = study_databases.url, study_databases.studies, study_databases.sqlite

BASELINES = """
[[baseline]]
learning_rate = 2e-4
beta1 = 0.5
[[baseline]]
beta1 = 0.25
"""
FIDS: list[float | None] = [30.0, 20.0, 25.0, 22.0]


def test_baselines_come_first_and_once(studies: Studies) -> None:
    studies.create(RANDOM + BASELINES)
    session, other = studies.join(), studies.join()
    found = [run(worker, [1.0], Complete()) for worker in (session, other, session)]
    assert found[0].params == {"learning_rate": 2e-4, "beta1": 0.5}
    assert found[1].params["beta1"] == 0.25
    assert 1e-4 <= found[1].params["learning_rate"] <= 1e-2
    assert found[2].params["beta1"] not in (0.5, 0.25)
    baselines = [trial.user_attrs.get("tuner:baseline") for trial in studies.trials()]
    assert baselines == [True, True, None]


def test_coming_trials_are_those_left_behind_then_the_queue(studies: Studies) -> None:
    store = studies.create(RANDOM + BASELINES)
    session, other = studies.join(), studies.join()
    assert session.upcoming_params(8) == [{"learning_rate": 2e-4, "beta1": 0.5}, {"beta1": 0.25}]
    assert session.upcoming_params(1) == [{"learning_rate": 2e-4, "beta1": 0.5}]
    held = claim(other)
    assert session.upcoming_params(8) == [{"beta1": 0.25}]
    studies.rows(EXPIRE_LEASES)
    assert session.upcoming_params(8) == [held.params, {"beta1": 0.25}]
    assert claim(session).number == held.number
    enqueue(store, {"beta1": 0.75}, {})
    studies.optuna_study().enqueue_trial({"beta1": 7.0})  # outside the space
    assert session.upcoming_params(8) == [{"beta1": 0.25}, {"beta1": 0.75}]


def test_a_claim_holds_the_whole_trial_config(studies: Studies) -> None:
    studies.create(seed=9)
    session = studies.join()
    run(session, [1.0], Complete())
    found = claim(session)
    assert (found.number, found.token, found.history) == (1, 1, ())
    assert found.config.hyperparameters.generator_beta1 == found.params["beta1"]
    assert found.config.hyperparameters.generator_learning_rate == found.params["learning_rate"]
    assert found.config.program.image_shape == SHAPE
    assert (found.config.seed, found.config.epochs) == (derive_seed(9, 1), 4)
    trial = studies.trials()[1]
    assert (trial.state, trial.params) == (TrialState.RUNNING, found.params)
    assert trial.user_attrs["tuner:machine"] == MACHINE


@pytest.mark.parametrize(
    ("value", "seen", "final"),
    [
        ("best", {1: 30.0, 2: 20.0, 3: 20.0, 4: 20.0}, 20.0),
        ("last", {1: 30.0, 2: 20.0, 3: 25.0, 4: 22.0}, 22.0),
    ],
)
def test_optuna_sees_the_best_fid_so_far_or_the_last(
    value: str, seen: dict[int, float], final: float, studies: Studies
) -> None:
    store = studies.create(value=value)
    run(studies.join(), FIDS, Complete(), "trial-00000.safetensors")
    [trial] = studies.trials()
    assert trial.intermediate_values == seen
    assert (trial.state, trial.value) == (TrialState.COMPLETE, final)
    [record] = store.trials()
    assert record.reports == tuple(epoch(n, fid) for n, fid in enumerate(FIDS, 1))
    assert (record.state, record.value) == ("COMPLETE", final)
    assert (record.artifact, record.machine) == ("trial-00000.safetensors", MACHINE)


ENDS: list[tuple[list[float | None], Verdict, TrialState, float | None]] = [
    ([30.0, 40.0], Complete(), TrialState.COMPLETE, 30.0),
    ([30.0, 40.0], Prune("bad"), TrialState.PRUNED, 30.0),
    ([30.0, 40.0, None], Prune("not finite"), TrialState.PRUNED, 30.0),
    ([None], Prune("not finite"), TrialState.PRUNED, None),
    ([], Prune("out of memory"), TrialState.PRUNED, None),
    ([None], Complete(), TrialState.PRUNED, None),
    ([30.0], Fail("a bug"), TrialState.FAIL, None),
]


def test_verdicts_set_state_value_and_reason(studies: Studies) -> None:
    store = studies.create(trials=len(ENDS))
    session = studies.join()
    for number, (fids, end, state, value) in enumerate(ENDS):
        assert run(session, fids, end).number == number
        trial, record = studies.trials()[number], store.trial(number)
        assert isinstance(end, Complete | Prune | Fail)
        assert (trial.state, trial.value) == (state, value)
        assert trial.user_attrs["tuner:reason"] == end.reason
        assert (record.state, record.reason, record.value) == (state.name, end.reason, value)
        assert [found.fid for found in record.reports] == fids
    assert {status for _, status, *_ in studies.leases()} == {"done"}
    assert store.summary().states == {"COMPLETE": 1, "PRUNED": 5, "FAIL": 1}


def test_missing_values_are_null_in_the_tables(studies: Studies) -> None:
    store = studies.create()
    session = studies.join()
    claimed = claim(session)
    lost = epoch(1, None, finite=False, d_loss=None, loss_ratio=None, d_auc=None)
    assert session.report(claimed, lost, []) is None
    assert studies.trials()[0].intermediate_values == {}
    session.report(claimed, epoch(2, 40.0), [lost])
    session.report(claimed, epoch(3, None), [lost, epoch(2, 40.0)])
    session.finish(claimed, Fail("a bug"), traceback="Traceback: line 3")
    assert store.trial(0).reports == (lost, epoch(2, 40.0), epoch(3, None))
    [trial] = studies.trials()
    assert trial.intermediate_values == {2: 40.0}
    assert trial.user_attrs["tuner:traceback"] == "Traceback: line 3"
    owners = studies.rows("SELECT epoch, worker, token, own FROM tuner_epochs ORDER BY epoch")
    assert owners == [(number, session.worker, 1, None) for number in (1, 2, 3)]


def test_the_total_is_exact(studies: Studies) -> None:
    store = studies.create(trials=3)
    session, other = studies.join(), studies.join()
    run(session, FIDS, Complete())
    run(other, [30.0], Prune("bad"))
    assert store.remaining() == 1
    last = claim(session)
    assert other.claim(DATASET) is Idle.WAIT
    session.finish(last, Complete())
    assert other.claim(DATASET) is Idle.ENDED
    store.raise_total(4)
    run(other, FIDS, Complete())
    assert session.claim(DATASET) is Idle.ENDED
    assert len(studies.trials()) == 4


def test_queued_points_wait_for_room(studies: Studies) -> None:
    """Baselines count towards the total like other trials."""
    store = studies.create(RANDOM + BASELINES, trials=1)
    session = studies.join()
    first = claim(session)
    assert studies.join().claim(DATASET) is Idle.WAIT
    session.finish(first, Complete())
    assert session.claim(DATASET) is Idle.ENDED
    assert store.summary().states == {"PRUNED": 1, "WAITING": 1}
    store.raise_total(2)
    assert claim(session).params["beta1"] == 0.25


def test_a_failed_trial_does_not_count(studies: Studies) -> None:
    store = studies.create(trials=1)
    session = studies.join()
    failed = run(session, [30.0], Fail("a bug"))
    assert store.remaining() == 1
    again = run(session, FIDS, Complete())
    assert session.claim(DATASET) is Idle.ENDED
    assert again.params != failed.params
    assert store.summary().states == {"FAIL": 1, "COMPLETE": 1}


def test_points_depend_on_the_trial_number_not_on_the_worker(studies: Studies) -> None:
    points: list[list[dict[str, Any]]] = []
    toml = RANGES + "[sampler]\nname = 'tpe'\nn_startup_trials = 1\n[pruner]\nname = 'none'\n"
    for name, workers in (("one", 1), ("many", 3)):
        studies.create(toml, name=name, seed=5)
        sessions = [studies.join(name) for _ in range(workers)] * 3
        points.append([run(session, [50.0], Complete()).params for session in sessions[:3]])
    one, many = points
    assert one == many
    assert len({point["beta1"] for point in one}) == 3


@pytest.mark.parametrize("sampler", ["random", "tpe", "grid"])
def test_points_do_not_depend_on_workers_that_died_while_sampling(
    sampler: str, sqlite: Studies, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parameters are stored all at once or not at all, so a successor draws the same values."""
    space = "[trial]\nbatch_size = [32, 64, 128]\nwidth = [8, 16]\nd_steps = [1, 2]\n"
    toml = f"{space}[sampler]\nname = '{sampler}'\n[pruner]\nname = 'none'\n"
    sqlite.create(toml, name="undisturbed")
    expected = claim(sqlite.join("undisturbed")).params
    suggest = optuna.Trial._suggest
    for dies_at in expected:

        def dying(trial: optuna.Trial, name: str, kind: Any, last: str = dies_at) -> Any:
            value = suggest(trial, name, kind)
            if name == last:
                raise KeyboardInterrupt
            return value

        sqlite.create(toml, name=dies_at)
        session = sqlite.join(dies_at)
        with monkeypatch.context() as patch:
            patch.setattr(optuna.Trial, "_suggest", dying)
            with pytest.raises(KeyboardInterrupt):
                claim(session)
        assert sqlite.trials(dies_at)[0].params == {}
        sqlite.rows(EXPIRE_LEASES)
        assert claim(sqlite.join(dies_at)).params == expected


def test_studies_of_one_database_are_independent(studies: Studies) -> None:
    for name in ("one", "other"):
        studies.create(name=name)
    one, other = studies.join("one"), studies.join("other")
    first, second = claim(one), claim(other)
    assert (first.number, second.number) == (0, 0)
    report(one, first, [30.0])
    report(other, second, [8.0])
    studies.rows(study_databases.EXPIRE_LEASES)
    assert claim(studies.join("other")).history[0].fid == 8.0
    assert [len(studies.store(name).trials()) for name in ("one", "other")] == [1, 1]


KID = """
[metrics]
objective = "kid"
every = 2
"""


@pytest.mark.parametrize(
    ("value", "seen", "final"),
    [("best", {2: 0.25, 4: 0.25, 5: 0.25}, 0.25), ("last", {2: 0.25, 4: 0.5, 5: 0.375}, 0.375)],
)
def test_optuna_sees_the_objective_where_it_was_measured(
    value: str, seen: dict[int, float], final: float, studies: Studies
) -> None:
    studies.create(RANDOM + KID, value=value, epochs=5)
    session = studies.join()
    found = claim(session)
    kids = [None, 0.25, None, 0.5, 0.375]
    history: list[EpochReport] = []
    for number, kid in enumerate(kids, 1):
        fid = None if kid is None else 100.0 / number
        history.append(epoch(number, fid, kid=kid))
        session.report(found, history[-1], history[:-1])
    session.finish(found, Complete())
    [trial] = studies.trials()
    assert (trial.intermediate_values, trial.value) == (seen, final)
    assert studies.optuna_study().metric_names == ["KID"]
    assert [report.kid for report in studies.store().trial(0).reports] == kids


CONDITIONS = """
[trial]
optimizer = ["adam", "sgd"]
learning_rate = { low = 1e-4, high = 1e-2, log = true }
[trial.when.optimizer.sgd]
learning_rate = { low = 1e-2, high = 1.0, log = true }
momentum = { low = 0.0, high = 0.9 }
[sampler]
name = "tpe"
n_startup_trials = 2
[[baseline]]
optimizer = "sgd"
learning_rate = 0.5
momentum = 0.25
"""


def test_each_trial_has_the_parameters_of_its_branch_alone(studies: Studies) -> None:
    store = studies.create(CONDITIONS, trials=8)
    session = studies.join()
    for _ in range(6):
        run(session, [1.0], Complete())
    found = store.trials()
    assert found[0].params == {"optimizer": "sgd", "learning_rate": 0.5, "momentum": 0.25}
    for trial in found:
        sgd = trial.params["optimizer"] == "sgd"
        assert set(trial.params) == {"optimizer", "learning_rate", *(["momentum"] if sgd else [])}
        assert (trial.params["learning_rate"] >= 1e-2) == sgd
    assert {trial.params["optimizer"] for trial in found} == {"adam", "sgd"}
    names = {name for trial in studies.trials() for name in trial.params}
    assert names == {
        *("optimizer", "learning_rate", "learning_rate[optimizer=sgd]"),
        "momentum[optimizer=sgd]",
    }


def test_points_of_a_branch_are_enqueued_and_retried(
    studies: Studies,
) -> None:
    store = studies.create(CONDITIONS, trials=8)
    session = studies.join()
    run(session, [1.0], Complete())
    point = parse_point(store, ["optimizer=sgd", "learning_rate=0.1"])
    enqueue(store, point, {})
    queued = claim(session)
    assert (queued.params["optimizer"], queued.params["learning_rate"]) == ("sgd", 0.1)
    assert queued.config.hyperparameters.generator_learning_rate == 0.1
    assert 0 <= queued.params["momentum"] <= 0.9
    session.finish(queued, Complete())
    retry(store, queued.number)
    again = claim(session)
    assert again.params == queued.params
    with pytest.raises(InputError, match="learning_rate: it depends on optimizer"):
        parse_point(store, ["learning_rate=0.1"])
