"""``tuner stop``, ``enqueue``, ``retry``, ``prune`` and ``delete``: steer or delete a study."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from tuner.cli.app import Task, command, out
from tuner.cli.options import (
    Artifacts,
    Storage,
    StudyName,
    TrialNumber,
    database_words,
    open_study,
    option,
)
from tuner.environment import STORAGE
from tuner.errors import InputError, TunerError
from tuner.study import steering
from tuner.study.store import StudyStore
from tuner.study.workers import WorkerRecord
from tuner.views.summaries import no_worker_line

if TYPE_CHECKING:
    from tuner.files.study_files import StudyFiles


@command(Task.STEER)
def stop(name: StudyName, storage: Storage = STORAGE) -> None:
    """Stop all workers after their current epoch.

    They save a checkpoint and release their trials. Workers started later are not affected.

    Example: tuner stop quickstart
    """
    store = open_study(storage, name)
    running = running_workers(store)
    store.request_stop()
    if running:
        out.print(f"{running} of study {name!r} will stop after the current epoch.")
    else:
        out.print(f"No workers of study {name!r} are running.")


@command(Task.STEER)
def enqueue(
    name: StudyName,
    point: Annotated[
        list[str], typer.Argument(metavar="KEY=VALUE", help="Parameters of the trial.")
    ],
    storage: Storage = STORAGE,
    again: Annotated[
        bool, typer.Option("--again", help="Queue even if a trial already has these parameters.")
    ] = False,
) -> None:
    """Queue a trial; the sampler fills in missing parameters.

    Example: tuner enqueue quickstart learning_rate=2e-4 batch_size=64
    """
    store = open_study(storage, name)
    before, parsed = store.total, steering.parse_point(store, point)
    if not again:
        steering.check_new(store, parsed)
    steering.enqueue(store, parsed, {})
    _print_queued(store, "Queued.", before)


@command(Task.STEER)
def retry(
    name: StudyName,
    trial: TrialNumber,
    storage: Storage = STORAGE,
    exactly: Annotated[
        bool,
        typer.Option(
            "--exactly", help="Reuse the seed: machines of the same kind get the same results."
        ),
    ] = False,
) -> None:
    """Queue a finished trial again, as a new trial.

    Example: tuner retry quickstart 3
    """
    store = open_study(storage, name)
    before = store.total
    steering.retry(store, trial, exactly=exactly)
    _print_queued(store, f"Queued the parameters of trial {trial}.", before)


def _print_queued(store: StudyStore, what: str, before: int) -> None:
    raised = f", raised from {before}" if store.total > before else ""
    out.print(
        f"{what} Total of study {store.name!r}: {store.total} trials{raised}.", soft_wrap=True
    )
    print_no_worker(store, store.workers())


def print_no_worker(store: StudyStore, workers: Sequence[WorkerRecord]) -> None:
    """Say how to start a worker if trials are left and none of the ``workers`` is alive."""
    if any(worker.alive for worker in workers) or store.remaining() <= 0:
        return
    if store.budget().reason is None:
        where = database_words(store.database)
        out.print(no_worker_line(store.name, where=where), soft_wrap=True)


def running_workers(store: StudyStore) -> str:
    """``1 worker``, ``3 workers``; empty if none is running."""
    count = sum(worker.alive for worker in store.workers())
    return f"{count} worker{'s' * (count > 1)}" if count else ""


@command(Task.STEER)
def prune(
    name: StudyName,
    trial: TrialNumber,
    storage: Storage = STORAGE,
    reason: Annotated[str, option("TEXT", "Reason stored with the trial.")] = "pruned by hand",
) -> None:
    """Prune a running trial after its current epoch.

    Example: tuner prune quickstart 3
    """
    # In a locale other than UTF-8, Python decodes the terminal's bytes to surrogates.
    reason = os.fsencode(reason).decode(errors="replace")
    steering.request_prune(open_study(storage, name), trial, reason)
    out.print(f"Trial {trial} will be pruned after its current epoch.")


@command(Task.STEER)
def delete(
    name: StudyName,
    storage: Storage = STORAGE,
    artifacts: Artifacts = None,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask for confirmation.")] = False,
) -> None:
    """Delete a study, its trials and its files.

    Example: tuner delete quickstart --yes
    """
    store = open_study(storage, name)
    files, described = _files_of(store, artifacts)
    running = running_workers(store)
    busy = f" ({running} running)" if running else ""
    what = f"study {name!r}, its {len(store.trials())} trials and {described}{busy}"
    if not yes and not typer.confirm(f"Delete {what}?"):
        raise InputError("nothing was deleted")
    out.print(f"Deleting {what}.", soft_wrap=True)
    steering.delete(store)
    if files is not None:
        files.remove_all()
    out.print(f"Study {name!r} has been deleted.")


def _files_of(store: StudyStore, artifacts: str | None) -> tuple["StudyFiles | None", str]:
    """The files to delete with the study, and a description of what is deleted."""
    from tuner.files.study_files import open_files

    if store.artifacts is None:
        return None, "no files"
    try:
        files = open_files(store, artifacts)
        if files.keep_reason is None:
            return files, f"the {len(files.own_names())} files in {files.place}"
        return None, f"no files: {files.keep_reason}"
    except TunerError as error:
        return None, f"no files: {error}"
