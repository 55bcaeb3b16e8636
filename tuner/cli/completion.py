"""Shell completion of study names and trial numbers from the database.

Never prints an error, never creates a database, and gives up after a second.
"""

import threading
from collections.abc import Callable
from contextlib import suppress

import typer

from tuner.environment import default_storage
from tuner.study.listing import BEGUN, QUEUED, list_studies, list_trials

SECONDS = 1.0  # to wait for the database
MAX_VALUES = 200  # values to choose from


def study_names(context: typer.Context, incomplete: str) -> list[str]:
    """Names of studies that begin with ``incomplete``."""
    return _answer(context, list_studies, incomplete)


def begun_trials(context: typer.Context, incomplete: str) -> list[str]:
    """Numbers of the named study's trials that have begun."""
    name = str(context.params.get("name"))
    return _answer(context, lambda url: list_trials(url, name, BEGUN), incomplete)


def queued_trials(context: typer.Context, incomplete: str) -> list[str]:
    """Numbers of the named study's queued trials."""
    name = str(context.params.get("name"))
    return _answer(context, lambda url: list_trials(url, name, QUEUED), incomplete)


def _answer(context: typer.Context, read: Callable[[str], list[str]], incomplete: str) -> list[str]:
    """What ``read`` returns for the command line's database and begins with ``incomplete``; empty
    if the database does not answer in time."""
    found = list[str]()

    def answer() -> None:
        with suppress(Exception):  # a shell would show it amid the command line
            found.extend(read(context.params.get("storage") or default_storage()))

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    thread.join(SECONDS)
    return [value for value in [*found] if value.startswith(incomplete)][:MAX_VALUES]
