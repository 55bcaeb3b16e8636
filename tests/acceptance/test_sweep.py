"""A complete sweep through the command line, then every command that reads its results."""

import csv
import gzip
import io
import json
import re
import shutil
import sqlite3
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from numpy.typing import NDArray
from PIL import Image
from postgres import free_port
from processes import STUDY, run, run_json

import tuner
from tuner.study.database import Database
from tuner.study.store import StudyStore


@pytest.fixture(scope="module")
def swept(
    tmp_path_factory: pytest.TempPathFactory, digits: Path, environment: dict[str, str]
) -> tuple[Path, str]:
    """A folder with the tiny study, swept to its end, and the output of the sweep."""
    folder = tmp_path_factory.mktemp("swept")
    (folder / "tiny.toml").write_text(STUDY.format(digits=digits))
    done = run(folder, environment, "sweep", "tiny.toml")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return folder, done.stdout


def store_of(folder: Path) -> StudyStore:
    return StudyStore(Database(f"sqlite:///{folder}/tuner-data/studies.db"), "tiny")


def pixels(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as picture:
        return np.asarray(picture)


def test_sweep_reports_its_trials(swept: tuple[Path, str]) -> None:
    folder, text = swept
    assert "trial 0 epoch 3/3 FID" in text
    assert "FID on fresh latents" in text
    assert "real against real images" in text
    assert "Classes generated: " in text
    assert (
        "To explore the results: tuner report tiny --out report.html, or tuner dashboard\n" in text
    )
    picture = folder / text.split("Samples: ")[1].splitlines()[0]
    assert pixels(picture).shape == (548, 548)


def test_the_exported_winner_draws_the_same_images_without_tuner(
    swept: tuple[Path, str], environment: dict[str, str]
) -> None:
    folder, _ = swept
    done = run(folder, environment, "export-model", "tiny", "--to", "exported")
    assert (done.returncode, done.stderr) == (0, "")
    code = "import sys, runpy; sys.modules['tuner'] = None; sys.path.insert(0, ''); "
    code += "sys.argv = ['draw.py', '--count', '4', '--seed', '7']; "
    code += "runpy.run_path('draw.py', run_name='__main__')"
    subprocess.run(
        [sys.executable, "-c", code], cwd=folder / "exported", env=environment, check=True
    )
    url = f"sqlite:///{folder}/tuner-data/studies.db"
    expected = tuner.open_study("tiny", url).best.generator()(4, seed=7)
    grid = pixels(folder / "exported" / "images.png").astype(int)
    drawn = grid.reshape(2, 32, 2, 32).swapaxes(1, 2).reshape(expected.shape)
    assert np.abs(drawn - expected).max() <= 1
    assert np.ptp(drawn) > 1


def test_the_total_is_exact_and_the_baseline_comes_first(swept: tuple[Path, str]) -> None:
    trials = store_of(swept[0]).trials()
    assert [trial.number for trial in trials] == [0, 1, 2, 3]
    assert trials[0].params == {"learning_rate": 2e-4, "batch_size": 64}
    assert {trial.state for trial in trials} <= {"COMPLETE", "PRUNED"}
    assert all(trial.reason for trial in trials)


def test_optuna_stores_the_best_so_far_and_our_table_each_epoch(swept: tuple[Path, str]) -> None:
    url = f"sqlite:///{swept[0]}/tuner-data/studies.db"
    study = optuna.load_study(study_name="tiny", storage=url)
    for frozen, ours in zip(study.trials, store_of(swept[0]).trials(), strict=True):
        fids = [report.fid for report in ours.reports]
        best = {i + 1: min(f for f in fids[: i + 1] if f is not None) for i in range(len(fids))}
        assert frozen.intermediate_values == best
        assert frozen.value == best[len(fids)]
        assert [report.epoch for report in ours.reports] == [*range(1, len(fids) + 1)]
        assert ours.machine["jax"]
        assert ours.machine["device"]
    assert study.direction == optuna.study.StudyDirection.MINIMIZE


def test_every_command_prints_json(swept: tuple[Path, str], environment: dict[str, str]) -> None:
    folder = swept[0]
    [listed] = run_json(folder, environment, "list")
    assert (listed["name"], listed["total"]) == ("tiny", 4)
    assert run_json(folder, environment, "status", "tiny")["running"] == []
    trials = run_json(folder, environment, "trials", "tiny")
    assert len(trials) == 4
    best = run_json(folder, environment, "best", "tiny")
    complete = [t["value"] for t in trials if t["state"] == "COMPLETE"]
    assert best["trial"]["value"] == min(complete)
    assert best["fresh"]["fid"] > best["real_fid"] > 0
    assert {"kid", "recall", "coverage", "fid_infinity"} <= best["fresh"].keys()
    plan = run_json(folder, environment, "check", "tiny.toml")
    assert plan["programs"] == 2
    # 8 x 512 + 512 x 2 (norm) + 25 x (8 x 4 + 4 x 2 + 2 x 1) + 2 x (4 + 2); D's also by hand
    assert plan["generator_parameters"] == 8 * 512 + 1024 + 25 * 42 + 12
    assert plan["discriminator_parameters"] == 25 * 2 + 2 + 25 * 8 + 4 + 64 * 4 + 1
    assert plan["activation_bytes"] > 0


def test_check_announces_slow_work_on_stderr(
    swept: tuple[Path, str], environment: dict[str, str]
) -> None:
    done = run(swept[0], environment, "check", "tiny.toml", "--json")
    assert json.loads(done.stdout)["programs"] == 2
    [line] = done.stderr.splitlines()
    assert re.fullmatch(r"\d\d:\d\d:\d\d measuring the memory of .* at most 45 s", line)


def test_export_has_every_epoch(swept: tuple[Path, str], environment: dict[str, str]) -> None:
    folder = swept[0]
    rows = list(csv.DictReader(io.StringIO(run(folder, environment, "export", "tiny").stdout)))
    trials = store_of(folder).trials()
    assert len(rows) == sum(len(trial.reports) for trial in trials)
    assert float(rows[0]["fid"]) == trials[0].reports[0].fid
    done = run(folder, environment, "export", "tiny", "--format", "json", "--out", "x.json")
    assert done.returncode == 0
    assert len(json.loads((folder / "x.json").read_text())["trials"]) == 4


def test_samples_are_the_same_every_time(
    swept: tuple[Path, str], environment: dict[str, str]
) -> None:
    folder = swept[0]
    for name in ("a.png", "b.png"):
        words = ("sample", "tiny", "--trial", "1", "--count", "9", "--out", name)
        assert run(folder, environment, *words).returncode == 0
    first, second = (pixels(folder / name) for name in ("a.png", "b.png"))
    assert first.shape == (208, 208)
    assert first.std() > 0
    np.testing.assert_array_equal(first, second)


def test_samples_in_a_notebook_are_the_commands(
    swept: tuple[Path, str], environment: dict[str, str]
) -> None:
    folder = swept[0]
    words = ("sample", "tiny", "--count", "5", "--seed", "7", "--out", "c.png")
    assert run(folder, environment, *words).returncode == 0
    best = tuner.open_study("tiny", f"sqlite:///{folder}/tuner-data/studies.db").best
    np.testing.assert_array_equal(best.grid(5, seed=7), pixels(folder / "c.png"))
    samples = best.samples(5, seed=7)
    assert [(image.mode, image.size) for image in samples] == [("L", (32, 32))] * 5
    # The grid shows each sample at twice its size, with gaps of two pixels.
    grid = pixels(folder / "c.png")[::2, ::2]
    np.testing.assert_array_equal(grid[2:34, 36:68], samples[1])


def test_a_finished_study_is_only_reported(
    swept: tuple[Path, str], environment: dict[str, str]
) -> None:
    folder = swept[0]
    [generator] = folder.glob("tuner-data/artifacts/tiny-*/trial-00000-1.safetensors")
    before = generator.stat().st_mtime_ns
    done = run(folder, environment, "sweep", "tiny.toml")
    assert done.returncode == 0
    assert "nothing to run" in done.stdout
    assert len(store_of(folder).trials()) == 4
    assert before == generator.stat().st_mtime_ns


def test_dashboard_opens_the_database(swept: tuple[Path, str]) -> None:
    port = free_port()
    url = f"sqlite:///{swept[0]}/tuner-data/studies.db"
    program = Path(sys.executable).with_name("optuna-dashboard")
    server = subprocess.Popen(
        [program, url, "--host", "127.0.0.1", "--port", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        api = f"http://127.0.0.1:{port}/api/studies"
        [study] = _fetch(api)["study_summaries"]
        trials = _fetch(f"{api}/{study['study_id']}?after=0")["trials"]
    finally:
        server.kill()
        server.wait()
    assert study["study_name"] == "tiny"
    assert [len(t["intermediate_values"]) for t in trials] == [
        len(t.reports) for t in store_of(swept[0]).trials()
    ]
    assert all(any(a["key"] == "tuner:reason" for a in t["user_attrs"]) for t in trials)


def _fetch(url: str) -> Any:
    for _ in range(60):
        try:
            with urllib.request.urlopen(url, timeout=10) as response:
                return json.load(response)
        except OSError:
            time.sleep(0.5)
    raise AssertionError(f"{url} does not respond")


def test_a_study_swept_in_two_parts_equals_one_sweep(
    swept: tuple[Path, str],
    tmp_path: Path,
    environment: dict[str, str],
) -> None:
    (tmp_path / "tiny.toml").write_text((swept[0] / "tiny.toml").read_text())
    half = (tmp_path / "tiny.toml").read_text().replace("trials = 4", "trials = 2")
    (tmp_path / "half.toml").write_text(half)
    done = run(tmp_path, environment, "sweep", "half.toml", "--name", "tiny")
    assert done.returncode == 0, done.stderr
    assert len(store_of(tmp_path).trials()) == 2
    done = run(tmp_path, environment, "sweep", "tiny.toml", "--trials", "4")
    assert done.returncode == 0, done.stderr
    for actual, expected in zip(
        store_of(tmp_path).trials(), store_of(swept[0]).trials(), strict=True
    ):
        assert actual.params == expected.params
        assert [r.fid for r in actual.reports] == [r.fid for r in expected.reports]
        assert [r.d_loss for r in actual.reports] == [r.d_loss for r in expected.reports]


def test_another_file_of_the_same_name_is_refused(
    swept: tuple[Path, str], environment: dict[str, str]
) -> None:
    folder = swept[0]
    text = (folder / "tiny.toml").read_text().replace("epochs = 3", "epochs = 4")
    (folder / "other.toml").write_text(text)
    done = run(folder, environment, "sweep", "other.toml", "--name", "tiny")
    assert done.returncode == 2
    assert "study.epochs: 3 in the database, 4 in the file" in done.stderr


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("sweep", "missing.toml"), 2, "missing.toml: no such file"),
        (("status", "nothing"), 2, "no study 'nothing', expected one of: tiny"),
        (("sample", "tiny", "--trial", "99", "--out", "x.png"), 2, "has no trial 99"),
        (("list", "--storage", "sqlite:///nowhere/x.db"), 3, "no such database"),
        (("sweep", "tiny.toml", "--storage", "sqlite:////proc/x/y.db"), 3, "/proc/x/y.db"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(
    swept: tuple[Path, str],
    environment: dict[str, str],
    words: tuple[str, ...],
    code: int,
    message: str,
) -> None:
    done = run(swept[0], environment, *words)
    assert done.returncode == code
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_help_shows_no_password(tmp_path: Path, environment: dict[str, str]) -> None:
    secret = environment | {"TUNER_STORAGE": "postgresql://me:secret@127.0.0.1/x"}
    done = run(tmp_path, secret, "sweep", "--help")
    assert done.returncode == 0
    assert "TUNER_STORAGE" in done.stdout
    assert "secret" not in done.stdout


def test_a_wrong_name_is_refused_before_anything_is_written(
    swept: tuple[Path, str], tmp_path: Path, environment: dict[str, str]
) -> None:
    (tmp_path / "tiny.toml").write_text((swept[0] / "tiny.toml").read_text())
    done = run(tmp_path, environment, "sweep", "tiny.toml", "--name", "../x")
    assert done.returncode == 2
    assert "study.name: found '../x', expected letters" in done.stderr
    assert sorted(tmp_path.iterdir()) == [tmp_path / "tiny.toml"]


def test_other_images_are_refused_once_trials_were_measured(
    swept: tuple[Path, str], tmp_path: Path, environment: dict[str, str], digits: Path
) -> None:
    for path in digits.iterdir():
        data = bytearray(gzip.decompress(path.read_bytes()))
        data[-1] = (data[-1] + 1) % 10
        (tmp_path / path.name).write_bytes(gzip.compress(data))
    elsewhere = environment | {"TUNER_DATA": str(tmp_path)}
    done = run(swept[0], elsewhere, "best", "tiny")
    assert done.returncode == 2
    *steps, error = done.stderr.strip().splitlines()
    assert error.startswith("tuner: study 'tiny': found data ")
    assert all(re.match(r"\d\d:\d\d:\d\d (device|loading)", line) for line in steps)


def test_a_damaged_database_is_one_line(tmp_path: Path, environment: dict[str, str]) -> None:
    (tmp_path / "bad.db").write_bytes(b"this is not a database" * 100)
    done = run(tmp_path, environment, "list", "--storage", "sqlite:///bad.db")
    assert done.returncode == 3
    assert "bad.db: the database failed: file is not a database" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_damaged_generator_is_one_line(
    swept: tuple[Path, str], tmp_path: Path, environment: dict[str, str]
) -> None:
    copy = shutil.copytree(swept[0] / "tuner-data/artifacts", tmp_path / "copy")
    (copy / store_of(swept[0]).folder / "trial-00000-1.safetensors").write_bytes(b"damaged")
    words = ("sample", "tiny", "--trial", "0", "--out", "x.png", "--artifacts", str(copy))
    done = run(swept[0], environment, *words)
    assert done.returncode == 2
    assert ": damaged" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_python_sweeps_run_a_study_to_its_end(tmp_path: Path, digits: Path) -> None:
    file = tmp_path / "tiny.toml"
    file.write_text(STUDY.format(digits=digits).replace("epochs = 3", "epochs = 2"))
    url = f"sqlite:///{tmp_path}/s.db"
    store = tuner.sweep(file, storage=url, artifacts=tmp_path / "a", trials=4)
    assert store.remaining() == 0
    assert store.best().value is not None
    with sqlite3.connect(tmp_path / "s.db") as connection:
        [(rows,)] = connection.execute("SELECT count(*) FROM tuner_epochs")
    connection.close()
    assert rows == sum(len(trial.reports) for trial in store.trials())
