"""An interrupted and resumed sweep, compared with an undisturbed one."""

import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from processes import Machine, Running, machines
from rows import Lease, Rows
from safetensors.numpy import load_file

# All sources of randomness in training: latents, shuffles, dropout; one trial uses EMA.
EXACT = """
[study]
trials = 2
epochs = 6
lease_seconds = 600
checkpoint_seconds = 0

[data]
source = "idx"
path = "{digits}"

[trial]
width = 2
latent_dim = 8
learning_rate = 2e-3
dropout = 0.3
ema_decay = [0.0, 0.9]

[[baseline]]
ema_decay = 0.0

[[baseline]]
ema_decay = 0.9

[pruner]
name = "none"

[guard]
loss_ratio = {{ enabled = false }}
variance_ratio = {{ enabled = false }}

[metrics]
features = "random"
samples = 300
"""


class Interrupted:
    """A sweep that signals ended, and the leases that it left."""

    def __init__(self, sweep: Running, code: int, leases: dict[int, Lease]) -> None:
        self.sweep, self.code, self.leases = sweep, code, leases

    @property
    def trial(self) -> int | None:
        running = [number for number, lease in self.leases.items() if lease.state == "RUNNING"]
        return running[0] if running else None


class Sweeps:
    """The same study on two machines, undisturbed on one and interrupted on the other."""

    def __init__(self, undisturbed: Machine, interrupted: Machine) -> None:
        self.undisturbed, self.interrupted = undisturbed, interrupted
        self.rows = Rows(f"sqlite:///{interrupted.folder}/tuner-data/studies.db")
        reference = undisturbed.start("sweep", "exact.toml")
        self.killed = self.signal_after_epoch(signal.SIGKILL)
        self.stopped = self.signal_after_epoch(signal.SIGINT)
        self.killed_again = self.signal_after_epoch(signal.SIGKILL)
        self.signalled_twice = self.signal_twice()
        self.last = interrupted.start("sweep", "exact.toml")
        assert self.last.wait() == 0, self.last
        assert reference.wait() == 0, reference

    def signal_after_epoch(self, number: signal.Signals) -> Interrupted:
        """Send a signal at a random time after an epoch."""
        sweep = self.interrupted.start("sweep", "exact.toml")
        sweep.wait_for(r"epoch \d/6")
        time.sleep(random.uniform(0, 0.2))
        sweep.signal(number)
        return Interrupted(sweep, sweep.wait(), self.rows.leases())

    def signal_twice(self) -> Interrupted:
        """Send two signals during training; SIGSTOP makes both arrive at once."""
        sweep = self.interrupted.start("sweep", "exact.toml")
        sweep.wait_for(r"trial \d (starts|continues)")
        for number in (signal.SIGSTOP, signal.SIGTERM, signal.SIGINT, signal.SIGCONT):
            sweep.signal(number)
        return Interrupted(sweep, sweep.wait(), self.rows.leases())

    def reports(self, machine: Machine) -> list[list[tuple[Any, ...]]]:
        rows = Rows(f"sqlite:///{machine.folder}/tuner-data/studies.db")
        return [rows.epochs(number) for number in (0, 1)]

    def generators(self, machine: Machine) -> list[dict[str, bytes]]:
        files = sorted(machine.folder.glob("tuner-data/artifacts/exact-*/trial-*.safetensors"))
        return [{name: x.tobytes() for name, x in load_file(file).items()} for file in files]


@pytest.fixture(scope="module")
def sweeps(
    tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str], digits: Path
) -> Iterator[Sweeps]:
    with machines(
        tmp_path_factory.mktemp("exact"), environment, "undisturbed", "interrupted"
    ) as named:
        for machine in named:
            (machine.folder / "exact.toml").write_text(EXACT.format(digits=digits))
        yield Sweeps(*named)


def test_one_signal_finishes_the_epoch_and_saves_the_trial(sweeps: Sweeps) -> None:
    stopped, sweep = sweeps.stopped, sweeps.stopped.sweep
    assert (stopped.code, sweep.errors) == (0, "")
    assert "finishing the epoch, then stopping" in sweep.text
    assert "of 2 trials are left; to resume: tuner sweep exact.toml" in sweep.text
    if stopped.trial is not None:
        lease = stopped.leases[stopped.trial]
        assert (lease.status, lease.worker, lease.takeovers) == ("free", None, 0)
        assert f"trial {stopped.trial} released, to be resumed" in sweep.text
        resumed = f"trial {stopped.trial} continues after epoch {lease.epoch} (trained by worker"
        assert resumed in sweeps.killed_again.sweep.text


def test_a_second_signal_leaves_at_once(sweeps: Sweeps) -> None:
    stopped = sweeps.signalled_twice
    assert "finishing the epoch, then stopping; a second signal stops at once" in stopped.sweep.text
    assert stopped.code == 1, stopped.sweep
    assert stopped.sweep.errors == "tuner: stopped at once; the same command resumes the study\n"
    assert stopped.trial is not None
    assert stopped.leases[stopped.trial].status == "free"


def test_a_killed_sweeps_trial_resumes_at_once(sweeps: Sweeps) -> None:
    """It does not wait until the lease of ten minutes expires."""
    for killed, after in (
        (sweeps.killed, sweeps.stopped),
        (sweeps.killed_again, sweeps.signalled_twice),
    ):
        if killed.trial is not None:
            lease = killed.leases[killed.trial]
            assert lease.status == "held"
            resumed = f"continues after epoch {lease.epoch} (trained by worker"
            message = resumed if lease.epoch else "starts:"
            assert f"trial {killed.trial} {message}" in after.sweep.text


def test_every_number_is_as_if_nothing_had_happened(sweeps: Sweeps) -> None:
    sweeps.rows.assert_finished(total=2)
    actual, expected = sweeps.reports(sweeps.interrupted), sweeps.reports(sweeps.undisturbed)
    assert [len(reports) for reports in expected] == [6, 6]
    assert actual == expected
    assert "the machines differ" not in sweeps.last.text


def test_every_weight_is_as_if_nothing_had_happened(sweeps: Sweeps) -> None:
    actual, expected = sweeps.generators(sweeps.interrupted), sweeps.generators(sweeps.undisturbed)
    assert len(expected) == 2
    assert all(len(weights) > 5 for weights in expected)
    assert actual == expected
    assert not list(sweeps.interrupted.folder.glob("tuner-data/artifacts/*/checkpoints/*"))
