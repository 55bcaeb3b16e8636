"""Commands that draw a study: plot, report."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from tuner.cli.main import Allow, Artifacts, Storage, StudyName, app, open_study, out
from tuner.cli.results import warn_of_other_code
from tuner.cli.writing import check_suffix, write_whole
from tuner.errors import TunerError
from tuner.places import STORAGE, Local
from tuner.study.store import StudyStore, TrialRecord


class Kind(StrEnum):
    value = "value"
    loss_ratio = "loss-ratio"
    map = "map"
    time = "time"
    marginals = "marginals"
    importances = "importances"
    trial = "trial"


@app.command()
def plot(
    name: StudyName,
    kind: Annotated[Kind, typer.Option(help="What is drawn; trial: one trial's epochs.")],
    to: Annotated[Path, typer.Option("--out", metavar="FILE", help="A .png, .svg or .html file.")],
    storage: Storage = STORAGE,
    trial: Annotated[
        int | None,
        typer.Option(metavar="N", min=0, help="For --kind trial; by default the best."),
    ] = None,
) -> None:
    """Draw one plot of a study. Pictures need the extra report, and Chromium or Chrome.

    Example: tuner plot quickstart --kind map --out map.svg
    """
    from tuner.views.figures import FIGURES, trial_curves
    from tuner.views.rendering import SUFFIXES, as_page, as_picture

    suffix = check_suffix(to, SUFFIXES)
    store = open_study(storage, name)
    if kind is Kind.trial:
        chosen = store.best() if trial is None else store.trial(trial)
        figure = trial_curves(store.spec, chosen)
    else:
        figure = FIGURES[kind.value](store.spec, store.trials())
    data = as_page(figure) if suffix == ".html" else as_picture(figure, suffix[1:])
    write_whole(to, data)
    out.print(f"{kind.value} of study {name!r}: {to}", soft_wrap=True)


@app.command()
def report(
    name: StudyName,
    to: Annotated[Path, typer.Option("--out", metavar="FILE.html", help="The page.")],
    storage: Storage = STORAGE,
    artifacts: Artifacts = None,
    samples: Annotated[
        int, typer.Option(metavar="N", min=0, max=20, help="Trials whose samples are shown.")
    ] = 3,
    allow: Allow = None,
) -> None:
    """Write all about a study into one page that needs nothing else: no network, no other file.

    Example: tuner report quickstart --out report.html
    """
    from tuner.views.page import ranked, study_page

    check_suffix(to, (".html",))
    store = open_study(storage, name)
    trials = store.trials()
    local = Local(allow=tuple(allow or ()))
    pictures, problem = _pictures(store, ranked(trials)[:samples], artifacts, local)
    page = study_page(store.spec, store.summary(), store.fingerprint(), trials, pictures)
    write_whole(to, page.encode())
    out.print(f"Report of study {name!r}: {to}", soft_wrap=True)
    if problem:
        out.print(f"without samples: {problem}", soft_wrap=True)


def _pictures(
    store: StudyStore, trials: list[TrialRecord], artifacts: str | None, local: Local
) -> tuple[list[tuple[int, bytes]], str | None]:
    """Grids of samples of the trials' best epochs by trial number; and why some are missing."""
    from tuner.run.files import open_files

    found: list[tuple[int, bytes]] = []
    kept = [trial for trial in trials if trial.artifact is not None]
    try:
        files = open_files(store, artifacts) if kept else None
        found.extend((trial.number, _picture(store, files, trial, local)) for trial in kept)
    except TunerError as error:
        return found, str(error)
    return found, None


def _picture(store: StudyStore, files: Any, trial: TrialRecord, local: Local) -> bytes:
    """The grid that was kept; of a study that kept none, one that its generator draws now."""
    from tuner.run.album import Picture

    best = trial.best_epoch(store.spec.metrics.objective)
    kept: bytes | None = files.read(Picture(trial.number, best).name) if best else None
    if kept is not None:
        return kept
    from tuner.run.sweep import draw_samples
    from tuner.views.pictures import grid_png

    warn_of_other_code(store, local)
    return grid_png(draw_samples(store, files, trial, 36, store.spec.study.seed, local))
