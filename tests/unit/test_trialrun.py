"""Which epoch's generator a trial keeps, also where epochs are trained again."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import PREMISES, RANGES, epoch, spec_of

from tuner.run.album import Album
from tuner.run.checkpoints import Checkpoint, KeptGenerator
from tuner.run.files import StudyFiles
from tuner.run.stores import open_store
from tuner.run.trialrun import TrialRun
from tuner.study.membership import Claim
from tuner.study.space import trial_config
from tuner.trial import EpochReport

TOKEN = "0123456789abcdef"
KIDS = [None, 0.5, None, 0.25, None, 0.375]  # of epochs 1 to 6; FID says otherwise


class FakeLane:
    """Trains nothing; each epoch's generator is its number."""

    def __init__(self, kids: list[float | None]) -> None:
        self.epoch, self._kids, self._measured = 0, kids, 0
        self.samples: Any = None

    def insert(self, config: Any, state: Any = None, epoch: int = 0) -> None:
        self.epoch = epoch

    def run_epoch(self) -> EpochReport:
        self.epoch += 1
        kid = self._kids[self.epoch - 1]
        if kid is not None:
            self._measured = self.epoch
        self.samples = np.full((4, 8, 8, 1), self.epoch, np.uint8) if kid is not None else None
        return epoch(self.epoch, None if kid is None else 10.0 * self.epoch, kid=kid)

    def packed_generator(self) -> dict[str, Any]:
        return {"epoch": np.array(self._measured)}


def trial(folder: Path, value: str, kids: list[float | None], reported: int = 0) -> TrialRun:
    spec = spec_of(
        f"[study]\nepochs = 6\nvalue = '{value}'\n{RANGES}\n[metrics]\nobjective = 'kid'\nevery = 2"
    )
    before = FakeLane(KIDS)
    history = tuple(before.run_epoch() for _ in range(reported))
    point = {"learning_rate": 1e-3, "beta1": 0.5}
    claim = Claim(1, 0, point, trial_config(spec, point, 0, PREMISES), 2, history)
    lane: Any = FakeLane(kids)
    writer: Any = None
    album = Album(StudyFiles(open_store(str(folder)), "study"), TOKEN, 0, print)
    return TrialRun(claim, lane, writer, album, spec)


def kept(run: TrialRun) -> tuple[int, int] | None:
    """The epoch that is said, and the one whose generator it is."""
    return run.kept and (run.kept.epoch, int(run.kept.arrays["epoch"]))


@pytest.mark.parametrize(
    ("value", "expected"),
    [("best", [0, 2, 2, 4, 4, 4]), ("last", [0, 2, 2, 4, 4, 6])],
)
def test_the_objectives_epoch_is_kept(value: str, expected: list[int], tmp_path: Path) -> None:
    run = trial(tmp_path, value, KIDS)
    run.begin(None)
    for best in expected:
        run.run_epoch()
        assert run.best_epoch() == best
        assert kept(run) == ((best, best) if best else None)


def test_a_checkpoint_from_before_the_best_epoch_is_trained_up_to_it(tmp_path: Path) -> None:
    run = trial(tmp_path, "best", KIDS, reported=5)
    run.begin(Checkpoint(2, {}, KeptGenerator(2, {"epoch": np.array(2)})))
    for _ in range(3):
        run.repeat_epoch()
    assert kept(run) == (4, 4)
    run.run_epoch()
    assert kept(run) == (4, 4)


def test_an_epoch_that_comes_to_nothing_when_trained_again_is_not_kept(tmp_path: Path) -> None:
    run = trial(tmp_path, "best", [None, 0.5, None, None, None, None], reported=4)
    run.begin(None)
    for _ in range(4):
        run.repeat_epoch()
    assert run.best_epoch() == 4
    assert kept(run) == (2, 2) or run.kept is None
