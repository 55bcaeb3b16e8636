"""``tuner --help`` and shell completion."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from generate import COMMANDS
from typer.testing import CliRunner

from tuner.cli import app
from tuner.cli.app import Task

PROGRAM = Path(sys.executable).parent / "tuner"


def help_of(*words: str) -> str:
    done = CliRunner().invoke(app, [*words, "--help"], env={"COLUMNS": "80"})
    assert done.exit_code == 0
    return done.output


def test_commands_are_grouped_by_task() -> None:
    text = help_of()
    headings = re.findall(r"^(\w[\w ]+):$", text, re.M)
    assert headings == ["Options", *Task]
    listed = re.findall(r"^  ([a-z][a-z-]*) {2,}\S", text, re.M)
    assert listed == list(COMMANDS)
    assert listed[0] == "sweep"


@pytest.mark.parametrize("name", COMMANDS)
def test_help_fits_into_80_columns(name: str) -> None:
    assert max(map(len, help_of(name).splitlines())) <= 80
    summary = COMMANDS[name].help.partition("\n\n")[0]
    assert re.search(rf"^  {name} +{re.escape(summary)}$", help_of(), re.M)


def with_subcommands() -> dict[str, Any]:
    """All commands that do something, those of groups under their full names."""
    groups = {name: getattr(command, "commands", {}) for name, command in COMMANDS.items()}
    nested = {f"{name} {sub}": c for name, found in groups.items() for sub, c in found.items()}
    return {name: c for name, c in (COMMANDS | nested).items() if not hasattr(c, "commands")}


@pytest.mark.parametrize("name", with_subcommands())
def test_every_option_has_help(name: str) -> None:
    command = with_subcommands()[name]
    assert f"Example: tuner {name}" in command.help
    for parameter in command.params:
        assert parameter.hidden or parameter.help, parameter.name
    assert max(map(len, help_of(*name.split()).splitlines())) <= 80


@pytest.mark.parametrize(
    ("line", "completed"),
    [
        ("tuner s", {"sweep", "status", "show", "stop", "sample", "schema", "study-file"}),
        ("tuner status --w", {"--watch"}),
    ],
)
def test_a_shell_completes_commands_and_options(line: str, completed: set[str]) -> None:
    request = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split()) - 1)}
    environment = os.environ | request | {"_TUNER_COMPLETE": "complete_bash"}
    done = subprocess.run([PROGRAM], env=environment, capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == completed
