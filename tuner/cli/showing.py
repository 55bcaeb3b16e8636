"""``tuner show``: one trial."""

import re
from typing import TYPE_CHECKING, NamedTuple

from tuner.cli.main import (
    Artifacts,
    AsJson,
    Storage,
    StudyName,
    TrialNumber,
    app,
    open_study,
    out,
    print_json,
)
from tuner.errors import TunerError
from tuner.places import STORAGE
from tuner.study.history import stints, traceback_of
from tuner.study.store import StudyStore
from tuner.views.inline import ROWS, inline
from tuner.views.showing import shown_values, trial_view

if TYPE_CHECKING:
    from tuner.run.files import StudyFiles


@app.command()
def show(
    name: StudyName,
    trial: TrialNumber,
    storage: Storage = STORAGE,
    artifacts: Artifacts = None,
    as_json: AsJson = False,
) -> None:
    """Show one trial: its parameters, how its numbers went, who trained it, and its samples.

    Terminals that can show pictures (kitty, iTerm2, those that know sixels) show the samples where
    the extra terminal is installed.

    Example: tuner show quickstart 4
    """
    store = open_study(storage, name)
    found = store.trial(trial)
    history, traceback = stints(store, trial), traceback_of(store, trial)
    picture, problem = _picture(store, artifacts, trial)
    if as_json:
        place = picture.place if picture else None
        print_json(shown_values(store.spec, found, history, traceback, place))
        return
    out.print(trial_view(store.spec, found, history, traceback, out.width))
    if picture is not None:
        out.print()
        if (drawn := inline(picture.png)) is not None:
            out.print(drawn, height=ROWS)
        out.print(f"Samples: {picture.place}", soft_wrap=True)
    elif problem:
        out.print(f"\nwithout samples: {problem}", soft_wrap=True)


class Picture(NamedTuple):
    """A PNG, and where it is."""

    place: str
    png: bytes


def _picture(
    store: StudyStore, artifacts: str | None, trial: int
) -> tuple[Picture | None, str | None]:
    """The newest of the trial's samples; or why it can't be read, where the study has files."""
    if store.artifacts is None:
        return None, None
    from tuner.run.files import open_files

    try:
        files = open_files(store, artifacts)
        name = newest_picture(files, trial)
        png = None if name is None else files.read(name)
    except TunerError as error:
        return None, str(error)
    return (None if name is None or png is None else Picture(files.locate(name), png)), None


def newest_picture(files: "StudyFiles", trial: int) -> str | None:
    """The name of the trial's picture of the latest epoch; None where it has none."""
    from tuner.run.album import folder_of

    pictures = [name for name in files.names(folder_of(trial)) if name.endswith(".png")]
    return max(pictures, key=_epoch_of, default=None)


def _epoch_of(name: str) -> tuple[int, str]:
    """By which pictures are ordered: the last number in their name, such as samples-epoch-0003."""
    numbers = re.findall(r"\d+", name.rpartition("/")[2])
    return (int(numbers[-1]) if numbers else -1, name)
