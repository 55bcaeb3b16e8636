"""``tuner export`` and ``tuner plot``: a study as CSV or JSON, or in a tracker, and its plots."""

import json
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from tuner.cli.app import Task, command, out
from tuner.cli.completion import begun_trials
from tuner.cli.options import Artifacts, Storage, StudyName, open_study, option
from tuner.cli.writing import check_target, default_target, write_output
from tuner.environment import STORAGE, checked_folder, tensorboard_folder
from tuner.errors import InputError, TunerError
from tuner.paths import local_path
from tuner.study.store import StudyStore
from tuner.views.console import harmless
from tuner.views.figures import PLOTS, SUFFIXES, as_page, as_picture
from tuner.views.trial_data import epochs_csv, trial_values

KINDS = (*PLOTS, "trial")


@command(Task.RESULTS)
def export(
    name: StudyName,
    storage: Storage = STORAGE,
    artifacts: Artifacts = None,
    form: Annotated[
        Literal["csv", "json"] | None,
        typer.Option(
            "--format",
            help="csv: one row per epoch; json: the study file and all trials. Default: csv.",
        ),
    ] = None,
    tracker: Annotated[
        Literal["tensorboard", "mlflow"] | None,
        typer.Option(
            "--to",
            help="Write all trials to a tracker instead: TensorBoard event files, or the "
            "MLflow server at MLFLOW_TRACKING_URI.",
        ),
    ] = None,
    to: Annotated[
        Path | None,
        option(
            "FILE",
            "File to write. Default: stdout. With --to tensorboard: the folder. "
            "Default: TUNER_TENSORBOARD, else runs.",
            "--out",
            "-o",
        ),
    ] = None,
) -> None:
    """Export every epoch as CSV or JSON, or to a tracker.

    A tracker receives only what it lacks, so the command can be repeated.

    Example: tuner export quickstart --format csv -o quickstart.csv
    """
    if tracker is not None:
        _export_to(tracker, open_study(storage, name), artifacts, form, to)
        return
    to = check_target(to) if to is not None else None
    store = open_study(storage, name)
    found = store.trials()
    if form == "json":
        values = [trial_values(trial, store.spec.metrics.objective) for trial in found]
        spec = store.spec.model_dump(mode="json")
        text = json.dumps({"spec": spec, "trials": values}, indent=2) + "\n"
    else:
        text = epochs_csv(found)
    if to is None:
        # A terminal would obey escape sequences. Other programs receive the data unchanged.
        sys.stdout.write(harmless(text) if out.is_terminal else text)
    else:
        write_output(to, text.encode(), f"Trials of study {name!r}")


def _export_to(
    tracker: str, store: StudyStore, artifacts: str | None, form: str | None, to: Path | None
) -> None:
    """Write all trials to a tracker, with the sample grids that are stored."""
    if form is not None or (to is not None and tracker != "tensorboard"):
        option = "--format" if form is not None else "--out"
        raise InputError(f"{option} has no effect with --to {tracker}; omit it")
    from tuner.files.pictures import sample_grids
    from tuner.files.study_files import open_files
    from tuner.tracking.export import export_trials
    from tuner.tracking.runs import begin, check_installed

    check_installed((tracker,))
    where = f"MLflow's experiment {store.name!r}"
    start: Any = partial(begin, tracker)
    if tracker == "tensorboard":
        from tuner.tracking import tensorboard

        root = (
            tensorboard_folder() if to is None else checked_folder(local_path(to, "--out"), "--out")
        )
        where, start = str(root / store.folder), partial(tensorboard.begin, root=root)
    files, problem = None, None
    try:
        if store.artifacts is not None:  # some worker has begun
            files = open_files(store, artifacts)
    except TunerError as error:  # the numbers are exported all the same
        problem = error
    count = export_trials(store, start, lambda number: sample_grids(files, number) if files else ())
    out.print(f"Exported {count} trials of study {store.name!r}: {where}", soft_wrap=True)
    if problem:
        out.print(f"Sample grids are missing: {problem}", soft_wrap=True)


@command(Task.RESULTS)
def plot(
    name: StudyName,
    kind: Annotated[
        str,
        option(
            f"[{'|'.join(KINDS)}]",
            "Plot to draw; trial: the epochs of one trial.",
            autocompletion=lambda: list(KINDS),
        ),
    ],
    to: Annotated[
        Path | None,
        option(
            "FILE", "File to write: .png, .svg or .html. Default: NAME-KIND.html.", "--out", "-o"
        ),
    ] = None,
    storage: Storage = STORAGE,
    trial: Annotated[
        int | None,
        option(
            "N",
            "Trial for --kind trial. Default: the best trial.",
            min=0,
            autocompletion=begun_trials,
        ),
    ] = None,
) -> None:
    """Draw one plot of a study.

    PNG and SVG need the extra `report`, and Chromium or Chrome.

    Example: tuner plot quickstart --kind map -o map.svg
    """
    if kind not in KINDS:
        raise InputError(f"--kind: found {kind!r}, expected one of: {', '.join(KINDS)}")
    to = check_target(to or default_target(f"{name}-{kind}.html"), SUFFIXES)
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
