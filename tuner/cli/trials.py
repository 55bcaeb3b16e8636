"""``tuner trials``, ``show`` and ``compare``: tables of trials, one trial, several studies."""

import re
from typing import TYPE_CHECKING, Annotated

import typer

from tuner.cli.app import Task, command, out, print_json
from tuner.cli.completion import study_names
from tuner.cli.options import Artifacts, AsJson, Storage, StudyName, TrialNumber, open_study, option
from tuner.cli.steer import print_no_worker
from tuner.environment import STORAGE
from tuner.errors import InputError, TunerError
from tuner.study.epochs import ownership_history
from tuner.study.fingerprint import incomparable
from tuner.study.objectives import pareto_front
from tuner.study.store import StudyStore
from tuner.views import studies
from tuner.views.images import ROWS, inline_image
from tuner.views.trial_data import trial_values
from tuner.views.trial_detail import trial_details, trial_view

if TYPE_CHECKING:
    from tuner.files.study_files import StudyFiles


@command(Task.LOOK)
def trials(
    name: StudyName,
    storage: Storage = STORAGE,
    sort: Annotated[
        str | None,
        option(
            "KEY",
            "Sort by trial, value (the best first), epochs, loss_ratio, time or a parameter; "
            "-KEY reverses the order. Default: trial.",
            autocompletion=lambda: [*studies.SORT_KEYS],
        ),
    ] = None,
    top: Annotated[
        int | None, option("N", "Show the first N; without --sort, the N best.", min=1)
    ] = None,
    states: Annotated[
        list[str] | None,
        option(
            "STATE",
            f"Show only trials in this state: {', '.join(studies.STATES)}. Can be repeated.",
            "--state",
            autocompletion=lambda: [*studies.STATES],
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List trials: parameters, scores and outcomes.

    Example: tuner trials quickstart --top 5
    """
    wanted = _states(states)
    store = open_study(storage, name)
    found, objective = store.trials(), store.spec.metrics.objective
    front = [trial.number for trial in pareto_front(found)]
    if sort is not None or top is not None:
        found = studies.sorted_trials(found, sort or "value", objective)
    found = [trial for trial in found if trial.state in wanted][:top]
    if as_json:
        print_json([trial_values(trial, objective) for trial in found])
    else:
        out.print(studies.trial_table(found, objective, front))
        print_no_worker(store, store.workers())


def _states(names: list[str] | None) -> list[str]:
    """The states of these names, by default all; InputError for unknown names."""
    for name in names or []:
        if name not in studies.STATES:
            expected = ", ".join(studies.STATES)
            raise InputError(f"--state: found {name!r}, expected one of: {expected}")
    return [studies.STATES[name] for name in names or studies.STATES]


@command(Task.LOOK)
def show(
    name: StudyName,
    trial: TrialNumber,
    storage: Storage = STORAGE,
    artifacts: Artifacts = None,
    as_json: AsJson = False,
) -> None:
    """Show one trial: parameters, curves, workers, samples.

    With the extra `terminal` installed, terminals that can show pictures (kitty, iTerm2, sixel)
    show the newest samples.

    Example: tuner show quickstart 4
    """
    store = open_study(storage, name)
    found = store.trial(trial)
    history, traceback = ownership_history(store, trial), store.traceback(trial)
    hang = store.hang(trial)
    problem = None
    try:
        location, png = _newest_samples(store, artifacts, trial)
    except TunerError as error:
        location, png, problem = None, b"", error
    if as_json:
        print_json(trial_details(store.spec, found, history, traceback, location, hang))
        return
    out.print(trial_view(store.spec, found, history, traceback, out.width, hang))
    if location is not None:
        out.print()
        if (drawn := inline_image(png)) is not None:
            out.print(drawn, height=ROWS)
        out.print(f"Samples: {location}", soft_wrap=True)
    elif problem:
        out.print(f"\nNo samples: {problem}", soft_wrap=True)


def _newest_samples(
    store: StudyStore, artifacts: str | None, trial: int
) -> tuple[str | None, bytes]:
    """Location and content of the newest samples; the location is None if there are none."""
    if store.artifacts is None:
        return None, b""
    from tuner.files.study_files import open_files

    files = open_files(store, artifacts)
    name = newest_picture(files, trial)
    png = None if name is None else files.read(name)
    return (None, b"") if name is None or png is None else (files.locate(name), png)


def newest_picture(files: "StudyFiles", trial: int) -> str | None:
    """The name of the trial's latest picture, or None."""
    from tuner.files.pictures import folder_of

    pictures = [name for name in files.names(folder_of(trial)) if name.endswith(".png")]
    return max(pictures, key=_epoch_of, default=None)


def _epoch_of(name: str) -> tuple[int, str]:
    """Sort key of pictures: the last number in a name such as samples-epoch-0003."""
    numbers = re.findall(r"\d+", name.rpartition("/")[2])
    return (int(numbers[-1]) if numbers else -1, name)


@command(Task.RESULTS)
def compare(
    names: Annotated[
        list[str],
        typer.Argument(metavar="NAME", help="Names of the studies.", autocompletion=study_names),
    ],
    storage: Storage = STORAGE,
    as_json: AsJson = False,
) -> None:
    """Compare the best trials of several studies.

    The studies must have the same objective, `value` setting and fingerprint.

    Example: tuner compare quickstart narrow
    """
    stores = [open_study(storage, name) for name in dict.fromkeys(names)]
    if len(stores) < 2:
        raise InputError("compare needs the names of at least two studies")
    parts = []
    for store in stores:
        spec = store.spec
        compared = {"objective": ", ".join(spec.metrics.names), "value": spec.study.value}
        parts.append((store.name, compared | store.fingerprint()))
    why_not = incomparable(parts)
    if why_not:
        raise InputError(f"these studies can't be compared: {why_not}")
    bests = sorted([(store.name, store.best()) for store in stores], key=lambda b: b[1].cost or 0)
    objective = stores[0].spec.metrics.objective
    if as_json:
        values = [(name, trial_values(trial, objective)) for name, trial in bests]
        print_json([{"study": name} | trial for name, trial in values])
    else:
        out.print(studies.comparison_table(bests, objective))
