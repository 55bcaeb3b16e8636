"""docker-compose.yml, the Dockerfile and .dockerignore, parsed as Docker does."""

import re
import subprocess
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

Yaml = dict[str, Any]

ROOT = Path(__file__).parents[1]
SECRETS = {"TUNER_SECRETS": "./deploy/secrets"}
SECRET_FILES = ("db_password", "dashboard_login", "grafana_password")


class MissingError(Exception):
    """A required variable is not set."""


def compose(**variables: str) -> Yaml:
    """docker-compose.yml with its variables substituted."""
    text = (ROOT / "docker-compose.yml").read_text()
    loaded: Yaml = YAML(typ="safe", pure=True).load(text)
    return dict(substituted(loaded, SECRETS | variables))


def substituted(node: Any, variables: dict[str, str]) -> Any:
    if isinstance(node, dict):
        return {key: substituted(value, variables) for key, value in node.items()}
    if isinstance(node, list):
        return [substituted(value, variables) for value in node]
    return interpolated(node, variables) if isinstance(node, str) else node


def interpolated(text: str, variables: dict[str, str]) -> str:
    """Substitute ``${NAME:-default}`` and ``${NAME:?message}``, innermost first."""

    def value(found: re.Match[str]) -> str:
        name, kind, rest = found.groups()
        if kind == "?" and not variables.get(name):
            raise MissingError(f"{name}: {rest}")
        return variables.get(name) or rest

    while (after := re.sub(r"\$\{(\w+):([-?])([^${}]*)\}", value, text)) != text:
        text = after
    assert "$" not in text, text
    return text


def make_secrets(folder: Path) -> str:
    """Run deploy/secrets.sh in ``folder``; its output."""
    command = ["sh", "secrets.sh"]
    done = subprocess.run(
        command, cwd=folder / "deploy", capture_output=True, text=True, timeout=10, check=True
    )
    return done.stdout


def steps(instruction: str) -> list[str]:
    """The arguments of each such instruction of the Dockerfile, with continued lines joined."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.M)
    found = re.findall(r"^([A-Z]+)\s+((?:.*\\\n)*.*)$", text, flags=re.M)
    return [
        re.sub(r"\s*\\\n\s*", " ", arguments) for name, arguments in found if name == instruction
    ]


def in_build_context(path: str) -> bool:
    """Whether .dockerignore includes a path: the last line that matches it or a parent decides."""
    included = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!")
        path_and_parents = [path, *map(str, Path(path).parents)][:-1]
        if line and not line.startswith("#") and any(matches(p, pattern) for p in path_and_parents):
            included = line.startswith("!")
    return included


def matches(path: str, pattern: str) -> bool:
    if pattern.startswith("**/"):
        return fnmatch(Path(path).name, pattern.removeprefix("**/"))
    return path.count("/") == pattern.count("/") and fnmatch(path, pattern)
