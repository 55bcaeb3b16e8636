"""Trials of a study passed to its trackers, without training."""

import io
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from builders import epoch, spec_of
from PIL import Image
from trials import claim_of

from tuner.epoch_report import EpochReport
from tuner.study.claims import Claim
from tuner.study.sinks import Ending
from tuner.tracking.sink import TrackingSink

FOLDER = "faces-0123abcd"


def png(shade: int = 0) -> bytes:
    """A grey picture of 6 x 4 pixels as a PNG file."""
    data = io.BytesIO()
    Image.new("L", (6, 4), shade).save(data, format="PNG")
    return data.getvalue()


def reports(count: int) -> tuple[EpochReport, ...]:
    return tuple(epoch(number, 100.0 / number) for number in range(1, count + 1))


def study(*trackers: str, more: str = "") -> Any:
    """A stand-in for the store of a study with these trackers."""
    spec = spec_of(f"[tracking]\nto = {[*trackers]}\n{more}")
    return SimpleNamespace(name="faces", folder=FOLDER, spec=spec)


def pass_on(
    store: Any,
    claim: Claim,
    last: int,
    ending: Ending | None,
    announced: list[str],
    pictures: Sequence[int] = (),
) -> None:
    """Pass a trial to the trackers as a worker does that trains it up to epoch ``last``."""
    sink = TrackingSink(store, announced.append)
    sink.started(claim)
    for report in reports(last)[len(claim.history) :]:
        if report.epoch in pictures:
            sink.picture(claim.number, report.epoch, png(report.epoch))
        sink.epoch(claim, report)
    if ending is not None:
        sink.ended(claim, ending)
    for feed in sink._used():
        feed.close(60)


def taken_over(number: int, epochs: int) -> Claim:
    """A trial that another worker has trained for some epochs."""
    return claim_of(number)._replace(history=reports(epochs), token=2)


def one_file(folder: Path, pattern: str) -> Path:
    [path] = folder.rglob(pattern)
    return path
