"""MLflow: an experiment per study, a run per trial, found again by a tag.

The address and the login come from MLflow's own variables: ``MLFLOW_TRACKING_URI``,
``MLFLOW_TRACKING_USERNAME``, ``MLFLOW_TRACKING_PASSWORD``, ``MLFLOW_TRACKING_TOKEN``.
"""

import logging
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# Importing MLflow would otherwise begin to send usage data to its authors.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")

from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking.client import MlflowClient

from tuner.tracking.runs import Epoch, TrackedTrial

IDENTITY = "tuner_trial"  # the tag that identifies a run
MARK = "epoch"  # the metric that is logged last: an epoch that has it is complete
FOLDER = "samples"  # of the artifacts
BATCH = 1000  # metrics that MLflow accepts at a time
_STATUS = {"COMPLETE": "FINISHED", "PRUNED": "KILLED", "FAIL": "FAILED"}
for _name in ("mlflow", "alembic", "urllib3"):  # they would be printed amid a sweep's progress
    logging.getLogger(_name).setLevel(logging.ERROR)


def begin(trial: TrackedTrial) -> "MlflowRun":
    """Continue the trial's run in the study's experiment, or create it."""
    client = MlflowClient()
    experiment = _experiment(client, trial.study)
    found = client.search_runs([experiment], f"tags.{IDENTITY} = '{trial.identity}'", max_results=1)
    if found:
        return MlflowRun(client, found[0])
    tags = {IDENTITY: trial.identity, "tuner_study": trial.folder}
    run = client.create_run(experiment, tags=tags, run_name=trial.name)
    given = trial.hyperparameters.items()
    client.log_batch(run.info.run_id, params=[Param(name, str(value)) for name, value in given])
    return MlflowRun(client, run)


def _experiment(client: MlflowClient, name: str) -> str:
    """The id of the experiment, which another worker may be about to create."""
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name))
        except MlflowException:
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    return str(found.experiment_id)


class MlflowRun:
    """A ``Run`` on an MLflow server, or in a local store."""

    def __init__(self, client: MlflowClient, run: Any) -> None:
        self._client, self._id, self._status = client, run.info.run_id, run.info.status
        self._pictures: set[str] | None = None  # unknown
        self.last_epoch: int | None = int(run.data.metrics.get(MARK, 0))

    def epochs(self, epochs: Sequence[Epoch]) -> None:
        metrics: list[Metric] = []
        for epoch in epochs:
            at, step = round(1000 * epoch.at), epoch.report.epoch
            numbers = {**epoch.measured, MARK: float(step)}
            new = [Metric(name, number, at, step) for name, number in numbers.items()]
            if len(metrics) + len(new) > BATCH:
                self._client.log_batch(self._id, metrics=metrics)
                metrics = []
            metrics += new
        self._client.log_batch(self._id, metrics=metrics)

    def picture(self, epoch: int, png: bytes) -> None:
        if self._pictures is None:
            known = self._client.list_artifacts(self._id, FOLDER)
            self._pictures = {Path(artifact.path).name for artifact in known}
        name = f"samples-epoch-{epoch:06d}.png"
        if name not in self._pictures:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / name
                path.write_bytes(png)
                self._client.log_artifact(self._id, str(path), FOLDER)
            self._pictures.add(name)

    def end(self, state: str, reason: str | None, values: Mapping[str, float]) -> None:
        if self._status == _STATUS[state]:
            return
        tags = {"tuner_state": state} | ({"tuner_reason": reason} if reason else {})
        now = round(1000 * time.time())
        metrics = [Metric(name, value, now, 0) for name, value in values.items()]
        self._client.log_batch(self._id, metrics, tags=[RunTag(*tag) for tag in tags.items()])
        self._client.set_terminated(self._id, _STATUS[state], now)

    def close(self) -> None:
        return None
