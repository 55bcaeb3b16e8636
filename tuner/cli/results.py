"""Commands about what came of a study: best, sample, export."""

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from tuner.cli.main import (
    Allow,
    Artifacts,
    AsJson,
    Storage,
    StudyName,
    Weights,
    app,
    err,
    open_study,
    out,
    print_json,
)
from tuner.cli.writing import check_suffix
from tuner.data import silent
from tuner.errors import InputError
from tuner.places import STORAGE, Local
from tuner.study.store import StudyStore
from tuner.views import report, studies


class Format(StrEnum):
    csv = "csv"
    json = "json"


def show_best(store: StudyStore, files: Any, local: Local, lab: Any = None) -> None:
    """What the best trial is worth, and a picture of its samples."""
    from tuner.run.sweep import appraise, draw_samples, open_lab
    from tuner.views.pictures import grid_png

    trial = store.best()
    lab = lab or open_lab(store, files, silent, local=local)
    found = appraise(store, lab, files, trial)._asdict()
    out.print(report.appraisal(found, store.spec.metrics.objective), soft_wrap=True)
    picture = f"best-trial-{trial.number:05d}.png"
    samples = draw_samples(store, files, trial, 64, store.spec.study.seed, local)
    files.write(picture, grid_png(samples))
    out.print(f"Samples: {files.locate(picture)}", soft_wrap=True)


def warn_of_other_code(store: StudyStore, local: Local) -> None:
    """Say where samples will be drawn with other code than trained the networks."""
    from tuner.run.sweep import other_code

    if (line := other_code(store, local)) is not None:
        err.print(f"tuner: warning: {line}", soft_wrap=True)


@app.command()
def best(
    name: StudyName,
    storage: Storage = STORAGE,
    artifacts: Artifacts = None,
    weights: Weights = None,
    allow: Allow = None,
    as_json: AsJson = False,
) -> None:
    """Show the best trial, measured again on fresh latents, and draw samples of it.

    Example: tuner best quickstart
    """
    local = Local(weights=weights, allow=tuple(allow or ()))
    store = open_study(storage, name)
    trial = store.best()
    if not as_json:
        out.print(studies.trial_table([trial], store.spec.metrics.objective))
    from tuner.run.files import open_files

    files = open_files(store, artifacts)
    if not as_json:
        show_best(store, files, local)
        return
    from tuner.run.sweep import appraise, open_lab

    lab = open_lab(store, files, silent, local=local)
    found = appraise(store, lab, files, trial)
    values = {"trial": studies.trial_values(trial), "fresh": found.fresh._asdict()}
    print_json(found._asdict() | values)


@app.command()
def sample(
    name: StudyName,
    to: Annotated[Path, typer.Option("--out", metavar="FILE.png", help="The picture.")],
    storage: Storage = STORAGE,
    artifacts: Artifacts = None,
    trial: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="This trial's; by default the best's.")
    ] = None,
    count: Annotated[int, typer.Option(metavar="N", min=1, max=10_000, help="Images.")] = 64,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Chooses the latents.")] = 0,
    allow: Allow = None,
) -> None:
    """Draw a grid of samples from a trial's kept generator.

    Example: tuner sample quickstart --out samples.png
    """
    check_suffix(to, (".png",))
    store = open_study(storage, name)
    chosen = store.best() if trial is None else store.trial(trial)
    from tuner.run.files import open_files
    from tuner.run.sweep import draw_samples
    from tuner.views.pictures import save_grid

    files = open_files(store, artifacts)
    local = Local(allow=tuple(allow or ()))
    warn_of_other_code(store, local)
    save_grid(draw_samples(store, files, chosen, count, seed, local), to)
    out.print(f"{count} samples of trial {chosen.number}: {to}", soft_wrap=True)


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
    store = open_study(storage, name)
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
