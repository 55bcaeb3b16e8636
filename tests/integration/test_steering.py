"""Changes to a running study: enqueue, retry, prune, stop and delete."""

import pytest
import study_databases
from builders import DATASET, epoch
from study_databases import EXPIRE_LEASES, RANDOM, Studies, claim, report, run
from typer.testing import CliRunner

from tuner.cli import app
from tuner.errors import InputError, StorageError
from tuner.study import steering
from tuner.study.claims import Idle
from tuner.study.upcoming import upcoming
from tuner.study.verdict import Complete, Fail, Prune

url, studies, sqlite = study_databases.url, study_databases.studies, study_databases.sqlite

SPACE = """
[trial]
learning_rate = { low = 1e-4, high = 1e-2, log = true }
batch_size = [32, 64]
width = { low = 8, high = 16, step = 4 }
optimizer = ["adam", "sgd"]
"""
POINT: dict[str, float | int | str] = {"beta1": 0.5, "learning_rate": 1e-3}


def test_a_point_is_parsed_from_arguments(sqlite: Studies) -> None:
    store = sqlite.create(SPACE)
    words = ["learning_rate=2e-4", "batch_size=64", "width=12", "optimizer=sgd"]
    point = steering.parse_point(store, words)
    assert point == {"learning_rate": 2e-4, "batch_size": 64, "width": 12, "optimizer": "sgd"}
    assert [type(value) for value in point.values()] == [float, int, int, str]
    assert steering.parse_point(store, ["optimizer='adam'"]) == {"optimizer": "adam"}
    assert steering.parse_point(store, ["learning_rate=0.01"]) == {"learning_rate": 0.01}
    assert steering.parse_point(store, []) == {}


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        (["batch_size"], ["found 'batch_size', expected key=value"]),
        (["batch_size=48"], ["batch_size: found 48, expected one of 32, 64"]),
        (["batch_size="], ["batch_size: '' is not a whole number"]),
        (["width=10"], ["width: found 10, expected 8 plus a multiple of 4"]),
        (["width=99"], ["width: found 99, expected 8 to 16"]),
        (["learning_rate=1"], ["learning_rate: found 1, expected 0.0001 to 0.01"]),
        (["learning_rate=nan"], ["learning_rate: found nan"]),
        (["learning_rate=true"], ["learning_rate: true is not a number"]),
        (["optimizer=adm"], ["optimizer: found 'adm'"]),
        (["momentum=0.5"], ["momentum: trial.momentum is fixed, not searched"]),
        (["batch_sice=32"], ["batch_sice: unknown key, expected a key of [trial]"]),
        (["width=8", "width=12"], ["width is given twice"]),
        (["x=1", "width=9", "y"], ["x: ", "width: ", "found 'y'"]),
    ],
)
def test_all_problems_of_a_point_are_reported(
    words: list[str], lines: list[str], sqlite: Studies
) -> None:
    with pytest.raises(InputError) as caught:
        steering.parse_point(sqlite.create(SPACE), words)
    for found, expected in zip(str(caught.value).splitlines(), lines, strict=True):
        assert found.startswith(expected)


def test_parameters_outside_their_branch_are_reported(sqlite: Studies) -> None:
    when = "optimizer = ['adam', 'sgd']\n[trial.when.optimizer.sgd]\nmomentum = [0.5, 0.9]\n"
    store = sqlite.create(f"[trial]\n{when}")
    line = "momentum: trial.momentum is not searched with optimizer = adam; leave it out"
    with pytest.raises(InputError, match=f"^{line}"):
        steering.parse_point(store, ["optimizer=adam", "momentum=0.5"])
    point = {"optimizer": "sgd", "momentum": 0.5}
    assert steering.parse_point(store, ["optimizer=sgd", "momentum=0.5"]) == point


def test_the_grid_needs_complete_points(sqlite: Studies) -> None:
    grid = "[trial]\nbatch_size = [32, 64]\nwidth = [8, 16]\n[sampler]\nname = 'grid'\n"
    store = sqlite.create(grid)
    with pytest.raises(InputError, match="width is missing; the grid sampler needs every setting"):
        steering.parse_point(store, ["batch_size=32"])
    words = ["batch_size=32", "width=8"]
    assert steering.parse_point(store, words) == {"batch_size": 32, "width": 8}


def test_an_enqueued_point_is_tried_next(studies: Studies) -> None:
    store = studies.create(trials=3)
    session = studies.join()
    claimed = claim(session)
    assert steering.enqueue(store, dict(POINT), {}) == 3
    session.finish(claimed, Complete())
    assert run(session, [1.0], Complete()).params == POINT
    assert run(session, [1.0], Complete()).params != POINT
    assert session.claim(DATASET) is Idle.ENDED


def test_the_sampler_fills_in_missing_parameters(studies: Studies) -> None:
    store = studies.create()
    steering.enqueue(store, {"beta1": 0.5}, {})
    params = claim(studies.join()).params
    assert params["beta1"] == 0.5
    assert 1e-4 <= params["learning_rate"] <= 1e-2


def test_a_point_without_the_deciding_setting_is_completed(studies: Studies) -> None:
    when = "optimizer = ['adam', 'sgd']\n[trial.when.optimizer.sgd]\nbeta1 = [0.0, 0.25]\n"
    store = studies.create(RANDOM.replace("[sampler]", f"{when}[sampler]"), trials=4)
    steering.enqueue(store, {"learning_rate": 1e-3}, {})
    studies.optuna_study().enqueue_trial({"beta1[optimizer=sgd]": 0.25})  # not ours to refuse
    session = studies.join()
    params = claim(session).params
    assert params["learning_rate"] == 1e-3
    assert params.keys() == {"learning_rate", "optimizer", "beta1"}
    studies.rows(EXPIRE_LEASES)
    assert claim(studies.join()).params == params
    assert claim(session).number == 2
    assert "is not searched by this study" in str(store.trial(1).reason)


def test_enqueueing_raises_the_total_only_when_it_is_full(studies: Studies) -> None:
    store = studies.create(trials=3)
    session = studies.join()
    run(session, [1.0], Complete())
    run(session, [1.0], Fail("a bug"))  # does not count towards the total
    totals = [steering.enqueue(store, dict(POINT), {}) for _ in range(3)]
    assert totals == [3, 3, 4]
    for _ in range(3):
        assert run(session, [1.0], Complete()).params == POINT
    assert session.claim(DATASET) is Idle.ENDED
    assert steering.enqueue(store, dict(POINT), {}) == 5
    assert run(session, [1.0], Prune("bad")).params == POINT


def test_a_retried_trial_gets_a_new_number(studies: Studies) -> None:
    store = studies.create(RANDOM + "[[baseline]]\nbeta1 = 0.5\n", trials=2)
    session = studies.join()
    first = claim(session)
    report(session, first, [50.0])
    session.finish(first, Fail("a bug"), artifact="first.safetensors", traceback="line 3")
    other = run(session, [1.0], Complete())
    assert steering.retry(store, 0) == 2
    again = claim(session)
    assert (again.number, again.params) == (2, first.params)
    assert again.params != other.params
    record = store.trial(2)
    assert (record.reason, record.artifact, record.reports) == (None, None, ())
    baselines = [trial.user_attrs.get("tuner:baseline") for trial in studies.trials()]
    assert baselines == [True, None, True]
    assert steering.retry(store, 1) == 3
    session.finish(again, Complete())
    assert claim(session).params == other.params


def test_an_exact_retry_keeps_the_seed(studies: Studies) -> None:
    store = studies.create(trials=2)
    session = studies.join()
    first = run(session, [50.0], Complete())
    second = run(session, [50.0], Complete())
    assert steering.retry(store, 1, exactly=True) == 3
    third = claim(session)
    assert (third.number, third.config) == (2, second.config)
    assert first.config.seed != second.config.seed
    report(session, third, [50.0])
    session.finish(third, Complete())
    steering.retry(store, 2)
    assert [store.trial(number).seed_of for number in (1, 2)] == [None, 1]
    fourth = run(session, [50.0], Complete())
    assert fourth.config.hyperparameters == second.config.hyperparameters
    assert fourth.config.seed not in (first.config.seed, second.config.seed)
    steering.retry(store, 2, exactly=True)
    assert claim(session).config == second.config  # an exact retry of an exact retry


def test_a_baseline_without_stored_parameters_is_retried(studies: Studies) -> None:
    store = studies.create(RANDOM + "[[baseline]]\nbeta1 = 0.5\n")
    session = studies.join()
    run(session, [], Fail("a bug"))
    studies.rows("DELETE FROM trial_params")
    steering.retry(store, 0)
    assert claim(session).params["beta1"] == 0.5


def test_a_point_is_queued_twice_only_on_request(studies: Studies) -> None:
    store = studies.create(trials=3)
    steering.check_new(store, POINT)
    steering.enqueue(store, POINT, {})
    for state in ("queued", "running", "complete"):
        with pytest.raises(
            InputError, match=f"trial 0 has these parameters and is {state}; to queue"
        ):
            steering.check_new(store, POINT)
        if state == "queued":
            session = studies.join()
            first = claim(session)
            report(session, first, [9.0])
        elif state == "running":
            session.finish(first, Complete())
    steering.check_new(store, POINT | {"learning_rate": 2e-3})


def test_only_finished_trials_are_retried(studies: Studies) -> None:
    store = studies.create()
    with pytest.raises(InputError, match="has no trial 0; none has begun"):
        steering.retry(store, 0)
    claim(studies.join())
    with pytest.raises(InputError, match="trial 0 is still running; retry it once"):
        steering.retry(store, 0)
    assert len(studies.trials()) == 1


def test_a_prune_request_is_returned_by_the_next_report(studies: Studies) -> None:
    store = studies.create()
    session = studies.join()
    claimed = claim(session)
    assert session.report(claimed, epoch(1), []) is None
    steering.request_prune(store, 0, "enough of it")
    assert upcoming(store) == []  # the trial stays with its worker
    assert session.report(claimed, epoch(2), [epoch(1)]) == "enough of it"
    session.finish(claimed, Prune("enough of it"))
    with pytest.raises(
        InputError, match="trial 0 is PRUNED; only running and paused trials can be"
    ):
        steering.request_prune(store, 0, "once more")
    with pytest.raises(InputError, match="has no trial 1; its trials are 0 to 0"):
        steering.request_prune(store, 1, "what is not there")
    assert claim(session).number == 1
    assert studies.leases()[1][6] is None


def test_a_prune_request_survives_a_takeover(studies: Studies) -> None:
    store = studies.create()
    claim(studies.join())
    steering.request_prune(store, 0, "enough")
    studies.rows(EXPIRE_LEASES)
    session = studies.join()
    assert session.report(claim(session), epoch(1), []) == "enough"


def test_a_trial_without_a_lease_cannot_be_pruned_by_request(studies: Studies) -> None:
    """A trial of another program, which does not read requests."""
    store = studies.create()
    studies.optuna_study().ask()
    with pytest.raises(InputError, match="trial 0 is run by another program"):
        steering.request_prune(store, 0, "enough")


def test_actions_on_a_deleted_study_fail_in_one_line(studies: Studies) -> None:
    store = studies.create()
    steering.delete(studies.store())
    for action in (
        lambda: steering.enqueue(store, dict(POINT), {}),
        lambda: steering.delete(store),
        lambda: store.trials(),
        lambda: store.remaining(),
        lambda: store.raise_total(9),
        lambda: store.bind({"data": "abc"}),
    ):
        with pytest.raises(StorageError) as caught:
            action()
        assert "\n" not in str(caught.value)
        assert str(caught.value).startswith(store.database.place)


def test_stop_counts_the_workers(sqlite: Studies) -> None:
    sqlite.create()
    words = ["stop", "s", "--storage", sqlite.url]
    assert CliRunner().invoke(app, words).output == "No workers of study 's' are running.\n"
    sqlite.join()
    assert CliRunner().invoke(app, words).output == (
        "1 worker of study 's' will stop after the current epoch.\n"
    )
