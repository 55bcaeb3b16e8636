"""``TrialRun``: a claimed trial on the lane, its reports, its best generator, its checkpoints."""

import time

from tuner.run.artifacts import encode_generator
from tuner.run.checkpoints import Checkpoint, CheckpointWriter, KeptGenerator
from tuner.run.lane import Lane
from tuner.spec import StudySpec
from tuner.study.membership import Claim
from tuner.trial import EpochReport


class TrialRun:
    """A claimed trial on the lane, with its reports and its best generator so far."""

    def __init__(self, claim: Claim, lane: Lane, writer: CheckpointWriter, spec: StudySpec) -> None:
        self.claim, self.writer = claim, writer
        self.history = list(claim.history)
        self.kept: KeptGenerator | None = None
        self.traceback: str | None = None
        self._lane, self._interval = lane, spec.study.checkpoint_seconds
        self._keeps_best, self._objective = spec.study.value == "best", spec.metrics.objective
        self._saved_at, self._saved_epoch = time.monotonic(), 0
        self._begun = False

    def begin(self, checkpoint: Checkpoint | None) -> None:
        """Put the trial on the lane."""
        if checkpoint is None:
            self._lane.insert(self.claim.config)
        else:
            self._lane.insert(self.claim.config, checkpoint.state, checkpoint.epoch)
            self.kept, self._saved_epoch = checkpoint.kept, checkpoint.epoch
        self._begun = True

    def repeat_epoch(self) -> EpochReport:
        """Train an epoch that was reported before."""
        report = self._lane.run_epoch()
        self._keep_if_best(report)
        return report

    def run_epoch(self) -> EpochReport:
        """Train the next epoch."""
        report = self._lane.run_epoch()
        self.history.append(report)
        self._keep_if_best(report)
        return report

    def best_epoch(self, until: int | None = None) -> int:
        """The epoch whose number is the trial's value, of the first ``until``; 0 without any."""
        values = [(r.value(self._objective), r.epoch) for r in self.history[:until]]
        measured = [(value, epoch) for value, epoch in values if value is not None]
        if not measured:
            return 0
        return (min(measured) if self._keeps_best else measured[-1])[1]

    def _keep_if_best(self, report: EpochReport) -> None:
        """Where the epoch was measured now as well: trained again, it may have come to nothing."""
        measured = report.value(self._objective) is not None
        if measured and self.best_epoch(report.epoch) == report.epoch:
            self.kept = KeptGenerator(self._lane.epoch, self._lane.packed_generator())

    def encode_generator(self, study: str) -> tuple[bytes, str]:
        """The best generator as a file, and its name."""
        assert self.kept is not None
        epoch = self.kept.epoch
        about = {"study": study, "trial": self.claim.number, "epoch": epoch}
        about |= {self._objective: self.history[epoch - 1].value(self._objective)}
        data = encode_generator(self.claim.config.program, self.kept.arrays, about)
        return data, f"trial-{self.claim.number:05d}-{self.claim.token}.safetensors"

    def offer_checkpoint(self) -> None:
        """Have the state written, if the last time is long enough ago."""
        if time.monotonic() - self._saved_at >= self._interval:
            self._offer()

    def save(self, seconds: float) -> None:
        """Have all that is reported written, within ``seconds`` or not."""
        reported = self._begun and self._lane.epoch <= len(self.history)
        if reported and self._lane.epoch > self._saved_epoch:
            self._offer()
        self.writer.flush(seconds)

    def _offer(self) -> None:
        state = self._lane.packed_state()
        self.writer.offer(Checkpoint(self._lane.epoch, state, self.kept))
        self._saved_at, self._saved_epoch = time.monotonic(), self._lane.epoch
