"""Events that a worker process passes to its parent: one line of JSON each."""

import json
import sys
from collections.abc import Callable
from typing import Any

from tuner.study.claims import Claim
from tuner.study.records import Confirms
from tuner.study.sinks import Ending, Released, TrialSink
from tuner.study.verdict import Complete, Fail, Pause, Prune
from tuner.trial import EpochReport, Hyperparameters, Program, TrialConfig

ENDINGS = {kind.__name__: kind for kind in (Complete, Pause, Prune, Fail, Released)}


class EventWriter:
    """A ``TrialSink`` that writes events to standard output.

    Calls ``orphaned`` once if the pipe breaks: the parent has died.
    """

    def __init__(self, orphaned: Callable[[], None]) -> None:
        self._orphaned: Callable[[], None] | None = orphaned

    def _write(self, *event: Any) -> None:
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

    def started(self, claim: Claim) -> None:
        self._write("started", claim)

    def epoch(self, claim: Claim, report: EpochReport) -> None:
        self._write("epoch", claim, report)

    def ended(self, claim: Claim, ending: Ending) -> None:
        self._write("ended", claim, [type(ending).__name__, *ending])

    def announce(self, text: str, part: float | None = None) -> None:
        self._write("announce", text, part)


def replay(line: str, sink: TrialSink) -> None:
    """Pass an event that an ``EventWriter`` wrote to ``sink``; ValueError for any other line."""
    match json.loads(line):
        case ["started", claim]:
            sink.started(_claim(claim))
        case ["epoch", claim, report]:
            sink.epoch(_claim(claim), EpochReport(*report))
        case ["ended", claim, [kind, *reason]]:
            sink.ended(_claim(claim), ENDINGS[kind](*reason))
        case ["announce", text, None | float() as part]:
            sink.announce(text, part)
        case _:
            raise ValueError(f"not an event: {line!r}")


def _claim(values: Any) -> Claim:
    trial_id, number, params, (program, hyperparameters, seed, epochs), token, *rest = values
    history, predecessor, rung, confirms, prune_reason = rest
    confirmed = None if confirms is None else Confirms(*confirms)
    fields: list[Any] = [tuple(x) if isinstance(x, list) else x for x in program]
    config = TrialConfig(Program(*fields), Hyperparameters(*hyperparameters), seed, epochs)
    reports = tuple(EpochReport(*report) for report in history)
    return Claim(
        *(trial_id, number, params, config, token, reports, predecessor, rung),
        *(confirmed, prune_reason),
    )
