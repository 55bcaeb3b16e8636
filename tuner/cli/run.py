"""``tuner sweep``, ``create`` and ``worker``: run a study."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Annotated, Any

import typer

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
    Storage,
    StudyName,
    Trials,
    Weights,
    WorkersPerDevice,
    database_words,
)
from tuner.cli.processes import Processes, plan_processes, worker_arguments
from tuner.data.listing import check_data_option
from tuner.environment import METRICS_HOST, STORAGE, MachineOptions
from tuner.errors import InputError, TunerError
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
from tuner.study.urls import repeatable
from tuner.tracking.sink import check_trackers
from tuner.views import budgets, studies, summaries
from tuner.views.progress import PlainProgress, progress_view

Name = Annotated[
    str | None, typer.Option(metavar="NAME", help="Name of the study. Default: the study file's.")
]
Workers = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=1,
        max=256,
        help="Number of worker processes. Default: one per accelerator.",
    ),
]
Respawn = Annotated[int, typer.Option(metavar="N", min=0, help="Replace up to N dead workers.")]
ExitWhenIdle = Annotated[
    bool,
    typer.Option(
        "--exit-when-idle",
        help="Exit when no trial can be claimed, instead of waiting for the study to end.",
    ),
]
MaxTrials = Annotated[int | None, typer.Option(metavar="N", min=1, help="Exit after N trials.")]
Grace = Annotated[
    float,
    typer.Option(
        metavar="SECONDS",
        min=0,
        help="Seconds to let the current epoch finish after a stop request.",
    ),
]
SignalExitCode = Annotated[
    int,
    typer.Option(
        metavar="N",
        min=0,
        max=125,
        help="Exit code if a signal stops the worker while trials are left, for schedulers that "
        "then restart it, e.g. 75.",
    ),
]
Events = Annotated[bool, typer.Option("--events", hidden=True)]


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
    options = MachineOptions(data, weights, tuple(allow or ()))
    spec = load_spec(file, name)
    check_data_option(spec.data, data)
    check_trackers(spec.tracking.to)
    check_sender(spec.notify.on)
    for line in warnings(spec):
        out.print(f"warning: {line}", soft_wrap=True)
    store, files = _begin(storage, spec, artifacts, trials, raise_total=True)
    metrics = metrics_host, metrics_port
    run_study(store, files, storage, artifacts, options, processes, respawn, max_time, metrics)


def run_study(
    store: StudyStore,
    files: Any,
    storage: str,
    artifacts: str | None,
    options: MachineOptions,
    processes: Processes,
    respawn: int,
    max_time: float | None,
    metrics: tuple[str, int | None],
) -> None:
    """Run what is left of a study on this machine, then show the results.

    ``metrics`` is the host and port on which metrics are served, if the port is not None.
    """
    evaluator, stopped = None, False
    if store.remaining() <= 0:
        what = f"has all of its {store.total} trials"
        if store.ended_reason is not None:
            what = f"has ended early ({store.ended_reason})"
        out.print(f"Study {store.name!r} {what}: nothing to run.", soft_wrap=True)
    elif store.budget().reason is not None:
        out.print(f"Study {store.name!r} has spent its budget: nothing to run.")
    elif processes.most == 1 and respawn == 0:
        with (
            progress_view(store, out) as view,
            _metrics(store, view, *metrics) as (sink, watch),
        ):
            from tuner.api import run_here

            stop = Stop(max_time)
            evaluator = run_here(
                store, files, sink, stop, options=options, grace=GRACE, watch=watch
            )
            stopped = stop.requested
    else:
        from tuner.run.fleet import run_fleet

        devices, count, widen = processes
        with progress_view(store, out) as view:
            arguments = worker_arguments(count, store.name, artifacts, options, metrics)
            none_lost = run_fleet(
                *(arguments, storage, respawn, devices, view),
                widen=widen,
                max_time=max_time,
                doing=view.doing,
            )
        stopped = none_lost and store.remaining() > 0
    _show_outcome(store, files, evaluator, stopped, options)


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
    devices, count, widen = plan_processes(alone, workers_per_device)
    if count > 1 and max_trials is not None:
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
    if (spent := store.budget().reason) is not None:
        view.announce(f"{spent}: exiting")
    elif count > 1:
        from tuner.run.fleet import run_fleet

        more = ["--grace", f"{grace:g}", *(["--exit-when-idle"] if exit_when_idle else [])]
        metrics = metrics_host, metrics_port
        arguments = worker_arguments(count, name, artifacts, options, metrics, *more)
        none_lost = run_fleet(
            arguments,
            storage,
            0,
            devices,
            view,
            widen=widen,
            max_time=max_time,
            grace=grace,
            stop=stop,
        )
        if not none_lost:
            raise TunerError("workers died; see the lines above")
    else:
        from tuner.api import run_here
        from tuner.run.worker import Limits

        limits = Limits(max_trials, exit_when_idle)
        with _metrics(store, view, metrics_host, metrics_port) as (sink, watch):
            run_here(store, files, sink, stop, limits, options=options, grace=grace, watch=watch)
    if not events:
        left = store.remaining()
        early = f" early: {store.ended_reason}" if store.ended_reason else ""
        ended = f"the study has ended{early}"
        view.announce(_to_go_on(store, files, left) if left > 0 else ended)
        if left > 0 and store.budget().reason is None:
            raise typer.Exit(stop.exit_code)


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
def _metrics(
    store: StudyStore, view: Any, host: str, port: int | None
) -> Iterator[tuple[Any, Any]]:
    """Serve metrics of this process; yield the worker's sink and a callback for its session."""
    if port is None:
        yield view, lambda session: view.follow(session.clock)
        return
    from tuner.run.monitoring import monitored

    with monitored(store, host, port, view.announce) as monitor:

        def watch(session: Any) -> None:
            view.follow(session.clock)
            monitor.watch(session)

        yield Sinks(view, monitor), watch


def _to_go_on(store: StudyStore, files: Any, left: int) -> str:
    """Why ``left`` trials are left, and how to run them."""
    if (budget := store.budget()).reason is not None:
        return budgets.end_line(store.name, budget, store.unfinished())
    url = repeatable(store.database.address.url)
    command = resume_command(sys.argv[1:], url, files.store.url)
    return f"{left} of {store.total} trials are left; to resume: {command}"


def _show_outcome(
    store: StudyStore, files: Any, evaluator: Any, stopped: bool, options: MachineOptions
) -> None:
    found, left = store.trials(), store.remaining()
    front, is_spent = pareto_front(found), store.budget().reason is not None
    out.print(studies.trial_table(found, store.spec.metrics.objective, [t.number for t in front]))
    if left > 0:
        out.print(f"\n{_to_go_on(store, files, left)}", soft_wrap=True)
    elif store.ended_reason is not None:
        go_on = f"to go on, raise its {store.total} trials with --trials"
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
