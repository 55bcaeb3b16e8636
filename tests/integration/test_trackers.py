"""Trackers read back with their own readers."""

import contextlib
import importlib
import json
import sqlite3
import struct
from pathlib import Path
from typing import Any

import pytest
from command_line import call
from processes import wait_until
from tracked import FOLDER, pass_on, png, study, taken_over
from trials import PARAMS, claim_of

from tuner.spec.tracking import TRACKERS
from tuner.study.records import Confirms
from tuner.study.sinks import Released
from tuner.study.verdict import Complete, Fail, Pause, Prune

BLOCK = 32 * 1024  # bytes, of LevelDB's logs
IDENTITY = "0123abcd-00003"  # of trial 3 of the study in FOLDER
ENDINGS = [
    (Complete(objectives={"fid": 20.0, "seconds": 8.0}), "COMPLETE", "FINISHED"),
    (Prune("bad"), "PRUNED", "KILLED"),
    (Fail("bug"), "FAIL", "FAILED"),
]


@pytest.fixture
def mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A client of a store in a folder."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", str(tmp_path / "mlruns"))
    module = importlib.import_module("tuner.tracking.mlflow")  # sets more variables
    return module.MlflowClient()


def only_run(client: Any) -> Any:
    experiment = client.get_experiment_by_name("faces")
    [run] = client.search_runs([experiment.experiment_id])
    return run


def history(client: Any, name: str) -> list[tuple[int, float]]:
    found = client.get_metric_history(only_run(client).info.run_id, name)
    return [(metric.step, metric.value) for metric in found]


def test_mlflow_has_a_run_for_the_trial(mlflow: Any, tmp_path: Path) -> None:
    announced: list[str] = []
    claim = claim_of(3)._replace(confirms=Confirms(1, 2))
    pass_on(study("mlflow"), claim, 3, Prune("bad"), announced, pictures=(2,))
    assert announced == []
    run = only_run(mlflow)
    assert run.info.run_name == "trial-00003"
    assert run.info.status == "KILLED"
    assert run.data.params == {
        "learning_rate": "0.0002123456",
        "batch_size": "64",
        "confirms": "1",
        "seed": "2",
    }
    assert run.data.tags["tuner_reason"] == "bad"
    assert history(mlflow, "fid") == [(1, 100.0), (2, 50.0), (3, 100 / 3)]
    assert "kid" not in run.data.metrics
    [artifact] = mlflow.list_artifacts(run.info.run_id, "samples")
    path = mlflow.download_artifacts(run.info.run_id, artifact.path, str(tmp_path))
    assert (artifact.path, Path(path).read_bytes()) == ("samples/samples-epoch-000002.png", png(2))


@pytest.mark.parametrize(("ending", "state", "status"), ENDINGS)
def test_mlflow_goes_on_with_the_run_of_a_lost_worker(
    mlflow: Any, ending: Any, state: str, status: str
) -> None:
    """It was lost before it logged its third epoch."""
    pass_on(study("mlflow"), claim_of(3), 2, None, [])
    assert only_run(mlflow).info.status == "RUNNING"
    pass_on(study("mlflow"), taken_over(3, 3), 4, Pause("rung"), [])
    assert only_run(mlflow).info.status == "RUNNING"
    pass_on(study("mlflow"), taken_over(3, 4), 5, ending, [])
    assert [step for step, _ in history(mlflow, "fid")] == [1, 2, 3, 4, 5]
    run = only_run(mlflow)
    assert (run.data.tags["tuner_state"], run.info.status) == (state, status)
    assert run.data.metrics.get("seconds") == (8.0 if state == "COMPLETE" else None)


def test_an_unreachable_mlflow_server_is_announced_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:sesame@127.0.0.1:9")
    announced: list[str] = []
    pass_on(study("mlflow"), claim_of(3), 3, Complete(), announced)
    [line] = announced
    assert line.startswith("logging to mlflow failed: ")
    assert line.endswith("training continues, mlflow will be tried again")
    assert "sesame" not in line


@pytest.fixture
def wandb_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setattr("sys.argv", ["tuner", "--storage", "postgresql://me:sesame@db/x"])
    return tmp_path


def records(path: Path) -> list[Any]:
    """The records of an offline run: a log of LevelDB's format after a header of seven bytes."""
    from wandb.proto import wandb_internal_pb2

    record: Any = wandb_internal_pb2
    data, at, found, parts = path.read_bytes(), 7, [], b""
    assert data.startswith(b":W&B")
    while at + 7 <= len(data):
        if BLOCK - at % BLOCK < 7:  # the rest of a block is padding
            at += BLOCK - at % BLOCK
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        if at + 7 + length > len(data):  # not all of it is written yet
            break
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            found.append(record.Record.FromString(parts))
            parts = b""
    return found


def test_wandb_runs_of_several_workers_have_one_id(wandb_folder: Path) -> None:
    announced: list[str] = []
    pass_on(study("wandb"), claim_of(3), 2, Released("stopped"), announced, pictures=(1,))
    pass_on(study("wandb"), taken_over(3, 2), 4, Complete(), announced)
    assert announced == []
    assert len([*wandb_folder.rglob(f"run-{IDENTITY}.wandb")]) == 2
    # The files are written by a process of wandb's own, which may be behind.
    expected = [(1, 100.0), (2, 50.0), (3, 100 / 3), (4, 25.0)]
    wait_until(lambda: steps(wandb_folder) == expected, "all epochs are in the files")
    assert [*wandb_folder.rglob("*.png")]
    files = [path for path in wandb_folder.rglob("*") if path.is_file()]
    assert not [path for path in files if b"sesame" in path.read_bytes()]


def steps(folder: Path) -> list[tuple[int, float]]:
    """Epochs and FIDs in the files of the run."""
    found = []
    for path in sorted(folder.rglob(f"run-{IDENTITY}.wandb")):
        for record in records(path):
            items = {
                item.key or ".".join(item.nested_key): json.loads(item.value_json)
                for item in record.history.item
            }
            if "fid" in items:
                found.append((items["epoch"], items["fid"]))
    return found


def test_trackio_goes_on_with_the_run_of_a_lost_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It was lost before it logged its third epoch."""
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))  # read when trackio is imported
    pytest.importorskip("trackio", reason="trackio needs an older Pillow than requirements.lock")
    announced: list[str] = []
    pass_on(study("trackio"), claim_of(3), 2, Released("stopped"), announced, pictures=(1,))
    pass_on(study("trackio"), taken_over(3, 3), 4, Complete(), announced)
    assert announced == []
    assert capsys.readouterr().out == ""
    with contextlib.closing(sqlite3.connect(tmp_path / "faces.db")) as database:
        rows = database.execute("SELECT run_name, step, metrics FROM metrics ORDER BY id")
        logged = [(run, step, json.loads(metrics)) for run, step, metrics in rows]
        [(config,)] = database.execute("SELECT config FROM configs")
    assert {run for run, _, _ in logged} == {f"trial-00003-{FOLDER[-8:]}"}
    assert [(n, m["fid"]) for _, n, m in logged if "fid" in m] == [
        *((1, 100.0), (2, 50.0), (3, 100 / 3), (4, 25.0))
    ]
    assert json.loads(config).items() >= PARAMS.items()
    [picture] = tmp_path.rglob("*.png")
    assert picture.parent.name == "1"


@pytest.mark.parametrize("command", ["check", "sweep"])
def test_a_missing_package_is_one_line_before_anything_begins(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(TRACKERS, "mlflow", "a_module_that_does_not_exist")
    (tmp_path / "s.toml").write_text('[data]\nsource = "gaussians"\n[tracking]\nto = ["mlflow"]\n')
    assert call(command, "s.toml") == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("tuner: tracking.to: 'mlflow' needs the package a_module_that_does_not")
    assert not (tmp_path / "tuner-data").exists()
