"""trackio: a project per study, a run per trial, in a local database or on a server.

Folder, space, server and login come from its own variables: ``TRACKIO_DIR``, ``TRACKIO_SPACE_ID``,
``TRACKIO_SERVER_URL``, ``TRACKIO_WRITE_TOKEN``, ``HF_TOKEN``.
"""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import trackio
from PIL import Image

from tuner.tracking.runs import Epoch, TrackedTrial


def _silent(*_: object, **__: object) -> None:
    """Replaces ``print``, because standard output shows the progress of a sweep."""


for _module in (trackio, trackio.run, trackio.utils):
    vars(_module)["print"] = _silent


def begin(trial: TrackedTrial) -> "TrackioRun":
    """Continue the trial's run in the study's project, or create it."""
    run = trackio.init(
        project=trial.study,
        name=f"{trial.name}-{trial.folder[-8:]}",  # studies of the same name share a project
        config=trial.hyperparameters,
        resume="allow",
        embed=False,
        auto_log_gpu=False,
        auto_log_cpu=False,
    )
    return TrackioRun(run)


class TrackioRun:
    """A ``Run`` of trackio."""

    def __init__(self, run: Any) -> None:
        self._run = run
        self.last_epoch: int | None = max(0, run._next_step - 1)  # trackio counts from 0

    def epochs(self, epochs: Sequence[Epoch]) -> None:
        for epoch in epochs:
            self._run.log(epoch.measured, step=epoch.report.epoch)

    def picture(self, epoch: int, png: bytes) -> None:
        with Image.open(io.BytesIO(png)) as image:
            self._run.log({"samples": trackio.Image(image)}, step=epoch)

    def end(self, state: str, reason: str | None, values: Mapping[str, float]) -> None:
        outcome = {"state": state, **values} | ({"reason": reason} if reason else {})
        self._run.log(outcome, step=max(0, self._run._next_step - 1))
        self._run.finish()

    def close(self) -> None:
        self._run.finish()
