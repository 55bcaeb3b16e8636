"""Trainers that train nothing, and trials for them. Everything else about a worker is real."""

from typing import Any

import numpy as np
from builders import DATASET, RANGES, epoch, spec_of

from tuner.epoch_report import EpochReport
from tuner.files.study_files import StudyFiles
from tuner.phases import PhaseClock
from tuner.run.precompile import Precompiler
from tuner.run.signals import Stop
from tuner.run.trial import TrialRun
from tuner.run.watchdog import Watchdog
from tuner.run.worker import NO_LIMITS, Limits, Worker
from tuner.spec.study import StudySpec
from tuner.study.claims import Claim
from tuner.study.session import WorkerSession
from tuner.study.sinks import Publisher, Sinks, TrialSink
from tuner.study.space import trial_config

KIDS = [None, 0.5, None, 0.25, None, 0.375]  # of epochs 1 to 6; the FID only grows
POINT = {"learning_rate": 1e-3, "beta1": 0.5}


class FakeTrainer:
    """Trains nothing; values get better with every epoch."""

    dataset, classes = DATASET, 0
    samples: Any = None

    def __init__(self, clock: PhaseClock | None = None) -> None:
        self.clock, self.epoch = clock or PhaseClock(), 0

    def load(self, config: Any, state: Any = None, epoch: int = 0) -> None:
        self.epoch = epoch

    def run_epoch(self) -> EpochReport:
        self.epoch += 1
        return epoch(self.epoch, 100.0 / self.epoch)

    def remeasure(self, arrays: Any) -> tuple[float, None]:
        return 9.0, None

    def packed_state(self) -> dict[str, Any]:
        return {"weights": np.zeros(8, np.float32)}

    def packed_generator(self) -> dict[str, Any]:
        return self.packed_state()


def run_trials(
    session: WorkerSession,
    trainer: Any,
    files: StudyFiles,
    sink: TrialSink | None = None,
    publisher: Publisher | None = None,
    stop: Stop | None = None,
    limits: Limits = NO_LIMITS,
) -> None:
    """Work on the study's trials until it ends."""
    sink, publisher, stop = sink or Sinks(), publisher or Publisher(), stop or Stop()
    with Watchdog(session, stop, sink.announce, None).watching() as watchdog:
        ahead = Precompiler(session)
        Worker(session, trainer, files, sink, publisher, watchdog, stop, ahead).work(limits)


class KidTrainer(FakeTrainer):
    """Has given KIDs; the generator of an epoch is the epoch's number."""

    def __init__(self, kids: list[float | None]) -> None:
        super().__init__()
        self._kids, self._measured = kids, 0

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
    spec: StudySpec, trainer: KidTrainer, reports: tuple[EpochReport, ...] = ()
) -> TrialRun:
    """A run of a claimed trial with these reports."""
    claim = Claim(1, 0, POINT, trial_config(spec, POINT, 0, DATASET), 2, reports)
    stand_in: Any = trainer
    writer: Any = None
    return TrialRun(claim, stand_in, writer, spec)


def reported(count: int, kids: list[float | None]) -> tuple[EpochReport, ...]:
    trainer = KidTrainer(kids)
    return tuple(trainer.run_epoch() for _ in range(count))
