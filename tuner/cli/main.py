"""The application, its options and consoles, and how errors come out."""

import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from tuner.errors import InterruptError, TunerError
from tuner.places import ARTIFACTS_VARIABLE, STORAGE_VARIABLE
from tuner.study.database import Database
from tuner.study.store import StudyStore
from tuner.version import __version__

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Hyperparameter search for GANs.",
)
# Where no terminal says how wide it is, a table is to stay in one piece.
WIDTH = None if sys.stdout.isatty() else 160
out = Console(highlight=False, markup=False, emoji=False, width=WIDTH)
err = Console(stderr=True, highlight=False, markup=False, emoji=False)

File = Annotated[Path, typer.Argument(metavar="STUDY.toml", show_default=False)]
StudyName = Annotated[str, typer.Argument(metavar="NAME", show_default=False)]
Storage = Annotated[
    str,
    typer.Option(
        metavar="URL",
        envvar=STORAGE_VARIABLE,
        show_envvar=True,
        help="Database of studies: sqlite:///FILE or postgresql://USER@HOST/DATABASE.",
    ),
]
Artifacts = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        envvar=ARTIFACTS_VARIABLE,
        show_envvar=True,
        show_default=False,
        help="Where files are kept: a folder, s3://BUCKET/PREFIX or gs://BUCKET/PREFIX. By "
        "default where the study says, for a new one tuner-data/artifacts.",
    ),
]
Data = Annotated[
    str | None,
    typer.Option(metavar="FOLDER", help="Where this machine has the images, if elsewhere."),
]
Weights = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="Where this machine has Inception's weights, if elsewhere."),
]
Allow = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PACKAGE", help="Import networks of this package; may be given several times."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Name = Annotated[str | None, typer.Option(metavar="NAME", help="Call the study this instead.")]
TrialNumber = Annotated[int, typer.Argument(metavar="TRIAL", min=0, show_default=False)]


def open_study(storage: str, name: str) -> StudyStore:
    """The study, which must be there."""
    return StudyStore(Database(storage), name)


def print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


def without_passwords(words: list[str]) -> list[str]:
    """A command line as it may be shown again."""
    shown = [re.sub(r"(://[^:/]*):[^@]*@", r"\1@", word) for word in words]
    return [re.sub(r"([?&](?:ssl)?password=)[^&]*", r"\1***", word) for word in shown]


@app.callback(invoke_without_command=True)
def _version(
    show: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
) -> None:
    if show:
        out.print(__version__)
        raise typer.Exit


@contextmanager
def _plain_errors() -> Iterator[None]:
    """An error that a person can cause is one line on stderr, and an exit code."""
    try:
        yield
    except TunerError as error:
        err.print(f"tuner: {error}", soft_wrap=True)
        if isinstance(error, InterruptError):
            # Python's own end would wait for threads, and crash where XLA was compiling.
            sys.stdout.flush()
            os._exit(error.exit_code)
        sys.exit(error.exit_code)


def main() -> None:
    with _plain_errors():
        app()
