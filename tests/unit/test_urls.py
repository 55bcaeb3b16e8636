"""Database URLs: which are taken, and that nobody is shown a password."""

import os
import sys
from pathlib import Path
from urllib.parse import quote

import optuna
import pytest
from postgres import PASSWORD, Postgres
from sqlalchemy import make_url

from tuner.cli.main import without_passwords
from tuner.errors import InputError, StorageError
from tuner.study import urls
from tuner.study.connections import Address
from tuner.study.database import Database
from tuner.study.urls import masked, parse_url, shown

SECRET = "pass/w{o}rd%40"
QUOTED = quote(SECRET, safe="")


@pytest.fixture(autouse=True)
def no_passwords_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*filter(lambda name: name.startswith("PG"), os.environ), "TUNER_PASSWORD_FILE"]:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("text", "place", "driver"),
    [
        ("sqlite:///studies.db", "studies.db", "sqlite"),
        ("sqlite:////tmp/deep/studies.db", "/tmp/deep/studies.db", "sqlite"),
        ("sqlite+pysqlite:///studies.db", "studies.db", "sqlite+pysqlite"),
        ("postgresql://me@host/studies", "postgresql://me@host/studies", "postgresql+psycopg"),
        ("postgres://me@host/studies", "postgresql://me@host/studies", "postgresql+psycopg"),
        (
            "postgresql+psycopg://me:{}@host:99/studies?sslmode=require",
            "postgresql://me@host:99/studies",
            "postgresql+psycopg",
        ),
        ("postgresql:///studies?host=/run&password={}", "postgresql:///studies", ""),
        ("postgresql://host/studies?user=me&password={}", "postgresql://host/studies", ""),
    ],
)
def test_databases_that_are_taken(text: str, place: str, driver: str) -> None:
    url = parse_url(text.format(QUOTED))
    assert shown(url) == place
    assert url.drivername == driver or not driver
    address = Address(text.format(QUOTED))
    assert address.place == place
    for seen in (address.place, address.shareable_url):
        assert SECRET not in seen
        assert QUOTED not in seen


@pytest.mark.parametrize(
    "text",
    [
        "mysql+pymysql://me:{}@host/studies",
        "mysql://me:{}@host/studies",
        "postgresql+asyncpg://me:{}@host/studies",
        "postgresql+psycopg2://me:{}@host/studies",
        "sqlite+aiosqlite:///studies.db",
        "postgresql://me:{}@host",
        "postgresql://me:{}@host/",
        "sqlite://",
        "sqlite:///",
        "sqlite:///:memory:",
        "me:{}@host",
        "studies.db",
        "",
        "://me:{}@host/studies",
    ],
)
def test_databases_that_are_not(text: str) -> None:
    with pytest.raises(InputError, match=r"^storage: found .* expected sqlite:///FILE") as caught:
        Database(text.format(QUOTED), create=True)
    assert SECRET not in str(caught.value)
    assert QUOTED not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://me:p@s3cret@host/studies",
        "postgresql://me:p@s3/cret@host/studies",
        "postgresql://me:p@s3?cret@host/studies",
        "postgresql://me:p@s3/cr?et=x@host/studies",
        "postgresql://me:p@s3:cret@host/studies",
        "postgresql://me:p@s3#cret@host:5432/studies",
        "postgresql://me/s3:cret@host/studies",
        "mysql://me:p@s3cret@host/studies",
    ],
)
def test_a_password_whose_end_is_a_guess_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"^storage: found an @ too many .* as %40") as caught:
        parse_url(text)
    assert "s3" not in str(caught.value)
    assert "cret" not in str(caught.value)


@pytest.mark.parametrize("rest", ["{0}@host:s3cret", "{0}", "{0}@host:0", "{0}@host:65536"])
def test_a_port_that_is_none_is_named_as_the_port(rest: str) -> None:
    with pytest.raises(InputError, match=r"^storage: found a port .* from 1 to 65535") as caught:
        parse_url(f"postgresql://me:{rest.format('s3cret')}/studies")
    assert "s3cret" not in str(caught.value)


def test_what_a_password_may_hold_as_it_is() -> None:
    url = parse_url("postgresql://me@work:a:b/c?d#e@host/studies")
    assert (url.username, url.password, url.host) == ("me@work", "a:b/c?d#e", "host")
    assert parse_url("sqlite:////home/me@work/studies.db").database == "/home/me@work/studies.db"


@pytest.mark.skipif(
    sys.platform != "linux",
    reason="what is mounted is looked up in /proc/self/mounts, which Linux alone has",
)
@pytest.mark.parametrize("by", ["its path", "a link"])
def test_sqlite_is_not_for_network_file_systems(
    by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is always there stands in for them."""
    monkeypatch.setattr(urls, "NETWORK_FILE_SYSTEMS", ("proc",))
    (tmp_path / "link").symlink_to("/proc/self")
    path = "/proc/self/studies.db" if by == "its path" else f"{tmp_path}/link/studies.db"
    with pytest.raises(InputError, match=r"studies.db on a network file system \(proc\)"):
        parse_url(f"sqlite:///{path}")
    parse_url(f"sqlite:///{tmp_path}/studies.db")
    monkeypatch.chdir("/proc")
    with pytest.raises(InputError, match=r"found studies.db on a network file system"):
        parse_url("sqlite:///studies.db")


def test_passwords_are_masked_however_they_are_written() -> None:
    for text in (f"postgresql://me:{QUOTED}@host/x", f"postgresql://host/x?password={QUOTED}"):
        url = make_url(text)
        said = f'failed for "{SECRET}" at {text}, {url.render_as_string(hide_password=False)}'
        found = masked(said, url)
        assert SECRET not in found
        assert QUOTED not in found
        assert "***" in found
    assert masked("untouched", make_url("postgresql://me@host/x")) == "untouched"
    assert masked("untouched", make_url("postgresql://me:@host/x")) == "untouched"


def test_a_short_password_is_masked_only_where_it_stands_as_one() -> None:
    """Else the gaps would show its letters."""
    said = 'no password for user "p" at port 1, postgresql://p:{0}@p/p?password={0}&port=1'
    for secret in ("p", "po", "1"):
        for text in ("postgresql://p:{}@p:1/p", "postgresql://p/p?password={}"):
            found = masked(said.format(secret), make_url(text.format(secret)))
            assert found == said.format("***")


def test_a_command_line_is_shown_without_passwords() -> None:
    words = [
        "tuner",
        "sweep",
        "--storage=postgresql://me@work:s3cret@host/x",
        "postgres://me:s/3:cr?et@host/x?sslmode=require&password=s3cret&sslpassword=s3cret",
        "sqlite:///me@work.db",
    ]
    assert without_passwords(words) == [
        "tuner",
        "sweep",
        "--storage=postgresql://me@work@host/x",
        "postgres://me@host/x?sslmode=require&password=***&sslpassword=***",
        "sqlite:///me@work.db",
    ]


def test_the_password_may_be_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "password"
    path.write_text(f"{SECRET}\n")
    monkeypatch.setenv("TUNER_PASSWORD_FILE", str(path))
    assert parse_url("postgresql://me@host/x").password == SECRET
    assert parse_url("postgresql://me:other@host/x").password == "other"
    assert parse_url(f"sqlite:///{tmp_path}/s.db").password is None
    address = Address("postgresql://me@host/x")
    for seen in (address.place, address.shareable_url):
        assert SECRET not in seen
    monkeypatch.setenv("TUNER_PASSWORD_FILE", "")
    assert parse_url("postgresql://me@host/x").password is None


def test_a_password_file_that_can_not_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "password"
    monkeypatch.setenv("TUNER_PASSWORD_FILE", str(path))
    line = f"TUNER_PASSWORD_FILE: {path} can't be read: "
    with pytest.raises(InputError, match=f"^{line}No such file or directory$"):
        parse_url("postgresql://me@host/x")
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match=f"^{line}not text$"):
        parse_url("postgresql://me@host/x")


@pytest.fixture
def database(postgres: Postgres) -> str:
    """The URL of a database, without the password."""
    return postgres.new_database().replace(f":{quote(PASSWORD, safe='')}@", "@")


def opens(url: str) -> None:
    made = Database(url, create=True)
    assert made.study_names() == []
    made.rdb.engine.dispose()


def test_the_server_takes_the_password_from_the_file(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "password").write_text(f"{PASSWORD}\n")
    monkeypatch.setenv("TUNER_PASSWORD_FILE", str(tmp_path / "password"))
    opens(database)


def test_the_server_takes_the_password_from_libpqs_own_places(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So may other tools, given the URL that is fit to be shared."""
    (tmp_path / "pgpass").write_text(f"127.0.0.1:*:*:owner:{PASSWORD}\n")
    (tmp_path / "pgpass").chmod(0o600)
    monkeypatch.setenv("PGPASSFILE", str(tmp_path / "pgpass"))
    opens(database)
    other = optuna.storages.RDBStorage(Address(database).shareable_url)
    assert other.get_all_studies() == []
    other.engine.dispose()
    monkeypatch.delenv("PGPASSFILE")
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    opens(database)


def test_the_server_takes_the_password_from_the_query(database: str) -> None:
    opens(f"{database}?password={quote(PASSWORD, safe='')}")


@pytest.mark.parametrize("where", ["user", "query", "file"])
def test_a_wrong_password_is_not_shown(
    where: str, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = database
    if where == "user":
        url = database.replace("owner@", f"owner:{QUOTED}@")
    elif where == "query":
        url = f"{database}?password={QUOTED}"
    else:
        (tmp_path / "password").write_text(SECRET)
        monkeypatch.setenv("TUNER_PASSWORD_FILE", str(tmp_path / "password"))
    with pytest.raises(StorageError, match="password authentication failed") as caught:
        Database(url)
    assert str(caught.value).startswith(f"{database}: the database failed: ")
    assert SECRET not in str(caught.value)
    assert QUOTED not in str(caught.value)


def test_a_missing_database_of_the_servers_is_one_line(database: str, postgres: Postgres) -> None:
    missing = postgres.url("not_there")
    with pytest.raises(StorageError, match='database "not_there" does not exist') as caught:
        Database(missing, create=True)
    assert "\n" not in str(caught.value)
    assert PASSWORD not in str(caught.value)
