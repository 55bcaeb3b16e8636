"""``tuner launch slurm``: what reaches Slurm and what must not; when a job returns to the queue.

Scripts stand in for Slurm's programs; ``acceptance/test_slurm.py`` uses the real ones.
"""

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import command_line
import pytest
import study_databases
from postgres import PASSWORD, Postgres
from study_databases import Studies, claim, report, run, spec
from trials import shown

from tuner.cli.status import WatchedStudy
from tuner.errors import HUNG_EXIT_CODE
from tuner.launch import slurm
from tuner.launch.slurm_job import CANCEL, MAX_FRUITLESS, TIME_LIMIT, WorkerJob
from tuner.study.creation import create_study
from tuner.study.database import Database
from tuner.study.verdict import Complete

sqlite = study_databases.sqlite

Programs = Callable[..., None]
SBATCH = 'env > env.txt; echo "$@" > words.txt; cp "$1" script.txt; echo "Submitted batch job 7"'


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Programs:
    """Put shell scripts with these names alone on the PATH, with /bin; work in ``tmp_path``."""
    folder = tmp_path / "programs"
    folder.mkdir()
    for name in ("cp", "env", "cat"):
        (folder / name).symlink_to(f"/bin/{name}")
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.chdir(tmp_path)

    def install(**scripts: str) -> None:
        for name, script in scripts.items():
            (folder / name).write_text(f"#!/bin/sh\n{script}\n")
            (folder / name).chmod(0o755)

    return install


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Studies]:
    """The database of commands in ``tmp_path``, with a study."""
    monkeypatch.delenv("TUNER_STORAGE", raising=False)
    (tmp_path / "tuner-data").mkdir()
    found = Studies(f"sqlite:///{tmp_path}/tuner-data/studies.db")
    database = Database(found.url, create=True)
    create_study(database, spec())
    yield found
    found.close()  # its workers leave
    database.rdb.engine.dispose()


def launch(*words: str) -> int:
    return command_line.call("launch", "slurm", "s", *words)


def fails(capsys: pytest.CaptureFixture[str], *words: str, code: int = 2) -> str:
    """Launching fails with ``code`` and one line, which is returned."""
    assert launch(*words) == code
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1, captured.err
    return captured.err


def test_no_password_is_on_a_command_line_or_in_a_file(
    postgres: Postgres, tmp_path: Path, programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = postgres.new_database()
    create_study(Database(url, create=True), spec())
    programs(sbatch=SBATCH, srun="")
    monkeypatch.setenv("SBATCH_PARTITION", "theirs")
    monkeypatch.setenv("SBATCH_ACCOUNT", "lab")
    before = dict(os.environ)
    words = [
        *("--partition", "gpu", "--gres", "gpu:1", "--time", "8h", "--cpus-per-task", "4"),
        *("--sbatch", "exclusive", "--sbatch", "constraint=a100|h100"),
    ]
    assert launch("--workers", "3", "--storage", url, "--weights", "w.bin", *words) == 0
    assert dict(os.environ) == before

    lines = (tmp_path / "script.txt").read_text().splitlines()
    options = {line.removeprefix("#SBATCH --") for line in lines if line.startswith("#SBATCH")}
    assert {"array=0-2%3", "partition=gpu", "gres=gpu:1", "time=480", "requeue"} <= options
    assert {"signal=USR2@85", "export=ALL", "cpus-per-task=4", "nodes=1"} <= options
    assert {"exclusive", "constraint='a100|h100'"} <= options
    [command] = [line for line in lines if line.startswith("srun ")]
    assert " --cpus-per-task=4 " in command
    environment = dict(
        line.partition("=")[::2] for line in (tmp_path / "env.txt").read_text().splitlines()
    )
    assert environment["TUNER_STORAGE"] == url
    assert "SBATCH_PARTITION" not in environment  # Slurm would prefer it to the option
    assert environment["SBATCH_ACCOUNT"] == "lab"

    [folder] = (tmp_path / "tuner-data/slurm").glob("s-*/*")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    files = [path for path in folder.iterdir() if path.is_file()]
    assert len(list(folder.glob("7_*_submitted.pkl"))) == 3
    secret = PASSWORD.encode()
    assert not [path for path in (*files, tmp_path / "words.txt") if secret in path.read_bytes()]
    assert any(b"w.bin" in path.read_bytes() for path in files)


def test_a_refusal_is_one_line_and_leaves_no_files(
    study: Studies, tmp_path: Path, programs: Programs, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "sbatch: error: invalid partition specified: x\nsbatch: error: Batch job failed"
    programs(sbatch=f"echo '{text}' >&2; exit 1", srun="")
    line = fails(capsys, "--partition", "x")
    assert line == "tuner: Slurm refused: invalid partition specified: x; Batch job failed\n"
    assert list((tmp_path / "tuner-data/slurm").glob("*/*")) == []
    programs(sbatch="echo 'sbatch: error: Unable to contact slurm controller' >&2; exit 1")
    assert "Unable to contact slurm controller" in fails(capsys, code=1)


def test_wrong_input_is_one_line(
    study: Studies, programs: Programs, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "sbatch is not on the PATH" in fails(capsys)
    programs(sbatch=SBATCH, srun="")
    assert "--time: found 480 without a unit" in fails(capsys, "--time", "480")
    assert "--time: found 120 s, expected at least 145 s" in fails(capsys, "--time", "2m")
    assert "array is set by tuner launch" in fails(capsys, "--sbatch", "array=0-9")
    assert "--sbatch: expected KEY or KEY=VALUE" in fails(capsys, "--sbatch", "Nodelist=n1")
    assert "qos is given twice" in fails(capsys, "--qos", "low", "--sbatch", "qos=high")
    assert "control characters" in fails(capsys, "--sbatch", "comment=a\nscancel 1")
    elsewhere = study.url.replace("studies", "other")
    assert "no such database" in fails(capsys, "--storage", elsewhere, code=3)


def test_an_ended_study_gets_no_jobs(
    study: Studies, programs: Programs, capsys: pytest.CaptureFixture[str]
) -> None:
    programs(sbatch=SBATCH, srun="")
    session = study.join()
    for _ in range(3):
        run(session, [9.0], Complete())
    assert "study 's' has no trial left to run" in fails(capsys)


def test_status_shows_jobs_that_wait_in_slurm(
    study: Studies, programs: Programs, capsys: pytest.CaptureFixture[str]
) -> None:
    assert slurm.waiting_line(study.store()) == ""
    programs(squeue="echo '812_[4-15]|PENDING|Resources'; echo x >> asked.txt")
    line = "Waiting in Slurm: 812_[4-15] (Resources)"
    assert slurm.waiting_line(study.store()) == line
    assert command_line.call("status", "s", "--json") == 0
    [job] = json.loads(capsys.readouterr().out)["waiting_jobs"]
    assert job == {"job": "812_[4-15]", "state": "PENDING", "reason": "Resources"}
    watched = WatchedStudy(study.store(), 0.2)
    for _ in range(3):
        watched.read()
        assert shown(watched.full_view())[-1] == line
    assert Path("asked.txt").read_text() == 3 * "x\n"  # the watching asks rarely
    programs(squeue="echo 'squeue: error: no answer' >&2; exit 1")
    assert slurm.waiting_line(study.store()).startswith("Slurm's queue is unknown: ")
    unconfigured = "squeue: fatal: Could not establish a configuration source"
    programs(squeue=f"echo '{unconfigured}' >&2; exit 1")
    assert slurm.waiting_line(study.store()) == ""


def test_a_job_fails_with_its_worker(tmp_path: Path) -> None:
    code = "from tuner.launch.slurm_job import WorkerJob; WorkerJob('s', ['--grace', '1'])()"
    clean = {key: value for key, value in os.environ.items() if key != "TUNER_STORAGE"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=clean, capture_output=True, text=True
    )
    assert done.returncode == 3
    assert "no such database" in done.stderr
    assert "resubmitted" not in done.stderr


def requeues(capsys: pytest.CaptureFixture[str], code: int, *signals: int) -> tuple[bool, str]:
    """Whether the job of study s returns to the queue, and the line that says why."""
    found = WorkerJob("s", [])._should_requeue(code, signals)
    return found, capsys.readouterr().err.removeprefix("tuner: ").rstrip("\n")


def test_a_job_returns_to_the_queue_while_trials_are_left(
    study: Studies,
    programs: Programs,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    programs(scontrol="echo JobId=812 JobState=RUNNING PreemptTime=None")
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "812")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    session = study.join()
    assert [worker.job for worker in study.store().workers()] == ["812_3"]

    left = (True, "resubmitted: 3 trials are left")
    assert requeues(capsys, 0, TIME_LIMIT) == left
    assert requeues(capsys, HUNG_EXIT_CODE) == left
    cancelled = (False, "not resubmitted: the job was cancelled")
    assert requeues(capsys, 0, signal.SIGTERM) == cancelled
    assert requeues(capsys, 0, TIME_LIMIT, CANCEL) == cancelled
    programs(scontrol="echo JobId=812 JobState=RUNNING PreemptTime=2026-11-29T21:37:11")
    assert requeues(capsys, 0, signal.SIGTERM) == left

    monkeypatch.setenv("SLURM_RESTART_COUNT", str(MAX_FRUITLESS))
    fruitless = "not resubmitted: no epoch in 4 runs; launch with a longer --time"
    assert requeues(capsys, 0, TIME_LIMIT) == (False, fruitless)
    assert requeues(capsys, 0, signal.SIGTERM) == left  # a preemption says nothing about the limit
    claimed = claim(session)
    report(session, claimed, [9.0])
    assert requeues(capsys, 0, TIME_LIMIT) == left

    session.finish(claimed, Complete(), None)
    for _ in range(2):
        run(session, [9.0], Complete())
    assert requeues(capsys, 0, TIME_LIMIT) == (False, "not resubmitted: no trial is left")
    monkeypatch.setenv("TUNER_STORAGE", "postgresql://127.0.0.1:1/db")
    found, line = requeues(capsys, 0, TIME_LIMIT)
    assert found
    assert line.startswith("resubmitted without knowing whether trials are left: ")
