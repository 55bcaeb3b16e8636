"""The loop that runs trials: claim, train an epoch, report, judge, finish.

1. ``store.claim`` asks the sampler for a trial, or takes one from the queue.
2. ``lane.insert`` begins it on the device.
3. ``lane.run_epoch`` trains an epoch and measures it.
4. ``store.report`` writes the report and asks the pruner; ``verdict`` decides.
5. The generator of the best epoch so far is kept as a file.
6. ``store.finish`` tells Optuna how the trial ended.
"""

import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Protocol

import jax

from tuner.errors import InterruptError, TunerError
from tuner.run.artifacts import save_generator
from tuner.run.lab import Lab
from tuner.run.lane import Lane
from tuner.study.store import Claim, StudyStore
from tuner.study.verdict import Continue, Fail, Prune, Verdict, verdict
from tuner.trial import EpochReport

MOST_FAILURES = 5  # in a row, before the worker takes it that the fault is not the trials'


class Observer(Protocol):
    """Who is told what happens, for people to see."""

    def trial_started(self, claim: Claim) -> None: ...

    def epoch_done(self, claim: Claim, report: EpochReport) -> None: ...

    def trial_ended(self, claim: Claim, verdict: Verdict) -> None: ...


class Stop:
    """Whether a person asked to stop, and whether that has to wait for an epoch's end."""

    requested = False
    has_something_to_finish = False


@contextmanager
def stop_on_signals(announce: Callable[[], None]) -> Iterator[Stop]:
    """The first SIGINT or SIGTERM asks to stop at the epoch's end; a second raises InterruptError,
    as does the first while there is nothing to finish. Elsewhere than in the main thread, where
    Python delivers no signals, nothing is changed."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.requested or not stop.has_something_to_finish:
            raise InterruptError
        stop.requested = True
        announce()

    handled = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, handle) for number in handled]
    try:
        yield stop
    finally:
        for number, handler in zip(handled, before, strict=True):
            signal.signal(number, handler)


class Worker:
    """Runs a study's trials one after another on this process's device."""

    def __init__(
        self, store: StudyStore, lab: Lab, folder: Path, machine: dict[str, str], observer: Observer
    ) -> None:
        self._store, self._lab, self._folder = store, lab, folder
        self._machine, self._observer = machine, observer
        self._lane = Lane(lab)
        self._artifact: str | None = None  # the file of the present trial's generator

    def work(self, stop: Stop) -> None:
        """Run trials until the study's total is reached or ``stop`` is requested.

        TunerError when too many trials in a row failed.
        """
        failures = 0
        while not stop.requested:
            claim = self._store.claim(self._lab.image_set.shape, self._machine)
            if claim is None:
                return
            self._observer.trial_started(claim)
            try:
                end = self._run(claim, stop)
            except TunerError as error:
                with suppress(TunerError):  # where even this fails, the next run finds it dead
                    self._store.finish(claim, Fail(str(error), requeue=True), self._artifact)
                raise
            self._observer.trial_ended(claim, end)
            failures = failures + 1 if isinstance(end, Fail) and not end.requeue else 0
            if failures == MOST_FAILURES:
                assert isinstance(end, Fail)
                raise TunerError(f"{failures} trials in a row failed, the last with: {end.reason}")

    def _run(self, claim: Claim, stop: Stop) -> Verdict:
        """Run one trial to its end, whatever that is."""
        self._artifact = None
        history: list[EpochReport] = []
        end: Verdict = Continue()
        while isinstance(end, Continue):
            if stop.requested and history:
                end = Fail("interrupted by a person", requeue=True)
                break
            report, end = self._advance(claim, history)
            if report is not None:
                self._observer.epoch_done(claim, report)
        self._store.finish(claim, end, self._artifact)
        return end

    def _advance(
        self, claim: Claim, history: list[EpochReport]
    ) -> tuple[EpochReport | None, Verdict]:
        """Train, keep, report and judge one more epoch."""
        try:
            if not history:
                self._lane.insert(claim.config)
            report = self._lane.run_epoch()
        except TunerError:
            raise
        except Exception as error:  # a bug in a network or in ours must not end the worker
            self._store.keep_traceback(claim, traceback.format_exc())
            return None, _blame(error)
        history.append(report)
        self._keep_if_best(claim, history)
        pruner_says_stop = self._store.report(claim, report)
        guard, epochs = self._store.spec.guard, claim.config.epochs
        return report, verdict(guard, history, epochs, pruner_says_stop)

    def _keep_if_best(self, claim: Claim, history: list[EpochReport]) -> None:
        """Keep the generator whose FID is the trial's value, for later samples."""
        report = history[-1]
        earlier = [r.fid for r in history[:-1] if r.fid is not None]
        keeps_best = self._store.spec.study.value == "best"
        if report.fid is None or (keeps_best and earlier and report.fid >= min(earlier)):
            return
        name = f"trial-{claim.number:05d}.safetensors"
        about = {"study": self._store.name, "trial": claim.number}
        about |= {"epoch": report.epoch, "fid": report.fid}
        save_generator(self._folder / name, claim.config.program, self._lane.generator, about)
        self._artifact = name


def _blame(error: Exception) -> Verdict:
    """Out of device memory is the hyperparameters' fault; anything else the software's."""
    if isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error):
        return Prune("out of device memory")
    text = " ".join(str(error).split())
    return Fail(f"{type(error).__name__}: {text}"[:2000])
