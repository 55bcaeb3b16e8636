"""``Worker``: the loop that runs trials. Claim, train an epoch, report, judge, finish.

1. ``session.claim`` takes over a trial that lost its worker, or begins a queued or sampled one.
2. ``trainer.load`` loads it onto the device, from its last checkpoint if there is one. Epochs
   after the checkpoint that were already reported are trained again but not reported again.
3. ``trainer.run_epoch`` trains and evaluates one epoch.
4. ``session.report`` stores the report; ``verdict`` decides by guard, pruner and epoch.
5. A background thread writes periodic checkpoints, with the generator of the best epoch so far.
6. At the end that generator and the trial's pictures are stored; then ``session.finish`` stores the
   verdict. The publisher refreshes the study's plots in the dashboard. Of a trial that pauses at a
   rung, a checkpoint is stored; ``claim`` may promote the trial later.
"""

import random
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeVar

import jax

from tuner import hints
from tuner.epoch_report import EpochReport
from tuner.errors import LeaseLostError, StorageError, TunerError
from tuner.files.checkpoints import CHECKPOINTS, CheckpointWriter, folder_of, load_latest, trial_of
from tuner.files.study_files import StudyFiles
from tuner.phases import Phase
from tuner.run.precompile import Precompiler
from tuner.run.signals import GRACE, STOP_COMMAND, Stop
from tuner.run.trainer import Trainer
from tuner.run.trial import TrialRun
from tuner.run.watchdog import Watchdog
from tuner.study.claims import Claim, Idle
from tuner.study.records import FRESH, SIZE
from tuner.study.retrying import Retrier
from tuner.study.screening import constraint_attributes
from tuner.study.session import WorkerSession
from tuner.study.sinks import Ending, Publisher, Released, TrialSink
from tuner.study.verdict import Complete, Continue, Fail, Pause, Prune, Verdict, verdict

T = TypeVar("T")

MAX_FAILURES = 5  # in a row, after which the worker exits: the fault may be its own
LONGEST_WAIT = 5.0  # seconds between attempts to claim a trial
TOLERANCE = 0.01  # relative difference of FID allowed when an epoch is trained again


class Limits(NamedTuple):
    """When a worker exits before the study has ended."""

    trials: int | None = None  # after this many claims
    when_idle: bool = False  # when no trial can be claimed


NO_LIMITS = Limits()


@dataclass
class Worker:
    """Runs a study's trials one after another on this process's device."""

    session: WorkerSession
    trainer: Trainer
    files: StudyFiles
    sink: TrialSink
    publisher: Publisher
    watchdog: Watchdog
    stop: Stop
    precompiler: Precompiler
    _has_announced_stop: bool = False  # whether the reason for stopping was announced

    def work(self, limits: Limits = NO_LIMITS) -> None:
        """Run trials until the study has ended, its budget is spent, a stop is requested or a
        limit is reached.

        TunerError if too many trials fail in a row or a file can't be written; StorageError if the
        database or the artifact store stays unavailable.
        """
        claimed, failures, waiting = 0, 0, None
        self.session.clock.skip()  # start-up counts for no trial
        self._publish()
        while not self._must_leave() and claimed != limits.trials:
            claim = self.session.claim(self.trainer.dataset)
            if isinstance(claim, Claim):
                claimed, waiting = claimed + 1, None
                ending = self._run(claim)
                if not isinstance(ending, Released):
                    failures = failures + 1 if isinstance(ending, Fail) else 0
                if failures == MAX_FAILURES:
                    last = f"the last with: {ending.reason}"
                    raise TunerError(f"{failures} trials in a row failed, {last}")
                self._publish()
            elif claim in (Idle.ENDED, Idle.SPENT) or limits.when_idle:
                self._clean_up()
                return
            else:
                if claim is not waiting:
                    self.sink.announce(self._why_waiting(claim))
                waiting = claim
                pause = min(LONGEST_WAIT, self.session.spec.study.lease_seconds / 4)
                with self.session.clock.phase(Phase.WAITING, "waiting for a trial"):
                    self.stop.wait(pause * random.uniform(0.5, 1.0))

    def _why_waiting(self, idle: Idle) -> str:
        if idle is Idle.ON_HOLD:
            resume = hints.command("resume", self.session.store.name)
            return f"waiting: the study is on hold; to resume it, run: {resume}"
        return "waiting: other workers run the last trials"

    def _clean_up(self) -> None:
        """Publish the final plots; remove checkpoints of ended trials that dead workers left."""
        self._publish(ended=True)
        with suppress(TunerError):
            ended = self.session.store.ended()
            for number in ended & {trial_of(name) for name in self.files.own_names(CHECKPOINTS)}:
                self.files.remove_all(folder_of(number))

    def _publish(self, *, ended: bool = False) -> None:
        with self.session.clock.phase(Phase.OTHER, "drawing plots"):
            self.publisher.study(ended=ended)

    def _must_leave(self) -> bool:
        if self.session.stop_requested:
            self.stop.request(STOP_COMMAND)
        if not self.stop.requested:
            return False
        if not self._has_announced_stop and not self.stop.by_signal:  # a signal is answered at once
            self.sink.announce(f"{self.stop.reason or 'a stop request'}: exiting")
        self._has_announced_stop = True
        return True

    def _run(self, claim: Claim) -> Ending:
        """Run one trial until it ends, is released, or is lost to another worker."""
        writer = CheckpointWriter(
            self.files, claim.number, claim.token, claim.config, self.sink.announce
        )
        trial = TrialRun(claim, self.trainer, writer, self.session.spec)
        self.sink.started(claim)
        with self._files():
            self.publisher.begin(claim)
        try:
            ending = self._store_end(trial, self._train(trial))
        except LeaseLostError as error:
            ending = Released(str(error))
        except TunerError:  # leaving the session releases the trial
            with suppress(TunerError):
                trial.save(GRACE / 2)
            raise
        finally:
            with self._files():
                writer.close()
                self.publisher.close()
        self.sink.ended(claim, ending)
        return ending

    def _train(self, trial: TrialRun) -> Verdict:
        """Train, report and judge until the trial ends; ``Continue`` if a stop is requested or the
        study is on hold or its budget is spent.

        The previous worker may have died between its last report and the verdict, so judge first:
        if that ends the trial, epochs are repeated only up to its best one.
        """
        try:
            if (violation := self._violation(trial)) is not None:
                return Prune(violation)
            self.precompiler.look_ahead(trial.claim.config.program)
            reported = len(trial.history)
            end = self._judge(trial, trial.claim.prune_reason) if reported else Continue()
            continues = isinstance(end, Continue | Pause)
            last = reported if continues else trial.best_epoch()
            self._load(trial)
            while isinstance(end, Continue) or self.trainer.epoch < last:
                if self._must_leave() or self.session.on_hold or self.session.is_budget_spent():
                    return Continue()
                with self.watchdog.epoch(trial.claim, self.trainer.epoch + 1, trial.pace):
                    report = trial.run_epoch()
                with self._files():
                    self.publisher.samples(report.epoch, self.trainer.samples)
                if report.epoch > reported:
                    end = self._report(trial, report)
                else:
                    self._compare(trial, report)
            return end
        except TunerError:
            raise
        except Exception as error:  # a bug, also in a custom network, must not end the worker
            reason, trial.traceback = self.session.describe_error(error)
            if isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error):
                return Prune("out of device memory")  # the network or batch is too large
            return Fail(reason)

    def _violation(self, trial: TrialRun) -> str | None:
        """Why the study's ``[constraint]`` forbids training the trial; None if it may be trained,
        like a trial that began before the limits were edited."""
        constraint = self.session.spec.constraint
        if not constraint.limits or trial.history or trial.claim.confirms is not None:
            return None
        return constraint.violation(trial.size)

    def _size_attributes(self, trial: TrialRun) -> dict[str, Any]:
        """Attributes with the networks' sizes, for samplers; empty if sizes do not matter."""
        spec = self.session.spec
        if not spec.constraint.limits and "parameters" not in spec.metrics.names:
            return {}
        return {SIZE: list(trial.size), **constraint_attributes(spec, trial.size)}

    def _load(self, trial: TrialRun) -> None:
        """Load the trial's last checkpoint, or a fresh state if it has none."""
        claim, announce = trial.claim, self.sink.announce
        reported = len(claim.history)
        load = partial(load_latest, self.files, claim.number, claim.config, reported, announce)
        checkpoint = self._retry_files(load, "loading the checkpoint")
        with self.watchdog.epoch(claim, checkpoint.epoch + 1 if checkpoint else 1, trial.pace):
            trial.begin(checkpoint)

    def _report(self, trial: TrialRun, report: EpochReport) -> Verdict:
        """Store the report, judge the trial, and offer a checkpoint if it continues."""
        with self._files():
            attributes = self.publisher.attributes(report)
        request = self.session.report(trial.claim, report, trial.history[:-1], attributes)
        self.sink.epoch(trial.claim, report)
        end = self._judge(trial, request)
        if isinstance(end, Continue):
            trial.offer_checkpoint()
        return end

    def _judge(self, trial: TrialRun, request: str | None) -> Verdict:
        """Judge the trial; ``request`` is the reason of a user's request to prune it."""
        spec = self.session.spec
        last, early = trial.history[-1], None
        if last.value(spec.metrics.objective) is not None:
            early = self.session.pruner_decision(trial.claim, last.epoch)
        epochs, classes = trial.claim.config.epochs, self.trainer.classes
        found = verdict(spec.guard, trial.history, epochs, early, request, classes)
        if isinstance(found, Complete) and not trial.has_all_objectives:
            return Prune("not every objective was measured at the best epoch")
        return found

    def _compare(self, trial: TrialRun, again: EpochReport) -> None:
        """Announce if a repeated epoch's FID differs from the reported one."""
        before = trial.history[again.epoch - 1].fid
        if before is None or again.fid is None:
            return
        if abs(again.fid - before) > TOLERANCE * before:
            self.sink.announce(
                f"trial {trial.claim.number} epoch {again.epoch}: FID {again.fid:.4g} when "
                f"repeated, {before:.4g} before: the machines differ"
            )

    def _store_end(self, trial: TrialRun, end: Verdict) -> Ending:
        """Store the best generator and the pictures, then the verdict.

        A trial that should continue is saved and released instead; one that pauses is saved first,
        since any worker may resume it at once.
        """
        session, kept, artifact = self.session, trial.kept, None
        if isinstance(end, Continue):
            try:
                trial.save(GRACE / 2)
            finally:
                session.release(trial.claim)
            return Released("released, to be resumed")
        if isinstance(end, Pause):
            session.pause(trial.claim, self._retry_files(trial.write_checkpoint))
            return end
        if kept is not None:
            with self._files():
                data, artifact = trial.encode_generator(session.store.name)
            self._retry_files(partial(self.files.write, artifact, data))
        record = trial.record(end, artifact, session.machine)
        if isinstance(end, Complete):
            end = end._replace(objectives=record.objectives)
        best = trial.best_epoch()
        samples = kept.samples if kept is not None and kept.epoch == best else None
        if kept is not None and isinstance(end, Complete):
            with session.clock.phase(Phase.EVALUATION):
                fresh_value, strips = self.trainer.remeasure(kept.arrays)
                record = record._replace(fresh=fresh_value)
            if strips is not None:
                with self._files():
                    self.publisher.neighbours(strips)
        with self._files():
            attributes, note = self.publisher.end(record, best, samples)
        ours = {} if record.fresh is None else {FRESH: record.fresh}
        ours |= {} if isinstance(end, Fail) else self._size_attributes(trial)
        session.finish(trial.claim, end, artifact, trial.traceback, {**attributes, **ours}, note)
        with suppress(StorageError), self._files():
            trial.writer.remove_all()
        return end

    def _files(self) -> AbstractContextManager[None]:
        """Count the time as blocked on files."""
        return self.session.clock.phase(Phase.FILES)

    def _retry_files(self, attempt: Callable[[], T], what: str | None = None) -> T:
        clock, announce = self.session.clock, self.sink.announce
        return Retrier(announce, clock=clock, phase=Phase.FILES, what=what)(attempt)
