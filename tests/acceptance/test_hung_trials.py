"""Hung epochs: the worker exits; the trial is taken over, and fails after too many takeovers."""

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import Machine, Running, machines, unpruned_study
from rows import Rows

# An epoch hangs while a file named "hang" exists, as with a device that does not respond.
NETWORK = """
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

def pause():
    print("hanging in the network", flush=True)
    while Path("hang").exists():
        time.sleep(0.1)
    return np.zeros(1, np.float32)

class Generator(nnx.Module):
    def __init__(self, program, *, rngs):
        self.shape = program.image_shape
        size = self.shape[0] * self.shape[1] * self.shape[2]
        self.out = nnx.Linear(program.latent_dim, size, rngs=rngs)

    def __call__(self, z, labels=None, *, train):
        x = jnp.tanh(self.out(z)).reshape(-1, *self.shape)
        if Path("hang").exists():
            x = x + jax.pure_callback(pause, jax.ShapeDtypeStruct((1,), jnp.float32))
        return x

class Discriminator(nnx.Module):
    def __init__(self, program, *, rngs):
        height, width, channels = program.image_shape
        self.out = nnx.Linear(height * width * channels, 1, rngs=rngs)

    def __call__(self, x, labels=None, *, rate, key=None, train=False):
        return self.out(x.reshape(x.shape[0], -1))[:, 0]
"""
TIMEOUT = 15  # seconds, two of which are for compilation
NETWORKS = """
generator = "slow.net:Generator"
discriminator = "slow.net:Discriminator"
"""


@pytest.fixture
def here(tmp_path: Path, environment: dict[str, str], digits: Path) -> Iterator[Machine]:
    with machines(tmp_path, environment, "here") as [machine]:
        (machine.folder / "slow").mkdir()
        (machine.folder / "slow/__init__.py").touch()
        (machine.folder / "slow/net.py").write_text(NETWORK)
        study = unpruned_study(digits, 1, epochs=40, lease=8, takeovers=1, trial=NETWORKS)
        study = study.replace("[guard]", "[guard]\nd_auc = { enabled = false }")
        (machine.folder / "s.toml").write_text(study)
        yield machine


def set_timeout(here: Machine) -> None:
    file = here.folder / "s.toml"
    text = file.read_text()
    file.write_text(text.replace("max_takeovers", f"epoch_timeout = {TIMEOUT}\nmax_takeovers"))


def rows_of(here: Machine) -> Rows:
    return Rows(f"sqlite:///{here.folder}/tuner-data/studies.db")


def start_hanging(here: Machine, *words: str) -> Running:
    """Start a worker and wait until it hangs in an epoch."""
    (here.folder / "hang").touch()
    worker = here.start(*words, "--allow", "slow")
    worker.wait_for("hanging in the network")
    return worker


def stop_hanging(here: Machine) -> None:
    """Let epochs end, however long a busy machine takes to compile for the first one."""
    here.succeeds("edit", "s", "study.epoch_timeout=300")
    (here.folder / "hang").unlink()


def test_a_hung_trial_costs_its_worker_and_is_given_up(here: Machine) -> None:
    set_timeout(here)
    here.succeeds("create", "s.toml")
    rows = rows_of(here)
    for takeovers in (1, 2):
        worker = start_hanging(here, "worker", "s")
        assert worker.wait() == 4, worker
        line = f"tuner: trial 0 epoch 1 hung: unfinished after {TIMEOUT} s; "
        assert worker.errors == f"{line}for its stacks: tuner show s 0\n"
        lease = rows.leases()[0]
        assert (lease.state, lease.status, lease.takeovers) == ("RUNNING", "free", takeovers)
    shown = here.succeeds("show", "s", "0")
    assert f"The last time it hung, epoch 1 hung: unfinished after {TIMEOUT} s:" in shown
    assert "Thread MainThread:" in shown
    assert "run_epoch" in shown, shown
    hung = json.loads(here.succeeds("show", "s", "0", "--json"))["hung"]
    assert hung["reported"] == 0
    assert "slow/net.py" in hung["stacks"]

    stop_hanging(here)
    last = here.start("worker", "s", "--allow", "slow")
    last.wait_for("trial 1 epoch 1/")
    assert rows.leases()[0].state == "FAIL"
    assert rows.reasons() == {
        0: '"lost its worker 2 times without getting an epoch further; '
        f'the last time, epoch 1 hung: unfinished after {TIMEOUT} s"'
    }


def test_a_hung_worker_of_a_fleet_is_replaced(here: Machine) -> None:
    set_timeout(here)
    sweep = start_hanging(here, "sweep", "s.toml", "--workers", "1", "--respawn", "1")
    sweep.wait_for(
        r"worker 0 \(process \d+\) died, exit code 4; its last error: tuner: trial 0 epoch 1"
    )
    stop_hanging(here)
    sweep.wait_for("replacing worker 0; replacements left: 0")
    sweep.wait_for("trial 0 epoch 1/")


def test_a_stop_request_ends_a_hung_epoch(here: Machine) -> None:
    """Each stop counts as a takeover, so that the trial does not hang every worker in turn."""
    here.succeeds("create", "s.toml")
    rows = rows_of(here)
    worker = start_hanging(here, "worker", "s", "--grace", "2")
    here.succeeds("stop", "s")
    worker.wait_for("abandoning the epoch, unfinished after 2 s")
    assert (worker.wait(), worker.errors) == (0, "")
    assert (rows.leases()[0].status, rows.leases()[0].takeovers) == ("free", 1)

    worker = start_hanging(here, "worker", "s", "--grace", "2", "--max-time", "15s")
    worker.wait_for("abandoning the epoch, unfinished after 2 s")
    assert (worker.wait(), worker.errors) == (0, "")
    assert (rows.leases()[0].status, rows.leases()[0].takeovers) == ("free", 2)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_end_a_hung_epoch(here: Machine, number: signal.Signals) -> None:
    """The first signal allows the grace period; the second stops at once."""
    here.succeeds("create", "s.toml")
    worker = start_hanging(here, "worker", "s", "--grace", "3")
    began = time.monotonic()
    worker.signal(signal.SIGCONT)
    worker.signal(number)
    worker.wait_for("finishing the epoch, then stopping", within=2)
    worker.wait_for("abandoning the epoch, unfinished after 3 s")
    assert (worker.wait(), worker.errors) == (0, "")
    assert 3 <= time.monotonic() - began < 8
    lease = rows_of(here).leases()[0]
    assert (lease.status, lease.takeovers) == ("free", 0)

    worker = start_hanging(here, "worker", "s")
    worker.signal(number)
    worker.wait_for("finishing the epoch, then stopping", within=2)
    began = time.monotonic()
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 1
    assert time.monotonic() - began < 3
    assert worker.errors == "tuner: stopped at once; the same command resumes the study\n"
    assert rows_of(here).leases()[0].status == "free"
