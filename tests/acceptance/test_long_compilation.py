"""Signals and exits during a long XLA compilation, for a trial or ahead of one."""

import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import DEADLINE, Machine, Running, machines, wait_until
from rows import Rows

# On a CPU, XLA takes minutes to compile a deep network with second derivatives, unrolled steps and
# bfloat16. No test waits for the end.
STUDY = """
[study]
trials = 1
epochs = 2
checkpoint_seconds = 0
max_takeovers = 1
[data]
source = "idx"
path = "{digits}"
[trial]
generator = "r3gan"
discriminator = "r3gan"
width = 48
latent_dim = 64
precision = "bfloat16"
loss = "relativistic"
r1 = 0.05
r2 = 0.05
batch_size = 32
dropout = 0.0
[pruner]
name = "none"
[metrics]
features = "random"
samples = 100
"""
# The first trial is small; the program of all others takes minutes.
QUICK_FIRST = """
[study]
trials = 4
epochs = 80
[data]
source = "idx"
path = "{digits}"
[trial]
width = 2
latent_dim = 8
batch_size = 32
dropout = 0.0
discriminator = ["dcgan", "r3gan"]
[trial.when.discriminator.r3gan]
width = 48
precision = "bfloat16"
r1 = 0.05
r2 = 0.05
[[baseline]]
discriminator = "dcgan"
[pruner]
name = "none"
[metrics]
features = "random"
samples = 100
"""
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
GRACE = 3.0  # seconds
SLACK = 10.0  # further seconds, for a busy machine
PROMPT = 3.0  # seconds; takes less than one on an idle machine
SLOW_PROGRAM = "_train_steps"


@pytest.fixture(scope="module")
def here(
    tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str], digits: Path
) -> Iterator[Machine]:
    """A machine with one study, where XLA dumps each program that it starts to compile."""
    folder = tmp_path_factory.mktemp("long")
    flags = f"--xla_dump_to={folder}/dump --xla_dump_hlo_module_re=.*{SLOW_PROGRAM}.*"
    with machines(folder, environment | {"XLA_FLAGS": flags}, "here") as [machine]:
        for name, study in (("s", STUDY), ("ahead", QUICK_FIRST)):
            (machine.folder / f"{name}.toml").write_text(study.format(digits=digits))
            machine.succeeds("create", f"{name}.toml")
        yield machine


def rows_of(here: Machine) -> Rows:
    return Rows(f"sqlite:///{here.folder}/tuner-data/studies.db")


def start_compiling(here: Machine, *words: str) -> Running:
    """Start a worker and wait until it has compiled for half a second."""
    dump = here.folder.parent / "dump"
    shutil.rmtree(dump, ignore_errors=True)
    worker = here.start("worker", "s", *words)
    worker.wait_for("trial 0 starts")

    def has_begun() -> bool:
        assert worker.alive, worker
        return any(dump.glob(f"*{SLOW_PROGRAM}.before_optimizations.txt"))

    wait_until(has_begun, "XLA compiles the training program")
    time.sleep(0.5)
    return worker


def assert_free(here: Machine) -> None:
    """Check that the trial can be claimed at once, and that no takeover was counted."""
    lease = rows_of(here).leases()[0]
    actual = (lease.state, lease.status, lease.epoch, lease.takeovers)
    assert actual == ("RUNNING", "free", 0, 0)


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_the_first_signal_allows_the_grace_period(here: Machine, number: signal.Signals) -> None:
    worker = start_compiling(here, "--grace", f"{GRACE:g}")
    began = time.monotonic()
    worker.signal(number)
    worker.wait_for("finishing the epoch, then stopping", within=PROMPT)
    assert (worker.wait(within=GRACE + SLACK), worker.errors) == (0, ""), worker
    assert time.monotonic() - began >= GRACE
    assert f"abandoning the epoch, unfinished after {GRACE:g} s" in worker.text
    assert_free(here)


def test_a_second_signal_leaves_at_once(here: Machine) -> None:
    worker = start_compiling(here, "--grace", "60")
    worker.signal(signal.SIGTERM)
    worker.wait_for("finishing the epoch, then stopping", within=PROMPT)
    worker.signal(signal.SIGINT)
    assert worker.wait(within=PROMPT) == 1, worker
    assert worker.errors == "tuner: stopped at once; the same command resumes the study\n"
    assert_free(here)


def test_compiling_ahead_delays_neither_a_trial_nor_the_exit(here: Machine) -> None:
    dump = here.folder.parent / "dump"
    shutil.rmtree(dump, ignore_errors=True)
    here.environment["TUNER_COMPILE_AHEAD"] = "1"
    worker = here.start("worker", "ahead", "--signal-exit-code", "75")

    def has_begun() -> bool:
        assert worker.alive, worker
        found = dump.glob(f"*{SLOW_PROGRAM}.before_optimizations.txt")
        return any("bf16" in path.read_text() for path in found)

    wait_until(has_begun, "XLA compiles the program of later trials", within=3 * DEADLINE)
    epochs = worker.text.count("epoch")
    wait_until(lambda: worker.text.count("epoch") > epochs + 2, "trial 0 goes on")
    worker.signal(signal.SIGTERM)
    assert (worker.wait(within=GRACE + SLACK), worker.errors) == (75, ""), worker
    assert "released, to be resumed" in worker.text
