"""``tuner launch slurm`` and ``cancel``: a study's workers as Slurm jobs."""

import math
import re
from pathlib import Path
from typing import Annotated

from tuner import hints
from tuner.cli.app import out
from tuner.cli.launch import launch
from tuner.cli.options import (
    Allow,
    Artifacts,
    Data,
    ExitWhenIdle,
    Grace,
    MaxTrials,
    Storage,
    StudyName,
    Weights,
    WorkersPerDevice,
    open_study,
    option,
    parse_duration,
)
from tuner.environment import STORAGE, MachineOptions
from tuner.errors import InputError
from tuner.launch import slurm
from tuner.launch.slurm_job import WorkerJob
from tuner.paths import local_path
from tuner.run.signals import GRACE
from tuner.study.store import StudyStore
from tuner.worker_command import WorkerCommand

LOGS = "tuner-data/slurm"
MAX_JOBS = 10_000
SHORTEST_RUN = 60  # seconds between a job's start and the signal before its time limit


def parse_time_limit(text: str) -> float:
    """Parse ``8h``, ``90m`` or Slurm's ``1-12:00:00`` and ``08:00:00`` as seconds.

    InputError for other text, including a plain number, which Slurm reads as minutes.
    """
    clock = re.fullmatch("(?:([0-9]{1,3})-)?([0-9]{1,3}):([0-9]{2}):([0-9]{2})", text)
    if clock is not None:
        days, hours, minutes, seconds = (int(part or 0) for part in clock.groups())
        return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)
    if text.isdecimal():
        raise InputError(f"--time: found {text[:40]} without a unit; write it like 90m or 8h")
    return parse_duration(text)


Workers = Annotated[int, option("N", "Number of workers: one job each.", min=1, max=MAX_JOBS)]
Partition = Annotated[str | None, option("NAME", "Partition of the jobs.")]
Gres = Annotated[str | None, option("LIST", "Devices of each job, e.g. gpu:1.")]
Time = Annotated[
    float | None,
    option(
        "DURATION",
        "Time limit of each job, e.g. 8h. Its worker stops in time, and it is resubmitted. "
        "Default: the partition's.",
        parser=parse_time_limit,
    ),
]
Account = Annotated[str | None, option("NAME", "Account to charge.")]
Qos = Annotated[str | None, option("NAME", "Quality of service.")]
Cpus = Annotated[int | None, option("N", "CPU cores of each job. Default: Slurm's.", min=1)]
Mem = Annotated[str | None, option("SIZE", "Memory of each job, e.g. 16G.")]
Sbatch = Annotated[
    list[str] | None,
    option("KEY[=VALUE]", "Further option of sbatch, without dashes. Can be repeated."),
]
Logs = Annotated[
    Path, option("FOLDER", "Folder for job scripts and logs, which all nodes can reach.")
]


@launch.command("slurm")
def launch_slurm(
    name: StudyName,
    workers: Workers = 1,
    partition: Partition = None,
    gres: Gres = None,
    time: Time = None,
    account: Account = None,
    qos: Qos = None,
    cpus_per_task: Cpus = None,
    mem: Mem = None,
    sbatch: Sbatch = None,
    logs: Logs = Path(LOGS),
    storage: Storage = STORAGE,
    artifacts: Artifacts = None,
    data: Data = None,
    weights: Weights = None,
    allow: Allow = None,
    workers_per_device: WorkersPerDevice = None,
    exit_when_idle: ExitWhenIdle = False,
    max_trials: MaxTrials = None,
    grace: Grace = GRACE,
) -> None:
    """Submit workers to Slurm as a job array.

    Jobs that are preempted or reach their time limit save their trials and return to the queue
    while the study has trials left.

    Example: tuner launch slurm quickstart --workers 16 --gres gpu:1 --time 8h
    """
    given = {
        "partition": partition,
        "gres": gres,
        "time": None if time is None else _minutes(time, grace),
        "account": account,
        "qos": qos,
        "cpus-per-task": cpus_per_task,
        "mem": mem,
    }
    options = {key: str(value) for key, value in given.items() if value is not None}
    for text in sbatch or ():
        _add_option(options, text)
    _check(options)
    store = open_study(storage, name)
    if store.remaining() <= 0 or store.budget().reason is not None:
        raise InputError(f"study {name!r} has no trial left to run")
    worker = WorkerCommand(
        name,
        artifacts,
        MachineOptions(data, weights, tuple(allow or ())),
        grace,
        exit_when_idle,
        max_trials,
        workers_per_device=workers_per_device,
    )
    job, folder = WorkerJob(name, worker.arguments), local_path(logs, "--logs")
    submitted, made = slurm.submit(store, storage, job, workers, options, folder, grace)
    _print_submitted(store, workers, submitted, made)


def _minutes(seconds: float, grace: float) -> int:
    """The time limit for Slurm, which counts in minutes; InputError if no epoch would fit."""
    least = round(grace) + slurm.MARGIN + SHORTEST_RUN
    if seconds < least:
        raise InputError(
            f"--time: found {seconds:g} s, expected at least {least} s: the worker is stopped "
            f"--grace + {slurm.MARGIN} s before the limit"
        )
    return math.ceil(seconds / 60)


def _add_option(options: dict[str, str], text: str) -> None:
    """Add ``KEY`` or ``KEY=VALUE`` to the options of sbatch; InputError if tuner sets it."""
    key, _, value = text.partition("=")
    if not re.fullmatch("[a-z][a-z-]*", key):
        raise InputError("--sbatch: expected KEY or KEY=VALUE, such as --sbatch constraint=a100")
    if key in slurm.OWN_OPTIONS:
        raise InputError(f"--sbatch: {key} is set by tuner launch")
    if key in options:
        raise InputError(f"--sbatch: {key} is given twice")
    options[key] = value


def _check(options: dict[str, str]) -> None:
    """InputError for values that would end a line of the job script."""
    for key, value in options.items():
        if not value.isprintable():
            raise InputError(f"--{key}: the value contains control characters")


def _print_submitted(store: StudyStore, workers: int, job: str, logs: Path) -> None:
    if store.database.address.is_sqlite and workers > 1:
        out.print(
            "warning: a SQLite database serves workers on one machine only: use Postgres, or "
            "--sbatch nodelist=NODE",
            soft_wrap=True,
        )
    what = f"{workers} workers as array" if workers > 1 else "1 worker as"
    out.print(
        f"Submitted {what} job {job}. Logs: {logs}. To end them: "
        f"{hints.command('launch', 'cancel', store.name)}",
        soft_wrap=True,
    )


@launch.command("cancel")
def cancel(name: StudyName, storage: Storage = STORAGE) -> None:
    """End a study's Slurm jobs gracefully.

    Workers finish their epoch, save a checkpoint and release their trials; waiting jobs leave the
    queue.

    Example: tuner launch cancel quickstart
    """
    stopping, removed = slurm.cancel(open_study(storage, name))
    if not stopping and not removed:
        out.print(f"Study {name!r} has no Slurm jobs.")
        return
    parts = []
    if stopping:
        parts.append(f"{_jobs(len(stopping))} will end after the current epoch")
    if removed:
        parts.append(f"{_jobs(len(removed))} cancelled")
    out.print(f"Study {name!r}: {', '.join(parts)}.", soft_wrap=True)


def _jobs(count: int) -> str:
    return f"{count} job{'s' * (count != 1)}"
