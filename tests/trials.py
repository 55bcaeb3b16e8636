"""Trial records, claims, and views rendered as lines of text."""

import io
from typing import Any

from builders import DATASET, RANGES, epoch, spec_of
from rich.console import Console, RenderableType

from tuner.study.claims import Claim
from tuner.study.records import TrialRecord
from tuner.study.space import trial_config

PARAMS = {"learning_rate": 2.123456e-4, "batch_size": 64}


def record(trial: int, state: str = "COMPLETE", **changes: Any) -> TrialRecord:
    return TrialRecord(
        number=trial,
        state=state,
        params=PARAMS,
        value=20.5,
        reports=(epoch(1, 30.0), epoch(2, 20.5)),
        reason="all epochs trained",
        artifact=None,
        machine={"device": "cpu"},
    )._replace(**changes)


def shown(renderable: RenderableType, width: int = 160) -> list[str]:
    """Lines on a terminal of this width, without trailing spaces."""
    return [line.rstrip() for line in rendered(renderable, width)]


def rendered(renderable: RenderableType, width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get().splitlines()


def claim_of(trial: int) -> Claim:
    spec = spec_of("[study]\nepochs = 4\n" + RANGES)
    return Claim(trial, trial, PARAMS, trial_config(spec, PARAMS | {"beta1": 0.5}, trial, DATASET))
