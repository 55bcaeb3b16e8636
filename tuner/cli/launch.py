"""``tuner launch``: the group of commands that run workers on clusters."""

import typer

from tuner.cli.app import Task, app
from tuner.cli.processes import worker_arguments
from tuner.environment import METRICS_HOST, MachineOptions

launch = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Run workers on a cluster.\n\nExample: tuner launch slurm quickstart --workers 16",
)
app.add_typer(launch, name="launch", rich_help_panel=Task.RUN)


def worker_words(
    artifacts: str | None,
    options: MachineOptions,
    per_device: int | None,
    max_trials: int | None,
    grace: float,
    *,
    exit_when_idle: bool,
) -> list[str]:
    """Arguments of ``tuner worker`` in a job, after the study's name."""
    more = ["--grace", f"{grace:g}"]
    if exit_when_idle:
        more += ["--exit-when-idle"]
    if max_trials is not None:
        more += ["--max-trials", str(max_trials)]
    if per_device is not None:
        more += ["--workers-per-device", str(per_device or "auto")]
    [words] = worker_arguments(1, "", artifacts, options, (METRICS_HOST, None), *more)
    return words[1:]
