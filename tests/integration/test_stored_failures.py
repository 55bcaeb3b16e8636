"""Stored failures never contain the database's password, even if an exception quotes it."""

import contextlib
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import optuna
import pytest
from builders import DATASET
from postgres import PASSWORD, Postgres
from sqlalchemy import make_url
from study_databases import Studies, claim

from tuner.errors import TunerError, one_line
from tuner.study.database import Database
from tuner.study.records import hang_of
from tuner.study.urls import masked


@pytest.fixture
def studies(postgres: Postgres) -> Iterator[Studies]:
    url = postgres.new_database()
    Database(url, create=True).rdb.engine.dispose()
    with contextlib.closing(Studies(url)) as studies:
        yield studies


def test_passwords_in_sampler_errors_are_masked(
    studies: Studies, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = studies.create()

    def broken(*_: Any) -> Any:
        url = studies.url
        raise ValueError(f"no connection to {url} ({make_url(url).password!r})")

    with monkeypatch.context() as patch:
        patch.setattr(optuna.samplers.RandomSampler, "sample_independent", broken)
        with pytest.raises(TunerError, match="could not be begun") as caught:
            studies.join().claim(DATASET)
    trace = store.traceback(0)
    assert trace is not None
    assert "ValueError: no connection to postgresql://owner:***@127.0.0.1" in trace
    for text in (str(caught.value), *studies.messages, str(studies.all_rows())):
        assert_no_password(text)


def test_passwords_in_stacks_of_a_hang_are_masked(studies: Studies) -> None:
    studies.create()
    session = studies.join()
    found = claim(session)
    session.give_up_hung(found, "epoch 1 hung", f'    connect("{studies.url}")\n')
    hang = hang_of(studies.trials()[0].user_attrs)
    assert hang is not None
    assert 'connect("postgresql://owner:***@127' in hang.stacks
    assert_no_password(str(studies.all_rows()))


def test_truncating_a_reason_leaves_no_part_of_a_password() -> None:
    url = make_url("postgresql://me:secret@host/x")
    for length in range(1970, 2000):
        text = one_line(ValueError(length * "x" + "secret"), lambda text: masked(text, url))
        assert "s" not in text


def assert_no_password(text: str) -> None:
    for spelling in (PASSWORD, quote(PASSWORD), quote(PASSWORD, safe="")):
        assert spelling not in text
