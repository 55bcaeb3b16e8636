"""A worker's part in a study: what it is given to run, what it reports, and how trials end."""

from typing import Any

import optuna
import pytest
import workplace
from builders import PREMISES, RANGES, SHAPE, epoch
from optuna.trial import TrialState
from workplace import LONG_AGO, MACHINE, RANDOM, Studies, claim, report, run

from tuner.errors import InputError
from tuner.study.membership import Idle
from tuner.study.space import derive_seed
from tuner.study.steering import enqueue, parse_point, retry
from tuner.study.verdict import Complete, Fail, Prune, Verdict
from tuner.trial import EpochReport

url, studies, sqlite = workplace.url, workplace.studies, workplace.sqlite

BASELINES = """
[[baseline]]
learning_rate = 2e-4
beta1 = 0.5
[[baseline]]
beta1 = 0.25
"""
FIDS: list[float | None] = [30.0, 20.0, 25.0, 22.0]


def test_baselines_come_first_and_once(studies: Studies) -> None:
    studies.make(RANDOM + BASELINES)
    member, other = studies.join(), studies.join()
    found = [run(worker, [1.0], Complete()) for worker in (member, other, member)]
    assert found[0].params == {"learning_rate": 2e-4, "beta1": 0.5}
    assert found[1].params["beta1"] == 0.25
    assert 1e-4 <= found[1].params["learning_rate"] <= 1e-2
    assert found[2].params["beta1"] not in (0.5, 0.25)
    marks = [trial.user_attrs.get("tuner:baseline") for trial in studies.trials()]
    assert marks == [True, True, None]


def test_a_claim_is_a_trial_in_full(studies: Studies) -> None:
    studies.make(seed=9)
    member = studies.join()
    run(member, [1.0], Complete())
    found = claim(member)
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
    store = studies.make(value=value)
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


def test_how_trials_end(studies: Studies) -> None:
    store = studies.make(trials=len(ENDS))
    member = studies.join()
    for number, (fids, end, state, value) in enumerate(ENDS):
        assert run(member, fids, end).number == number
        trial, record = studies.trials()[number], store.trial(number)
        assert isinstance(end, Complete | Prune | Fail)
        assert (trial.state, trial.value) == (state, value)
        assert trial.user_attrs["tuner:reason"] == end.reason
        assert (record.state, record.reason, record.value) == (state.name, end.reason, value)
        assert [found.fid for found in record.reports] == fids
    assert {status for _, status, *_ in studies.leases()} == {"done"}
    assert store.summary().states == {"COMPLETE": 1, "PRUNED": 5, "FAIL": 1}


def test_what_was_lost_is_none_in_the_tables(studies: Studies) -> None:
    store = studies.make()
    member = studies.join()
    claimed = claim(member)
    lost = epoch(1, None, finite=False, d_loss=None, loss_ratio=None, d_auc=None)
    assert member.report(claimed, lost, []) is None
    assert studies.trials()[0].intermediate_values == {}
    member.report(claimed, epoch(2, 40.0), [lost])
    member.report(claimed, epoch(3, None), [lost, epoch(2, 40.0)])
    member.finish(claimed, Fail("a bug"), traceback="Traceback: line 3")
    assert store.trial(0).reports == (lost, epoch(2, 40.0), epoch(3, None))
    [trial] = studies.trials()
    assert trial.intermediate_values == {2: 40.0}
    assert trial.user_attrs["tuner:traceback"] == "Traceback: line 3"
    who = studies.rows("SELECT epoch, worker, token FROM tuner_epochs ORDER BY epoch")
    assert who == [(number, member.worker, 1) for number in (1, 2, 3)]


def test_the_total_is_exact(studies: Studies) -> None:
    store = studies.make(trials=3)
    member, other = studies.join(), studies.join()
    run(member, FIDS, Complete())
    run(other, [30.0], Prune("bad"))
    assert store.remaining() == 1
    last = claim(member)
    assert other.claim(PREMISES) is Idle.WAIT
    member.finish(last, Complete())
    assert other.claim(PREMISES) is Idle.ENDED
    store.raise_total(4)
    run(other, FIDS, Complete())
    assert member.claim(PREMISES) is Idle.ENDED
    assert len(studies.trials()) == 4


def test_queued_points_wait_for_room(studies: Studies) -> None:
    """A baseline is not begun beyond the total, either."""
    store = studies.make(RANDOM + BASELINES, trials=1)
    member = studies.join()
    first = claim(member)
    assert studies.join().claim(PREMISES) is Idle.WAIT
    member.finish(first, Complete())
    assert member.claim(PREMISES) is Idle.ENDED
    assert store.summary().states == {"PRUNED": 1, "WAITING": 1}
    store.raise_total(2)
    assert claim(member).params["beta1"] == 0.25


def test_a_failed_trial_does_not_count(studies: Studies) -> None:
    store = studies.make(trials=1)
    member = studies.join()
    failed = run(member, [30.0], Fail("a bug"))
    assert store.remaining() == 1
    again = run(member, FIDS, Complete())
    assert member.claim(PREMISES) is Idle.ENDED
    assert again.params != failed.params
    assert store.summary().states == {"FAIL": 1, "COMPLETE": 1}


def test_points_follow_from_the_trials_number_not_from_who_asks(studies: Studies) -> None:
    points: list[list[dict[str, Any]]] = []
    toml = RANGES + "[sampler]\nname = 'tpe'\nn_startup_trials = 1\n[pruner]\nname = 'none'\n"
    for name, workers in (("one", 1), ("many", 3)):
        studies.make(toml, name=name, seed=5)
        members = [studies.join(name) for _ in range(workers)] * 3
        points.append([run(member, [50.0], Complete()).params for member in members[:3]])
    one, many = points
    assert one == many
    assert len({point["beta1"] for point in one}) == 3


@pytest.mark.parametrize("sampler", ["random", "tpe", "grid"])
def test_points_do_not_tell_who_died_while_they_were_chosen(
    sampler: str, sqlite: Studies, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing or all is left of a choice, so that nobody chooses its second half anew."""
    space = "[trial]\nbatch_size = [32, 64, 128]\nwidth = [8, 16]\nd_steps = [1, 2]\n"
    toml = f"{space}[sampler]\nname = '{sampler}'\n[pruner]\nname = 'none'\n"
    sqlite.make(toml, name="undisturbed")
    expected = claim(sqlite.join("undisturbed")).params
    suggest = optuna.Trial._suggest
    for dies_at in expected:

        def dying(trial: optuna.Trial, name: str, kind: Any, last: str = dies_at) -> Any:
            value = suggest(trial, name, kind)
            if name == last:
                raise KeyboardInterrupt
            return value

        sqlite.make(toml, name=dies_at)
        member = sqlite.join(dies_at)
        with monkeypatch.context() as patch:
            patch.setattr(optuna.Trial, "_suggest", dying)
            with pytest.raises(KeyboardInterrupt):
                claim(member)
        assert sqlite.trials(dies_at)[0].params == {}
        sqlite.rows(LONG_AGO)
        assert claim(sqlite.join(dies_at)).params == expected


def test_other_studies_of_a_database_are_other_studies(studies: Studies) -> None:
    for name in ("one", "other"):
        studies.make(name=name)
    one, other = studies.join("one"), studies.join("other")
    first, second = claim(one), claim(other)
    assert (first.number, second.number) == (0, 0)
    report(one, first, [30.0])
    report(other, second, [8.0])
    studies.rows(workplace.LONG_AGO)
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
    studies.make(RANDOM + KID, value=value, epochs=5)
    member = studies.join()
    found = claim(member)
    kids = [None, 0.25, None, 0.5, 0.375]
    history: list[EpochReport] = []
    for number, kid in enumerate(kids, 1):
        fid = None if kid is None else 100.0 / number
        history.append(epoch(number, fid, kid=kid))
        member.report(found, history[-1], history[:-1])
    member.finish(found, Complete())
    [trial] = studies.trials()
    assert (trial.intermediate_values, trial.value) == (seen, final)
    assert studies.plain().metric_names == ["KID"]
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
    store = studies.make(CONDITIONS, trials=8)
    member = studies.join()
    for _ in range(6):
        run(member, [1.0], Complete())
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


def test_a_trial_of_a_branch_is_queued_and_tried_again_by_the_settings_names(
    studies: Studies,
) -> None:
    store = studies.make(CONDITIONS, trials=8)
    member = studies.join()
    run(member, [1.0], Complete())
    point = parse_point(store, ["optimizer=sgd", "learning_rate=0.1"])
    enqueue(store, point, {})
    queued = claim(member)
    assert (queued.params["optimizer"], queued.params["learning_rate"]) == ("sgd", 0.1)
    assert queued.config.hyperparameters.generator_learning_rate == 0.1
    assert 0 <= queued.params["momentum"] <= 0.9
    member.finish(queued, Complete())
    retry(store, queued.number)
    again = claim(member)
    assert again.params == queued.params
    with pytest.raises(InputError, match="learning_rate: found it without optimizer"):
        parse_point(store, ["learning_rate=0.1"])
