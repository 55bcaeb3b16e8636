"""Warm starts: the best configurations of an earlier study are queued first in a new one."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import study_databases
from builders import assert_problem, new_database, spec_of
from command_line import call
from study_databases import RANDOM, Studies, claim, run, spec

from tuner.errors import InputError, StorageError
from tuner.study import steering
from tuner.study.creation import create_study
from tuner.study.store import StudyStore
from tuner.study.verdict import Complete, Fail, Prune
from tuner.views.study_toml import spec_toml

url, studies, sqlite = study_databases.url, study_databases.studies, study_databases.sqlite
WARM = "[warm_start]\nstudy = 'old'\n"
SPACE = """
[trial]
learning_rate = { low = 1e-4, high = 1e-2, log = true }
batch_size = [32, 64]
optimizer = ["adam", "sgd"]
beta1 = 0.5
[trial.when.optimizer.sgd]
momentum = { low = 0.5, high = 0.9 }
[sampler]
name = "random"
"""
ADAM: dict[str, Any] = {"learning_rate": 1e-3, "batch_size": 32, "optimizer": "adam"}
SGD: dict[str, Any] = {"optimizer": "sgd", "momentum": 0.6, "learning_rate": 8e-3, "batch_size": 64}


def run_old(studies: Studies, points: Sequence[dict[str, Any]]) -> StudyStore:
    """A study whose trials have these points, each better than the previous one."""
    old = studies.create(SPACE, name="old", trials=len(points))
    for point in points:
        steering.enqueue(old, point, {})
    session = studies.join("old")
    for number in range(len(points)):
        run(session, [90.0 - number], Complete())
    return old


def create(studies: Studies, toml: str, **study: Any) -> tuple[StudyStore, str]:
    """A study, and what was announced of it."""
    lines: list[str] = []
    store = create_study(studies.open(), spec(toml, **study), lines.append)
    return store, "\n".join(lines)


def queued(studies: Studies) -> list[tuple[dict[str, Any], Any]]:
    """The points and origins of the queue of study s."""
    return [
        (trial.system_attrs["fixed_params"], trial.user_attrs.get("tuner:warm_start"))
        for trial in studies.trials()
    ]


def test_the_best_configurations_are_queued_after_the_baselines(studies: Studies) -> None:
    points = [ADAM, SGD, ADAM | {"batch_size": 64}, SGD | {"batch_size": 32}]
    run_old(studies, points)
    baseline = "[[baseline]]\nlearning_rate = 2e-4\n"
    store, line = create(studies, f"{SPACE}{baseline}{WARM}top = 3\n")
    sgd = {"momentum[optimizer=sgd]": 0.6, "learning_rate": 8e-3, "optimizer": "sgd"}
    assert queued(studies) == [
        ({"learning_rate": 2e-4}, None),
        (sgd | {"batch_size": 32}, {"study": "old", "trial": 3}),
        (ADAM | {"batch_size": 64}, {"study": "old", "trial": 2}),
        (sgd | {"batch_size": 64}, {"study": "old", "trial": 1}),
    ]
    assert line == "warm start: queued the configurations of trials 3, 2, 1 of study 'old'"
    session = studies.join()
    run(session, [9.0], Complete())
    assert run(session, [9.0], Complete()).params == points[3]
    first, second = store.trials()
    assert (first.baseline, first.warm_start) == (True, None)
    assert (second.baseline, second.warm_start) == (False, "trial 3 of study old")
    assert second.value == 9.0  # not that of the earlier study


def test_parameters_that_do_not_fit_are_left_out(studies: Studies) -> None:
    run_old(studies, [ADAM, ADAM | {"learning_rate": 5e-3}, SGD])
    space = """
    [trial]
    learning_rate = { low = 1e-4, high = 6e-3, log = true }
    beta1 = { low = 0.0, high = 0.9 }
    batch_size = 64
    optimizer = ["adam", "lion"]
    """
    _, line = create(studies, space + WARM)
    # The earlier study fixed beta1, so its configurations have it, too.
    assert queued(studies) == [
        ({"beta1": 0.5}, {"study": "old", "trial": 2}),
        (
            {"learning_rate": 5e-3, "beta1": 0.5, "optimizer": "adam"},
            {"study": "old", "trial": 1},
        ),
        (
            {"learning_rate": 1e-3, "beta1": 0.5, "optimizer": "adam"},
            {"study": "old", "trial": 0},
        ),
    ]
    assert line == (
        "warm start: queued the configurations of trials 2, 1, 0 of study 'old', without what this "
        "study does not search or its ranges exclude: momentum of trial 2, optimizer of trial 2, "
        "learning_rate of trial 2, batch_size of trials 1, 0"
    )
    session = studies.join()
    for _ in range(3):
        run(session, [9.0], Complete())
    assert not [trial for trial in studies.store().trials() if trial.state == "FAIL"]


def test_equal_points_are_queued_once(studies: Studies) -> None:
    run_old(studies, [ADAM, ADAM | {"batch_size": 64}, SGD])
    space = "[trial]\nlearning_rate = { low = 1e-4, high = 5e-3 }\n"
    baseline = "[[baseline]]\nlearning_rate = 2e-4\n"
    create(studies, space + baseline + WARM)
    assert [point for point, _ in queued(studies)] == [
        {"learning_rate": 2e-4},
        {"learning_rate": 1e-3},
    ]


def test_a_grid_takes_complete_points_only(studies: Studies) -> None:
    run_old(studies, [ADAM, SGD])
    grid = "[trial]\nlearning_rate = [1e-3, 2e-3]\nbatch_size = [32, 64]\n[sampler]\nname='grid'\n"
    create(studies, grid + WARM)
    assert [point for point, _ in queued(studies)] == [{"learning_rate": 1e-3, "batch_size": 32}]


def test_only_complete_trials_count(studies: Studies) -> None:
    studies.create(RANDOM, name="old")
    session = studies.join("old")
    run(session, [1.0], Prune("bad"))
    run(session, [1.0], Fail("bad"))
    claim(session)
    _, line = create(studies, RANDOM + WARM)
    assert queued(studies) == []
    why = "no trial of it is complete"
    assert line == f"warm start: no configuration of study 'old' was queued: {why}"


def test_nothing_may_fit(studies: Studies) -> None:
    run_old(studies, [ADAM])
    _, line = create(studies, "[trial]\nwidth = [8, 16]\n" + WARM)
    assert (queued(studies), line.rpartition(": ")[2]) == ([], "none fits this study")


def test_an_edited_study_is_a_source_as_well(studies: Studies) -> None:
    from tuner.study.edits import edit

    old = run_old(studies, [SGD])
    edit(old, ["trial.optimizer=['adam', 'lion']"], "me")
    create(studies, SPACE + WARM)
    assert [point for point, _ in queued(studies)] == [
        {k.replace("momentum", "momentum[optimizer=sgd]"): v for k, v in SGD.items()}
    ]


def test_another_database_is_read(studies: Studies, tmp_path: Path) -> None:
    elsewhere = Studies(new_database(tmp_path / "elsewhere.db"))
    run_old(elsewhere, [ADAM])
    storage = f"storage = '{elsewhere.url}'\n"
    store, _ = create(studies, SPACE + WARM + storage)
    assert queued(studies) == [(ADAM, {"study": "old", "trial": 0})]
    elsewhere.close()
    (tmp_path / "elsewhere.db").unlink()
    # The study exists: the earlier one is not needed any more.
    assert create(studies, SPACE + WARM + storage)[0].token == store.token
    assert run(studies.join(), [9.0], Complete()).params == ADAM


@pytest.mark.parametrize(
    ("section", "error", "line"),
    [
        ("study = 'older'", InputError, r"^warm_start\.study: .*: no study 'older', expected one"),
        (
            "study = 'old'\nstorage = 'sqlite:////nowhere/x.db'",
            StorageError,
            r"^/nowhere/x\.db: ",
        ),
        ("study = 'old'\nstorage = 'mysql://h/d'", InputError, r"^warm_start\.storage: a mysql"),
        ("study = 'old'\nstorage = 'x'", InputError, r"^warm_start\.storage: not a database URL"),
    ],
)
def test_a_missing_study_is_refused_before_anything_is_created(
    studies: Studies, section: str, error: type[Exception], line: str
) -> None:
    run_old(studies, [ADAM])
    with pytest.raises(error, match=line) as caught:
        create(studies, f"{SPACE}[warm_start]\n{section}\n")
    assert "\n" not in str(caught.value)
    assert studies.open().study_names() == ["old"]
    assert len(studies.optuna_storage.get_all_studies()) == 1


@pytest.mark.parametrize(
    ("section", "key", "text"),
    [
        ("top = 3", "warm_start.study", "the key is missing"),
        ("storage = 'sqlite:///a.db'", "warm_start.study", "the key is missing"),
        ("study = 's'", "warm_start.study", "found 's', the study itself"),
        ("study = 'a/b'", "warm_start.study", "expected letters, digits"),
        ("study = 'a'\ntop = 0", "warm_start.top", "found 0, expected at least 1"),
    ],
)
def test_contradictions_are_refused(section: str, key: str, text: str) -> None:
    assert_problem(f"[study]\nname = 's'\n[warm_start]\n{section}\n", key, text)


@pytest.mark.parametrize(
    "storage",
    [
        "postgresql://me:tok3n@db/tuner",
        "postgresql://me:tok3n/x@db/tuner",
        "postgresql+psycopg://:tok3n@db/tuner",
        "postgresql://me@db/tuner?password=tok3n",
        "postgresql://me@db/tuner?sslmode=require&sslPassword=tok3n",
    ],
)
def test_a_password_is_refused_and_never_repeated(storage: str) -> None:
    with pytest.raises(InputError) as caught:
        spec_of(f"[warm_start]\nstudy = 'a'\nstorage = '{storage}'\n")
    line = "study.toml: warm_start.storage: found a URL with a password; give it in PGPASSWORD or"
    assert str(caught.value).startswith(line)
    assert "tok3n" not in str(caught.value)


@pytest.mark.parametrize(
    "storage", ["postgresql://me@db:5432/tuner?sslmode=require", "sqlite:///folder@x:1/a.db"]
)
def test_urls_without_a_password_are_kept(storage: str) -> None:
    made = spec_of(f"[warm_start]\nstudy = 'a'\nstorage = '{storage}'\n")
    assert made.warm_start.storage == storage
    assert spec_of(spec_toml(made)) == made


def test_the_origin_is_shown(
    sqlite: Studies, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNER_STORAGE", sqlite.url)
    monkeypatch.setenv("COLUMNS", "300")
    run_old(sqlite, [ADAM])
    create(sqlite, SPACE + WARM)
    session = sqlite.join()
    run(session, [9.0], Complete())
    run(session, [8.0], Complete())
    assert call("trials", "s") == 0
    assert capsys.readouterr().out.count("warm start from trial 0 of study old") == 1
    assert call("show", "s", "0") == 0
    assert "from trial 0 of study old" in capsys.readouterr().out
    assert call("trials", "s", "--json") == 0
    assert '"warm_start": "trial 0 of study old"' in capsys.readouterr().out


def test_a_damaged_origin_is_read_around(studies: Studies) -> None:
    run_old(studies, [ADAM])
    store, _ = create(studies, SPACE + WARM)
    run(studies.join(), [9.0], Complete())
    studies.rows(
        "UPDATE trial_user_attributes SET value_json = '{\"study\": 3}' "
        "WHERE key = 'tuner:warm_start'"
    )
    assert store.trial(0).warm_start is None
