"""``tuner --help`` and shell completion."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from generate import COMMANDS, SUBCOMMANDS
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


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_help_of_subcommands_fits_into_80_columns(name: str) -> None:
    group, command = name.split()
    assert max(map(len, help_of(group, command).splitlines())) <= 80
    summary = SUBCOMMANDS[name].get_short_help_str(100)
    assert re.search(rf"^  {command} +{re.escape(summary)}$", help_of(group), re.M)


LEAVES = {n: c for n, c in {**COMMANDS, **SUBCOMMANDS}.items() if not hasattr(c, "commands")}


@pytest.mark.parametrize("name", sorted(LEAVES))
def test_every_option_has_help(name: str) -> None:
    assert f"Example: tuner {name}" in LEAVES[name].help
    for parameter in LEAVES[name].params:
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
