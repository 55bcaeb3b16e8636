"""Shell completion of study names and trial numbers."""

import os
import socket
import time
from pathlib import Path

import pytest
import study_databases
import typer
from study_databases import Studies, run

from tuner.cli import app
from tuner.cli.completion import SECONDS, begun_trials, queued_trials, study_names
from tuner.study import steering
from tuner.study.verdict import Complete

sqlite = study_databases.sqlite


def context(storage: str, **params: str) -> typer.Context:
    found = typer.Context(typer.main.get_command(app))
    found.params = {"storage": storage, **params}
    return found


def test_names_and_numbers_are_completed(sqlite: Studies) -> None:
    store = sqlite.create()
    sqlite.create(name="sweep")
    sqlite.create(name="other")
    run(sqlite.join(), [1.0], Complete())
    steering.enqueue(store, {"beta1": 0.5}, {})
    assert study_names(context(sqlite.url), "s") == ["s", "sweep"]
    assert begun_trials(context(sqlite.url, name="s"), "") == ["0"]
    assert queued_trials(context(sqlite.url, name="s"), "") == ["1"]
    assert queued_trials(context(sqlite.url, name="s"), "2") == []
    assert begun_trials(context(sqlite.url, name="nothing"), "") == []


def test_no_database_is_created_and_no_error_shown(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    urls = [f"sqlite:///{tmp_path}/none.db", "nonsense", "postgresql://nobody@127.0.0.1:1/x"]
    assert [study_names(context(url), "") for url in urls] == [[], [], []]
    assert os.listdir(tmp_path) == []
    assert capfd.readouterr() == ("", "")


def test_a_database_that_does_not_answer_is_left_alone_after_a_second() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:  # accepts, and then says nothing
        url = f"postgresql://nobody@127.0.0.1:{server.getsockname()[1]}/x"
        began = time.monotonic()
        assert study_names(context(url), "") == []
        assert time.monotonic() - began < SECONDS + 2
