"""``tuner sweep`` and ``create``: run a study, or store it for workers to join."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Annotated, Any

from tuner import hints
from tuner.cli.app import Task, command, out
from tuner.cli.best import show_best
from tuner.cli.main import resume_command
from tuner.cli.options import (
    Allow,
    Artifacts,
    Data,
    File,
    MaxTime,
    MetricsHost,
    MetricsPort,
    Respawn,
    Storage,
    Trials,
    Weights,
    Workers,
    WorkersPerDevice,
    database_words,
    option,
)
from tuner.cli.processes import Processes, plan_processes, run_processes
from tuner.data.listing import check_data_option
from tuner.environment import METRICS_HOST, STORAGE, MachineOptions
from tuner.errors import TunerError
from tuner.notify.sender import check_sender
from tuner.run.signals import GRACE, Stop
from tuner.spec.loading import differences, load_spec
from tuner.spec.study import StudySpec
from tuner.spec.warnings import warnings
from tuner.study.database import Database
from tuner.study.objectives import pareto_front
from tuner.study.retrying import Retrier
from tuner.study.sinks import Sinks
from tuner.study.store import StudyStore
from tuner.study.urls import command_url
from tuner.tracking.sink import check_trackers
from tuner.views import budgets, studies, summaries
from tuner.views.progress import progress_view
from tuner.worker_command import WorkerCommand

Name = Annotated[str | None, option("NAME", "Name of the study. Default: the study file's.")]


@command(Task.RUN, uses_jax=True)
def sweep(
    file: File,
    storage: Storage = STORAGE,
    artifacts: Artifacts = None,
    trials: Trials = None,
    name: Name = None,
    workers: Workers = None,
    workers_per_device: WorkersPerDevice = None,
    respawn: Respawn = 0,
    data: Data = None,
    weights: Weights = None,
    allow: Allow = None,
    max_time: MaxTime = None,
    metrics_port: MetricsPort = None,
    metrics_host: MetricsHost = METRICS_HOST,
) -> None:
    """Run or resume a study, then show the results.

    Ctrl-C finishes the epoch, saves and stops; the same command resumes the study. A second Ctrl-C
    stops at once. The study's budget ends it in the same way.

    Example: tuner sweep studies/quickstart.toml
    """
    processes = plan_processes(workers, workers_per_device)
    spec = load_spec(file, name)
    check_data_option(spec.data, data)
    check_trackers(spec.tracking.to)
    check_sender(spec.notify.on)
    for line in warnings(spec):
        out.print(f"warning: {line}", soft_wrap=True)
    store, files = _begin(storage, spec, artifacts, trials, raise_total=True)
    options = MachineOptions(data, weights, tuple(allow or ()))
    command = WorkerCommand(store.name, artifacts, options)
    command = command._replace(metrics_host=metrics_host, metrics_port=metrics_port)
    run_study(store, files, storage, command, processes, respawn, max_time)


def run_study(
    store: StudyStore,
    files: Any,
    storage: str,
    command: WorkerCommand,
    processes: Processes,
    respawn: int,
    max_time: float | None,
) -> None:
    """Run the remaining trials of a study on this machine, then show the results.

    ``command`` has the options of every worker, even of one in this process.
    """
    evaluator, stopped = None, False
    if store.remaining() <= 0:
        what = f"has all of its {store.total} trials"
        if store.ended_reason is not None:
            what = f"has ended early ({store.ended_reason})"
        out.print(f"Study {store.name!r} {what}: nothing to run.", soft_wrap=True)
    elif store.budget().reason is not None:
        out.print(f"Study {store.name!r} has spent its budget: nothing to run.")
    elif processes.workers == 1 and respawn == 0:
        stop, options = Stop(max_time), command.options
        with (
            progress_view(store, out) as view,
            serving_metrics(store, view, command) as (sink, watch),
        ):
            from tuner.api import run_here

            evaluator = run_here(
                store, files, sink, stop, options=options, grace=GRACE, watch=watch
            )
            stopped = stop.requested
    else:
        with progress_view(store, out) as view:
            limits = {"respawn": respawn, "max_time": max_time, "doing": view.doing}
            none_lost = run_processes(command, processes, storage, view, **limits)
        stopped = none_lost and store.remaining() > 0
    _show_outcome(store, files, evaluator, stopped, command.options)


@command(Task.RUN)
def create(
    file: File, storage: Storage = STORAGE, artifacts: Artifacts = None, name: Name = None
) -> None:
    """Store a study for workers to join, without running it.

    Example: tuner create studies/quickstart.toml
    """
    store, files = _begin(storage, load_spec(file, name), artifacts)
    out.print(
        f"Study {store.name!r} in {store.database.place}: {store.remaining()} of {store.total} "
        f"trials to run. Files: {files.store.url}",
        soft_wrap=True,
    )


def _begin(
    storage: str,
    spec: StudySpec,
    artifacts: str | None,
    trials: int | None = None,
    *,
    raise_total: bool = False,
) -> tuple[StudyStore, Any]:
    """Open the study and its files; create what does not exist."""
    from tuner.files.study_files import begin_study

    def begin() -> tuple[StudyStore, Any]:
        database = Database(storage, create=True)
        return begin_study(
            database, spec, artifacts, trials=trials, raise_total=raise_total, announce=announce
        )

    announce = partial(out.print, soft_wrap=True)
    store, files = Retrier(announce, busy_only=True)(begin)
    if lines := differences(store.spec, spec):
        out.print(f"Study {store.name!r} has been edited since: {'; '.join(lines)}", soft_wrap=True)
    return store, files


@contextmanager
def serving_metrics(
    store: StudyStore, view: Any, worker: WorkerCommand
) -> Iterator[tuple[Any, Any]]:
    """Serve metrics of this process; yield the worker's sink and a callback for its session."""
    if worker.metrics_port is None:
        yield view, lambda session: view.follow(session.clock)
        return
    from tuner.run.monitoring import monitored

    with monitored(store, worker.metrics_host, worker.metrics_port, view.announce) as monitor:

        def watch(session: Any) -> None:
            view.follow(session.clock)
            monitor.watch(session)

        yield Sinks(view, monitor), watch


def resume_hint(store: StudyStore, files: Any, left: int) -> str:
    """Why ``left`` trials are left, and how to run them."""
    if (budget := store.budget()).reason is not None:
        return budgets.end_line(store.name, budget, store.unfinished())
    url = command_url(store.database.address.url)
    command = resume_command(sys.argv[1:], url, files.store.url)
    return f"{left} of {store.total} trials are left; to resume: {command}"


def _show_outcome(
    store: StudyStore, files: Any, evaluator: Any, stopped: bool, options: MachineOptions
) -> None:
    found, left = store.trials(), store.remaining()
    front, is_spent = pareto_front(found), store.budget().reason is not None
    out.print(studies.trial_table(found, store.spec.metrics.objective, [t.number for t in front]))
    if left > 0:
        out.print(f"\n{resume_hint(store, files, left)}", soft_wrap=True)
    elif store.ended_reason is not None:
        go_on = f"to continue, raise its {store.total} trials with --trials"
        out.print(f"\nEnded early: {store.ended_reason}; {go_on}.", soft_wrap=True)
    if (not stopped or is_spent) and front:
        show_best(store, files, options, evaluator)
    if found:
        out.print(summaries.evaluation_cost(summaries.durations(found)), soft_wrap=True)
    where = database_words(store.database)
    page = hints.command("report", store.name, "--out", "report.html", *where)
    dashboard = hints.command("dashboard", *where)
    out.print(f"To explore the results: {page}, or {dashboard}", soft_wrap=True)
    if left > 0 and not stopped and not is_spent:
        raise TunerError(f"study {store.name!r} has not ended: {left} trials are left")
