"""Changes to a study while two sweeps run it. The tests build on each other."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from processes import Machine, Running, machines, unpruned_study
from rows import Rows

LEASE = 3


class Desk:
    """A machine with two sweeps of one study, whose trials run until pruned."""

    def __init__(self, here: Machine) -> None:
        self.here, self.path = here, here.folder / "tuner-data/studies.db"
        # One of them creates the study.
        self.sweeps = [here.start("sweep", "s.toml") for _ in range(2)]
        for sweep in self.sweeps:
            sweep.wait_for(r"trial [01] epoch 1/")
        self.rows = Rows(f"sqlite:///{self.path}")

    def sweep_of(self, number: int) -> Running:
        """The sweep whose worker holds a trial."""
        worker = self.rows.owners()[number]
        [row] = self.rows.read(f"SELECT pid FROM tuner_workers WHERE worker = '{worker}'")
        return next(sweep for sweep in self.sweeps if sweep.pid == row.pid)


@pytest.fixture(scope="module")
def desk(
    tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str], digits: Path
) -> Iterator[Desk]:
    with machines(tmp_path_factory.mktemp("steering"), environment, "here") as [here]:
        (here.folder / "s.toml").write_text(unpruned_study(digits, trials=2, lease=LEASE))
        yield Desk(here)


def test_two_sweeps_share_a_study(desk: Desk) -> None:
    assert desk.sweep_of(0) is not desk.sweep_of(1)


def test_sweeps_wait_for_a_locked_file(desk: Desk) -> None:
    with closing(sqlite3.connect(desk.path, timeout=30, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        before = desk.rows.leases()
        time.sleep(LEASE + 2)
        assert desk.rows.leases() == before
        other.execute("COMMIT")
    for sweep in desk.sweeps:
        epoch = before[0 if sweep is desk.sweep_of(0) else 1].epoch
        sweep.wait_for(rf"epoch {epoch + 2}/")
    assert {number: lease.token for number, lease in desk.rows.leases().items()} == {0: 1, 1: 1}
    desk.rows.assert_consistent()


def test_a_queued_point_runs_next_and_a_pruned_trial_has_a_reason(desk: Desk) -> None:
    output = desk.here.succeeds("enqueue", "s", "learning_rate=5e-5")
    assert output == "Queued. Total of study 's': 3 trials, raised from 2.\n"
    sweep = desk.sweep_of(0)
    assert "Trial 0 will be pruned" in desk.here.succeeds("prune", "s", "0", "--reason", "seen it")
    epochs = desk.rows.leases()[0].epoch
    sweep.wait_for("trial 0 pruned: seen it")
    sweep.wait_for("trial 2 starts: learning_rate=5e-05")
    assert desk.rows.leases()[0].epoch <= epochs + 1
    assert desk.rows.reasons() == {0: '"seen it"'}


def test_a_retried_trial_gets_a_new_number(desk: Desk) -> None:
    output = desk.here.succeeds("retry", "s", "0")
    total = "Total of study 's': 4 trials, raised from 3."
    assert output == f"Queued the parameters of trial 0. {total}\n"
    sweep = desk.sweep_of(1)
    desk.rows.request_prune(1)
    sweep.wait_for("trial 3 starts")
    first, retried = (
        desk.rows.read(
            "SELECT param_value FROM trial_params JOIN trials USING (trial_id) "
            f"WHERE number = {number}"
        )
        for number in (0, 3)
    )
    assert first == retried


def test_impossible_requests_are_refused(desk: Desk) -> None:
    before = desk.rows.read("SELECT total FROM tuner_studies"), desk.rows.leases().keys()
    done = desk.here.run("enqueue", "s", "speed=1", "learning_rate=7")
    assert done.returncode == 2
    assert "speed: unknown key" in done.stderr.splitlines()[0]
    assert "learning_rate: found 7" in done.stderr.splitlines()[1]
    line = desk.here.fails_with(2, "retry", "s", "2")
    assert "trial 2 is still running; retry it once it has ended" in line
    line = desk.here.fails_with(2, "prune", "s", "0")
    assert "trial 0 is PRUNED; only running and paused trials can be pruned" in line
    assert before == (desk.rows.read("SELECT total FROM tuner_studies"), desk.rows.leases().keys())


def test_a_study_on_hold_waits_and_goes_on_from_its_checkpoints(desk: Desk) -> None:
    assert "2 workers will wait after the current epoch" in desk.here.succeeds("pause", "s")
    for sweep in desk.sweeps:
        sweep.wait_for("waiting: the study is on hold; to resume it, run: tuner resume s")
    free = {number: lease for number, lease in desk.rows.leases().items() if number in (2, 3)}
    assert {lease.status for lease in free.values()} == {"free"}
    [folder] = (desk.here.folder / "tuner-data/artifacts").glob("s-*")
    for number, lease in free.items():
        name = f"epoch-{lease.epoch:06d}-{lease.token:06d}.safetensors"
        assert (folder / f"checkpoints/trial-{number:05d}/{name}").exists()
    assert "is resumed, with 2 workers" in desk.here.succeeds("resume", "s")
    resumed = set()
    for sweep in desk.sweeps:
        found = sweep.wait_for(r"trial (\d) continues after epoch (\d+)")
        number, epoch = map(int, found.groups())
        assert epoch == free[number].epoch
        sweep.wait_for(rf"trial {number} epoch {epoch + 1}/")
        resumed.add(number)
    assert resumed == {2, 3}
    assert {desk.rows.leases()[number].takeovers for number in resumed} == {0}
    desk.rows.assert_consistent()


def test_all_workers_stop_and_a_later_one_continues(desk: Desk) -> None:
    assert "2 workers of study 's' will stop" in desk.here.succeeds("stop", "s")
    for sweep in desk.sweeps:
        assert sweep.wait() == 0, sweep
        assert sweep.errors == ""
        sweep.wait_for("2 of 4 trials are left; to resume: tuner sweep s.toml")
    free = desk.rows.leases()
    assert {free[number].status for number in (2, 3)} == {"free"}
    desk.rows.assert_consistent()
    worker = desk.here.start("worker", "s")
    resumed = set()
    for _ in range(2):
        found = worker.wait_for(r"trial (\d) continues after epoch (\d+)")
        number, epoch = map(int, found.groups())
        assert epoch == free[number].epoch
        worker.wait_for(rf"trial {number} epoch {epoch + 2}/")
        desk.rows.request_prune(number)
        resumed.add(number)
    assert resumed == {2, 3}
    assert worker.wait() == 0, worker
    desk.rows.assert_finished(total=4)


def test_a_study_is_deleted_with_its_files_only_after_confirmation(desk: Desk) -> None:
    [folder] = (desk.here.folder / "tuner-data/artifacts").glob("s-*")
    count = sum(path.is_file() for path in folder.rglob("*"))
    done = desk.here.run("delete", "s", answer="n\n")
    assert (done.returncode, done.stderr) == (2, "tuner: nothing was deleted\n")
    assert f"its 4 trials and the {count} files in {folder}?" in done.stdout
    assert len(desk.rows.leases()) == 4
    assert len(list(folder.glob("trial-*"))) == 4

    desk.rows.write("UPDATE tuner_studies SET total = 5")  # a running study can be deleted, too
    worker = desk.here.start("worker", "s")
    worker.wait_for(r"trial 4 epoch 2/")
    assert "deleted" in desk.here.succeeds("delete", "s", "--yes")
    assert worker.wait() == 3, worker
    assert worker.errors.count("\n") == 1, worker
    for table in ("studies", "trials", "tuner_studies", "tuner_epochs", "tuner_leases"):
        assert desk.rows.read(f"SELECT * FROM {table}") == [], table
    assert not folder.exists()
