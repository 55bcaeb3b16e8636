"""Trials that pause and are promoted, on any worker, compared with trials that run through."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from processes import Machine, machines, run_json
from rows import Rows
from safetensors.numpy import load_file

TRIALS, EPOCHS = 5, 5
STUDY = """
[study]
trials = {trials}
epochs = {epochs}
checkpoint_seconds = 0

[data]
source = "idx"
path = "{digits}"

[trial]
width = 2
latent_dim = 8
learning_rate = {{ low = 1e-4, high = 1e-2, log = true }}
dropout = 0.3
ema_decay = 0.9

[sampler]
name = "random"

[pruner]
{pruner}

[guard]
loss_ratio = {{ enabled = false }}
variance_ratio = {{ enabled = false }}

[metrics]
features = "random"
samples = 300
"""
PRUNERS = {"through": 'name = "none"', "asha": 'name = "asha"\nreduction_factor = 2'}


class Result(NamedTuple):
    """A study that has ended."""

    text: str  # what its sweep printed
    epochs: list[list[tuple[Any, ...]]]  # by trial: the numbers of its reports
    states: list[str]
    machine: Machine

    @property
    def folder(self) -> Path:
        return self.machine.folder

    def generator(self, number: int) -> dict[str, bytes]:
        [file] = self.folder.glob(f"tuner-data/artifacts/*/trial-{number:05d}-*.safetensors")
        return {name: x.tobytes() for name, x in load_file(file).items()}


def result_of(machine: Machine, text: str) -> Result:
    rows = Rows(f"sqlite:///{machine.folder}/tuner-data/studies.db")
    leases = rows.leases()
    numbers = range(TRIALS)
    return Result(
        text,
        [rows.epochs(number) for number in numbers],
        [leases[number].state for number in numbers],
        machine,
    )


@pytest.fixture(scope="module")
def results(
    tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str], digits: Path
) -> Iterator[tuple[Result, Result]]:
    """The same trials without a pruner on one worker, and with asha on two."""
    folder = tmp_path_factory.mktemp("promoted")
    with machines(folder, environment, *PRUNERS) as named:
        sweeps = []
        for machine, pruner in zip(named, PRUNERS.values(), strict=True):
            filled = STUDY.format(trials=TRIALS, epochs=EPOCHS, digits=digits, pruner=pruner)
            (machine.folder / "study.toml").write_text(filled)
            workers = ["--workers", "2"] if "asha" in pruner else []
            sweeps.append(machine.start("sweep", "study.toml", *workers))
        for sweep in sweeps:
            assert sweep.wait() == 0, sweep
        through, promoted = (
            result_of(machine, sweep.text) for machine, sweep in zip(named, sweeps, strict=True)
        )
        yield through, promoted


def test_some_trials_pause_and_are_promoted(results: tuple[Result, Result]) -> None:
    through, promoted = results
    assert through.states == ["COMPLETE"] * TRIALS
    assert "paused at epoch 1" in promoted.text
    assert "promoted after epoch" in promoted.text
    assert set(promoted.states) == {"COMPLETE", "PRUNED"}
    trained = sum(map(len, promoted.epochs))
    assert trained < sum(map(len, through.epochs))


def test_every_epoch_is_the_same_to_the_last_bit(results: tuple[Result, Result]) -> None:
    through, promoted = results
    for expected, found in zip(through.epochs, promoted.epochs, strict=True):
        assert found == expected[: len(found)]


def test_the_generator_of_a_promoted_trial_is_the_same(results: tuple[Result, Result]) -> None:
    through, promoted = results
    complete = [n for n, state in enumerate(promoted.states) if state == "COMPLETE"]
    assert complete
    for number in complete:
        assert promoted.generator(number) == through.generator(number)


def test_no_checkpoint_is_left(results: tuple[Result, Result]) -> None:
    """Checkpoints of paused trials are removed when these end."""
    for result in results:
        assert not [*result.folder.glob("tuner-data/artifacts/*/checkpoints/*/*")]


def test_the_winner_is_confirmed_with_fresh_seeds(results: tuple[Result, Result]) -> None:
    through, _ = results
    confirming = through.machine.start("confirm", "study", "--top", "2", "--seeds", "2")
    assert confirming.wait() == 0, confirming
    assert re.search(r"trial 5 starts \(trial \d again, seed 1\)", confirming.text)
    assert "Confirmed: trial" in confirming.text
    found = run_json(through.folder, through.machine.environment, "status", "study")
    assert found["states"] == {"COMPLETE": TRIALS}  # runs do not count as trials of the search
    winner, other = found["confirmation"]
    assert winner["value"]["n"] == other["value"]["n"] == 2
    assert winner["value"]["mean"] <= other["value"]["mean"]
    rows = Rows(f"sqlite:///{through.folder}/tuner-data/studies.db")
    seeds = [rows.epochs(number) for number in range(TRIALS + 4)]
    assert len({tuple(reports) for reports in seeds}) == TRIALS + 4  # no run repeats another
    again = through.machine.start("confirm", "study", "--top", "2", "--seeds", "2")
    assert again.wait() == 0, again
    assert "nothing to run" in again.text
