"""The command line of ``tuner worker``, for the processes and jobs that other commands start."""

import sys
from typing import NamedTuple

from tuner.environment import DEFAULT_OPTIONS, METRICS_HOST, MachineOptions

AUTO = 0  # workers per device: as many as raise the rate


class WorkerCommand(NamedTuple):
    """A command line without the database's URL: all users of a machine can read command lines."""

    study: str
    artifacts: str | None = None
    options: MachineOptions = DEFAULT_OPTIONS
    grace: float | None = None
    exit_when_idle: bool = False
    max_trials: int | None = None
    max_time: float | None = None
    workers_per_device: int | None = None
    signal_exit_code: int | None = None
    metrics_host: str = METRICS_HOST
    metrics_port: int | None = None
    events: bool = False

    @property
    def arguments(self) -> list[str]:
        """Arguments of ``tuner worker`` after the study's name."""
        each, port = self.workers_per_device, self.metrics_port
        pairs = [
            ("--artifacts", self.artifacts),
            ("--data", self.options.data),
            ("--weights", self.options.weights),
            ("--grace", None if self.grace is None else f"{self.grace:g}"),
            *(("--allow", package) for package in self.options.allow),
            ("--max-trials", self.max_trials),
            ("--max-time", None if self.max_time is None else f"{self.max_time:.0f}s"),
            ("--workers-per-device", "auto" if each == AUTO else each),
            ("--signal-exit-code", self.signal_exit_code),
            ("--metrics-host", None if port is None else self.metrics_host),
            ("--metrics-port", port),
        ]
        words = [str(word) for pair in pairs if pair[1] is not None for word in pair]
        words += ["--exit-when-idle"] if self.exit_when_idle else []
        return words + (["--events"] if self.events else [])

    @property
    def words(self) -> list[str]:
        """Arguments of ``tuner``."""
        return ["worker", self.study, *self.arguments]


def tuner_process(*words: str) -> list[str]:
    """The command line of ``tuner`` with this Python."""
    # -P: files in the working folder must not shadow libraries.
    return [sys.executable, "-P", "-m", "tuner.cli", *words]
