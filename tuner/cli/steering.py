"""Commands that steer a study while workers run it, or remove it; and the database's upkeep."""

from typing import Annotated

import typer

from tuner.cli.main import Artifacts, Storage, StudyName, TrialNumber, app, open_study, out
from tuner.errors import InputError, TunerError
from tuner.places import STORAGE
from tuner.study import database, steering
from tuner.study.connections import Address

db = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Look after the database.\n\nExample: tuner db upgrade",
)
app.add_typer(db, name="db")


@app.command()
def stop(name: StudyName, storage: Storage = STORAGE) -> None:
    """Have all workers finish their epoch, save, and leave. Workers that join later run on.

    Example: tuner stop quickstart
    """
    store = open_study(storage, name)
    alive = [worker for worker in store.workers() if worker.alive]
    store.request_stop()
    out.print(f"{len(alive)} workers of {name!r} will leave after their epoch.")


@app.command()
def enqueue(
    name: StudyName,
    point: Annotated[list[str], typer.Argument(metavar="KEY=VALUE...", show_default=False)],
    storage: Storage = STORAGE,
) -> None:
    """Try these parameters next; what is not given, the sampler chooses.

    Example: tuner enqueue quickstart learning_rate=2e-4 batch_size=64
    """
    store = open_study(storage, name)
    total = steering.enqueue(store, steering.parse_point(store, point), {})
    out.print(f"Queued. Study {name!r} asks for {total} trials in all.")


@app.command()
def retry(
    name: StudyName,
    trial: TrialNumber,
    storage: Storage = STORAGE,
    exactly: Annotated[
        bool,
        typer.Option(
            "--exactly", help="With the same random numbers: on a like machine, the same results."
        ),
    ] = False,
) -> None:
    """Run a trial that has ended again, as a new trial.

    Example: tuner retry quickstart 3
    """
    total = steering.retry(open_study(storage, name), trial, exactly=exactly)
    out.print(
        f"Queued the parameters of trial {trial}. Study {name!r} asks for {total} trials in all."
    )


@app.command()
def prune(
    name: StudyName,
    trial: TrialNumber,
    storage: Storage = STORAGE,
    reason: Annotated[
        str, typer.Option(metavar="TEXT", help="Kept with the trial.")
    ] = "pruned by a person",
) -> None:
    """End a running trial at its next epoch.

    Example: tuner prune quickstart 3
    """
    steering.request_prune(open_study(storage, name), trial, reason)
    out.print(f"Trial {trial} will end at its next epoch.")


@app.command()
def delete(
    name: StudyName,
    storage: Storage = STORAGE,
    artifacts: Artifacts = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Remove a study, its trials and its files, for good.

    Example: tuner delete quickstart --yes
    """
    from tuner.run.files import open_files

    store = open_study(storage, name)
    alive = sum(worker.alive for worker in store.workers())
    question = f"Delete study {name!r}, its {len(store.trials())} trials and its files"
    busy = f" ({alive} workers are running it)" if alive else ""
    if not yes and not typer.confirm(f"{question}{busy}?"):
        raise InputError("nothing was deleted")
    try:
        files = open_files(store, artifacts) if store.artifacts or artifacts else None
    except TunerError as error:
        files = None
        out.print(f"Its files stay: {error}", soft_wrap=True)
    steering.delete(store)
    if files is not None:
        files.remove_all()
    out.print(f"Study {name!r} is gone.")


@db.command()
def upgrade(storage: Storage = STORAGE) -> None:
    """Bring a database of an older tuner or Optuna up to date. Stop its workers before.

    Example: tuner db upgrade --storage postgresql://owner@db/tuner
    """
    before, after = database.upgrade(storage)
    out.print(f"{Address(storage).place}: schema {before} -> {after}", soft_wrap=True)
