"""No output contains a password, however a URL is mistyped and wherever it is passed."""

import contextlib
import io
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import quote

import command_line
import pytest
import typer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tuner.cli import app

PASSWORD = "Zq7xW9vK2mRt"
FRAGMENTS = {PASSWORD[i : i + 4].lower() for i in range(len(PASSWORD) - 3)}
STUDY = '[data]\nsource = "folder"\npath = "/nowhere"\n[trial]\nwidth = 4\n'
BASES = [
    "postgresql://bob:{}@127.0.0.1:1/db",
    "postgresql+psycopg://bob:{}@127.0.0.1:1/db?sslmode=disable",
    "postgresql://127.0.0.1:1/db?user=bob&password={}",
    "postgresql://bob@127.0.0.1:1/db?passw%6Frd={}",
    "postgresql://bob@127.0.0.1:1/db?pasword={}",
    "postgresql://bob@127.0.0.1:1/db&password={}",
    "postgresql://bob/{}@127.0.0.1:1/db",
    "postgresql://bob@{}@127.0.0.1:1/db",
    "mysql://bob:{}@127.0.0.1:1/db",
    "sqlite://bob:{}@127.0.0.1/studies.db",
    "sqlite:///bob:{}@127.0.0.1/studies.db",
    "sqlite:///studies.db?password={}",
    "s3://AKIA:{}@bucket/prefix",
    "s3://bucket/prefix?aws_secret_access_key={}",
    "gs://bob:{}@bucket/prefix",
    "https://bob:{}@host/x",
    "bob:{}@127.0.0.1/db",
    "//bob:{}@127.0.0.1/db",
    "host=127.0.0.1 port=1 user=bob password={}",
]
DELIMITERS = [":", "@", "/", "?", "#", "&", "=", "%", " ", "\t", "\n", '"', "'", "\\", ";", ","]
SCHEME = re.compile(r"^[a-z0-9+]+(?=://)")


@st.composite
def mistyped(draw: st.DrawFn) -> str:
    """A URL that contains the password, with up to three mistakes."""
    password, url = PASSWORD, draw(st.sampled_from(BASES))
    for _ in range(draw(st.integers(0, 3))):
        match draw(st.integers(0, 7)):
            case 0:  # a character that should have been escaped
                at = draw(st.integers(0, len(password)))
                password = password[:at] + draw(st.sampled_from(DELIMITERS)) + password[at:]
            case 1:
                password = quote(password, safe="")
            case 2:  # the delimiter was escaped as well
                old = draw(st.sampled_from([":{", "}@", "://"]))
                url = url.replace(old, {":{": "%3A{", "}@": "}%40", "://": "%3A%2F%2F"}[old])
            case 3:
                url = SCHEME.sub(lambda scheme: scheme.group().upper(), url)
            case 4:
                url = SCHEME.sub(draw(st.sampled_from(["postgres", "pg", "psql", "S3"])), url)
            case 5:  # a wrong delimiter after the scheme
                old, new = draw(st.sampled_from([("://", ":/"), ("://", "//"), ("://", ":")]))
                url = url.replace(old, new)
            case 6:
                url = draw(st.sampled_from([" {}", '"{}"', "'{}'", "{}\n", "<{}>"])).format(
                    url.replace("{}", "{{}}")
                )
            case 7:
                url = url.replace("}@", "}@@")
    return url.replace("{}", password)


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if not hasattr(command, "commands"):
        yield path, command
        return
    for name, child in command.commands.items():
        yield from commands(child, (*path, name))


def command_lines() -> Iterator[list[str]]:
    """A command line for each parameter of each command, with {} in its place."""
    for path, command in commands(typer.main.get_command(app)):
        fill = {"file": "study.toml", "to": "out.html", "source": "in", "trial": "0"}
        needed = {
            p.name: fill.get(p.name, "s")
            for p in command.params
            if p.required and p.param_type_name == "argument"
        }
        options = [
            word
            for p in command.params
            if p.required and p.param_type_name == "option"
            for word in (p.opts[0], {"kind": "map"}.get(p.name, "out.png"))
        ]
        if path == ("dashboard",):
            options += ["--host", "192.0.2.1"]  # no machine has this address, so it never serves
        for parameter in command.params:
            if parameter.param_type_name == "argument":
                words = [*(needed | {parameter.name: "{}"}).values(), *options]
            elif getattr(parameter, "is_flag", False):
                continue
            else:
                words = [*needed.values(), *options, parameter.opts[0], "{}"]
                yield [*path, *words[:-2], f"{parameter.opts[0]}={{}}"]
            yield [*path, *words]
        yield [*path, *needed.values(), *options, "{}"]  # one argument too many
    yield ["{}"]


COMMAND_LINES = list(command_lines())


def run_command(words: Sequence[str], folder: Path) -> tuple[int, str]:
    """Run a command in the folder; its exit code and output."""
    output = io.StringIO()
    with (
        contextlib.chdir(folder),
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(output),
    ):
        code = command_line.call(*words)
    return code, output.getvalue()


def assert_not_shown(words: Sequence[str], folder: Path) -> None:
    code, text = run_command(words, folder)
    assert code in (0, 1, 2, 3), text
    assert not [piece for piece in FRAGMENTS if piece in text.lower()], text
    found = [path for path in folder.rglob("*") if any(p in str(path).lower() for p in FRAGMENTS)]
    assert not found
    database = folder / "tuner-data" / "studies.db"
    assert not database.exists() or PASSWORD.encode() not in database.read_bytes()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("passwords")
    (path / "study.toml").write_text(STUDY)
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("TUNER_", "PG"))}
    with mock.patch.dict(os.environ, clean, clear=True):
        yield path


@settings(
    max_examples=int(os.environ.get("PASSWORD_EXAMPLES", "300")),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(line=st.sampled_from(COMMAND_LINES), url=mistyped(), split=st.booleans())
def test_a_mistyped_url_is_never_shown(
    line: list[str], url: str, split: bool, folder: Path
) -> None:
    words = [word.replace("{}", url) for word in line]
    if split:  # as a shell splits an unquoted URL
        words = [part for word in words for part in re.split(r"\s+", word)]
    assert_not_shown(words, folder)
