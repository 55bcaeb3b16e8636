"""``TrialRun``: a claimed trial on the lane, its reports, its best generator, its checkpoints."""

import time
from functools import partial

from tuner.run.album import Album
from tuner.run.artifacts import encode_generator
from tuner.run.checkpoints import Checkpoint, CheckpointWriter, KeptGenerator
from tuner.run.lane import Lane
from tuner.spec import StudySpec
from tuner.study.membership import Claim
from tuner.study.store import StudyStore, TrialRecord
from tuner.study.verdict import Complete, Prune, Verdict
from tuner.trial import EpochReport
from tuner.views.drawing import curves_svg
from tuner.views.notes import CURVES, trial_note
from tuner.views.pictures import grid_png

LAST_PICTURES = 60.0  # seconds for which a trial's end waits for them
PICTURES_SHARE = 0.005  # of an epoch's time, for which its report may wait for its picture


class TrialRun:
    """A claimed trial on the lane, with its reports and its best generator so far."""

    def __init__(
        self, claim: Claim, lane: Lane, writer: CheckpointWriter, album: Album, spec: StudySpec
    ) -> None:
        self.claim, self.writer, self._album, self._spec = claim, writer, album, spec
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
        if self.history:
            self._album.remember()
        self._begun = True

    def repeat_epoch(self) -> EpochReport:
        """Train an epoch that was reported before."""
        report = self._lane.run_epoch()
        self._keep_if_best(report)
        self._show(report)
        return report

    def run_epoch(self) -> EpochReport:
        """Train the next epoch."""
        report = self._lane.run_epoch()
        self.history.append(report)
        self._keep_if_best(report)
        self._show(report)
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
            arrays, samples = self._lane.packed_generator(), self._lane.samples
            self.kept = KeptGenerator(self._lane.epoch, arrays, samples)

    # Pictures

    def _show(self, report: EpochReport) -> None:
        """Have the samples of an epoch kept as a picture, where it is one of those shown."""
        samples, epoch = self._lane.samples, report.epoch
        due = self._spec.pictures.due(epoch, self._spec.metrics.every)
        last = epoch == self.claim.config.epochs
        if samples is not None and len(samples) and (due or last):
            self._album.add(epoch, partial(grid_png, samples))

    def new_pictures(self, report: EpochReport) -> dict[str, str]:
        """Attributes that tell of pictures that are there now, for the epoch's report."""
        seconds = report.train_seconds + report.evaluate_seconds
        return self._album.take(PICTURES_SHARE * seconds)

    def last_pictures(self) -> dict[str, str]:
        """The same at the trial's end: of its best epoch's, of its curves, and of all others."""
        if self.kept is not None and self.kept.samples is not None and len(self.kept.samples):
            self._album.add(self.kept.epoch, partial(grid_png, self.kept.samples))
        if self.history:
            self._album.add(CURVES, lambda: curves_svg(self._spec, self.history).encode())
        return self._album.take(LAST_PICTURES)

    def note(
        self, store: StudyStore, end: Verdict, artifact: str | None, machine: dict[str, str]
    ) -> str:
        """What the dashboard says of the trial, once it has ended."""
        number, best = self.claim.number, self.best_epoch()
        value = self.history[best - 1].value(self._objective) if best else None
        pruned = "pruned" if isinstance(end, Prune) else "failed"
        state = "complete" if isinstance(end, Complete) else pruned
        reason = getattr(end, "reason", None)
        reports = tuple(self.history)
        trial = TrialRecord(number, state, {}, value, reports, reason, artifact, machine)
        place = f"/artifacts/{store.study_id}/{self.claim.trial_id}"
        pictures = {epoch: f"{place}/{name}" for epoch, name in self._album.artifacts().items()}
        return trial_note(store.name, self._spec, trial, best, pictures)

    def close(self) -> None:
        """Stop trying to write what is not written yet."""
        self.writer.close()
        self._album.close()

    # The generator, and the state

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
