"""Commands that run trials: sweep, create, worker."""

import shlex
import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Annotated, Any, NamedTuple

import typer

from tuner.cli.main import (
    Allow,
    Artifacts,
    Data,
    File,
    Name,
    Storage,
    StudyName,
    Weights,
    app,
    out,
    without_passwords,
)
from tuner.cli.results import show_best
from tuner.errors import TunerError
from tuner.places import (
    METRICS_HOST,
    METRICS_HOST_VARIABLE,
    METRICS_PORT_VARIABLE,
    STORAGE,
    Local,
)
from tuner.spec import MOST_TRIALS
from tuner.specfile import load_spec
from tuner.study.database import Database
from tuner.study.store import StudyStore, best_of
from tuner.views import report, studies
from tuner.views.progress import LiveProgress, PlainProgress

Trials = Annotated[
    int | None,
    typer.Option(
        metavar="N", min=1, max=MOST_TRIALS, help="Trials in all, where more than the file says."
    ),
]
Grace = Annotated[
    float,
    typer.Option(
        metavar="SECONDS", min=0, help="When told to stop, give an epoch so long to finish."
    ),
]
MaxTime = Annotated[
    str | None,
    typer.Option(metavar="DURATION", help="Stop after the epoch that ends then: 90s, 30m, 8h."),
]
Workers = Annotated[
    int | None,
    typer.Option(
        metavar="N", min=1, max=256, help="Worker processes; by default one per accelerator."
    ),
]
Respawn = Annotated[
    int, typer.Option(metavar="N", min=0, help="Replace dead workers so many times.")
]
ExitWhenIdle = Annotated[
    bool,
    typer.Option(
        "--exit-when-idle", help="Leave once nothing is to be claimed; else wait for the end."
    ),
]
MaxTrials = Annotated[
    int | None, typer.Option(metavar="N", min=1, help="Leave after so many trials.")
]
MetricsPort = Annotated[
    int | None,
    typer.Option(
        metavar="PORT",
        min=0,
        max=65535,
        envvar=METRICS_PORT_VARIABLE,
        show_envvar=True,
        show_default=False,
        help="Show metrics for Prometheus at this port; several workers of a sweep take it and "
        "those that follow. 0: any that is free.",
    ),
]
MetricsHost = Annotated[
    str,
    typer.Option(
        metavar="ADDRESS",
        envvar=METRICS_HOST_VARIABLE,
        show_envvar=True,
        help="Where to show them. They ask for no login.",
    ),
]


class _Metrics(NamedTuple):
    """Where metrics are shown, if they are to be."""

    host: str
    port: int | None

    def shown(self, view: Any, store: StudyStore) -> AbstractContextManager[tuple[Any, Any]]:
        """What a worker of this process is to tell: the observer, and who hears of its
        membership."""
        if self.port is None:
            return nullcontext((view, None))
        from tuner.run.monitoring import monitored

        return monitored(view, store, self.host, self.port)

    def words(self, workers: int) -> list[list[str]]:
        """What each of several worker processes is told of it."""
        if self.port is None:
            return [[]] * workers
        from tuner.run.monitoring import ports

        host = ["--metrics-host", self.host, "--metrics-port"]
        return [[*host, str(port)] for port in ports(self.host, self.port, workers)]


@app.command()
def sweep(
    file: File,
    storage: Storage = STORAGE,
    artifacts: Artifacts = None,
    trials: Trials = None,
    name: Name = None,
    workers: Workers = None,
    respawn: Respawn = 0,
    data: Data = None,
    weights: Weights = None,
    allow: Allow = None,
    max_time: MaxTime = None,
    metrics_port: MetricsPort = None,
    metrics_host: MetricsHost = METRICS_HOST,
) -> None:
    """Run a study to its end, or go on with it; then show what came of it.

    Ctrl-C once finishes the epoch, saves, and stops; the same command goes on later.

    Example: tuner sweep studies/quickstart.toml
    """
    from tuner.run.files import begin_study
    from tuner.run.fleet import accelerators, run_fleet
    from tuner.run.signals import parse_duration

    seconds = parse_duration(max_time) if max_time else None
    local, metrics = Local(data, weights, tuple(allow or ())), _Metrics(metrics_host, metrics_port)
    spec = load_spec(file, name)
    store, files = begin_study(Database(storage, create=True), spec, artifacts)
    store.raise_total(trials or spec.study.trials)
    devices = accelerators()
    count = workers or max(1, len(devices))
    lab, stopped = None, False
    if store.remaining() <= 0:
        out.print(f"Study {store.name!r} has all of its {store.total} trials: nothing to run.")
    elif count == 1 and respawn == 0:
        lab, stopped = _run_here(store, files, seconds, local, metrics)
    else:
        options = {"--artifacts": artifacts, "--max-time": max_time}
        words = [store.name, *_worker_words(options, local)]
        with _view(store) as view:
            all_words = [[*words, *more] for more in metrics.words(count)]
            stopped = run_fleet(all_words, storage, respawn, devices, view)
    _show_outcome(store, files, lab, stopped, local)


def _worker_words(options: dict[str, str | None], local: Local) -> list[str]:
    """What every worker process of a sweep is told on its command line."""
    options |= {"--data": local.data, "--weights": local.weights}
    pairs = [*options.items(), *(("--allow", package) for package in local.allow)]
    return [word for key, value in pairs if value is not None for word in (key, value)]


def _view(store: StudyStore) -> LiveProgress | PlainProgress:
    if out.is_terminal:
        finished = store.total - store.remaining()
        return LiveProgress(out, finished, store.total, store.spec.metrics.objective)
    return PlainProgress(out)


def _run_here(
    store: StudyStore, files: Any, seconds: float | None, local: Local, metrics: _Metrics
) -> tuple[Any, bool]:
    """The lab of the run, and whether it was stopped."""
    with _view(store) as view, metrics.shown(view, store) as (observer, watch):
        view.announce("starting JAX")
        from tuner.run.signals import Stop
        from tuner.run.sweep import run_worker

        stop = Stop(seconds)
        lab = run_worker(store, files, observer, stop, local=local, watch=watch)
        return lab, stop.requested


def _show_outcome(store: StudyStore, files: Any, lab: Any, stopped: bool, local: Local) -> None:
    found = store.trials()
    best = best_of(found)
    objective = store.spec.metrics.objective
    out.print(studies.trial_table(found, objective, best and best.number))
    left = store.remaining()
    if left > 0:
        again = shlex.join(["tuner", *without_passwords(sys.argv[1:])])
        out.print(f"\n{left} of {store.total} trials are left; to go on: {again}", soft_wrap=True)
    if not stopped and best is not None:
        show_best(store, files, local, lab)
    if found:
        out.print(report.cost(found))
    elsewhere = any(word.startswith("--storage") for word in sys.argv)
    where = f" --storage {shlex.quote(store.database.address.shareable_url)}" if elsewhere else ""
    commands = [f"tuner report {shlex.quote(store.name)} --out report.html", "tuner dashboard"]
    look = ", or ".join(f"{command}{where}" for command in commands)
    out.print(f"To look further: {look}", soft_wrap=True)
    if left > 0 and not stopped:
        raise TunerError(f"study {store.name!r} has not ended: {left} trials are left")


@app.command()
def create(
    file: File, storage: Storage = STORAGE, artifacts: Artifacts = None, name: Name = None
) -> None:
    """Put a study into the database without running it; workers may join it then.

    Example: tuner create studies/quickstart.toml
    """
    from tuner.run.files import begin_study

    spec = load_spec(file, name)
    store, files = begin_study(Database(storage, create=True), spec, artifacts)
    out.print(
        f"Study {store.name!r} in {store.database.place}: {store.remaining()} of {store.total} "
        f"trials to run. Files: {files.store.url}",
        soft_wrap=True,
    )


@app.command()
def worker(
    name: StudyName,
    storage: Storage = STORAGE,
    artifacts: Artifacts = None,
    data: Data = None,
    weights: Weights = None,
    allow: Allow = None,
    trials: Trials = None,
    exit_when_idle: ExitWhenIdle = False,
    max_trials: MaxTrials = None,
    max_time: MaxTime = None,
    grace: Grace = 25.0,
    metrics_port: MetricsPort = None,
    metrics_host: MetricsHost = METRICS_HOST,
    events: Annotated[bool, typer.Option("--events", hidden=True)] = False,
) -> None:
    """Join a study and run its trials, from any machine, until it has ended.

    SIGTERM or Ctrl-C once finishes the epoch, saves, gives the trial back and leaves.

    Example: tuner worker quickstart --storage postgresql://tuner@db/tuner
    """
    from tuner.run.files import open_files
    from tuner.run.signals import Stop, parse_duration

    stop = Stop(parse_duration(max_time) if max_time else None)
    store = StudyStore(Database(storage), name)
    files = open_files(store, artifacts)
    if trials is not None:
        store.raise_total(trials)
    from tuner.run.events import EventWriter
    from tuner.run.sweep import run_worker
    from tuner.run.worker import Limits

    limits = Limits(max_trials, exit_when_idle)
    view = EventWriter(stop.request) if events else PlainProgress(out)
    local = Local(data, weights, tuple(allow or ()))
    with _Metrics(metrics_host, metrics_port).shown(view, store) as (observer, watch):
        run_worker(store, files, observer, stop, limits, local=local, grace=grace, watch=watch)
    left = store.remaining()
    if not events:
        view.announce(
            f"{left} of {store.total} trials are left" if left > 0 else "the study has ended"
        )
