"""``tuner launch slurm`` and ``cancel`` on a real Slurm, which the tests start on this machine."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import Machine, machines, unpruned_study, wait_until
from rows import Rows
from slurm import Slurm, missing

why = missing()
pytestmark = [
    pytest.mark.skipif(why is not None, reason=str(why)),
    pytest.mark.timeout(900),
]
SLOW = 240.0  # seconds; a job starts Python twice, on a machine that other tests keep busy


@pytest.fixture(scope="module")
def slurm() -> Iterator[Slurm]:
    cluster = Slurm()
    yield cluster
    cluster.remove()


@pytest.fixture
def here(
    tmp_path: Path, environment: dict[str, str], digits: Path, slurm: Slurm
) -> Iterator[Machine]:
    """A machine of the cluster, with a study of one endless trial."""
    clean = {key: value for key, value in environment.items() if key != "PYTHONWARNINGS"}
    with machines(tmp_path, clean | slurm.environment, "here") as [machine]:
        (machine.folder / "s.toml").write_text(unpruned_study(digits, trials=1, lease=60))
        machine.succeeds("create", "s.toml")
        yield machine
        machine.run("launch", "cancel", "s")


def rows_of(here: Machine) -> Rows:
    return Rows(f"sqlite:///{here.folder}/tuner-data/studies.db")


def jobs(rows: Rows) -> list[str]:
    """The jobs of the workers that have joined and not left."""
    return [row.job for row in rows.read("SELECT job FROM tuner_workers WHERE left_at IS NULL")]


def wait_for_epoch(rows: Rows, job: str, after: int = 0) -> int:
    """Wait until the job's worker has reported an epoch after this one; the epoch."""

    def reported() -> bool:
        lease = rows.leases().get(0)
        return lease is not None and lease.epoch > after and jobs(rows) == [job]

    wait_until(reported, f"job {job} reports an epoch", within=SLOW)
    return rows.leases()[0].epoch


def test_a_preempted_worker_returns_to_the_queue_and_cancel_ends_all(
    here: Machine, slurm: Slurm
) -> None:
    """Two workers of three cores, of which the node has room for one."""
    rows = rows_of(here)
    other = slurm.run("sbatch", "--parsable", "--partition=urgent", "--wrap=sleep 900").strip()
    words = ("--workers", "2", "--cpus-per-task", "3", "--partition", "spot")
    text = here.succeeds("launch", "slurm", "s", *words)
    assert "warning: a SQLite database serves workers on one machine only" in text
    array = text.partition("array job ")[2].partition(".")[0]
    first, second = f"{array}_0", f"{array}_1"
    epoch = wait_for_epoch(rows, first)
    [worker] = json.loads(here.succeeds("status", "s", "--json"))["workers"]
    assert (worker["job"], worker["alive"]) == (first, True)
    text = here.succeeds("status", "s")
    assert f" {first} " in text
    [waiting] = [line for line in text.splitlines() if line.startswith("Waiting in Slurm: ")]
    assert re.fullmatch(rf"Waiting in Slurm: {array}_\[?1.* \((Resources|Priority)\)", waiting)

    urgent = ("--partition=urgent", "--ntasks=3", "--wrap=sleep 1")
    slurm.run("sbatch", *urgent)
    wait_until(lambda: slurm.job(first).get("Restarts") == "1", "the job is requeued", within=SLOW)
    later = wait_for_epoch(rows, second, after=epoch)
    assert rows.leases()[0].takeovers == 0  # the first worker released its trial in time
    assert slurm.jobs()[first] == "PENDING"

    text = here.succeeds("launch", "cancel", "s")
    assert text == "Study 's': 1 job will end after the current epoch, 1 job cancelled.\n"
    wait_until(lambda: slurm.jobs() == {other: "RUNNING"}, "the jobs have ended", within=SLOW)
    assert slurm.job(second)["JobState"] == "COMPLETED"
    lease = rows.leases()[0]
    assert (lease.state, lease.status, lease.takeovers) == ("RUNNING", "free", 0)
    assert lease.epoch >= later
    rows.assert_consistent()
    assert jobs(rows) == []
    assert here.succeeds("launch", "cancel", "s") == "Study 's' has no Slurm jobs.\n"
    slurm.run("scancel", other)


def test_a_time_limit_returns_a_job_to_the_queue_and_scancel_does_not(
    here: Machine, slurm: Slurm
) -> None:
    """The study is on hold, so that the worker waits and costs nothing."""
    rows = rows_of(here)
    here.succeeds("pause", "s")
    text = here.succeeds("launch", "slurm", "s", "--time", "2m", "--grace", "0")
    job = text.partition(" job ")[2].partition(".")[0]
    [log] = (here.folder / "tuner-data/slurm").glob("s-*/*/")
    log /= f"{job}_0_log.out"

    wait_until(lambda: slurm.job(job).get("Restarts") == "1", "the limit is reached", within=SLOW)
    assert "tuner: the job's time limit is near: stopping the worker\n" in log.read_text()
    assert "tuner: resubmitted: 1 trial is left\n" in log.read_text()
    wait_until(lambda: jobs(rows) == [job], "the worker joins again", within=SLOW)

    slurm.run("scancel", job)
    wait_until(lambda: job not in slurm.jobs(), "the job has ended", within=SLOW)
    found = slurm.job(job)
    assert (found["JobState"], found["Restarts"]) == ("CANCELLED", "1")
    assert log.read_text().count("tuner: resubmitted") == 1
    assert "tuner: not resubmitted: the job was cancelled\n" in log.read_text()
    assert jobs(rows) == []


def test_a_refusal_of_slurm_is_one_line(here: Machine, slurm: Slurm) -> None:
    line = here.fails_with(2, "launch", "slurm", "s", "--partition", "nope")
    assert line.startswith("tuner: Slurm refused: invalid partition specified: nope; ")
    line = here.fails_with(2, "launch", "slurm", "s", "--workers", "5000")
    assert "Invalid job array specification" in line
    assert [job for job, state in slurm.jobs().items() if state == "PENDING"] == []
