"""A sweep that is stopped and killed at any moment, and gone on with, beside one that never was."""

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

# Everything random in training is in it: latents, shuffles, dropout; one trial keeps an average.
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
    """A sweep that was ended by signals, and what the database said then."""

    def __init__(self, sweep: Running, code: int, leases: dict[int, Lease]) -> None:
        self.sweep, self.code, self.leases = sweep, code, leases

    @property
    def trial(self) -> int | None:
        running = [number for number, lease in self.leases.items() if lease.state == "RUNNING"]
        return running[0] if running else None


class Twins:
    """The same study on two machines: on one in peace, on the other with interruptions."""

    def __init__(self, peace: Machine, war: Machine) -> None:
        self.peace, self.war = peace, war
        self.rows = Rows(f"sqlite:///{war.folder}/tuner-data/studies.db")
        calm = peace.start("sweep", "exact.toml")
        self.killed = self.after_an_epoch(signal.SIGKILL)
        self.stopped = self.after_an_epoch(signal.SIGINT)
        self.killed_again = self.after_an_epoch(signal.SIGKILL)
        self.left = self.twice()
        self.end = war.start("sweep", "exact.toml")
        assert self.end.ends() == 0, self.end
        assert calm.ends() == 0, calm

    def after_an_epoch(self, number: signal.Signals) -> Interrupted:
        """At any moment of what follows an epoch."""
        sweep = self.war.start("sweep", "exact.toml")
        sweep.says(r"epoch \d/6")
        time.sleep(random.uniform(0, 0.2))
        sweep.signal(number)
        return Interrupted(sweep, sweep.ends(), self.rows.leases())

    def twice(self) -> Interrupted:
        """While it trains; both signals wait until it can be told, however fast its epochs are."""
        sweep = self.war.start("sweep", "exact.toml")
        sweep.says(r"trial \d (starts|goes on)")
        for number in (signal.SIGSTOP, signal.SIGTERM, signal.SIGINT, signal.SIGCONT):
            sweep.signal(number)
        return Interrupted(sweep, sweep.ends(), self.rows.leases())

    def reports(self, machine: Machine) -> list[list[tuple[Any, ...]]]:
        rows = Rows(f"sqlite:///{machine.folder}/tuner-data/studies.db")
        return [rows.epochs(number) for number in (0, 1)]

    def generators(self, machine: Machine) -> list[dict[str, bytes]]:
        files = sorted(machine.folder.glob("tuner-data/artifacts/exact-*/trial-*.safetensors"))
        return [{name: x.tobytes() for name, x in load_file(file).items()} for file in files]


@pytest.fixture(scope="module")
def twins(
    tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str], digits: Path
) -> Iterator[Twins]:
    with machines(tmp_path_factory.mktemp("twins"), environment, "peace", "war") as named:
        for machine in named:
            (machine.folder / "exact.toml").write_text(EXACT.format(digits=digits))
        yield Twins(*named)


def test_one_signal_finishes_the_epoch_and_saves_the_trial(twins: Twins) -> None:
    sweep = twins.stopped.sweep
    assert (twins.stopped.code, sweep.errors) == (0, "")
    assert "finishing the epoch, then stopping" in sweep.text
    assert "of 2 trials are left; to go on: tuner sweep exact.toml" in sweep.text
    if twins.stopped.trial is not None:
        lease = twins.stopped.leases[twins.stopped.trial]
        assert (lease.status, lease.worker, lease.takeovers) == ("free", None, 0)
        assert f"trial {twins.stopped.trial} left for later" in sweep.text
        goes_on = f"trial {twins.stopped.trial} goes on after epoch {lease.epoch}:"
        assert goes_on in twins.killed_again.sweep.text


def test_a_second_signal_leaves_at_once(twins: Twins) -> None:
    left = twins.left
    assert "finishing the epoch, then stopping; once more to leave at once" in left.sweep.text
    assert left.code == 1, left.sweep
    assert left.sweep.errors == "tuner: left at once; the same command goes on with the study\n"
    assert left.trial is not None
    assert left.leases[left.trial].status == "free"


def test_a_killed_sweep_s_trial_goes_on_at_once(twins: Twins) -> None:
    """Not ten minutes later, when its lease would have run out."""
    for killed, after in ((twins.killed, twins.stopped), (twins.killed_again, twins.left)):
        if killed.trial is not None:
            lease = killed.leases[killed.trial]
            assert lease.status == "held"
            goes_on = f"goes on after epoch {lease.epoch}:" if lease.epoch else "starts:"
            assert f"trial {killed.trial} {goes_on}" in after.sweep.text


def test_every_number_is_as_if_nothing_had_happened(twins: Twins) -> None:
    twins.rows.assert_ended(total=2)
    ours, theirs = twins.reports(twins.war), twins.reports(twins.peace)
    assert [len(reports) for reports in theirs] == [6, 6]
    assert ours == theirs
    assert "the machines differ" not in twins.end.text


def test_every_weight_is_as_if_nothing_had_happened(twins: Twins) -> None:
    ours, theirs = twins.generators(twins.war), twins.generators(twins.peace)
    assert len(theirs) == 2
    assert all(len(weights) > 5 for weights in theirs)
    assert ours == theirs
    assert not list(twins.war.folder.glob("tuner-data/artifacts/*/checkpoints/*"))
