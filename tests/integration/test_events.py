"""Events that a worker process writes and its parent process replays."""

import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from builders import DATASET, RANGES, epoch, spec_of

from tuner.epoch_report import EpochReport
from tuner.phases import LASTING, Phase, PhaseClock
from tuner.run.events import EventWriter, replay
from tuner.study.claims import Claim
from tuner.study.sinks import Ending, Released
from tuner.study.space import trial_config
from tuner.study.verdict import Complete, Fail, Prune

PARAMS = {"learning_rate": 1.234567890123e-4, "beta1": 0.1 + 0.2, "optimizer": "adam"}


def claim_of(history: tuple[EpochReport, ...] = ()) -> Claim:
    config = trial_config(spec_of(RANGES), PARAMS, 7, DATASET)
    return Claim(9, 7, PARAMS, config, 3, history, "worker a on b" if history else None)


class Log:
    """A sink that records what it receives."""

    def __init__(self) -> None:
        self.received: list[tuple[Any, ...]] = []

    def started(self, claim: Claim) -> None:
        self.received.append(("started", claim))

    def epoch(self, claim: Claim, report: EpochReport) -> None:
        self.received.append(("epoch", claim, report))

    def ended(self, claim: Claim, ending: Ending) -> None:
        self.received.append(("ended", claim, ending))

    def announce(self, text: str, part: float | None = None) -> None:
        self.received.append(("announce", text) if part is None else ("announce", text, part))


HISTORY = (epoch(1, 30.125), epoch(2, None, finite=False, loss_ratio=None, d_loss=None))
EVENTS: list[tuple[Any, ...]] = [
    ("started", claim_of()),
    ("started", claim_of(HISTORY)),
    ("epoch", claim_of(HISTORY), epoch(3, 20.1 + 1e-13, train_seconds=1 / 3)),
    ("epoch", claim_of(), HISTORY[1]),
    ("ended", claim_of(), Complete()),
    ("ended", claim_of(), Prune('guard: "x" \n below 1')),
    ("ended", claim_of(), Fail("ValueError: é \u2028 \x00")),
    ("ended", claim_of(HISTORY), Released("released, to be resumed")),
    ("announce", "waiting\nfor \u00e9"),
    ("announce", ""),
    ("announce", "decoding", 0.25),
]


def test_events_are_replayed_unchanged(capsys: pytest.CaptureFixture[str]) -> None:
    writer = EventWriter(lambda: pytest.fail("the parent is alive"))
    for name, *values in EVENTS:
        getattr(writer, name)(*values)
    lines = capsys.readouterr().out.split("\n")
    assert lines.pop() == ""
    assert len(lines) == len(EVENTS)  # one line per event
    log = Log()
    for line in lines:
        replay(line, log)
    assert log.received == EVENTS
    for received, event in zip(log.received, EVENTS, strict=True):
        assert [type(part) for part in received] == [type(part) for part in event]
    claim = log.received[1][1]
    assert isinstance(claim.config.program.image_shape, tuple)
    assert isinstance(claim.history[0], EpochReport)
    hash(claim.config)  # raises if tuples were replayed as lists


def test_missing_and_infinite_numbers_survive(capsys: pytest.CaptureFixture[str]) -> None:
    EventWriter(print).epoch(claim_of(), epoch(1, loss_ratio=math.inf, d_loss=math.nan))
    log = Log()
    replay(capsys.readouterr().out, log)
    report = log.received[0][2]
    assert math.isinf(report.loss_ratio)
    assert math.isnan(report.d_loss)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "a library that prints",
        "[]",
        "7",
        "null",
        '["announce"]',
        '["unheard_of", 1]',
        '{"announce": "x"}',
        '["announce", "x", "y"]',
        "[1, 2",
    ],
)
def test_other_lines_are_not_events(line: str) -> None:
    log = Log()
    with pytest.raises(ValueError):
        replay(line, log)
    assert log.received == []


WRITE = """
import sys
from tuner.run.events import EventWriter
calls = []
writer = EventWriter(lambda: calls.append(1))
writer.announce("first")
sys.stdin.readline()
for _ in range(5):
    writer.announce("x" * 100_000)
print("printed by a library")
print(len(calls), file=sys.stderr)
"""


def test_the_loss_of_the_parent_is_reported_once() -> None:
    """Python itself must not warn about the broken pipe either."""
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-c", WRITE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        log = Log()
        replay(process.stdout.readline(), log)
        assert log.received == [("announce", "first")]
        process.stdout.close()
        process.stdin.write("\n")
        process.stdin.close()
        errors = process.stderr.read()
    assert process.returncode == 0, errors
    assert errors.splitlines() == ["printed by a library", "1"]


def test_what_a_worker_is_doing_is_written_once_it_lasts(
    capsys: pytest.CaptureFixture[str],
) -> None:
    writer, clock = EventWriter(lambda: pytest.fail("the parent is alive")), PhaseClock()
    writer.started(claim_of())
    writer.follow(clock)
    text = ""
    with clock.phase(Phase.EVALUATION):
        end = time.monotonic() + 20
        while "doing" not in text and time.monotonic() < end:
            time.sleep(0.05)
            text += capsys.readouterr().out
    writer._orphaned = None  # ends the thread
    received: list[tuple[int | None, str, float]] = []
    for line in text.splitlines():
        replay(line, Log(), lambda *what: received.append(what))
    [(trial, what, seconds)] = received
    assert (trial, what) == (7, "evaluating")
    assert LASTING <= seconds < 20
