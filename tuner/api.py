"""Run studies from Python."""

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path

from tuner.dashboard.publishing import DashboardPublisher
from tuner.environment import ARTIFACTS_VARIABLE, MachineOptions, default_storage, variable
from tuner.errors import InputError
from tuner.files.study_files import StudyFiles, begin_study
from tuner.notify.sender import check_sender
from tuner.notify.sink import notifying
from tuner.run.evaluator import Evaluator
from tuner.run.signals import Stop
from tuner.run.startup import run_worker
from tuner.run.worker import NO_LIMITS, Limits
from tuner.spec.loading import load_spec
from tuner.spec.study import StudySpec
from tuner.spec.warnings import warnings
from tuner.study.database import Database
from tuner.study.session import WorkerSession
from tuner.study.sinks import Sinks, TrialSink
from tuner.study.store import StudyStore
from tuner.tracking.sink import check_trackers, tracking
from tuner.views.console import Terminal, TolerantStream
from tuner.views.progress import LiveProgress, PlainProgress, progress_view
from tuner.xla import check_settings


def sweep(
    study: StudySpec | str | os.PathLike[str],
    *,
    storage: str | None = None,
    artifacts: str | os.PathLike[str] | None = None,
    trials: int | None = None,
    weights: str | os.PathLike[str] | None = None,
    allow: Sequence[str] = (),
    sinks: Sequence[TrialSink] = (),
    progress: bool = True,
) -> StudyStore:
    """Run or resume a study until all of its trials have ended or its budget is spent; return its
    store.

    Other workers may run the same study at the same time.

        store = tuner.sweep("studies/quickstart.toml")
        store.best().params

    ``study``: a spec, or the path of a study file.
    ``storage``: ``sqlite:///FILE`` or ``postgresql://…``; default as on the command line.
    ``artifacts``: a folder, ``s3://…`` or ``gs://…``; default as on the command line.
    ``trials``: raise the study's total number of trials to this.
    ``weights``: path of a published network's weights on this machine, if not the study's.
    ``allow``: packages that custom networks and metrics may be imported from.
    ``progress``: print a line after every epoch and trial, or redraw them in a terminal.
    ``sinks``: objects with the methods of ``TrialSink``, called for every trial and epoch on the
    training thread. An exception that they raise ends the run.

    Raises InputError, StorageError or TunerError, each with a one-line message, and
    KeyboardInterrupt when Ctrl-C has ended the run after an epoch.
    """
    check_settings()
    spec = study if isinstance(study, StudySpec) else load_spec(Path(study))
    if trials is not None and trials < 1:
        raise InputError(f"trials: found {trials}, expected at least 1")
    database = Database(storage or default_storage(), create=True)
    location = variable(ARTIFACTS_VARIABLE) if artifacts is None else str(artifacts)
    check_trackers(spec.tracking.to)
    check_sender(spec.notify.on)
    announce = print if progress else lambda text: None
    store, files = begin_study(
        database, spec, location, trials=trials, raise_total=True, announce=announce
    )
    if store.remaining() > 0 and store.budget().reason is None:
        stop = Stop()
        options = MachineOptions(
            weights=None if weights is None else str(weights), allow=tuple(allow)
        )
        with _view(store, progress) as view:
            sink = Sinks(view, *sinks)
            run_here(store, files, sink, stop, options=options, watch=partial(_follow, view))
        if stop.requested:
            raise KeyboardInterrupt
    return store


def run_here(
    store: StudyStore,
    files: StudyFiles,
    sink: TrialSink,
    stop: Stop,
    limits: Limits = NO_LIMITS,
    *,
    options: MachineOptions,
    grace: float | None = None,
    watch: Callable[[WorkerSession], None] | None = None,
) -> Evaluator | None:
    """Run trials in this process, publish them in the dashboard, pass them to the study's trackers
    and send its notifications; see ``run_worker``. InputError if this machine can't use a
    tracker or the notification URLs."""
    announce = sink.announce
    with tracking(store, announce) as trackers, notifying(store, announce) as notifiers:
        publisher = DashboardPublisher(store, files, sink.announce, trackers.picture)
        return run_worker(
            store,
            files,
            Sinks(sink, trackers, *notifiers),
            stop,
            limits,
            publisher=publisher,
            options=options,
            grace=grace,
            watch=watch,
        )


def _follow(view: TrialSink, session: WorkerSession) -> None:
    """Let a live view show what the worker is doing."""
    if isinstance(view, LiveProgress):
        view.follow(session.clock)


def _view(store: StudyStore, visible: bool) -> AbstractContextManager[TrialSink]:
    """Progress on the current ``sys.stdout``, which notebooks replace."""
    if not visible or sys.stdout is None:  # a program without a console has none
        return nullcontext(Sinks())
    console = Terminal(file=TolerantStream(sys.stdout))
    for line in warnings(store.spec):
        console.print(f"warning: {line}", soft_wrap=True)
    # Notebook kernels set FORCE_COLOR, which makes rich treat their output as a terminal.
    if console.file.isatty():
        return progress_view(store, console)
    return nullcontext(PlainProgress(console))
