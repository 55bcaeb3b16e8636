"""The loop that runs trials, whoever started it: claim, train an epoch, report, judge, finish.

1. ``membership.claim`` takes over a trial that lost its worker, or asks the sampler for one.
2. ``lane.insert`` begins it on the device, from its last checkpoint where there is one. Epochs
   between that and the last reported one are trained again, and not reported again.
3. ``lane.run_epoch`` trains an epoch and measures it.
4. ``membership.report`` writes the report, the pruner is asked, ``verdict`` decides.
5. A thread writes a checkpoint now and then, with the generator of the best epoch so far.
6. That generator is kept as a file, with the trial's pictures, and ``membership.finish`` tells
   Optuna how the trial ended. Then the study's plots in the dashboard are made anew.
"""

import random
import traceback
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple, Protocol

import jax

from tuner.errors import LeaseLostError, StorageError, TunerError
from tuner.run.album import Album
from tuner.run.checkpoints import CHECKPOINTS, CheckpointWriter, load_latest, number_of
from tuner.run.files import StudyFiles
from tuner.run.lane import Lane
from tuner.run.publishing import refresh_plots
from tuner.run.signals import GRACE, Stop
from tuner.run.trialrun import TrialRun
from tuner.study.membership import Claim, Idle, Membership
from tuner.study.patience import Patience
from tuner.study.verdict import Continue, Fail, Prune, Verdict, verdict
from tuner.trial import EpochReport

MOST_FAILURES = 5  # in a row, before the worker takes it that the fault is not the trials'
LONGEST_WAIT = 5.0  # seconds between looks for trials that others left behind
TOLERANCE = 0.01  # relative, of an epoch's FID when it is trained again


class Observer(Protocol):
    """Who is told what happens, for people to see."""

    def trial_started(self, claim: Claim) -> None: ...

    def epoch_done(self, claim: Claim, report: EpochReport) -> None: ...

    def trial_ended(self, claim: Claim, verdict: Verdict) -> None: ...

    def trial_left(self, claim: Claim, why: str) -> None: ...

    def announce(self, text: str, part: float | None = None) -> None: ...


class Limits(NamedTuple):
    """When a worker leaves before the study has ended."""

    trials: int | None = None  # so many claimed
    when_idle: bool = False  # nothing to claim, while others still run the last trials


NO_LIMITS = Limits()


class Worker:
    """Runs a study's trials one after another on this process's device."""

    def __init__(
        self, membership: Membership, lane: Lane, files: StudyFiles, observer: Observer
    ) -> None:
        self._membership, self._lane, self._files = membership, lane, files
        self._observer = observer
        self._patience = Patience(observer.announce)
        self._failures = 0  # in a row

    def work(self, stop: Stop, limits: Limits = NO_LIMITS) -> None:
        """Run trials until the study has ended, ``stop`` is requested or a limit is reached.

        TunerError when too many trials in a row failed, or a file can't be written; StorageError
        when the database or the artifact store stayed away.
        """
        claimed, waiting = 0, False
        refresh_plots(self._membership.store)
        while not self._leaves(stop) and claimed != limits.trials:
            claim = self._membership.claim(self._lane.premises)
            if isinstance(claim, Claim):
                claimed, waiting = claimed + 1, False
                self._run(claim, stop)
                refresh_plots(self._membership.store)
            elif claim is Idle.ENDED or limits.when_idle:
                self._clear_up()
                return
            else:
                if not waiting:
                    self._observer.announce("waiting: other workers run the last trials")
                waiting = True
                pause = min(LONGEST_WAIT, self._membership.spec.study.lease_seconds / 4)
                stop.wait(pause * random.uniform(0.5, 1.0))

    def _clear_up(self) -> None:
        """Publish the last plots, and remove the checkpoints of trials that ended, but whose worker
        died before it could."""
        refresh_plots(self._membership.store, last=True)
        with suppress(TunerError):
            ended = self._membership.store.ended()
            for folder in {name.rpartition("/")[0] for name in self._files.names(CHECKPOINTS)}:
                if number_of(folder) in ended:
                    self._files.remove_all(folder)

    def _leaves(self, stop: Stop) -> bool:
        if self._membership.stop_requested:
            stop.request()
        return stop.requested

    def _run(self, claim: Claim, stop: Stop) -> None:
        """Run one trial to its end, or until it is lost or left to others."""
        spec, observer = self._membership.spec, self._observer
        writer = CheckpointWriter(
            self._files, claim.number, claim.token, claim.config, observer.announce
        )
        album = Album(self._files, self._membership.store.token, claim.number, observer.announce)
        trial = TrialRun(claim, self._lane, writer, album, spec)
        observer.trial_started(claim)
        try:
            end = self._advance_to_end(trial, stop)
            if isinstance(end, Continue):
                self._leave(trial)
                observer.trial_left(claim, "left for later")
                return
            self._finish(trial, end)
        except LeaseLostError as error:
            observer.trial_left(claim, str(error))
            return
        except TunerError:  # leaving the study gives the trial back
            with suppress(TunerError):
                trial.save(GRACE / 2)
            raise
        finally:
            trial.close()
        observer.trial_ended(claim, end)
        self._count_failures(end)

    def _advance_to_end(self, trial: TrialRun, stop: Stop) -> Verdict:
        """Train, report and judge until the trial ends, or until it is time to leave."""
        claim = trial.claim
        end: Verdict = self._judge(trial, None) if trial.history else Continue()
        try:
            checkpoint = self._patience(
                lambda: load_latest(
                    self._files,
                    claim.number,
                    claim.config,
                    len(trial.history),
                    self._observer.announce,
                )
            )
            trial.begin(checkpoint)
            # The crash may have come between the last report and what followed from it.
            last = len(trial.history) if isinstance(end, Continue) else trial.best_epoch()
            while self._lane.epoch < last:
                if self._leaves(stop):
                    return Continue()
                self._compare(claim, trial.history, trial.repeat_epoch())
            while isinstance(end, Continue) and not self._leaves(stop):
                report = trial.run_epoch()
                pictures = trial.new_pictures(report)
                wish = self._membership.report(claim, report, trial.history[:-1], pictures)
                self._observer.epoch_done(claim, report)
                end = self._judge(trial, wish)
                if isinstance(end, Continue):
                    trial.offer_checkpoint()
        except TunerError:
            raise
        except Exception as error:  # a bug in a network or in ours must not end the worker
            trial.traceback = traceback.format_exc()
            return _blame(error)
        return end

    def _judge(self, trial: TrialRun, wish: str | None) -> Verdict:
        spec = self._membership.spec
        measured = trial.history[-1].value(spec.metrics.objective) is not None
        says_stop = measured and self._membership.pruner_says_stop(trial.claim)
        return verdict(spec.guard, trial.history, trial.claim.config.epochs, says_stop, wish)

    def _compare(self, claim: Claim, history: Sequence[EpochReport], again: EpochReport) -> None:
        before = history[again.epoch - 1].fid
        if before is None or again.fid is None:
            return
        if abs(again.fid - before) > TOLERANCE * before:
            self._observer.announce(
                f"trial {claim.number} epoch {again.epoch}: FID {again.fid:.4g} when trained "
                f"again, {before:.4g} before: the machines differ"
            )

    def _leave(self, trial: TrialRun) -> None:
        """Save the trial and give it back."""
        try:
            trial.save(GRACE / 2)
        finally:
            self._membership.release(trial.claim)

    def _finish(self, trial: TrialRun, end: Verdict) -> None:
        """Keep the generator and the pictures, then tell the end: never the other way round."""
        member, artifact = self._membership, None
        if trial.kept is not None:
            data, artifact = trial.encode_generator(member.store.name)
            self._patience(lambda: self._files.write(str(artifact), data))
        pictures = trial.last_pictures()
        note = trial.note(member.store, end, artifact, member.machine)
        member.finish(trial.claim, end, artifact, trial.traceback, pictures, note)
        with suppress(StorageError):
            trial.writer.remove_all()

    def _count_failures(self, end: Verdict) -> None:
        self._failures = self._failures + 1 if isinstance(end, Fail) else 0
        if isinstance(end, Fail) and self._failures == MOST_FAILURES:
            raise TunerError(f"{MOST_FAILURES} trials in a row failed, the last with: {end.reason}")


def _blame(error: Exception) -> Verdict:
    """Out of device memory is the hyperparameters' fault; anything else the software's."""
    if isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error):
        return Prune("out of device memory")
    text = " ".join(str(error).split())
    return Fail(f"{type(error).__name__}: {text}"[:2000])
