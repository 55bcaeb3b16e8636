"""``--workers-per-device``: several worker processes on each GPU.

The GPU is a stand-in that computes on the CPU, and so is the program that controls CUDA MPS. The
processes, their variables and the signals are real.
"""

import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import fake_mps
import pytest
from fake_mps import environment_of
from processes import Machine, Running, children, is_running, machines, unpruned_study, wait_until
from rows import Rows

from tuner.data.decoding import cores

PIPES = "CUDA_MPS_PIPE_DIRECTORY"


@pytest.fixture
def here(tmp_path: Path, environment: dict[str, str], digits: Path) -> Iterator[Machine]:
    with machines(tmp_path, environment, "here") as [machine]:
        (machine.folder / "s.toml").write_text(unpruned_study(digits, trials=8))
        yield machine


@pytest.fixture
def gpu(here: Machine, tmp_path: Path) -> Machine:
    """The machine has a GPU, and CUDA MPS."""
    here.environment |= {
        "PATH": fake_mps.install(tmp_path / "bin"),
        "PYTHONPATH": fake_mps.install_gpu(tmp_path / "python"),
        "JAX_PLATFORMS": "",
        "CUDA_VISIBLE_DEVICES": "5",
        PIPES: str(tmp_path / "nothing-here"),
    }
    return here


def start(machine: Machine, *words: str) -> Running:
    """Start a command in a process of its own, which finds the stand-in for a GPU."""
    return machine.start(*words, under=["env"])


def workers_of(pid: int) -> list[int]:
    """The worker processes among the children of a process."""
    return [
        child for child in children(pid) if b"worker" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]


PER_DEVICE, IN_TOTAL = ["--workers-per-device", "2"], ["--workers", "3"]


@pytest.mark.parametrize(
    ("words", "gpus", "signals", "code"),
    [
        (PER_DEVICE, ["5", "5"], [signal.SIGTERM, signal.SIGTERM], 1),
        (IN_TOTAL, ["5", "6", "5"], [signal.SIGKILL], -signal.SIGKILL),
    ],
)
def test_two_workers_share_a_gpu_and_mps_stops_with_them(
    gpu: Machine,
    words: Sequence[str],
    gpus: Sequence[str],
    signals: Sequence[signal.Signals],
    code: int,
) -> None:
    gpu.environment["CUDA_VISIBLE_DEVICES"] = ",".join(dict.fromkeys(gpus))
    sweep = start(gpu, "sweep", "s.toml", *words)
    sweep.wait_for("each of 2 workers per GPU may take 37.5% of its memory")
    sweep.wait_for("the workers share each GPU through CUDA MPS, which stops with this command")
    for _ in gpus:  # in any order
        sweep.wait_for(r"trial \d starts")
    workers = workers_of(sweep.pid)
    variables = [environment_of(worker) for worker in workers]
    assert [found["CUDA_VISIBLE_DEVICES"] for found in variables] == gpus
    for found in variables:
        assert found["XLA_CLIENT_MEM_FRACTION"] == "0.3750"
        share = str(max(1, cores() // len(gpus)))
        assert found["PJRT_NPROC"] == found["OMP_NUM_THREADS"] == share
    pipes = variables[0][PIPES]
    daemon = fake_mps.daemon_of(pipes)
    assert is_running(daemon)
    sweep.signal(signals[0])
    for number in signals[1:]:
        sweep.wait_for("the workers finish their epochs")
        sweep.signal(number)
    assert sweep.wait() == code, sweep
    wait_until(lambda: not any(map(is_running, [*workers, daemon])), "the processes end")
    wait_until(lambda: not Path(pipes).exists(), "the daemon's folder is removed")
    Rows(f"sqlite:///{gpu.folder}/tuner-data/studies.db").assert_consistent()


def test_workers_are_added_as_long_as_that_pays(gpu: Machine) -> None:
    sweep = start(gpu, "sweep", "s.toml", "--workers-per-device", "auto", "--max-time", "1h")
    sweep.wait_for("each of 12 workers per GPU may take 6.2% of its memory")
    sweep.wait_for(r"1 worker per GPU: [0-9.e+]+ epochs/s; adding one$")
    found = sweep.wait_for(r"2 workers per GPU: [0-9.e+]+ epochs/s, ([+-]\d+)%; adding (.*)$")
    if int(found[1]) != 10:  # rounded
        assert found[2] == ("one" if int(found[1]) > 10 else "no more")
    count = 3 if found[2] == "one" else 2
    wait_until(lambda: len(workers_of(sweep.pid)) == count, "a third worker starts if two pay")
    words = [Path(f"/proc/{pid}/cmdline").read_text() for pid in workers_of(sweep.pid)]
    left = [int(each.split("--max-time\0")[1].split("s\0")[0]) for each in words]
    assert 3600 >= left[0] > left[1]  # all stop at the same time
    shares = [environment_of(pid) for pid in workers_of(sweep.pid)]
    assert {each["XLA_CLIENT_MEM_FRACTION"] for each in shares} == {"0.0625"}
    assert [each["PJRT_NPROC"] for each in shares[:2]] == [
        str(max(1, cores() // among)) for among in (1, 2)
    ]
    sweep.signal(signal.SIGINT)
    assert sweep.wait() == 0, sweep


def test_on_a_cpu_auto_is_one_worker(here: Machine, digits: Path) -> None:
    (here.folder / "s.toml").write_text(unpruned_study(digits, trials=1, epochs=1))
    text = here.succeeds("sweep", "s.toml", "--workers-per-device", "auto")
    assert "1 worker: auto is for GPUs, and this machine trains on its CPU\n" in text
    rows = Rows(f"sqlite:///{here.folder}/tuner-data/studies.db")
    assert len(rows.read("SELECT * FROM tuner_workers")) == 1


def test_worker_processes_join_a_study(here: Machine, digits: Path) -> None:
    """On a CPU they are not restricted, as the number of threads changes the last bits."""
    (here.folder / "s.toml").write_text(unpruned_study(digits, trials=4, epochs=3))
    here.succeeds("create", "s.toml")
    two = ("worker", "s", "--workers-per-device", "2")
    stopped = here.start(*two, "--grace", "5", "--signal-exit-code", "75")
    for _ in range(2):  # both have joined
        stopped.wait_for(r"trial \d starts")
    stopped.signal(signal.SIGTERM)
    assert stopped.wait() == 75, stopped
    joined = here.start(*two, "--exit-when-idle")
    joined.wait_for(r"trial \d (starts|continues)")
    for worker in workers_of(joined.pid):
        assert not {"XLA_CLIENT_MEM_FRACTION", "PJRT_NPROC", PIPES} & set(environment_of(worker))
    assert joined.wait() == 0, joined
    assert joined.text.splitlines()[-1].endswith("the study has ended")
    rows = Rows(f"sqlite:///{here.folder}/tuner-data/studies.db")
    assert len(rows.read("SELECT * FROM tuner_workers")) == 4
    assert {lease.status for lease in rows.leases().values()} == {"done"}


def test_a_worker_that_dies_fails_the_command(here: Machine) -> None:
    here.succeeds("create", "s.toml")
    line = here.fails_with(2, "worker", "s", "--workers-per-device", "2", "--data", "/nothing")
    assert line == "tuner: no worker could join the study; see the errors above"
    joined = here.start("worker", "s", "--workers-per-device", "2", "--max-time", "1m")
    joined.wait_for("trial 1 starts")
    [first, second] = workers_of(joined.pid)
    os.kill(first, signal.SIGKILL)
    joined.wait_for(rf"worker \d \(process {first}\) died, killed by SIGKILL")
    os.kill(second, signal.SIGKILL)
    assert joined.wait() == 1, joined
    assert joined.errors == "tuner: workers died; see the lines above\n"


@pytest.mark.parametrize("value", ["0", "-1", "49", "1.5", "many", "", "9" * 5000])
def test_other_numbers_of_workers_are_refused(here: Machine, value: str) -> None:
    for command in (["sweep", "s.toml"], ["worker", "s"]):
        line = here.fails_with(2, *command, "--workers-per-device", value)
        assert line.startswith("tuner: --workers-per-device: found ")
        assert line.endswith("expected 1 to 48, or auto")
        assert len(line) < 200
    assert not (here.folder / "tuner-data").exists()


def test_contradicting_options_are_refused(here: Machine) -> None:
    line = here.fails_with(2, "sweep", "s.toml", "--workers-per-device", "2", "--workers", "2")
    assert line == "tuner: --workers and --workers-per-device exclude each other: leave one out"
    line = here.fails_with(2, "worker", "s", "--workers-per-device", "2", "--max-trials", "3")
    assert line == "tuner: --max-trials counts the trials of one worker: omit --workers-per-device"
    assert not (here.folder / "tuner-data").exists()
