"""The application that commands register with, its help page and its consoles."""

import json
import sys
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any, TypeVar

import typer
from typer.core import TyperGroup

from tuner.version import __version__
from tuner.views.console import Terminal

Command = TypeVar("Command", bound=Callable[..., None])

out, err = Terminal(), Terminal(stderr=True)
USES_JAX: set[str] = set()  # names of commands


class Task(StrEnum):
    """The headings of `tuner --help`, in their order."""

    RUN = "Run a study"
    LOOK = "Look at a study"
    RESULTS = "Use the results"
    STEER = "Steer a study"
    PREPARE = "Prepare and maintain"


class Commands(TyperGroup):
    """Commands listed under the headings of their tasks, in order of registration."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        longest = max(map(len, self.commands))
        limit = formatter.width - 4 - longest
        for task in Task:
            rows = [
                (name.ljust(longest), command.get_short_help_str(limit))
                for name, command in self.of(task).items()
            ]
            with formatter.section(task):
                formatter.write_dl(rows)

    def of(self, task: Task) -> dict[str, Any]:
        """The commands of a task by name."""
        commands: dict[str, Any] = dict(self.commands)
        return {name: c for name, c in commands.items() if c.rich_help_panel == task}


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Hyperparameter search for GANs.\n\nExample: tuner sweep studies/quickstart.toml",
)


def command(
    task: Task, name: str | None = None, *, uses_jax: bool = False
) -> Callable[[Command], Command]:
    """Register a function as a command, by default under its own name.

    ``uses_jax``: check that JAX can start before the command runs.
    """

    def register(function: Command) -> Command:
        if uses_jax:
            USES_JAX.add(name or function.__name__)
        return app.command(name, rich_help_panel=task)(function)

    return register


def print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


@app.callback(invoke_without_command=True)
def _version(
    show: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if show:
        out.print(__version__)
        raise typer.Exit
