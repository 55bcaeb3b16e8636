"""``tuner status`` and ``tuner list``: progress of one study, optionally live, or of all."""

import math
import time
from contextlib import suppress
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from tuner.cli.app import Task, command, err, out, print_json
from tuner.cli.completion import study_names
from tuner.cli.options import AsJson, Storage, database_words, open_study, option
from tuner.cli.steer import print_no_worker
from tuner.environment import STORAGE
from tuner.errors import InputError, StorageError, TunerError
from tuner.launch import slurm
from tuner.run.signals import interrupting
from tuner.study.creation import study_summaries
from tuner.study.database import Database
from tuner.study.records import StudySummary
from tuner.study.snapshot import StudyPoller, StudySnapshot
from tuner.study.store import StudyStore
from tuner.views import budgets, confirmations, studies, summaries
from tuner.views.formatting import duration
from tuner.views.generator_warnings import trial_warnings
from tuner.views.status import limit_lines, status_view, worker_table
from tuner.views.trial_data import trial_values

INTERVAL = 2.0  # seconds between two refreshes
SHORTEST, LONGEST = 0.2, 3600.0
RESERVED_LINES = 15  # of the screen, for everything except workers
LEAVE_SCREEN = "\x1b[?1049l"  # what rich's Live writes when it leaves its own screen
SLURM_INTERVAL = 30.0  # seconds between two queries of Slurm's queue, which many users share
SLOW_READ = 5.0  # seconds that a read may take before the view reports that it is waiting


@command(Task.LOOK)
def status(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            help="Name of the study. Default: all studies.",
            autocompletion=study_names,
        ),
    ] = None,
    storage: Storage = STORAGE,
    watching: Annotated[
        bool, typer.Option("--watch", help="Refresh until the study ends, or until Ctrl-C.")
    ] = False,
    every: Annotated[
        float | None,
        option(
            "SECONDS",
            f"Refresh interval of --watch in seconds, {SHORTEST:g} to {LONGEST:g}. "
            f"Default: {INTERVAL:g}.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show a study's progress, workers and running trials.

    Example: tuner status quickstart --watch
    """
    if watching:
        _watch(name, storage, INTERVAL if every is None else every, as_json)
        return
    if every is not None:
        raise InputError("--every needs --watch")
    if name is None:
        list_studies(storage, as_json)
        return
    store = open_study(storage, name)
    snapshot, summary = StudyPoller(store).snapshot(), store.summary()
    if as_json:
        print_json(_values(store, snapshot, summary))
    else:
        _print(store, snapshot, summary)


def _values(store: StudyStore, snapshot: StudySnapshot, summary: StudySummary) -> dict[str, Any]:
    """The state of a study as JSON values."""
    objective, winner = store.spec.metrics.objective, store.winner() or snapshot.best
    alive = sum(worker.alive for worker in snapshot.workers)
    found = {
        **summary._asdict(),
        "measured_as": store.fingerprint(),
        "phase_seconds": snapshot.phase_seconds,
        "budget": budgets.budget_values(snapshot.budget, alive),
        "confirmation": confirmations.results_values(store.confirmed()),
        "warnings": trial_warnings(winner, objective) if winner else [],
        "running": [trial_values(t, objective) for t in snapshot.running.values()],
        "workers": [worker._asdict() for worker in snapshot.workers],
    }
    if store.spec.metrics.several:
        found["front"] = [trial_values(trial, objective) for trial in store.front()]
    with suppress(TunerError):  # without the key, Slurm's queue is unknown
        found["waiting_jobs"] = [job._asdict() for job in slurm.waiting_jobs(store)]
    return found


def _print(store: StudyStore, snapshot: StudySnapshot, summary: StudySummary) -> None:
    """Print the state of a study as tables and lines."""
    objective, running = store.spec.metrics.objective, list(snapshot.running.values())
    best, confirmed = [snapshot.best] if snapshot.best else [], store.confirmed()
    out.print(studies.study_table([summary]))
    if summary.on_hold:
        out.print(summaries.hold_line(store.name), soft_wrap=True)
    if not snapshot.ended:
        print_no_worker(store, snapshot.workers)
    for line in limit_lines(snapshot):
        out.print(line, soft_wrap=True)
    if snapshot.workers:
        out.print()
        out.print(worker_table(snapshot.workers))
    if line := slurm.waiting_line(store):
        out.print(line, soft_wrap=True)
    if running:
        out.print()
        out.print(studies.trial_table(running, objective))
    if winner_text := confirmations.winner_text(confirmed, store.spec):
        out.print(winner_text, soft_wrap=True)
    out.print(summaries.best_text(best, objective), soft_wrap=True)
    if store.spec.metrics.several and (front := store.front()):
        out.print(summaries.front_line(store.name, front), soft_wrap=True)
    out.print(summaries.measured_as(store.fingerprint(), str(summary.fingerprint)), soft_wrap=True)
    if shares := summaries.phase_shares(snapshot.phase_seconds):
        out.print(shares, soft_wrap=True)
    if cost := summaries.evaluation_cost(store.seconds()):
        out.print(cost, soft_wrap=True)


def _watch(name: str | None, storage: str, interval: float, as_json: bool) -> None:
    """Show the study, refreshed every ``interval`` seconds, until it has ended.

    A study has ended when it is complete, or its budget is spent, and no worker is alive. Ctrl-C
    also ends the view, without an error. While the database is unreachable, the view keeps trying.
    """
    if name is None:
        raise InputError("--watch needs the name of a study: tuner status NAME --watch")
    if as_json:
        raise InputError("--watch can't be combined with --json")
    if not SHORTEST <= interval <= LONGEST:  # also refuses NaN
        expected = f"{SHORTEST:g} to {LONGEST:g} seconds"
        raise InputError(f"--every: found {interval:g}, expected {expected}")
    watched = WatchedStudy(open_study(storage, name), interval)
    live = out.is_terminal and not out.is_dumb_terminal
    with suppress(KeyboardInterrupt), interrupting(reset=LEAVE_SCREEN if live else ""):
        if live:
            _live(watched)
        else:
            _lines(watched)


class WatchedStudy:
    """The last snapshot of a study, and the reason if there is no newer one.

    One of rich's threads draws it while the next snapshot is being read, so the view can report a
    database that does not answer.
    """

    def __init__(self, store: StudyStore, interval: float) -> None:
        self.store, self.interval = store, interval
        self._poller = StudyPoller(store)
        self._snapshot: StudySnapshot | None = None
        self._slurm_line, self._slurm_at = "", -math.inf
        self._read_at, self._reading = time.monotonic(), False
        self.trouble: str | None = None

    @property
    def ended(self) -> bool:
        return self._snapshot is not None and self._snapshot.ended

    def read(self) -> None:
        """Read a new snapshot; StorageError if the failure is permanent."""
        self._reading = True
        try:
            self._snapshot = self._poller.snapshot()
        except StorageError as error:
            if not error.transient:
                raise
            self.trouble = str(error)
        else:
            self._read_at, self.trouble = time.monotonic(), None
        finally:
            self._reading = False
        if time.monotonic() - self._slurm_at >= SLURM_INTERVAL:
            self._slurm_line = slurm.waiting_line(self.store)
            self._slurm_at = time.monotonic()

    def full_view(self) -> RenderableType:
        """The whole snapshot below the time of day."""
        return self._below(f"{time.strftime('%H:%M:%S')} study {self.store.name}")

    def screen_view(self) -> RenderableType:
        """As much of the snapshot as fits on the screen, below a line on how current it is."""
        about = f"{time.strftime('%H:%M:%S')} study {self.store.name}"
        why = self.trouble
        if why is None and self._reading and self._age > self.interval + SLOW_READ:
            why = f"{self.store.database.place}: waiting for the database to answer"
        top = Text(f"{about}, refreshed every {self.interval:g} s; press Ctrl-C to leave")
        if why is not None:
            known = f"shown as of {duration(self._age)} ago; trying again"
            top.append(f"\n{why}; {known}", style="bold red")
        return self._below(top, max_workers=max(1, out.height - RESERVED_LINES))

    def _below(self, top: RenderableType, max_workers: int | None = None) -> RenderableType:
        if self._snapshot is None:
            return top
        where = database_words(self.store.database)
        view = status_view(self._snapshot, self.store.spec, self._age, max_workers, where)
        return Group(top, view, Text(self._slurm_line)) if self._slurm_line else Group(top, view)

    @property
    def _age(self) -> float:
        return time.monotonic() - self._read_at


def _live(watched: WatchedStudy) -> None:
    """Refresh in place on an alternate screen, which can be resized; then print the last view."""
    watched.read()
    try:
        if not watched.ended:
            with Live(console=out, screen=True, get_renderable=watched.screen_view):
                while not watched.ended and not getattr(out.file, "failure", None):
                    time.sleep(watched.interval)
                    watched.read()
    finally:
        out.print(watched.full_view())


def _lines(watched: WatchedStudy) -> None:
    """Print each view below the last, for logs."""
    while True:
        watched.read()
        if watched.trouble is None:
            out.print(watched.full_view(), "")
        else:
            out.print(
                f"{time.strftime('%H:%M:%S')} {watched.trouble}; trying again\n", soft_wrap=True
            )
        if watched.ended or getattr(out.file, "failure", None):  # no reader is left
            return
        time.sleep(watched.interval)


@command(Task.LOOK, "list")
def list_studies(storage: Storage = STORAGE, as_json: AsJson = False) -> None:
    """List the studies in the database.

    Example: tuner list
    """
    database = Database(storage)
    found = study_summaries(database, lambda text: err.print(f"tuner: {text}", soft_wrap=True))
    if as_json:
        print_json([study._asdict() for study in found])
        return
    out.print(studies.study_table(found))
    if idle := [study.name for study in found if study.is_idle]:
        where = database_words(database)
        out.print(summaries.no_worker_line(*idle, where=where), soft_wrap=True)
