"""Stopped, killed, failing: the study stays whole, whatever happens to the process."""

import signal
import subprocess
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from processes import Tuner, command

import tuner as api
from tuner.errors import TunerError
from tuner.gan import training
from tuner.run.worker import MOST_FAILURES
from tuner.specfile import load_spec
from tuner.study.creation import create_study
from tuner.study.database import Database
from tuner.study.store import MOST_TRIES, StudyStore
from tuner.study.verdict import Fail, Prune

MANY_EPOCHS = ("epochs = 3", "epochs = 40")


def begin(study_file: Path, environment: dict[str, str]) -> subprocess.Popen[str]:
    """A sweep whose first trial has done an epoch and has many to go."""
    study_file.write_text(study_file.read_text().replace(*MANY_EPOCHS))
    process = subprocess.Popen(
        command("sweep", study_file.name),
        cwd=study_file.parent,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "epoch 1/40" in line:
            return process
    raise AssertionError(process.communicate()[1])


def store_of(study_file: Path) -> StudyStore:
    url = f"sqlite:///{study_file.parent}/tuner-data/studies.db"
    return StudyStore(Database(url), "tiny")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_finishes_the_epoch_and_queues_the_trial_again(
    study_file: Path, environment: dict[str, str], number: signal.Signals
) -> None:
    process = begin(study_file, environment)
    process.send_signal(number)
    text, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert "finishing the epoch" in text
    assert "4 of 4 trials are left; to go on: tuner sweep tiny.toml" in text
    store = store_of(study_file)
    [trial] = store.trials()
    assert (trial.state, trial.reason) == ("FAIL", "interrupted by a person")
    assert trial.reports
    assert store.summary().states == {"FAIL": 1, "WAITING": 1}


def test_a_second_signal_leaves_at_once(study_file: Path, environment: dict[str, str]) -> None:
    process = begin(study_file, environment)
    process.send_signal(signal.SIGINT)
    assert process.stdout is not None
    for line in process.stdout:
        if "finishing the epoch" in line:
            break
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors == "tuner: left at once; the same command goes on with the study\n"


def test_a_killed_sweep_goes_on_until_a_point_has_killed_too_often(
    study_file: Path, environment: dict[str, str]
) -> None:
    """The study asks for one trial, so that each process dies in what would be the last."""
    study_file.write_text(study_file.read_text().replace("trials = 4", "trials = 1"))
    for _ in range(MOST_TRIES):
        process = begin(study_file, environment)
        process.kill()
        process.communicate()
        assert store_of(study_file).trials()[-1].state == "RUNNING"
    process = begin(study_file, environment)
    process.kill()
    process.communicate()
    first, *others = store_of(study_file).trials()
    assert [trial.params == first.params for trial in others] == [True, True, False]
    assert [trial.reason for trial in (first, *others)] == [
        "its process died",
        "its process died, in each of 2 tries",
        "its process died, in each of 3 tries",
        None,
    ]


def test_two_sweeps_of_one_study_do_not_mix(
    study_file: Path, environment: dict[str, str], tuner: Tuner
) -> None:
    process = begin(study_file, environment)
    other = tuner("sweep", study_file.name)
    process.kill()
    process.communicate()
    assert other.returncode == 1
    assert "another process on this machine is running it" in other.stderr


def test_what_can_not_be_written_ends_the_run_and_loses_nothing(study_file: Path) -> None:
    """The folder for generators is a file: root may write anywhere else."""
    folder = study_file.parent
    store = create_study(Database(f"sqlite:///{folder}/s.db", create=True), load_spec(study_file))
    (folder / store.folder).write_text("in the way")
    with pytest.raises(TunerError, match="can't be written"):
        sweep(study_file, Log())
    [trial] = store.trials()
    assert trial.state == "FAIL"
    assert "can't be written" in (trial.reason or "")
    assert store.summary().states == {"FAIL": 1, "WAITING": 1}


class Log:
    """Remembers how trials ended."""

    def __init__(self) -> None:
        self.ends: list[object] = []

    def trial_started(self, claim: object) -> None:
        return None

    def epoch_done(self, claim: object, report: object) -> None:
        return None

    def trial_ended(self, claim: object, verdict: object) -> None:
        self.ends.append(verdict)


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
        if args[4] == 1:
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
    before = counted._cache_size()
    text = study_file.read_text().replace("latent_dim = 8", "latent_dim = 9")
    study_file.write_text(text.replace("reduction_factor = 2", "reduction_factor = 3"))
    store = sweep(study_file, Log())
    batch_sizes = {trial.params["batch_size"] for trial in store.trials()}
    assert len(store.trials()) > len(batch_sizes)
    assert counted._cache_size() - before == len(batch_sizes)
