"""Suggested commands run in the shell that tuner was started from."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tuner import hints

ROOT = Path(__file__).parents[2]


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A virtual environment in the working folder, with tuner started as .venv/bin/tuner."""
    programs = tmp_path / ".venv/bin"
    programs.mkdir(parents=True)
    for name in ("tuner", "pip", "python"):
        (programs / name).write_text("#!/bin/sh\n")
        (programs / name).chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "executable", str(programs / "python"))
    monkeypatch.setattr(sys, "argv", [".venv/bin/tuner"])
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    return programs


def test_a_program_off_the_path_is_named_with_its_folder(environment: Path) -> None:
    assert hints.command("report", "a b") == ".venv/bin/tuner report 'a b'"
    assert hints.install("report").startswith(".venv/bin/python -m pip install ")


def test_a_program_on_the_path_is_named_alone(
    environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{environment}:/usr/bin")
    monkeypatch.setattr(sys, "argv", [str(environment / "tuner")])
    assert hints.command("report") == "tuner report"
    assert hints.install("report").startswith("pip install ")


def test_another_tuner_on_the_path_is_not_suggested(
    environment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(environment, tmp_path / "other")
    monkeypatch.setenv("PATH", str(tmp_path / "other"))
    assert hints.command("list") == ".venv/bin/tuner list"


def test_hints_outside_the_working_folder_use_full_paths(
    environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [str(environment / "tuner")])
    monkeypatch.chdir("/")
    assert hints.command("list") == f"{str(environment)[1:]}/tuner list"


@pytest.mark.parametrize("started", ["/x/tuner/cli/__main__.py", "-c", "", "script.py"])
def test_hints_do_not_depend_on_how_tuner_was_started(
    environment: Path, monkeypatch: pytest.MonkeyPatch, started: str
) -> None:
    monkeypatch.setattr(sys, "argv", [started])
    assert hints.command("list") == ".venv/bin/tuner list"
    (environment / "tuner").unlink()
    assert hints.command("list") == ".venv/bin/python -m tuner.cli list"


def test_extras_come_from_the_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert hints.install("report").endswith("pip install -e '.[report]'")
    monkeypatch.chdir(ROOT.parent)
    assert hints.install("report").endswith(f"pip install -e '{ROOT.name}[report]'")


def test_suggested_commands_run_in_a_shell(tmp_path: Path) -> None:
    program = Path(sys.executable).parent / "tuner"
    code = "import sys; from tuner import hints; sys.argv = sys.argv[1:]\n"
    code += "print(hints.command('--version'))"
    words = [sys.executable, "-c", code, str(program)]
    environment = os.environ | {"PATH": "/usr/bin:/bin"}

    def output(words: list[str]) -> str:
        return subprocess.check_output(words, cwd=tmp_path, env=environment, text=True)

    assert output(["sh", "-c", output(words)]) == "0.1.0\n"
