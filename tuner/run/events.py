"""What a worker process tells the one that started it: a line of JSON for each event."""

import json
import sys
from collections.abc import Callable
from typing import Any, Protocol

from tuner.study.membership import Claim
from tuner.study.verdict import Complete, Continue, Fail, Prune, Verdict
from tuner.trial import EpochReport, Hyperparameters, Program, TrialConfig

VERDICTS = {kind.__name__: kind for kind in (Continue, Complete, Prune, Fail)}


class Listener(Protocol):
    """The observer that events are replayed to; see ``run.worker.Observer``."""

    def trial_started(self, claim: Claim) -> None: ...

    def epoch_done(self, claim: Claim, report: EpochReport) -> None: ...

    def trial_ended(self, claim: Claim, verdict: Verdict) -> None: ...

    def trial_left(self, claim: Claim, why: str) -> None: ...

    def announce(self, text: str, part: float | None = None) -> None: ...


class EventWriter:
    """An observer that writes events to standard output. When nobody reads them any more, the
    parent has died: ``orphaned`` is called, once."""

    def __init__(self, orphaned: Callable[[], None]) -> None:
        self._orphaned: Callable[[], None] | None = orphaned

    def _write(self, *event: Any) -> None:
        if self._orphaned is None:
            return
        try:
            sys.stdout.write(json.dumps(event) + "\n")
            sys.stdout.flush()
        except OSError:
            sys.stdout = sys.stderr  # or Python complains of the pipe when it exits
            self._orphaned()
            self._orphaned = None

    def trial_started(self, claim: Claim) -> None:
        self._write("trial_started", claim)

    def epoch_done(self, claim: Claim, report: EpochReport) -> None:
        self._write("epoch_done", claim, report)

    def trial_ended(self, claim: Claim, verdict: Verdict) -> None:
        self._write("trial_ended", claim, [type(verdict).__name__, *verdict])

    def trial_left(self, claim: Claim, why: str) -> None:
        self._write("trial_left", claim, why)

    def announce(self, text: str, part: float | None = None) -> None:
        self._write("announce", text, part)


def replay(line: str, listener: Listener) -> None:
    """Tell the listener of an event that an ``EventWriter`` wrote; ValueError for another line."""
    match json.loads(line):
        case ["trial_started", claim]:
            listener.trial_started(_claim(claim))
        case ["epoch_done", claim, report]:
            listener.epoch_done(_claim(claim), EpochReport(*report))
        case ["trial_ended", claim, [kind, *reason]]:
            listener.trial_ended(_claim(claim), VERDICTS[kind](*reason))
        case ["trial_left", claim, why]:
            listener.trial_left(_claim(claim), why)
        case ["announce", text, None | float() as part]:
            listener.announce(text, part)
        case _:
            raise ValueError(f"found {line!r}, expected an event")


def _claim(values: Any) -> Claim:
    trial_id, number, params, (program, hyperparameters, seed, epochs), token, history = values
    fields: list[Any] = [tuple(x) if isinstance(x, list) else x for x in program]
    config = TrialConfig(Program(*fields), Hyperparameters(*hyperparameters), seed, epochs)
    reports = tuple(EpochReport(*report) for report in history)
    return Claim(trial_id, number, params, config, token, reports)
