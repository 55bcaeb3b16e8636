"""``tuner sweep --workers 2``: two worker processes in one view."""

import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from postgres import Postgres
from processes import (
    Machine,
    children,
    is_running,
    machines,
    unpruned_study,
    wait_until,
)
from rows import Rows
from screens import Screen


@pytest.fixture
def here(tmp_path: Path, environment: dict[str, str], digits: Path) -> Iterator[Machine]:
    with machines(tmp_path, environment, "here") as [machine]:
        (machine.folder / "s.toml").write_text(unpruned_study(digits, trials=3))
        yield machine


def test_a_dead_worker_is_replaced_and_ctrl_c_stops_all(here: Machine) -> None:
    sweep = here.start("sweep", "s.toml", "--workers", "2", "--respawn", "1")
    sweep.wait_for(r"trial 0 epoch \d")
    sweep.wait_for(r"trial 1 epoch \d")
    rows = Rows(f"sqlite:///{here.folder}/tuner-data/studies.db")
    first, second = children(sweep.pid)
    [row] = rows.read(f"SELECT worker FROM tuner_workers WHERE pid = {first}")
    lost = next(number for number, worker in rows.owners().items() if worker == row.worker)
    os.kill(first, signal.SIGKILL)
    sweep.wait_for(rf"worker \d \(process {first}\) died, killed by SIGKILL")
    sweep.wait_for(f"trial {lost} lost its worker")
    sweep.wait_for(r"replacing worker \d; replacements left: 0")
    found = sweep.wait_for(rf"trial {lost} continues after epoch (\d+)")
    sweep.wait_for(rf"trial {lost} epoch {int(found[1]) + 1}/")

    os.kill(second, signal.SIGKILL)
    sweep.wait_for(rf"worker \d \(process {second}\) died, killed by SIGKILL")
    sweep.signal(signal.SIGINT)
    sweep.wait_for("the workers finish their epochs, then stop; a second signal stops them at once")
    sweep.wait_for(f"trial {lost} released, to be resumed")
    assert sweep.wait() == 0, sweep
    assert sweep.errors == ""
    assert "replacing" not in sweep.text.split("replacements left: 0")[1]
    assert "3 of 3 trials are left; to resume: tuner sweep s.toml --workers 2" in sweep.text
    rows.assert_consistent()
    leases = rows.leases()
    assert leases[lost].status == "free"
    assert leases[1 - lost].status == "held"  # its worker was killed and could not release it


def test_workers_that_are_refused_say_why(here: Machine, tmp_path: Path) -> None:
    done = here.run("sweep", "s.toml", "--workers", "2", "--respawn", "9", "--data", str(tmp_path))
    assert done.returncode == 2
    reason = "its last error: tuner: .*no train-images"
    assert (
        len(re.findall(rf"worker \d \(process \d+\) died, exit code 2; {reason}", done.stdout)) == 2
    )
    assert done.stderr == "tuner: no worker could join the study; see the errors above\n"


def test_workers_out_of_time_have_not_failed(here: Machine) -> None:
    """They import nothing from the working folder, either."""
    for library in ("random", "optuna", "queue"):
        (here.folder / f"{library}.py").write_text(
            "raise SystemExit('imported from the working folder')"
        )
    text = here.succeeds("sweep", "s.toml", "--workers", "2", "--max-time", "1s")
    assert "3 of 3 trials are left; to resume: tuner sweep s.toml --workers 2 --max-time 1s" in text


def test_a_finished_sweep_evaluates_its_best_trial(here: Machine, digits: Path) -> None:
    (here.folder / "s.toml").write_text(unpruned_study(digits, epochs=2))
    done = here.run("sweep", "s.toml", "--workers", "2")
    assert done.returncode == 0, done.stderr
    assert re.search(r"^Best: trial \d, FID [0-9.]+ in epoch \d of", done.stdout, re.M), done.stdout
    assert list((here.folder / "tuner-data").rglob("best-trial-*.png"))


def test_workers_leave_when_their_terminal_closes(here: Machine, postgres: Postgres) -> None:
    url = postgres.new_database()
    here.environment["TUNER_STORAGE"] = url
    screen = Screen(here.folder, here.environment, "sweep", "s.toml", "--workers", "2")
    try:
        lines = [rf" {number} +\d+/5000 +[a-z].* +[0-9.]+ .*learning_rate=" for number in (0, 1)]
        shown = screen.frame(*lines, r"0/3 trials, best FID here [0-9.]+ \(trial [01]\)")
        assert "loss ratio" in shown
        workers = children(screen.pid)
        assert len(workers) == 2
    finally:
        screen.kill()
    began = time.monotonic()
    wait_until(lambda: not any(map(is_running, workers)), "the workers exit")
    assert time.monotonic() - began < 15
    rows = Rows(url)
    rows.assert_consistent()
    assert {lease.status for lease in rows.leases().values()} == {"free"}
    assert rows.read("SELECT * FROM tuner_workers WHERE left_at IS NULL") == []
