"""What a worker process tells the one that started it, and what that one makes of it."""

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from builders import PREMISES, RANGES, epoch, spec_of

from tuner.run.events import EventWriter, replay
from tuner.study.membership import Claim
from tuner.study.space import trial_config
from tuner.study.verdict import Complete, Continue, Fail, Prune, Verdict
from tuner.trial import EpochReport

PARAMS = {"learning_rate": 1.234567890123e-4, "beta1": 0.1 + 0.2, "optimizer": "adam"}


def claim_of(history: tuple[EpochReport, ...] = ()) -> Claim:
    config = trial_config(spec_of(RANGES), PARAMS, 7, PREMISES)
    return Claim(9, 7, PARAMS, config, 3, history)


class Log:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def trial_started(self, claim: Claim) -> None:
        self.told.append(("trial_started", claim))

    def epoch_done(self, claim: Claim, report: EpochReport) -> None:
        self.told.append(("epoch_done", claim, report))

    def trial_ended(self, claim: Claim, verdict: Verdict) -> None:
        self.told.append(("trial_ended", claim, verdict))

    def trial_left(self, claim: Claim, why: str) -> None:
        self.told.append(("trial_left", claim, why))

    def announce(self, text: str, part: float | None = None) -> None:
        self.told.append(("announce", text) if part is None else ("announce", text, part))


HISTORY = (epoch(1, 30.125), epoch(2, None, finite=False, loss_ratio=None, d_loss=None))
EVENTS: list[tuple[Any, ...]] = [
    ("trial_started", claim_of()),
    ("trial_started", claim_of(HISTORY)),
    ("epoch_done", claim_of(HISTORY), epoch(3, 20.1 + 1e-13, train_seconds=1 / 3)),
    ("epoch_done", claim_of(), HISTORY[1]),
    ("trial_ended", claim_of(), Complete()),
    ("trial_ended", claim_of(), Prune('guard: "x" \n below 1')),
    ("trial_ended", claim_of(), Fail("ValueError: é \u2028 \x00")),
    ("trial_ended", claim_of(), Continue()),
    ("trial_left", claim_of(HISTORY), "left for later"),
    ("announce", "waiting\nfor \u00e9"),
    ("announce", ""),
    ("announce", "decoding", 0.25),
]


def test_all_that_is_told_is_replayed_as_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    writer = EventWriter(lambda: pytest.fail("somebody reads"))
    for name, *values in EVENTS:
        getattr(writer, name)(*values)
    lines = capsys.readouterr().out.split("\n")
    assert lines.pop() == ""
    assert len(lines) == len(EVENTS)  # a line each
    log = Log()
    for line in lines:
        replay(line, log)
    assert log.told == EVENTS
    for told, event in zip(log.told, EVENTS, strict=True):
        assert [type(part) for part in told] == [type(part) for part in event]
    claim = log.told[1][1]
    assert isinstance(claim.config.program.image_shape, tuple)
    assert isinstance(claim.history[0], EpochReport)
    hash(claim.config)  # as those who look it up do


def test_numbers_that_are_none_come_through(capsys: pytest.CaptureFixture[str]) -> None:
    """A loss ratio can be infinite."""
    EventWriter(print).epoch_done(claim_of(), epoch(1, loss_ratio=math.inf, d_loss=math.nan))
    log = Log()
    replay(capsys.readouterr().out, log)
    report = log.told[0][2]
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
def test_other_lines_are_no_events(line: str) -> None:
    log = Log()
    with pytest.raises(ValueError):
        replay(line, log)
    assert log.told == []


WRITE = """
import sys
from tuner.run.events import EventWriter
calls = []
writer = EventWriter(lambda: calls.append(1))
writer.announce("first")
sys.stdin.readline()
for _ in range(5):
    writer.announce("x" * 100_000)
print("said to nobody")  # by some library
print(len(calls), file=sys.stderr)
"""


def test_who_is_left_alone_hears_of_it_once() -> None:
    """The reader is gone: the pipe is broken. Python itself must not complain of it either."""
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
        assert log.told == [("announce", "first")]
        process.stdout.close()
        process.stdin.write("\n")
        process.stdin.close()
        errors = process.stderr.read()
    assert process.returncode == 0, errors
    assert errors.splitlines() == ["said to nobody", "1"]
