"""Two sweeps of one study on one machine, and what people do to the study meanwhile. In order."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from processes import Machine, Running, machines, steady
from rows import Rows

LEASE = 3


class Desk:
    """A machine on which two sweeps run trials that do not end by themselves."""

    def __init__(self, here: Machine) -> None:
        self.here, self.path = here, here.folder / "tuner-data/studies.db"
        self.sweeps = [here.start("sweep", "s.toml") for _ in range(2)]  # one makes the study
        for sweep in self.sweeps:
            sweep.says(r"trial [01] epoch 1/")
        self.rows = Rows(f"sqlite:///{self.path}")

    def sweep_of(self, number: int) -> Running:
        """The one that has a trial."""
        worker = self.rows.owners()[number]
        [row] = self.rows.read(f"SELECT pid FROM tuner_workers WHERE worker = '{worker}'")
        return next(sweep for sweep in self.sweeps if sweep.pid == row.pid)


@pytest.fixture(scope="module")
def desk(
    tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str], digits: Path
) -> Iterator[Desk]:
    with machines(tmp_path_factory.mktemp("steering"), environment, "here") as [here]:
        (here.folder / "s.toml").write_text(steady(digits, trials=2, lease=LEASE))
        yield Desk(here)


def test_two_sweeps_share_a_study(desk: Desk) -> None:
    assert desk.sweep_of(0) is not desk.sweep_of(1)


def test_a_locked_file_is_waited_for(desk: Desk) -> None:
    with closing(sqlite3.connect(desk.path, timeout=30, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        before = desk.rows.leases()
        time.sleep(5)  # longer than a lease
        assert desk.rows.leases() == before
        other.execute("COMMIT")
    for sweep in desk.sweeps:
        done = before[0 if sweep is desk.sweep_of(0) else 1].epoch
        sweep.says(rf"epoch {done + 2}/")
    assert {number: lease.token for number, lease in desk.rows.leases().items()} == {0: 1, 1: 1}
    desk.rows.assert_sound()


def test_a_queued_point_is_tried_next_and_a_pruned_trial_says_why(desk: Desk) -> None:
    answer = desk.here.does("enqueue", "s", "learning_rate=5e-5")
    assert answer == "Queued. Study 's' asks for 3 trials in all.\n"
    sweep = desk.sweep_of(0)
    assert "Trial 0 will end" in desk.here.does("prune", "s", "0", "--reason", "seen it")
    epochs = desk.rows.leases()[0].epoch
    sweep.says("trial 0 pruned: seen it")
    sweep.says("trial 2 starts: learning_rate=5e-05")
    assert desk.rows.leases()[0].epoch <= epochs + 1
    assert desk.rows.reasons() == {0: '"seen it"'}


def test_a_trial_is_tried_again_as_a_new_one(desk: Desk) -> None:
    answer = desk.here.does("retry", "s", "0")
    assert answer == "Queued the parameters of trial 0. Study 's' asks for 4 trials in all.\n"
    sweep = desk.sweep_of(1)
    desk.rows.end(1)
    sweep.says("trial 3 starts")
    first, again = (
        desk.rows.read(
            "SELECT param_value FROM trial_params JOIN trials USING (trial_id) "
            f"WHERE number = {number}"
        )
        for number in (0, 3)
    )
    assert first == again


def test_what_can_not_be_is_refused(desk: Desk) -> None:
    before = desk.rows.read("SELECT total FROM tuner_studies"), desk.rows.leases().keys()
    done = desk.here.run("enqueue", "s", "speed=1", "learning_rate=7")
    assert done.returncode == 2
    assert "speed: found" in done.stderr.splitlines()[0]
    assert "learning_rate: found 7" in done.stderr.splitlines()[1]
    line = desk.here.refuses(2, "retry", "s", "2")
    assert "found trial 2 running, expected one that has ended" in line
    line = desk.here.refuses(2, "prune", "s", "0")
    assert "found trial 0 PRUNED, expected a running one" in line
    assert before == (desk.rows.read("SELECT total FROM tuner_studies"), desk.rows.leases().keys())


def test_all_stop_and_one_that_joins_later_goes_on(desk: Desk) -> None:
    assert "2 workers of 's' will leave" in desk.here.does("stop", "s")
    for sweep in desk.sweeps:
        assert sweep.ends() == 0, sweep
        assert sweep.errors == ""
        sweep.says("2 of 4 trials are left; to go on: tuner sweep s.toml")
    free = desk.rows.leases()
    assert {free[number].status for number in (2, 3)} == {"free"}
    desk.rows.assert_sound()
    late = desk.here.start("worker", "s")
    taken = set()
    for _ in range(2):
        found = late.says(r"trial (\d) goes on after epoch (\d+)")
        number, epoch = map(int, found.groups())
        assert epoch == free[number].epoch
        late.says(rf"trial {number} epoch {epoch + 2}/")
        desk.rows.end(number)
        taken.add(number)
    assert taken == {2, 3}
    assert late.ends() == 0, late
    desk.rows.assert_ended(total=4)


def test_a_study_is_deleted_with_its_files_only_after_a_yes(desk: Desk) -> None:
    [folder] = (desk.here.folder / "tuner-data/artifacts").glob("s-*")
    done = desk.here.run("delete", "s", answer="n\n")
    assert (done.returncode, done.stderr) == (2, "tuner: nothing was deleted\n")
    assert "its 4 trials and its files?" in done.stdout
    assert len(desk.rows.leases()) == 4
    assert len(list(folder.glob("trial-*"))) == 4

    desk.rows.write("UPDATE tuner_studies SET total = 5")  # and now while it runs
    worker = desk.here.start("worker", "s")
    worker.says(r"trial 4 epoch 2/")
    assert "gone" in desk.here.does("delete", "s", "--yes")
    assert worker.ends() == 3, worker
    assert worker.errors.count("\n") == 1, worker
    for table in ("studies", "trials", "tuner_studies", "tuner_epochs", "tuner_leases"):
        assert desk.rows.read(f"SELECT * FROM {table}") == [], table
    assert not folder.exists()
