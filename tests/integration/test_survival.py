"""Killed, hanging, failing: the study stays whole, whatever happens to the process."""

import signal
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from processes import machines, steady
from rows import Rows

import tuner as api
from tuner.errors import TunerError
from tuner.gan import training
from tuner.run.files import open_files
from tuner.run.worker import MOST_FAILURES
from tuner.specfile import load_spec
from tuner.study.creation import create_study
from tuner.study.database import Database
from tuner.study.membership import Claim
from tuner.study.store import StudyStore
from tuner.study.verdict import Fail, Prune


def test_a_trial_that_costs_too_many_workers_is_given_up(
    tmp_path: Path, environment: dict[str, str], digits: Path
) -> None:
    """None of them gets as far as an epoch, whose program takes a while to be made."""
    with machines(tmp_path, environment, "here") as [here]:
        (here.folder / "s.toml").write_text(steady(digits, trials=1, takeovers=1))
        here.does("create", "s.toml")
        rows = Rows(f"sqlite:///{here.folder}/tuner-data/studies.db")

        hasty = here.start("worker", "s", "--grace", "0.1")
        hasty.says("trial 0 starts")
        hasty.signal(signal.SIGTERM)
        hasty.says("abandoning the epoch, unfinished after 0.1 s")
        assert hasty.ends() == 0, hasty
        assert (rows.leases()[0].status, rows.leases()[0].takeovers) == ("free", 0)

        for takeovers in (0, 1):
            worker = here.start("worker", "s")
            worker.says("trial 0 starts")
            worker.dies()
            lease = rows.leases()[0]
            assert (lease.state, lease.status, lease.takeovers) == ("RUNNING", "held", takeovers)

        last = here.start("worker", "s")
        last.says("trial 1 starts")
        last.dies()
        leases = rows.leases()
        assert [(lease.state, lease.status) for lease in leases.values()] == [
            ("FAIL", "done"),
            ("RUNNING", "held"),
        ]
        why = "lost its worker 2 times without getting an epoch further"
        assert rows.reasons() == {0: f'"{why}"'}


def test_what_can_not_be_written_ends_the_run_and_loses_nothing(study_file: Path) -> None:
    """The folder for checkpoints is a file: root may write anywhere else."""
    text = study_file.read_text()
    study_file.write_text(text.replace("epochs = 3", "epochs = 3\ncheckpoint_seconds = 0"))
    folder = study_file.parent
    store = create_study(Database(f"sqlite:///{folder}/s.db", create=True), load_spec(study_file))
    open_files(store, str(folder))
    (folder / store.folder / "checkpoints").write_text("in the way")
    with pytest.raises(TunerError, match=r"checkpoints.* can't be written"):
        sweep(study_file, Log())
    rows = Rows(f"sqlite:///{folder}/s.db")
    lease = rows.leases()[0]
    assert (lease.state, lease.status) == ("RUNNING", "free")
    (folder / store.folder / "checkpoints").unlink()
    log = Log()
    sweep(study_file, log)
    assert log.starts[0] == (0, lease.epoch)
    rows.assert_ended(total=4)


class Log:
    """Remembers how trials began, by number and epochs done, and how they ended."""

    def __init__(self) -> None:
        self.starts: list[tuple[int, int]] = []
        self.ends: list[object] = []

    def announce(self, text: str, part: float | None = None) -> None:
        return None

    def trial_started(self, claim: Claim) -> None:
        self.starts.append((claim.number, len(claim.history)))

    def epoch_done(self, claim: object, report: object) -> None:
        return None

    def trial_ended(self, claim: object, verdict: object) -> None:
        self.ends.append(verdict)

    def trial_left(self, claim: object, why: str) -> None:
        return None


def sweep(study_file: Path, observer: Log) -> StudyStore:
    folder = study_file.parent
    return api.sweep(
        study_file, storage=f"sqlite:///{folder}/s.db", artifacts=folder, observer=observer
    )


def test_failures_in_a_row_end_the_run(study_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object) -> None:
        raise RuntimeError("a bug\nin a network")

    monkeypatch.setattr("tuner.run.lane.train_epoch", broken)
    log = Log()
    with pytest.raises(TunerError, match=r"5 trials in a row failed.*a bug in a network"):
        sweep(study_file, log)
    assert log.ends == [Fail("RuntimeError: a bug in a network")] * MOST_FAILURES
    store = StudyStore(Database(f"sqlite:///{study_file.parent}/s.db"), "tiny")
    assert store.remaining() == 4


def test_out_of_memory_is_the_trial_s_fault(
    study_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def greedy(*args: object) -> None:
        jnp.zeros(2**52, jnp.uint8).block_until_ready()  # four petabytes: a real refusal

    monkeypatch.setattr("tuner.run.lane.train_epoch", greedy)
    log = Log()
    store = sweep(study_file, log)
    assert log.ends == [Prune("out of device memory")] * 4
    assert [trial.value for trial in store.trials()] == [None] * 4


def test_divergence_is_pruned_and_reported_without_nan(
    study_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first epoch is as it is; the second ends with one weight that is not a number."""

    def poisoned(*args: Any) -> Any:
        state, losses = training.train_epoch(*args)
        if args[-1] == 1:
            spoilt = jax.tree.map(lambda x: x.at[(0,) * x.ndim].set(jnp.nan), state.generator)
            state = state._replace(generator=spoilt)
        return state, losses

    monkeypatch.setattr("tuner.run.lane.train_epoch", poisoned)
    study_file.write_text(study_file.read_text().replace('"successive_halving"', '"none"'))
    study_file.write_text(study_file.read_text().replace("reduction_factor = 2", ""))
    for trial in sweep(study_file, Log()).trials():
        assert (trial.state, trial.reason) == ("PRUNED", "not finite in epoch 2")
        assert [report.finite for report in trial.reports] == [True, False]
        assert trial.reports[1].fid is None
        assert trial.value == trial.reports[0].fid


def test_one_program_is_compiled_once_however_many_trials_share_it(study_file: Path) -> None:
    counted = training._train_steps.compiled
    counted.clear_cache()
    study_file.write_text(study_file.read_text().replace("trials = 4", "trials = 6"))
    store = sweep(study_file, Log())
    batch_sizes = {trial.params["batch_size"] for trial in store.trials()}
    assert len(store.trials()) > len(batch_sizes)
    assert counted._cache_size() == len(batch_sizes)
