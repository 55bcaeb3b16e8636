"""Database URLs: accepted forms, and passwords that are never shown."""

import json
import os
import re
import shlex
import sys
from pathlib import Path
from urllib.parse import quote, quote_plus

import optuna
import pytest
from disks import mounted
from postgres import PASSWORD, Postgres
from sqlalchemy import make_url

from tuner.cli.main import resume_command
from tuner.errors import InputError, StorageError
from tuner.study import urls
from tuner.study.connections import Address
from tuner.study.database import Database
from tuner.study.urls import command_url, masked, parse_url, shown

SECRET = "pass/w{o}rd%40"
QUOTED = quote(SECRET, safe="")


@pytest.fixture(autouse=True)
def no_developer_passwords(monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_supported_databases_are_accepted(text: str, place: str, driver: str) -> None:
    url = parse_url(text.format(QUOTED))
    assert shown(url) == place
    assert url.drivername == driver or not driver
    address = Address(text.format(QUOTED))
    assert address.place == place
    for location in (address.place, address.shareable_url):
        assert SECRET not in location
        assert QUOTED not in location


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
def test_unsupported_databases_are_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"^storage: .*, expected sqlite:///FILE") as caught:
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
        "postgresql://me@s3cret@host/studies",
    ],
)
def test_an_ambiguous_password_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"^storage: .* one @ too many; .* as %40") as caught:
        parse_url(text)
    assert "s3" not in str(caught.value)
    assert "cret" not in str(caught.value)


@pytest.mark.parametrize("rest", ["{0}@host:s3cret", "{0}", "{0}@host:0", "{0}@host:65536"])
def test_an_invalid_port_is_named(rest: str) -> None:
    with pytest.raises(InputError, match=r"^storage: the port .* from 1 to 65535") as caught:
        parse_url(f"postgresql://me:{rest.format('s3cret')}/studies")
    assert "s3cret" not in str(caught.value)


def test_characters_allowed_in_a_password_unquoted() -> None:
    url = parse_url("postgresql://me%40work:a:b/c?d#e@host/studies")
    assert (url.username, url.password, url.host) == ("me@work", "a:b/c?d#e", "host")
    assert parse_url("sqlite:////home/me@work/studies.db").database == "/home/me@work/studies.db"


@pytest.mark.skipif(
    sys.platform != "linux",
    reason="mounts are read from /proc/self/mounts, which only Linux has",
)
@pytest.mark.parametrize("by", ["its path", "a link"])
def test_sqlite_on_a_network_file_system_is_refused(
    by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The proc file system, always mounted, stands for a network file system."""
    monkeypatch.setattr(urls, "NETWORK_FILE_SYSTEMS", ("proc",))
    (tmp_path / "link").symlink_to("/proc/self")
    path = "/proc/self/studies.db" if by == "its path" else f"{tmp_path}/link/studies.db"
    with pytest.raises(InputError, match=r"studies.db is on a network file system \(proc\)"):
        parse_url(f"sqlite:///{path}")
    parse_url(f"sqlite:///{tmp_path}/studies.db")
    monkeypatch.chdir("/proc")
    with pytest.raises(InputError, match=r"studies.db is on a network file system"):
        parse_url("sqlite:///studies.db")


@pytest.mark.parametrize(
    "name", ["my share", "a\tb", "a\nb", "back\\slash", "a\\040b", "a\x0cb", "\udcff"]
)
def test_network_file_systems_are_recognised_at_any_mount_point(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ramfs stands for a network file system."""
    monkeypatch.setattr(urls, "NETWORK_FILE_SYSTEMS", ("ramfs",))
    parse_url(f"sqlite:///{tmp_path / name}/studies.db")
    problem = pytest.raises(InputError, match=r"on a network file system \(ramfs\)")
    with mounted(tmp_path / name, kind="ramfs"), problem:
        parse_url(f"sqlite:///{tmp_path / name}/deep/studies.db")


def test_passwords_are_masked_in_every_spelling() -> None:
    for text in (f"postgresql://me:{QUOTED}@host/x", f"postgresql://host/x?password={QUOTED}"):
        url = make_url(text)
        message = f'failed for "{SECRET}" at {text}, {url.render_as_string(hide_password=False)}'
        found = masked(message, url)
        assert SECRET not in found
        assert QUOTED not in found
        assert "***" in found
    assert masked("untouched", make_url("postgresql://me@host/x")) == "untouched"
    assert masked("untouched", make_url("postgresql://me:@host/x")) == "untouched"


@pytest.mark.parametrize("secret", [SECRET, "a\\b 'c'\"{d}", "pa ss+wörd/%2f!", "x$(y)|[z]*^."])
def test_passwords_are_masked_as_libraries_print_them(secret: str) -> None:
    url = make_url("postgresql://me@host/x").set(password=secret)
    spelled = [
        *(secret, quote(secret), quote(secret, safe=""), quote_plus(secret)),
        quote(secret, safe=" +"),  # like SQLAlchemy
        re.sub("%..", lambda found: found[0].lower(), quote(secret, safe="")),
        *("".join(f"%{byte:02X}" for byte in secret.encode()), repr(secret)[1:-1]),
        *(json.dumps(secret)[1:-1], ascii(secret)[1:-1]),
        secret.replace("\\", "\\\\").replace("'", "\\'"),  # like libpq
        secret.replace("{", "{{").replace("}", "}}"),
        secret.replace("/", "%2F", 1),
    ]
    for text in spelled:
        assert masked(f"before{text}after", url) == "before***after"


def test_two_passwords_are_masked_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSWORD", "secret-and-more")
    url = make_url("postgresql://me:secret@host/x")
    assert masked("secret, secret-and-more", url) == "***, ***"


def test_a_short_password_is_masked_only_in_a_url() -> None:
    """Elsewhere, masking every occurrence would reveal its characters."""
    message = 'no password for user "p" at port 1, postgresql://p:{0}@p/p?password={0}&port=1'
    for secret in ("p", "po", "1"):
        for text in ("postgresql://p:{}@p:1/p", "postgresql://p/p?password={}"):
            found = masked(message.format(secret), make_url(text.format(secret)))
            assert found == message.format("***")


def test_resume_commands_contain_urls_without_secrets() -> None:
    url = "postgresql://me:s3cret@host/x?sslmode=require&passw%6Frd=s3cret&sslpassword=s3cret"
    safe = command_url(parse_url(url))
    assert safe == "postgresql://me@host/x?sslmode=require"
    for words in (["--storage", url], [f"--storage={url}"]):
        shown = resume_command(["sweep", *words, "--artifacts", "s3://me:s3cret@x"], safe, "s3://x")
        given = words[0].replace(url, safe), *([safe] if words[1:] else [])
        expected = ["sweep", *given, "--artifacts", "s3://x"]
        assert shlex.split(shown)[-len(expected) :] == expected


def test_the_password_may_be_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "password"
    path.write_text(f"{SECRET}\n")
    monkeypatch.setenv("TUNER_PASSWORD_FILE", str(path))
    assert parse_url("postgresql://me@host/x").password == SECRET
    assert parse_url("postgresql://me:other@host/x").password == "other"
    assert parse_url(f"sqlite:///{tmp_path}/s.db").password is None
    address = Address("postgresql://me@host/x")
    for location in (address.place, address.shareable_url):
        assert SECRET not in location
    monkeypatch.setenv("TUNER_PASSWORD_FILE", "")
    assert parse_url("postgresql://me@host/x").password is None


def test_an_unreadable_password_file_is_named(
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


def assert_opens(url: str) -> None:
    made = Database(url, create=True)
    assert made.study_names() == []
    made.rdb.engine.dispose()


def test_the_server_takes_the_password_from_the_file(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "password").write_text(f"{PASSWORD}\n")
    monkeypatch.setenv("TUNER_PASSWORD_FILE", str(tmp_path / "password"))
    assert_opens(database)


def test_libpqs_own_password_sources_authenticate(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also for other tools that use the shareable URL."""
    (tmp_path / "pgpass").write_text(f"127.0.0.1:*:*:owner:{PASSWORD}\n")
    (tmp_path / "pgpass").chmod(0o600)
    monkeypatch.setenv("PGPASSFILE", str(tmp_path / "pgpass"))
    assert_opens(database)
    other = optuna.storages.RDBStorage(Address(database).shareable_url)
    assert other.get_all_studies() == []
    other.engine.dispose()
    monkeypatch.delenv("PGPASSFILE")
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    assert_opens(database)


def test_the_server_takes_the_password_from_the_query(database: str) -> None:
    assert_opens(f"{database}?password={quote(PASSWORD, safe='')}")


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


def test_a_missing_postgres_database_is_refused_in_one_line(
    database: str, postgres: Postgres
) -> None:
    missing = postgres.url("not_there")
    with pytest.raises(StorageError, match='database "not_there" does not exist') as caught:
        Database(missing, create=True)
    assert "\n" not in str(caught.value)
    assert PASSWORD not in str(caught.value)
