"""``tuner best`` and ``tuner sample``: evaluate the best trial, draw samples."""

from pathlib import Path
from typing import Annotated, Any

import typer

from tuner.cli.app import Task, command, err, out, print_json
from tuner.cli.completion import begun_trials
from tuner.cli.options import (
    Allow,
    Artifacts,
    AsJson,
    Storage,
    StudyName,
    Weights,
    open_study,
    option,
)
from tuner.cli.writing import check_target, default_target, write_output
from tuner.data import silent
from tuner.environment import STORAGE, MachineOptions
from tuner.errors import InputError, TunerError
from tuner.study.objectives import pareto_front
from tuner.study.records import ranked
from tuner.study.store import StudyStore
from tuner.views import confirmations, studies, summaries
from tuner.views.formatting import number
from tuner.views.generator_warnings import measured_warnings
from tuner.views.progress import PlainProgress
from tuner.views.trial_data import trial_values


@command(Task.RESULTS, uses_jax=True)
def best(
    name: StudyName,
    storage: Storage = STORAGE,
    artifacts: Artifacts = None,
    weights: Weights = None,
    allow: Allow = None,
    show_all: Annotated[
        bool,
        typer.Option(
            "--all",
            help="List without measuring: the Pareto front, or with one objective all "
            "complete trials, best first.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Measure the winner on fresh latents and draw its samples.

    The best of many noisy scores is optimistic, so the evaluation uses fresh latents, and
    ``tuner confirm`` trains the best configurations again with fresh seeds. With several
    objectives, the winner is the trial with the best value of the first one.

    Example: tuner best quickstart
    """
    options = MachineOptions(weights=weights, allow=tuple(allow or ()))
    store = open_study(storage, name)
    if show_all:
        list_best(store, as_json)
        return
    trial = store.winner() or store.best()
    from tuner.files.study_files import open_files

    if not as_json:
        out.print(studies.trial_table([trial], store.spec.metrics.objective))
        show_best(store, open_files(store, artifacts), options)
        return
    from tuner.run.startup import open_evaluator
    from tuner.run.stored_generators import remeasure

    files, trial = open_files(store, artifacts), store.best_kept()
    evaluator = open_evaluator(store, files, silent, options=options)
    found = remeasure(store, evaluator, files, trial)
    values: dict[str, Any] = {
        "trial": trial_values(trial, store.spec.metrics.objective),
        "warnings": measured_warnings(found.fresh, found.classes),
        "confirmation": confirmations.results_values(store.confirmed()),
    }
    print_json(found._asdict() | values)


def list_best(store: StudyStore, as_json: bool) -> None:
    """Print the Pareto front; with one objective, all complete trials, the best first."""
    trials, objective = store.trials(), store.spec.metrics.objective
    front = pareto_front(trials) if store.spec.metrics.several else ranked(trials)
    if as_json:
        print_json([trial_values(trial, objective) for trial in front])
    elif not front:
        raise store.none_complete()
    else:
        out.print(studies.trial_table(front, objective))


def show_best(
    store: StudyStore, files: Any, options: MachineOptions, evaluator: Any = None
) -> None:
    """Print the best trial's scores on fresh latents, and write a picture of its samples."""
    from tuner.run.startup import open_evaluator
    from tuner.run.stored_generators import draw_samples, remeasure
    from tuner.views.images import grid_png

    try:
        trial = store.best_kept()
    except InputError as error:  # all results were added by another program
        out.print(f"\n{error}", soft_wrap=True)
        return
    if store.winner() is None and (added := store.best()).number != trial.number:
        out.print(
            f"\nTrial {added.number} is better ({number(added.value)}) but has no generator; the "
            "best trial with a generator is evaluated instead."
        )
    evaluator = evaluator or open_evaluator(
        store, files, PlainProgress(err).announce, options=options
    )
    found = remeasure(store, evaluator, files, trial)._asdict()
    objective, confirmed = store.spec.metrics.objective, store.confirmed()
    if confirmed:
        out.print()
        out.print(confirmations.results_table(confirmed, store.spec))
        out.print(confirmations.winner_text(confirmed, store.spec), soft_wrap=True)
    out.print(summaries.remeasurement_text(found, objective), soft_wrap=True)
    gain = confirmations.gain_line(confirmed, store.spec)
    if gain := gain or summaries.baseline_gain(store.trials(), objective):
        out.print(gain, soft_wrap=True)
    if store.spec.metrics.several:
        out.print(summaries.front_line(store.name, store.front()), soft_wrap=True)
    elif not confirmed:
        out.print(confirmations.how_to_confirm(store.name), soft_wrap=True)
    picture = f"best-trial-{trial.number:05d}.png"
    samples = draw_samples(store, files, trial, 64, store.spec.study.seed, options)
    try:
        files.write(picture, grid_png(samples))
    except TunerError as error:  # without write access, the user still sees the scores
        out.print(f"No samples: {error}", soft_wrap=True)
        return
    out.print(f"Samples: {files.locate(picture)}", soft_wrap=True)


@command(Task.RESULTS, uses_jax=True)
def sample(
    name: StudyName,
    to: Annotated[
        Path | None,
        option("FILE.png", "PNG file to write. Default: NAME-TRIAL.png.", "--out", "-o"),
    ] = None,
    storage: Storage = STORAGE,
    artifacts: Artifacts = None,
    trial: Annotated[
        int | None,
        option(
            "N", "Number of the trial. Default: the best trial.", min=0, autocompletion=begun_trials
        ),
    ] = None,
    count: Annotated[int, option("N", "Number of images.", min=1, max=10_000)] = 64,
    seed: Annotated[int, option("N", "Seed of the latents.", min=0)] = 0,
    allow: Allow = None,
) -> None:
    """Draw a grid of samples from a trial's generator.

    Example: tuner sample quickstart -o samples.png
    """
    to = None if to is None else check_target(to, (".png",))
    store = open_study(storage, name)
    chosen = store.best_kept() if trial is None else store.trial(trial)
    to = to or check_target(default_target(f"{name}-{chosen.number}.png"))
    from tuner.files.study_files import open_files
    from tuner.run.stored_generators import draw_samples
    from tuner.views.images import grid_png

    files = open_files(store, artifacts)
    options = MachineOptions(allow=tuple(allow or ()))
    warn_of_changed_code(store, options)
    samples = draw_samples(store, files, chosen, count, seed, options)
    write_output(to, grid_png(samples), f"{count} samples of trial {chosen.number}")


def warn_of_changed_code(store: StudyStore, options: MachineOptions) -> None:
    """Warn if the code of custom networks differs from the code that trained the study's trials."""
    from tuner.run.startup import code_change_warning

    if (line := code_change_warning(store, options)) is not None:
        err.print(f"tuner: warning: {line}", soft_wrap=True)
