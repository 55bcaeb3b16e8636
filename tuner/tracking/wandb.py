"""Weights & Biases: a project per study, a run per trial with the trial's own id.

Server, project and key come from its own variables and files: ``WANDB_MODE``, ``WANDB_BASE_URL``,
``WANDB_ENTITY``, ``WANDB_PROJECT``, ``WANDB_DIR``, ``WANDB_API_KEY`` or ``wandb login``.
"""

import io
import os
from collections.abc import Mapping, Sequence
from typing import Any

os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # otherwise errors are sent to its authors

import wandb
from PIL import Image

from tuner.tracking.runs import Epoch, TrackedTrial

LONGEST_NAME = 128  # of a project
# Record nothing of the process: its arguments, its output and its code may contain passwords.
QUIET: dict[str, Any] = {
    "console": "off",
    "silent": True,
    "disable_code": True,
    "disable_git": True,
    "x_disable_machine_info": True,
    "x_disable_meta": True,
    "x_disable_stats": True,
}


def begin(trial: TrackedTrial) -> "WandbRun":
    """Continue the trial's run, or create it. RuntimeError without an API key, unless offline."""
    settings = wandb.Settings(**QUIET)
    online = wandb.setup(settings=settings).settings.mode in ("online", "shared")
    if online and not wandb.login(prompt=False, verify=False):
        raise RuntimeError("no API key: set WANDB_API_KEY or run wandb login, or set WANDB_MODE")
    run = wandb.init(
        project=os.environ.get("WANDB_PROJECT") or trial.study[:LONGEST_NAME],
        id=trial.identity,
        name=trial.name,
        group=trial.folder,
        config=trial.hyperparameters,
        resume="allow",
        reinit="create_new",
        settings=settings,
    )
    run.define_metric("samples", step_metric="samples_epoch")
    run.define_metric("samples_epoch", hidden=True)
    run.define_metric("*", step_metric="epoch")
    return WandbRun(run)


class WandbRun:
    """A ``Run`` at Weights & Biases; in offline mode, the part of it that this worker writes."""

    def __init__(self, run: Any) -> None:
        self._run = run
        # In offline mode it is unknown what other workers have written.
        self.last_epoch = None if run.offline else int(run.summary.get("epoch") or 0)

    def epochs(self, epochs: Sequence[Epoch]) -> None:
        for epoch in epochs:
            self._run.log({**epoch.measured, "epoch": epoch.report.epoch})

    def picture(self, epoch: int, png: bytes) -> None:
        with Image.open(io.BytesIO(png)) as image:
            self._run.log({"samples": wandb.Image(image), "samples_epoch": epoch})

    def end(self, state: str, reason: str | None, values: Mapping[str, float]) -> None:
        self._run.summary.update({"state": state, "reason": reason, **values})
        self._run.finish(exit_code=int(state == "FAIL"))

    def close(self) -> None:
        self._run.finish()
