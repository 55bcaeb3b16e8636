"""``tuner edit``: change a study's stored file, or list what was changed."""

import getpass
import os
from typing import Annotated

import typer

from tuner.cli.app import Task, command, out, print_json
from tuner.cli.options import AsJson, Storage, StudyName, open_study
from tuner.environment import STORAGE
from tuner.spec.edits import Change
from tuner.spec.warnings import warnings
from tuner.study import edits
from tuner.study.workers import this_process
from tuner.views.edits import change_text, history_table


@command(Task.STEER)
def edit(
    name: StudyName,
    changes: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...",
            help="Keys as in error messages, values as in a study file; KEY= restores the default.",
        ),
    ] = None,
    storage: Storage = STORAGE,
    as_json: AsJson = False,
) -> None:
    """Change ranges, pruner or limits of a running study.

    Running workers follow at their next trial. Changes of keys that define the study's numbers are
    refused. Without KEY=VALUE, list earlier edits.

    Example: tuner edit quickstart study.trials=50 pruner.reduction_factor=4
    """
    store = open_study(storage, name)
    if not changes:
        found = edits.history(store)
        if as_json:
            print_json([one._asdict() | {"changes": _as_dicts(one.changes)} for one in found])
        elif found:
            out.print(history_table(found))
        else:
            out.print(f"Study {name!r} has not been edited.")
        return
    made = edits.edit(store, changes, editor())
    if as_json:
        print_json(_as_dicts(made))
        return
    for change in made:
        out.print(change_text(change), soft_wrap=True)
    if not made:
        out.print(f"Study {name!r} has these values already: nothing was changed.")
        return
    for line in warnings(store.spec):
        out.print(f"warning: {line}", soft_wrap=True)
    out.print(f"Study {name!r}: workers follow at their next trial.")


def _as_dicts(changes: list[Change]) -> list[dict[str, object]]:
    return [change._asdict() for change in changes]


def editor() -> str:
    """The user and machine that an edit is recorded under."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = str(os.getuid())
    return f"{user}@{this_process().host}"
