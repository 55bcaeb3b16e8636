"""A trainer with given KIDs, and trials for it."""

from typing import Any

import numpy as np
from builders import DATASET, RANGES, epoch, spec_of

from tuner.phases import PhaseClock
from tuner.run.trial import TrialRun
from tuner.spec.study import StudySpec
from tuner.study.claims import Claim
from tuner.study.space import trial_config
from tuner.trial import EpochReport

KIDS = [None, 0.5, None, 0.25, None, 0.375]  # of epochs 1 to 6; the FID only grows
POINT = {"learning_rate": 1e-3, "beta1": 0.5}


class FakeTrainer:
    """Trains nothing; the generator of an epoch is the epoch's number."""

    def __init__(self, kids: list[float | None]) -> None:
        self.epoch, self._kids, self._measured = 0, kids, 0
        self.samples: Any = None
        self.clock = PhaseClock()

    def load(self, config: Any, state: Any = None, epoch: int = 0) -> None:
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


def kid_spec(value: str = "best", more: str = "") -> StudySpec:
    """Six epochs scored by KID, which is measured every other epoch."""
    study = f"[study]\nepochs = 6\nvalue = '{value}'\n{RANGES}\n"
    return spec_of(f"{study}[metrics]\nobjective = 'kid'\nevery = 2\n{more}")


def fake_run(
    spec: StudySpec, trainer: FakeTrainer, reports: tuple[EpochReport, ...] = ()
) -> TrialRun:
    """A run of a claimed trial with these reports."""
    claim = Claim(1, 0, POINT, trial_config(spec, POINT, 0, DATASET), 2, reports)
    stand_in: Any = trainer
    writer: Any = None
    return TrialRun(claim, stand_in, writer, spec)


def reported(count: int, kids: list[float | None]) -> tuple[EpochReport, ...]:
    trainer = FakeTrainer(kids)
    return tuple(trainer.run_epoch() for _ in range(count))
