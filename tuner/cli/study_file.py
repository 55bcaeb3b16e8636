"""``tuner study-file``: write the study file of an existing study."""

import sys
import tomllib
from pathlib import Path
from typing import Annotated

from tuner.cli.app import Task, command, out
from tuner.cli.options import Storage, StudyName, open_study, option
from tuner.cli.writing import check_target, write_output
from tuner.environment import STORAGE
from tuner.errors import InputError
from tuner.spec.loading import parse_spec
from tuner.study.store import StudyStore
from tuner.views.console import harmless
from tuner.views.study_toml import spec_toml


@command(Task.PREPARE, "study-file")
def study_file(
    name: StudyName,
    to: Annotated[
        Path | None, option("FILE", "File to write. Default: stdout.", "--out", "-o")
    ] = None,
    storage: Storage = STORAGE,
) -> None:
    """Write an existing study's file, to start a similar study.

    It includes the study's edits, and omits keys that have their defaults. `tuner sweep --name`
    gives the new study a name.

    Example: tuner study-file quickstart -o narrow.toml
    """
    to = check_target(to, (".toml",)) if to is not None else None
    text = _checked_toml(open_study(storage, name))
    if to is None:
        # A terminal would obey escape sequences. Other programs receive the data unchanged.
        sys.stdout.write(harmless(text) if out.is_terminal else text)
    else:
        write_output(to, text.encode(), f"Study file of {name!r}")


def _checked_toml(store: StudyStore) -> str:
    """The study file; InputError if it does not load as the stored one, which another program or
    version may have written."""
    origin, text = f"the file of study {store.name!r}", spec_toml(store.spec)
    try:
        found = parse_spec(tomllib.loads(text), origin)
    except tomllib.TOMLDecodeError:
        found = None
    if found != store.spec:
        raise InputError(f"{origin} holds values that a study file can't express")
    return text
