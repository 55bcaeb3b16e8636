"""``tuner export``, ``plot`` and ``report``: a study as CSV or JSON, plots and an HTML page."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from tuner.cli.app import Task, command, out
from tuner.cli.best import warn_of_changed_code
from tuner.cli.options import Allow, Artifacts, Storage, StudyName, open_study
from tuner.cli.writing import check_target, write_output
from tuner.environment import STORAGE, MachineOptions
from tuner.errors import InputError, TunerError
from tuner.study.records import TrialRecord, ranked
from tuner.study.store import StudyStore
from tuner.views import studies
from tuner.views.console import harmless
from tuner.views.figures import PLOTS, SUFFIXES, as_page, as_picture

KINDS = (*PLOTS, "trial")


@command(Task.RESULTS)
def export(
    name: StudyName,
    storage: Storage = STORAGE,
    form: Annotated[
        Literal["csv", "json"],
        typer.Option(
            "--format", help="csv: one row per epoch; json: the study file and all trials."
        ),
    ] = "csv",
    to: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="File to write. Default: standard output."),
    ] = None,
) -> None:
    """Export every epoch of every trial as CSV or JSON.

    Example: tuner export quickstart --format csv --out quickstart.csv
    """
    to = check_target(to) if to is not None else None
    store = open_study(storage, name)
    found = store.trials()
    if form == "csv":
        text = studies.epochs_csv(found)
    else:
        values = [studies.trial_values(trial) for trial in found]
        spec = store.spec.model_dump(mode="json")
        text = json.dumps({"spec": spec, "trials": values}, indent=2) + "\n"
    if to is None:
        # A terminal would obey escape sequences. Other programs receive the data unchanged.
        sys.stdout.write(harmless(text) if out.is_terminal else text)
    else:
        write_output(to, text.encode())


@command(Task.RESULTS)
def plot(
    name: StudyName,
    kind: Annotated[
        str,
        typer.Option(
            metavar=f"[{'|'.join(KINDS)}]",
            help="Plot to draw; trial: the epochs of one trial.",
            autocompletion=lambda: list(KINDS),
        ),
    ],
    to: Annotated[
        Path, typer.Option("--out", metavar="FILE", help="File to write: .png, .svg or .html.")
    ],
    storage: Storage = STORAGE,
    trial: Annotated[
        int | None,
        typer.Option(metavar="N", min=0, help="Trial for --kind trial. Default: the best trial."),
    ] = None,
) -> None:
    """Draw one plot of a study.

    PNG and SVG need the extra `report`, and Chromium or Chrome.

    Example: tuner plot quickstart --kind map --out map.svg
    """
    if kind not in KINDS:
        raise InputError(f"--kind: found {kind!r}, expected one of: {', '.join(KINDS)}")
    to = check_target(to, SUFFIXES)
    suffix = to.suffix.lower()
    store = open_study(storage, name)
    if kind == "trial":
        from tuner.views.curves import trial_curves

        chosen = store.best() if trial is None else store.trial(trial)
        figure = trial_curves(store.spec, chosen)
    else:
        figure = PLOTS[kind].draw(store.spec, store.trials())
    data = as_page(figure) if suffix == ".html" else as_picture(figure, suffix[1:])
    write_output(to, data, f"{kind} of study {name!r}")


@command(Task.RESULTS, uses_jax=True)
def report(
    name: StudyName,
    to: Annotated[Path, typer.Option("--out", metavar="FILE.html", help="HTML file to write.")],
    storage: Storage = STORAGE,
    artifacts: Artifacts = None,
    samples: Annotated[
        int, typer.Option(metavar="N", min=0, max=20, help="Number of trials to show samples of.")
    ] = 3,
    allow: Allow = None,
) -> None:
    """Write a study as one HTML page that needs no network.

    The page includes plotly.js (5 MB).

    Example: tuner report quickstart --out report.html
    """
    from tuner.files.study_files import open_files
    from tuner.views.html_report import study_page

    to = check_target(to, (".html",))
    store = open_study(storage, name)
    trials = store.trials()
    shown = [trial for trial in ranked(trials)[:samples] if trial.artifact is not None]
    options = MachineOptions(allow=tuple(allow or ()))
    pictures: list[tuple[int, bytes]] = []
    problem = None
    try:
        files = open_files(store, artifacts) if shown else None
        pictures.extend((trial.number, _samples(store, files, trial, options)) for trial in shown)
    except TunerError as error:  # the page shows the samples read so far
        problem = error
    page = study_page(
        store.spec, store.summary(), store.fingerprint(), trials, pictures, store.confirmed()
    )
    write_output(to, page.encode(), f"Report of study {name!r}")
    if problem:
        missing = f"{len(shown) - len(pictures)} of {len(shown)}"
        out.print(f"Samples of {missing} trials are missing: {problem}", soft_wrap=True)


def _samples(store: StudyStore, files: Any, trial: TrialRecord, options: MachineOptions) -> bytes:
    """The stored grid of the trial's best epoch, or a new one if none is stored."""
    from tuner.files.pictures import Picture

    best = trial.best_epoch(store.spec.metrics.objective)
    kept: bytes | None = files.read(Picture(trial.number, best).name) if best else None
    if kept is not None:
        return kept
    from tuner.run.appraisal import draw_samples
    from tuner.views.images import grid_png

    warn_of_changed_code(store, options)
    return grid_png(draw_samples(store, files, trial, 36, store.spec.study.seed, options))
