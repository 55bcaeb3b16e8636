"""The best generator of a trial, even if it resumes and repeats epochs."""

import numpy as np
import pytest
from fake_trainer import KIDS, KidTrainer, fake_run, kid_spec, reported

from tuner.files.checkpoints import Checkpoint, KeptGenerator
from tuner.run.trial import TrialRun
from tuner.study.verdict import Complete, Fail, Prune


def trial(value: str, kids: list[float | None], epochs: int = 0) -> TrialRun:
    """A trial with reports of this many epochs, which now yields ``kids``."""
    return fake_run(kid_spec(value), KidTrainer(kids), reported(epochs, KIDS))


def kept(run: TrialRun) -> tuple[int, int] | None:
    """The epoch of the kept generator, as recorded and as trained."""
    return run.kept and (run.kept.epoch, int(run.kept.arrays["epoch"]))


@pytest.mark.parametrize(
    ("value", "expected"),
    [("best", [0, 2, 2, 4, 4, 4]), ("last", [0, 2, 2, 4, 4, 6])],
)
def test_the_best_generator_is_kept(value: str, expected: list[int]) -> None:
    run = trial(value, KIDS)
    run.begin(None)
    for best in expected:
        run.run_epoch()
        assert run.best_epoch() == best
        assert kept(run) == ((best, best) if best else None)


def test_an_old_checkpoint_is_trained_up_to_the_best_epoch() -> None:
    run = trial("best", KIDS, epochs=5)
    run.begin(Checkpoint(2, {}, KeptGenerator(2, {"epoch": np.array(2)})))
    for _ in range(3):
        run.run_epoch()
    assert kept(run) == (4, 4)
    run.run_epoch()
    assert kept(run) == (4, 4)


def test_a_best_epoch_that_diverges_when_repeated_is_not_kept() -> None:
    run = trial("best", [None, 0.5, None, None, None, None], epochs=4)
    run.begin(None)
    for _ in range(4):
        run.run_epoch()
    assert run.best_epoch() == 4
    assert kept(run) == (2, 2)


def test_the_record_equals_the_database_row() -> None:
    run = trial("best", KIDS)
    run.begin(None)
    for _ in range(5):
        run.run_epoch()
    machine = {"device": "H200"}
    pruned = run.record(Prune("rung 1"), "kept.safetensors", machine)
    assert (pruned.state, pruned.reason, pruned.value) == ("PRUNED", "rung 1", 0.25)
    assert (pruned.artifact, pruned.machine) == ("kept.safetensors", machine)
    assert [report.epoch for report in pruned.reports] == [1, 2, 3, 4, 5]
    assert run.record(Fail("a bug"), None, {}).state == "FAIL"
    assert run.record(Complete(), None, {}).state == "COMPLETE"
