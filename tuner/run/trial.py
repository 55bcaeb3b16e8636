"""``TrialRun``: a claimed trial with its history, best generator and checkpoints."""

import time
from functools import cached_property

from tuner.epoch_report import EpochReport, History
from tuner.files.checkpoints import Checkpoint, CheckpointWriter, KeptGenerator
from tuner.files.serialization import encode_generator
from tuner.gan.state import size_of
from tuner.phases import Phase
from tuner.run.trainer import Trainer
from tuner.run.watchdog import Pace
from tuner.spec.constraint import Size
from tuner.spec.study import StudySpec
from tuner.study.claims import Claim
from tuner.study.objectives import objective_values
from tuner.study.records import TrialRecord
from tuner.study.verdict import STATES, Complete, Verdict


class TrialRun:
    """A claimed trial in training, with its reports and best generator so far."""

    def __init__(
        self, claim: Claim, trainer: Trainer, writer: CheckpointWriter, spec: StudySpec
    ) -> None:
        self.claim, self.writer = claim, writer
        self.history = History(claim.history)
        self.pace = Pace(spec.metrics, claim.config.epochs, spec.study.epoch_timeout)
        for report in claim.history:
            self.pace.add(report, here=False)
        self.kept: KeptGenerator | None = None
        self.traceback: str | None = None
        self._trainer, self._interval = trainer, spec.study.checkpoint_seconds
        self._phase = trainer.clock.phase
        self._spec = spec
        self._value, self._objective = spec.study.value, spec.metrics.objective
        self._saved_at = time.monotonic()
        self._saved_epoch: int | None = None  # None until ``begin``

    def begin(self, checkpoint: Checkpoint | None) -> None:
        """Start from the checkpoint, or from scratch without one."""
        checkpoint = checkpoint or Checkpoint(epoch=0, state=None, kept=None)
        with self._phase(Phase.TRAINING):
            self._trainer.load(self.claim.config, checkpoint.state, checkpoint.epoch)
        self.kept, self._saved_epoch = checkpoint.kept, checkpoint.epoch

    def run_epoch(self) -> EpochReport:
        """Train an epoch, and keep its generator if it is the best so far.

        If the epoch was already reported, its first report stays in the history.
        """
        with self._phase(Phase.TRAINING):  # the trainer switches to evaluation
            report = self._trainer.run_epoch()
        self.pace.add(report, here=True)
        if report.epoch > len(self.history):
            self.history = History((*self.history, report))
        measured = report.value(self._objective) is not None  # a repeated epoch may diverge
        if measured and self.best_epoch(report.epoch) == report.epoch:
            with self._phase(Phase.FILES):
                arrays = self._trainer.packed_generator()
            self.kept = KeptGenerator(report.epoch, arrays, self._trainer.samples)
        return report

    def best_epoch(self, until: int | None = None) -> int:
        """The epoch that the trial's value comes from, among the first ``until``; 0 if none."""
        return History(self.history[:until]).scored_epoch(self._objective, self._value)

    def record(self, end: Verdict, artifact: str | None, machine: dict[str, str]) -> TrialRecord:
        """The trial as the database records it once ``end`` is stored."""
        best, objectives = self.best_epoch(), None
        if self._spec.metrics.several and isinstance(end, Complete):
            objectives = objective_values(self._spec, self.history, self.size)
        return TrialRecord(
            number=self.claim.number,
            state=STATES[type(end)],
            params=self.claim.params,
            value=self.history[best - 1].value(self._objective) if best else None,
            reports=tuple(self.history),
            reason=getattr(end, "reason", None),
            artifact=artifact,
            machine=machine,
            objectives=objectives or {},
        )

    @property
    def has_all_objectives(self) -> bool:
        """Whether each of several objectives has a value; custom metrics may be NaN."""
        several = self._spec.metrics.several
        return not several or objective_values(self._spec, self.history, self.size) is not None

    @cached_property
    def size(self) -> Size:
        """The weights of the trial's networks."""
        return size_of(self.claim.config.program)

    def encode_generator(self, study: str) -> tuple[bytes, str]:
        """Return the best generator as a file, and the file's name."""
        assert self.kept is not None
        epoch = self.kept.epoch
        about = {"study": study, "trial": self.claim.number, "epoch": epoch}
        about |= {self._objective: self.history[epoch - 1].value(self._objective)}
        data = encode_generator(self.claim.config.program, self.kept.arrays, about)
        return data, f"trial-{self.claim.number:05d}-{self.claim.token}.safetensors"

    def offer_checkpoint(self) -> None:
        """Offer a checkpoint if the last one is older than ``checkpoint_seconds``."""
        if time.monotonic() - self._saved_at >= self._interval:
            self._offer()

    def save(self, seconds: float) -> None:
        """Save the last reported epoch, waiting for at most ``seconds``."""
        saved = self._saved_epoch
        if saved is not None and saved < self._trainer.epoch <= len(self.history):
            self._offer()
        with self._phase(Phase.FILES):
            self.writer.flush(seconds)

    def write_checkpoint(self) -> int:
        """Write a checkpoint of the last epoch, and remove older ones; returns its size in bytes.
        StorageError if the store is unavailable."""
        with self._phase(Phase.FILES):
            return self.writer.write(self._checkpoint())

    def _offer(self) -> None:
        with self._phase(Phase.FILES):
            self.writer.offer(self._checkpoint())
        self._saved_at, self._saved_epoch = time.monotonic(), self._trainer.epoch

    def _checkpoint(self) -> Checkpoint:
        return Checkpoint(self._trainer.epoch, self._trainer.packed_state(), self.kept)
