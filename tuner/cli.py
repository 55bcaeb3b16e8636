"""The command line: parse, call, print."""

import json
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from tuner.errors import InputError, TunerError
from tuner.places import ARTIFACTS, ARTIFACTS_VARIABLE, STORAGE, STORAGE_VARIABLE
from tuner.spec import MOST_TRIALS
from tuner.specfile import load_spec
from tuner.study.creation import create_study, summaries
from tuner.study.database import Database
from tuner.study.store import StudyStore, best_of
from tuner.version import __version__
from tuner.views import report, studies
from tuner.views.progress import LiveProgress, PlainProgress

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Hyperparameter search for GANs.",
)
# Where no terminal says how wide it is, a table is to stay in one piece.
WIDTH = None if sys.stdout.isatty() else 160
out = Console(highlight=False, markup=False, emoji=False, width=WIDTH)
err = Console(stderr=True, highlight=False, markup=False, emoji=False)

File = Annotated[Path, typer.Argument(metavar="STUDY.toml", show_default=False)]
StudyName = Annotated[str, typer.Argument(metavar="NAME", show_default=False)]
Storage = Annotated[
    str,
    typer.Option(
        metavar="URL",
        envvar=STORAGE_VARIABLE,
        show_envvar=True,
        help="Database of studies, as sqlite:///FILE.",
    ),
]
Artifacts = Annotated[
    Path,
    typer.Option(metavar="DIR", envvar=ARTIFACTS_VARIABLE, help="Folder of kept generators."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Trials = Annotated[
    int | None,
    typer.Option(
        metavar="N", min=1, max=MOST_TRIALS, help="Trials in all, where more than the file says."
    ),
]
Name = Annotated[str | None, typer.Option(metavar="NAME", help="Call the study this instead.")]


class Format(StrEnum):
    csv = "csv"
    json = "json"


@app.command()
def sweep(
    file: File,
    storage: Storage = STORAGE,
    artifacts: Artifacts = Path(ARTIFACTS),
    trials: Trials = None,
    name: Name = None,
) -> None:
    """Run a study to its end, or go on with it; then show what came of it.

    Ctrl-C once finishes the epoch and stops; the same command goes on later.

    Example: tuner sweep studies/quickstart.toml
    """
    spec = load_spec(file, name)
    store = create_study(Database(storage, create=True), spec)
    store.raise_total(trials or spec.study.trials)
    lab, stopped = _run(store, artifacts)
    found = store.trials()
    best = best_of(found)
    out.print(studies.trial_table(found, best and best.number))
    if store.remaining() > 0:
        again = shlex.join(["tuner", *sys.argv[1:]])
        left = f"\n{store.remaining()} of {store.total} trials are left; to go on: {again}"
        out.print(left, soft_wrap=True)
    if not stopped and best is not None:
        _show_best(store, artifacts, lab)
    further = f"To look further: tuner status {store.name}, or optuna-dashboard {storage}"
    out.print(further, soft_wrap=True)


def _run(store: StudyStore, artifacts: Path) -> tuple[Any, bool]:
    """The lab of the run, if there was anything to run, and whether a person stopped it."""
    remaining = store.remaining()
    if remaining <= 0:
        out.print(f"Study {store.name!r} has all of its {store.total} trials: nothing to run.")
        return None, False
    view = (
        LiveProgress(out, store.total - remaining, store.total)
        if out.is_terminal
        else PlainProgress(out)
    )
    with view:
        view.announce("starting JAX")
        from tuner.run.sweep import run_study

        return run_study(store, artifacts, view, view.announce)


def _show_best(store: StudyStore, artifacts: Path, lab: Any = None) -> None:
    """What the best trial is worth, and a picture of its samples."""
    from tuner.run.sweep import appraise, draw_samples, open_lab
    from tuner.views.pictures import save_grid

    trial = store.best()
    lab = lab or open_lab(store, artifacts, lambda text: None)
    out.print(report.appraisal(appraise(store, lab, artifacts, trial)._asdict()), soft_wrap=True)
    picture = artifacts / store.folder / f"best-trial-{trial.number:05d}.png"
    save_grid(draw_samples(store, artifacts, trial, 64, store.spec.study.seed), picture)
    out.print(f"Samples: {picture}", soft_wrap=True)


@app.command()
def create(file: File, storage: Storage = STORAGE, name: Name = None) -> None:
    """Put a study into the database without running it.

    Example: tuner create studies/quickstart.toml
    """
    store = create_study(Database(storage, create=True), load_spec(file, name))
    out.print(f"Study {store.name!r}: {store.remaining()} of {store.total} trials to run.")


@app.command()
def check(file: File, as_json: AsJson = False) -> None:
    """Check a study file; show its space, its programs and what the largest needs.

    Example: tuner check studies/quickstart.toml
    """
    spec = load_spec(file)
    from tuner.run.planning import plan

    found = plan(spec)
    if as_json:
        _print_json({"spec": spec.model_dump(mode="json"), **found})
        return
    out.print(studies.space_table(spec))
    out.print(report.plan(spec, found), soft_wrap=True)


@app.command("list")
def list_studies(storage: Storage = STORAGE, as_json: AsJson = False) -> None:
    """Show the studies in the database.

    Example: tuner list
    """
    found = summaries(Database(storage))
    if as_json:
        _print_json([study._asdict() for study in found])
    else:
        out.print(studies.study_table(found))


@app.command()
def status(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", show_default=False)] = None,
    storage: Storage = STORAGE,
    as_json: AsJson = False,
) -> None:
    """Show how far a study is, and its trials that are running; without a name, every study.

    Example: tuner status quickstart
    """
    if name is None:
        list_studies(storage, as_json)
        return
    store = StudyStore(Database(storage), name)
    trials = store.trials()
    running = [trial for trial in trials if trial.state == "RUNNING"]
    if as_json:
        _print_json(
            {**store.summary()._asdict(), "running": [studies.trial_values(t) for t in running]}
        )
        return
    out.print(studies.study_table([store.summary()]))
    if running:
        out.print()
        out.print(studies.trial_table(running))
    out.print(report.best_line(trials))


@app.command()
def best(
    name: StudyName,
    storage: Storage = STORAGE,
    artifacts: Artifacts = Path(ARTIFACTS),
    as_json: AsJson = False,
) -> None:
    """Show the best trial, measured again on fresh latents, and draw samples of it.

    Example: tuner best quickstart
    """
    store = StudyStore(Database(storage), name)
    trial = store.best()
    if not as_json:
        out.print(studies.trial_table([trial]))
        _show_best(store, artifacts)
        return
    from tuner.run.sweep import appraise, open_lab

    lab = open_lab(store, artifacts, lambda text: None)
    found = appraise(store, lab, artifacts, trial)
    _print_json(found._asdict() | {"trial": studies.trial_values(trial)})


@app.command()
def trials(name: StudyName, storage: Storage = STORAGE, as_json: AsJson = False) -> None:
    """Show every trial: its parameters, how it went, why it ended.

    Example: tuner trials quickstart
    """
    store = StudyStore(Database(storage), name)
    found = store.trials()
    if as_json:
        _print_json([studies.trial_values(trial) for trial in found])
    else:
        best = best_of(found)
        out.print(studies.trial_table(found, best and best.number))


@app.command()
def export(
    name: StudyName,
    storage: Storage = STORAGE,
    form: Annotated[Format, typer.Option("--format", help="csv: a row per epoch.")] = Format.csv,
    to: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Instead of standard output.")
    ] = None,
) -> None:
    """Write out every epoch of every trial.

    Example: tuner export quickstart --format csv --out quickstart.csv
    """
    store = StudyStore(Database(storage), name)
    found = store.trials()
    if form is Format.csv:
        text = studies.epochs_csv(found)
    else:
        values = [studies.trial_values(trial) for trial in found]
        spec = store.spec.model_dump(mode="json")
        text = json.dumps({"spec": spec, "trials": values}, indent=2) + "\n"
    if to is None:
        sys.stdout.write(text)
        return
    try:
        to.write_text(text)
    except OSError as error:
        raise InputError(f"--out: {to} can't be written: {error.strerror}") from None


@app.command()
def sample(
    name: StudyName,
    to: Annotated[Path, typer.Option("--out", metavar="FILE.png", help="The picture.")],
    storage: Storage = STORAGE,
    artifacts: Artifacts = Path(ARTIFACTS),
    trial: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="This trial's; by default the best's.")
    ] = None,
    count: Annotated[int, typer.Option(metavar="N", min=1, max=10_000, help="Images.")] = 64,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Chooses the latents.")] = 0,
) -> None:
    """Draw a grid of samples from a trial's kept generator.

    Example: tuner sample quickstart --out samples.png
    """
    store = StudyStore(Database(storage), name)
    chosen = store.best() if trial is None else store.trial(trial)
    from tuner.run.sweep import draw_samples
    from tuner.views.pictures import save_grid

    save_grid(draw_samples(store, artifacts, chosen, count, seed), to)
    out.print(f"{count} samples of trial {chosen.number}: {to}", soft_wrap=True)


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


@app.callback(invoke_without_command=True)
def _version(
    show: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
) -> None:
    if show:
        out.print(__version__)
        raise typer.Exit


@contextmanager
def _plain_errors() -> Iterator[None]:
    """An error that a person can cause is one line on stderr, and an exit code."""
    try:
        yield
    except TunerError as error:
        err.print(f"tuner: {error}", soft_wrap=True)
        sys.exit(error.exit_code)


def main() -> None:
    with _plain_errors():
        app()


if __name__ == "__main__":
    main()
