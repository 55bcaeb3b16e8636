"""Commands to suggest in messages, in the form that the user's shell finds; optional imports."""

import importlib
import importlib.metadata
import json
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import tuner
from tuner.errors import InputError


def command(*words: str) -> str:
    """A tuner command line, with the program's path unless the shell finds it without one."""
    started, python = Path(sys.argv[0]), Path(sys.executable)
    if started.name != "tuner":  # python -m tuner.cli, a notebook, a script
        started = python.parent / "tuner"
    if sys.argv[0] == "tuner" or _on_path("tuner", started.parent):
        program = ["tuner"]
    else:
        program = [_shown(started)] if started.exists() else [_shown(python), "-m", "tuner.cli"]
    return shlex.join([*program, *words])


def install(extra: str) -> str:
    """The command that installs one of tuner's extras into the running environment.

    Tuner is on no package index, so the command names its source folder.
    """
    python, package = Path(sys.executable), Path(tuner.__file__).parents[1]
    pip = ["pip"] if _on_path("pip", python.parent) else [_shown(python), "-m", "pip"]
    if (package / "pyproject.toml").is_file():
        source = ["-e", _shown(package)]
    else:
        source = [_installed_from()]
    return shlex.join([*pip, "install", *source[:-1], f"{source[-1]}[{extra}]"])


def require(module: str, extra: str, what: str, otherwise: str = "") -> Any:
    """Import an optional package that ``what`` needs.

    If it is missing, InputError says how to install it; ``otherwise`` appends an alternative.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        name = module.partition(".")[0]
        raise InputError(
            f"{what} needs the package {name}; install it with {install(extra)}{otherwise}"
        ) from None


def _on_path(name: str, folder: Path) -> bool:
    """Whether the shell resolves ``name`` to the program in this folder."""
    found = shutil.which(name)
    return found is not None and Path(found).parent.absolute() == folder.absolute()


def _shown(path: Path) -> str:
    """The path, relative if it is inside the working folder."""
    try:
        return str(path.absolute().relative_to(Path.cwd()))
    except (ValueError, OSError):
        return str(path)


def _installed_from() -> str:
    """The folder that pip installed tuner from, if it still exists; else tuner's name."""
    try:
        text = importlib.metadata.distribution("tuner").read_text("direct_url.json")
    except importlib.metadata.PackageNotFoundError:
        return "tuner"
    url = urlsplit(json.loads(text or "{}").get("url", ""))
    folder = Path(unquote(url.path))
    found = url.scheme == "file" and (folder / "pyproject.toml").is_file()
    return _shown(folder) if found else "tuner"
