"""Events that a worker process passes to its parent: one line of JSON each."""

import json
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from tuner.epoch_report import EpochReport
from tuner.phases import Activity, PhaseClock
from tuner.study.claims import Claim
from tuner.study.records import Confirms
from tuner.study.sinks import Ending, Released, TrialSink
from tuner.study.verdict import Complete, Fail, Pause, Prune
from tuner.trial import Hyperparameters, Program, TrialConfig

TICK = 0.25  # seconds between checks of what the worker is doing
ENDINGS = {kind.__name__: kind for kind in (Complete, Pause, Prune, Fail, Released)}


class EventWriter:
    """A ``TrialSink`` that writes events to standard output.

    Calls ``orphaned`` once if the pipe breaks: the parent has died.
    """

    def __init__(self, orphaned: Callable[[], None]) -> None:
        self._orphaned: Callable[[], None] | None = orphaned
        self._trial: int | None = None  # the one in training
        self._lock = threading.Lock()  # of the output

    def _write(self, *event: Any) -> None:
        with self._lock:
            if self._orphaned is None:
                return
            try:
                sys.stdout.write(json.dumps(event) + "\n")
                sys.stdout.flush()
                # The command line's stdout does not raise: it drops output and stores the failure.
                if failure := getattr(sys.stdout, "failure", None):
                    raise failure
            except OSError:
                sys.stdout = sys.stderr  # or Python reports the broken pipe at exit
                self._orphaned()
                self._orphaned = None

    def follow(self, clock: PhaseClock) -> None:
        """Write what the clock's thread is doing, from another thread."""
        threading.Thread(target=self._follow, args=(clock,), name="activity", daemon=True).start()

    def _follow(self, clock: PhaseClock) -> None:
        written: Activity | None = None
        while self._orphaned is not None:
            if (activity := clock.lasting_activity) != written:
                written = activity
                what, seconds = (written.what, clock.elapsed(written)) if written else ("", 0.0)
                self._write("doing", self._trial, what, seconds)
            time.sleep(TICK)

    def started(self, claim: Claim) -> None:
        self._trial = claim.number
        self._write("started", claim)

    def epoch(self, claim: Claim, report: EpochReport) -> None:
        self._write("epoch", claim, report)

    def ended(self, claim: Claim, ending: Ending) -> None:
        self._trial = None
        self._write("ended", claim, [type(ending).__name__, *ending])

    def announce(self, text: str, part: float | None = None) -> None:
        self._write("announce", text, part)


def replay(
    line: str, sink: TrialSink, doing: Callable[[int | None, str, float], None] | None = None
) -> None:
    """Pass an event that an ``EventWriter`` wrote to ``sink``; ValueError for any other line.

    ``doing`` receives the worker's trial, what it is doing, and for how many seconds.
    """
    match json.loads(line):
        case ["started", claim]:
            sink.started(_claim(claim))
        case ["epoch", claim, report]:
            sink.epoch(_claim(claim), EpochReport(*report))
        case ["ended", claim, [kind, *reason]]:
            sink.ended(_claim(claim), ENDINGS[kind](*reason))
        case ["announce", text, None | float() as part]:
            sink.announce(text, part)
        case ["doing", None | int() as trial, str(what), float(seconds)]:
            if doing is not None:
                doing(trial, what, seconds)
        case _:
            raise ValueError(f"not an event: {line!r}")


def _claim(values: Any) -> Claim:
    trial_id, number, params, (program, hyperparameters, seed, epochs), token, *rest = values
    history, predecessor, rung, confirms, prune_reason, lost = rest
    confirmed = None if confirms is None else Confirms(*confirms)
    fields: list[Any] = [tuple(x) if isinstance(x, list) else x for x in program]
    config = TrialConfig(Program(*fields), Hyperparameters(*hyperparameters), seed, epochs)
    reports = tuple(EpochReport(*report) for report in history)
    return Claim(
        *(trial_id, number, params, config, token, reports, predecessor, rung),
        *(confirmed, prune_reason, lost),
    )
