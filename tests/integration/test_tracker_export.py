"""``tuner export --to``: recorded trials in trackers."""

import importlib
import time
from pathlib import Path

import pytest
import study_databases
from command_line import call
from event_files import events, scalars, values
from study_databases import RANDOM, Studies, claim, report, run
from tracked import png

from tuner.files.pictures import Picture
from tuner.files.study_files import open_files
from tuner.study.epochs import report_times
from tuner.study.store import StudyStore
from tuner.study.verdict import Complete, Prune

sqlite = study_databases.sqlite


@pytest.fixture
def store(sqlite: Studies, tmp_path: Path) -> StudyStore:
    """A study with a complete trial, a pruned one and a running one, and one sample grid."""
    store = sqlite.create(RANDOM, trials=4)
    files = open_files(store, str(tmp_path / "files"))
    session = sqlite.join()
    run(session, [50.0, 40.0], Complete())
    run(session, [60.0], Prune("bad"))
    report(session, claim(session), [45.0])
    files.write(Picture(0, 2).name, png(7))
    return store


def test_tensorboard_gets_every_trial_once(
    store: StudyStore, sqlite: Studies, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    command = ["export", "s", "--storage", sqlite.url, "--to", "tensorboard", "--out", str(runs)]
    for _ in range(2):  # the second time there is nothing to add
        assert call(*command) == 0
        assert capsys.readouterr().out == f"Exported 3 trials of study 's': {runs / store.folder}\n"
    trial = runs / store.folder / "trial-00000"
    assert scalars(trial, "fid") == [(1, 50.0), (2, 40.0)]
    pictures = [(step, v.image.encoded_image_string) for t, step, v in values(trial) if "sam" in t]
    assert pictures == [(2, png(7))]
    timed = [event.wall_time for event in events(trial) if event.step == 1]
    reported_at = report_times(store)[0][1]
    assert timed == [pytest.approx(reported_at, abs=1e-3)]
    assert abs(reported_at - time.time()) < 60
    outcome = [v for t, _, v in values(runs / store.folder / "trial-00001") if "outcome" in t]
    assert [v.tensor.string_val[0] for v in outcome] == [b"PRUNED: bad"]
    running = values(runs / store.folder / "trial-00002")
    assert not [tag for tag, _, _ in running if tag.startswith("outcome")]


def test_mlflow_gets_every_trial_once(
    store: StudyStore, sqlite: Studies, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", str(tmp_path / "mlruns"))
    for _ in range(2):
        assert call("export", "s", "--storage", sqlite.url, "--to", "mlflow") == 0
    client = importlib.import_module("tuner.tracking.mlflow").MlflowClient()
    found = client.search_runs([client.get_experiment_by_name("s").experiment_id])
    assert {run.info.run_name: run.info.status for run in found} == {
        "trial-00000": "FINISHED",
        "trial-00001": "KILLED",
        "trial-00002": "RUNNING",
    }
    [first] = [run.info.run_id for run in found if run.info.run_name == "trial-00000"]
    metrics = client.get_metric_history(first, "fid")
    assert [(metric.step, metric.value) for metric in metrics] == [(1, 50.0), (2, 40.0)]
    reported_at = report_times(store)[0][1]
    assert metrics[0].timestamp == round(1000 * reported_at)
    assert [a.path for a in client.list_artifacts(first, "samples")] == [
        "samples/samples-epoch-000002.png"
    ]


def test_the_numbers_are_exported_without_the_artifact_store(
    store: StudyStore, sqlite: Studies, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "files").rename(tmp_path / "gone")
    runs = tmp_path / "runs"
    words = ["--storage", sqlite.url, "--to", "tensorboard", "--out", str(runs)]
    assert call("export", "s", *words) == 0
    assert "Sample grids are missing: artifacts: no files of study" in capsys.readouterr().out
    assert scalars(runs / store.folder / "trial-00000", "fid") == [(1, 50.0), (2, 40.0)]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--to", "mlflow", "--out", "x"], "--out has no effect with --to mlflow; omit it"),
        (["--to", "tensorboard", "--out", "/dev/null/x"], "--out: /dev/null is not a folder"),
        (["--to", "mlflow", "--format", "csv"], "--format has no effect with --to mlflow; omit it"),
    ],
)
def test_options_that_are_wrong_are_refused(
    store: StudyStore,
    sqlite: Studies,
    words: list[str],
    line: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert call("export", "s", "--storage", sqlite.url, *words) == 2
    assert capsys.readouterr().err == f"tuner: {line}\n"
