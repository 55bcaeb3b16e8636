"""A study stays consistent when its workers are killed, fail or can't write."""

import signal
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from processes import machines, unpruned_study
from rows import Rows

import tuner as api
from tuner.errors import TunerError
from tuner.files.study_files import open_files
from tuner.gan import training
from tuner.run.worker import MAX_FAILURES
from tuner.spec.loading import load_spec
from tuner.study.claims import Claim
from tuner.study.creation import create_study
from tuner.study.database import Database
from tuner.study.sinks import Released
from tuner.study.store import StudyStore
from tuner.study.verdict import Fail, Prune


def test_a_trial_that_costs_too_many_workers_is_given_up(
    tmp_path: Path, environment: dict[str, str], digits: Path
) -> None:
    """Each is killed while it compiles, before its first epoch."""
    with machines(tmp_path, environment, "here") as [here]:
        (here.folder / "s.toml").write_text(unpruned_study(digits, trials=1, takeovers=1))
        here.succeeds("create", "s.toml")
        rows = Rows(f"sqlite:///{here.folder}/tuner-data/studies.db")

        stopped = here.start("worker", "s", "--grace", "0.1", "--signal-exit-code", "75")
        stopped.wait_for("trial 0 starts")
        stopped.signal(signal.SIGTERM)
        stopped.wait_for("abandoning the epoch, unfinished after 0.1 s")
        assert stopped.wait() == 75, stopped
        assert (rows.leases()[0].status, rows.leases()[0].takeovers) == ("free", 0)

        for takeovers in (0, 1):
            worker = here.start("worker", "s")
            worker.wait_for("trial 0 starts")
            worker.kill()
            lease = rows.leases()[0]
            assert (lease.state, lease.status, lease.takeovers) == ("RUNNING", "held", takeovers)

        last = here.start("worker", "s")
        last.wait_for("trial 1 starts")
        last.kill()
        leases = rows.leases()
        assert [(lease.state, lease.status) for lease in leases.values()] == [
            ("FAIL", "done"),
            ("RUNNING", "held"),
        ]
        reason = "lost its worker 2 times without getting an epoch further"
        assert rows.reasons() == {0: f'"{reason}"'}


def test_an_unwritable_store_ends_the_run_without_loss(study_file: Path) -> None:
    """A file takes the place of the checkpoint folder; permissions would not stop root."""
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
    rows.assert_finished(total=4)


class Log:
    """A sink that records the starts of trials (number, epochs done) and how they ended."""

    def __init__(self) -> None:
        self.starts: list[tuple[int, int]] = []
        self.ends: list[object] = []

    def announce(self, text: str, part: float | None = None) -> None:
        return None

    def started(self, claim: Claim) -> None:
        self.starts.append((claim.number, len(claim.history)))

    def epoch(self, claim: object, report: object) -> None:
        return None

    def ended(self, claim: object, ending: object) -> None:
        if not isinstance(ending, Released):
            self.ends.append(ending)


def sweep(study_file: Path, sink: Log) -> StudyStore:
    folder = study_file.parent
    url = f"sqlite:///{folder}/s.db"
    return api.sweep(study_file, storage=url, artifacts=folder, sinks=[sink], progress=False)


def test_failures_in_a_row_end_the_run(study_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object) -> None:
        raise RuntimeError("a bug\nin a network")

    monkeypatch.setattr("tuner.run.trainer.begin_epoch", broken)
    log = Log()
    with pytest.raises(TunerError, match=r"5 trials in a row failed.*a bug in a network"):
        sweep(study_file, log)
    assert log.ends == [Fail("RuntimeError: a bug in a network")] * MAX_FAILURES
    store = StudyStore(Database(f"sqlite:///{study_file.parent}/s.db"), "tiny")
    assert store.remaining() == 4


def test_out_of_memory_prunes_the_trial(study_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def greedy(*args: object) -> None:
        jnp.zeros(2**52, jnp.uint8).block_until_ready()  # four petabytes: a real allocation failure

    monkeypatch.setattr("tuner.run.trainer.begin_epoch", greedy)
    log = Log()
    store = sweep(study_file, log)
    assert log.ends == [Prune("out of device memory")] * 4
    assert [trial.value for trial in store.trials()] == [None] * 4


def test_divergence_is_pruned_and_reported_without_nan(
    study_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first epoch is unchanged; the second ends with a weight of NaN."""

    def diverging(*args: Any) -> Any:
        begun = training.begin_epoch(*args)
        *_, epoch, _ = args
        if epoch == 1:
            generator = begun.state.generator
            damaged = jax.tree.map(lambda x: x.at[(0,) * x.ndim].set(jnp.nan), generator)
            begun = begun._replace(state=begun.state._replace(generator=damaged))
        return begun

    monkeypatch.setattr("tuner.run.trainer.begin_epoch", diverging)
    study_file.write_text(study_file.read_text().replace('"successive_halving"', '"none"'))
    study_file.write_text(study_file.read_text().replace("reduction_factor = 2", ""))
    for trial in sweep(study_file, Log()).trials():
        assert (trial.state, trial.reason) == ("PRUNED", "non-finite values in epoch 2")
        assert [report.finite for report in trial.reports] == [True, False]
        assert trial.reports[1].fid is None
        assert trial.value == trial.reports[0].fid


def test_trials_that_share_a_program_compile_it_once(study_file: Path) -> None:
    counted = training._train_steps.compiled
    counted.clear_cache()
    study_file.write_text(study_file.read_text().replace("trials = 4", "trials = 6"))
    store = sweep(study_file, Log())
    batch_sizes = {trial.params["batch_size"] for trial in store.trials()}
    assert len(store.trials()) > len(batch_sizes)
    assert counted._cache_size() == len(batch_sizes)
