"""``tuner report``: a study as one HTML page."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tuner.cli.app import Task, command, out
from tuner.cli.best import warn_of_changed_code
from tuner.cli.completion import begun_trials
from tuner.cli.options import Allow, Artifacts, Storage, StudyName, open_study, option
from tuner.cli.writing import check_target, default_target, write_output
from tuner.environment import STORAGE, MachineOptions
from tuner.errors import TunerError
from tuner.study.records import TrialRecord, ranked
from tuner.study.store import StudyStore
from tuner.views.budgets import budget_line
from tuner.views.formatting import evenly_spaced

if TYPE_CHECKING:
    from tuner.files.study_files import StudyFiles
    from tuner.views.html_report import Grid, Pictures

MAX_EPOCHS = 12  # grids per trial
MAX_BYTES = 24_000_000  # of all sample grids together, as the page holds them
DRAWN = 36  # images of a trial without a stored grid
ROWS, COLUMNS, MAX_CLASSES = 6, 9, 12  # of the grids that --images draws


@command(Task.RESULTS, uses_jax=True)
def report(
    name: StudyName,
    to: Annotated[
        Path | None, option("FILE.html", "HTML file to write. Default: NAME.html.", "--out", "-o")
    ] = None,
    storage: Storage = STORAGE,
    artifacts: Artifacts = None,
    samples: Annotated[
        int,
        option(
            "N",
            "Show samples of the N best trials and of the best baseline, by epoch.",
            min=0,
            max=20,
        ),
    ] = 3,
    compared: Annotated[
        list[int] | None,
        option(
            "TRIAL",
            "Also show samples of this trial. Can be repeated.",
            "--compare",
            min=0,
            autocompletion=begun_trials,
        ),
    ] = None,
    images: Annotated[
        bool,
        typer.Option(
            "--images",
            help="Draw interpolations, and a grid by class, with the best trial's generator; "
            "takes some seconds.",
        ),
    ] = False,
    allow: Allow = None,
) -> None:
    """Write a study as one HTML page that needs no network.

    The page includes plotly.js (5 MB), and about 24 MB of sample grids at most.

    Example: tuner report quickstart -o report.html
    """
    from tuner.views.html_report import study_page, winner_of

    to = check_target(to or default_target(f"{name}.html"), (".html",))
    store = open_study(storage, name)
    trials, confirmed = store.trials(), store.confirmed()
    winner = winner_of(trials, confirmed)
    chosen = [*_shown(winner, trials, samples), *(store.trial(n) for n in compared or ())]
    shown = list({trial.number: trial for trial in chosen}.values())
    options = MachineOptions(allow=tuple(allow or ()))
    pictures = _stored(store, artifacts, shown, options)
    if images:
        pictures = _with_drawn(pictures, store, artifacts, winner, options)
    alive = sum(worker.alive for worker in store.workers())
    budget = budget_line(store.budget(), store.remaining(), alive)
    page = study_page(
        store.spec, store.summary(), store.fingerprint(), trials, confirmed, budget, pictures
    )
    write_output(to, page.encode(), f"Report of study {name!r}")
    for note in pictures.notes:
        out.print(note, soft_wrap=True)


def _shown(
    winner: Sequence[TrialRecord], trials: Sequence[TrialRecord], count: int
) -> list[TrialRecord]:
    """The winner, the ``count`` best trials and the best baseline; none if ``count`` is 0."""
    best = ranked(trials)
    baselines = [trial for trial in best if trial.baseline][:1]
    return [*winner, *best[:count], *baselines] if count else []


def _stored(
    store: StudyStore,
    artifacts: str | None,
    shown: Sequence[TrialRecord],
    options: MachineOptions,
) -> "Pictures":
    """The stored pictures of the trials."""
    from tuner.files.pictures import REAL_IMAGES, neighbours_of
    from tuner.files.study_files import open_files
    from tuner.views.html_report import NO_PICTURES, Grid, Pictures

    if not shown:
        return NO_PICTURES
    real: list[Grid] = []
    neighbours: list[Grid] = []
    samples: dict[int, list[Grid]] = {}
    notes: list[str] = []
    try:
        files = open_files(store, artifacts)
        if (png := files.read(REAL_IMAGES)) is not None:
            real.append(Grid("Real images", png))
        for trial in shown:
            samples[trial.number] = _samples(store, files, trial, options)
            if (png := files.read(neighbours_of(trial.number))) is not None:
                neighbours.append(Grid(f"Trial {trial.number}", png))
    except TunerError as error:  # the page shows the samples read so far
        missing = f"{len(shown) - len(samples)} of {len(shown)}"
        notes.append(f"Samples of {missing} trials are missing: {error}")
    notes += [f"Trial {n} has no stored samples." for n, grids in samples.items() if not grids]
    if samples and not real:
        notes.append("Real images are missing: no worker has stored them yet.")
    best = {t.number: t.best_epoch(store.spec.metrics.objective) for t in shown}
    return Pictures(_fitting(samples, best), real, neighbours, notes=notes)


def _samples(
    store: StudyStore, files: "StudyFiles", trial: TrialRecord, options: MachineOptions
) -> "list[Grid]":
    """The trial's stored grids, those of its best epoch among them, or a new one if none is
    stored; empty if it has no generator either."""
    from tuner.files.pictures import Picture, grid_epochs
    from tuner.views.html_report import Grid

    best = trial.best_epoch(store.spec.metrics.objective)
    epochs = grid_epochs(files, trial.number)
    some = {epochs[i] for i in evenly_spaced(len(epochs), MAX_EPOCHS)}
    kept = [n for n in epochs if n in some or n == best]
    read = [(n, files.read(Picture(trial.number, n).name)) for n in kept]
    labels = {n: f"epoch {n}" + " (best)" * (n == best) for n in kept}
    grids = [Grid(labels[n], png, n) for n, png in read if png is not None]
    if grids or trial.artifact is None:
        return grids
    from tuner.run.stored_generators import draw_samples
    from tuner.views.images import grid_png

    warn_of_changed_code(store, options)
    drawn = draw_samples(store, files, trial, DRAWN, store.spec.study.seed, options)
    return [Grid("drawn for this report, from other latents", grid_png(drawn))]


def _fitting(
    samples: "Mapping[int, Sequence[Grid]]", best: Mapping[int, int | None]
) -> "dict[int, list[Grid]]":
    """As many grids of each trial as fit into ``MAX_BYTES``; at least that of its best epoch."""
    fitting = {number: [*grids] for number, grids in samples.items() if grids}
    limit = MAX_EPOCHS
    while limit and sum(len(g.address) for grids in fitting.values() for g in grids) > MAX_BYTES:
        limit //= 2
        for number, grids in fitting.items():
            kept = evenly_spaced(len(grids), limit)
            fitting[number] = [
                g for i, g in enumerate(grids) if i in kept or g.epoch == best[number]
            ] or grids[-1:]
    return fitting


def _with_drawn(
    pictures: "Pictures",
    store: StudyStore,
    artifacts: str | None,
    winner: Sequence[TrialRecord],
    options: MachineOptions,
) -> "Pictures":
    """The pictures, and some drawn now by the winner's generator, or a note why there are none."""
    from tuner.files.study_files import open_files
    from tuner.run.stored_generators import open_generator
    from tuner.views.html_report import Grid
    from tuner.views.images import grid_png

    try:
        trial = winner[0] if winner else store.best()
        generate = open_generator(store, open_files(store, artifacts), trial, options)
    except TunerError as error:
        return pictures._replace(notes=[*pictures.notes, f"Nothing is drawn: {error}"])
    warn_of_changed_code(store, options)
    drawn = [Grid("Interpolation", grid_png(generate.interpolation(ROWS, COLUMNS), COLUMNS))]
    notes = list(pictures.notes)
    if generate.program.classes:
        drawn.append(Grid("Classes", grid_png(generate.by_class(MAX_CLASSES, COLUMNS), COLUMNS)))
    else:
        notes.append("No grid by class: the generator is not conditioned on classes.")
    return pictures._replace(drawn=drawn, notes=notes)
