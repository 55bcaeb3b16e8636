"""``tuner worker``: join a study and run its trials."""

from functools import partial
from typing import Annotated

import typer

from tuner.cli.app import Task, command, out
from tuner.cli.options import (
    Allow,
    Artifacts,
    Data,
    ExitWhenIdle,
    Grace,
    MaxTime,
    MaxTrials,
    MetricsHost,
    MetricsPort,
    Storage,
    StudyName,
    Trials,
    Weights,
    WorkersPerDevice,
    option,
)
from tuner.cli.processes import plan_processes, run_processes
from tuner.cli.run import resume_hint, serving_metrics
from tuner.environment import METRICS_HOST, STORAGE, MachineOptions
from tuner.errors import InputError, TunerError
from tuner.run.signals import GRACE, Stop
from tuner.study.database import Database
from tuner.study.retrying import Retrier
from tuner.study.store import StudyStore
from tuner.views.progress import PlainProgress
from tuner.worker_command import WorkerCommand

SignalExitCode = Annotated[
    int,
    option(
        "N",
        "Exit code if a signal stops the worker while trials are left, for schedulers that "
        "then restart it, e.g. 75.",
        min=0,
        max=125,
    ),
]
Events = Annotated[bool, typer.Option("--events", hidden=True)]


@command(Task.RUN, uses_jax=True)
def worker(
    name: StudyName,
    storage: Storage = STORAGE,
    artifacts: Artifacts = None,
    data: Data = None,
    weights: Weights = None,
    allow: Allow = None,
    trials: Trials = None,
    workers_per_device: WorkersPerDevice = None,
    exit_when_idle: ExitWhenIdle = False,
    max_trials: MaxTrials = None,
    max_time: MaxTime = None,
    grace: Grace = GRACE,
    signal_exit_code: SignalExitCode = 0,
    metrics_port: MetricsPort = None,
    metrics_host: MetricsHost = METRICS_HOST,
    events: Events = False,
) -> None:
    """Join a study and run its trials until it ends.

    Exits when the study's budget is spent, too. Needs no study file. SIGTERM or Ctrl-C finishes the
    epoch, saves a checkpoint, releases the trial and exits; a second one exits at once.

    Example: tuner worker quickstart --storage postgresql://tuner@db/tuner
    """
    from tuner.files.study_files import open_files
    from tuner.run.events import EventWriter

    alone = 1 if workers_per_device is None else None
    processes = plan_processes(alone, workers_per_device)
    if processes.workers > 1 and max_trials is not None:
        raise InputError("--max-trials counts the trials of one worker: omit --workers-per-device")
    stop = Stop(max_time, signal_code=signal_exit_code)
    orphaned = partial(stop.request, "the process that started this worker has died")
    view = EventWriter(orphaned) if events else PlainProgress(out)
    retry = Retrier(view.announce, busy_only=True)
    store = retry(lambda: StudyStore(Database(storage), name))
    files = open_files(store, artifacts)
    if trials is not None:
        store.raise_total(trials)
    options = MachineOptions(data, weights, tuple(allow or ()))
    me = WorkerCommand(name, artifacts, options, grace, exit_when_idle)
    me = me._replace(metrics_host=metrics_host, metrics_port=metrics_port)
    if (spent := store.budget().reason) is not None:
        view.announce(f"{spent}: exiting")
    elif processes.workers > 1:
        timing = {"max_time": max_time, "grace": grace, "stop": stop}
        if not run_processes(me, processes, storage, view, **timing):
            raise TunerError("workers died; see the lines above")
    else:
        from tuner.api import run_here
        from tuner.run.worker import Limits

        limits = Limits(max_trials, exit_when_idle)
        with serving_metrics(store, view, me) as (sink, watch):
            run_here(store, files, sink, stop, limits, options=options, grace=grace, watch=watch)
    if not events:
        left = store.remaining()
        view.announce(resume_hint(store, files, left) if left > 0 else _ended_line(store))
        if left > 0 and store.budget().reason is None:
            raise typer.Exit(stop.exit_code)


def _ended_line(store: StudyStore) -> str:
    early = f" early: {store.ended_reason}" if store.ended_reason else ""
    return f"the study has ended{early}"
