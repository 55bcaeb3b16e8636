"""Database URLs: parsed, checked, and shown without passwords."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import sqlalchemy
from psycopg import pq
from sqlalchemy import URL

from tuner.environment import PASSWORD_FILE_VARIABLE, variable
from tuner.errors import InputError
from tuner.paths import local_path

NETWORK_FILE_SYSTEMS = ("nfs", "cifs", "smb", "fuse.sshfs", "9p", "lustre", "ceph", "glusterfs")
EXPECTED = "expected sqlite:///FILE or postgresql://USER@HOST/DATABASE"
_PORT = "storage: the port must be a number from 1 to 65535, as in postgresql://HOST:5432/DATABASE"
_ESCAPES = ": as %3A, / as %2F, ? as %3F, # as %23"
_SCHEME = re.compile(r"[A-Za-z0-9_+]+(?=://)")
_UP_TO_THE_HOST = re.compile(r"[\w+]+://(?:[^:/@]*(?::[^@]*)?@)?")  # as SQLAlchemy parses it
_OCTAL = re.compile(rb"\\([0-7]{3})")  # escapes in the paths of mount points, as of spaces
_SHORT = 4  # shorter passwords occur in words by chance
# Other characters in a name mean that a delimiter was mistyped: the name may contain a password.
_USER, _NAME = re.compile(r"[\w.@$+~-]*"), re.compile(r"[\w.$+~-]*")
_HOST = re.compile(r"[\w.-]*|[0-9a-fA-F:.]*")  # or an IPv6 address
_SAFE_OPTIONS = {
    *("host", "hostaddr", "port", "user", "sslmode", "sslrootcert", "sslcert", "sslkey"),
    *("target_session_attrs", "connect_timeout", "application_name"),
}
_OTHERS = ("mysql", "mariadb", "oracle", "mssql")  # databases that SQLAlchemy knows


def parse_url(text: str) -> URL:
    """Parse the URL of a SQLite file or Postgres database; sets its driver and password.

    InputError for any other URL, or if it is unclear where a password ends; the message shows no
    password.
    """
    text = _SCHEME.sub(lambda scheme: scheme.group().lower(), text.strip(), count=1)
    before = _UP_TO_THE_HOST.match(text)
    if before and not text.startswith("sqlite") and "@" in text[before.end() :]:
        raise InputError(
            "storage: the URL has one @ too many; in a user name or password, write it as %40 "
            f"(and {_ESCAPES})"
        )
    try:
        url = sqlalchemy.make_url(text)
    except sqlalchemy.exc.ArgumentError:
        raise InputError(f"storage: not a database URL, {EXPECTED}") from None
    except ValueError:  # which may quote a password: the "port" of a URL without a host
        raise InputError(_PORT) from None
    backend, _, driver = url.drivername.partition("+")
    if backend == "sqlite" and driver in ("", "pysqlite"):
        return _sqlite(url)
    if backend in ("postgresql", "postgres") and driver in ("", "psycopg"):
        return _postgres(url)
    kind = f"a {backend}" if backend in _OTHERS else "this kind of"
    raise InputError(f"storage: {kind} database can't be used, {EXPECTED}")


def _sqlite(url: URL) -> URL:
    if any((url.username, url.password, url.host, url.port, url.query)):
        raise InputError("storage: a SQLite URL may only name a file, expected sqlite:///FILE")
    if not url.database or url.database == ":memory:":
        raise InputError("storage: an in-memory database can't be used, expected sqlite:///FILE")
    url = url.set(database=str(local_path(url.database, "storage")))
    kind = _file_system(Path(str(url.database)).resolve())
    if kind.startswith(NETWORK_FILE_SYSTEMS):
        raise InputError(
            f"storage: {url.database} is on a network file system ({kind}), where SQLite loses "
            "data; use a local file, or a postgresql:// URL for several machines"
        )
    return url


def _postgres(url: URL) -> URL:
    url = url.set(drivername="postgresql+psycopg")
    if url.port is not None and not 0 < url.port < 65536:
        raise InputError(_PORT)
    if not url.database:
        raise InputError(f"storage: the URL names no database, {EXPECTED}")
    _check_parts(url)
    path = variable(PASSWORD_FILE_VARIABLE)
    if url.password is not None or path is None:
        return url
    try:
        file = local_path(path, PASSWORD_FILE_VARIABLE)
        return url.set(password=file.read_text("utf-8").strip())
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not text"
        raise InputError(f"{PASSWORD_FILE_VARIABLE}: {path} can't be read: {why}") from None


def _check_parts(url: URL) -> None:
    """InputError if a part that the server's messages repeat may contain a password."""
    options = url.normalized_query
    parts = {
        "user name": (_USER, [url.username, *options.get("user", ())]),
        "host": (_HOST, [url.host]),
        "database name": (_NAME, [url.database, *options.get("dbname", ())]),
    }
    for what, (pattern, texts) in parts.items():
        if not all(pattern.fullmatch(text or "") for text in texts):
            raise InputError(
                f"storage: the {what} contains a delimiter, {EXPECTED}; in a password, write "
                f"@ as %40, {_ESCAPES}"
            )
    known = {option.keyword.decode() for option in pq.Conninfo.get_defaults()}
    if not known.issuperset(options):
        raise InputError(
            "storage: unknown option after the ?; use those of libpq, such as ?sslmode=require, "
            "and write an & in a password as %26"
        )


def _file_system(path: Path) -> str:
    """The type of the file system that ``path`` is, or will be, on; '' if unknown."""
    try:
        lines = Path("/proc/self/mounts").read_bytes().split(b"\n")
    except OSError:
        return ""
    mounts = {}
    for fields in (line.split(b" ") for line in lines):
        if len(fields) > 2:
            place = _OCTAL.sub(lambda found: bytes([int(found[1], 8) & 255]), fields[1])
            mounts[os.fsdecode(place)] = os.fsdecode(fields[2])
    return next((mounts[str(p)] for p in (path, *path.parents) if str(p) in mounts), "")


def shown(url: URL) -> str:
    """The URL for display, without password and options; the path of a SQLite file."""
    return str(url.database) if url.get_backend_name() == "sqlite" else _without_password(url, {})


def command_url(url: URL) -> str:
    """The URL for a command to repeat: without passwords, with options that can't hold one."""
    if url.get_backend_name() == "sqlite":
        return url.render_as_string()
    return _without_password(url, {k: v for k, v in url.query.items() if k in _SAFE_OPTIONS})


def _without_password(url: URL, query: Mapping[str, Any]) -> str:
    parts = (url.username, None, url.host, url.port, url.database, query)
    return URL.create("postgresql", *parts).render_as_string()


def masked(text: str, url: URL) -> str:
    """``text`` without the URL's passwords, plain or as URLs and string literals spell them.

    A short password is masked only where a URL or option has one: masked everywhere, the gaps would
    reveal its letters.
    """
    options = url.normalized_query
    secrets = [
        url.password,
        os.environ.get("PGPASSWORD"),
        *options.get("password", ()),
        *options.get("sslpassword", ()),
    ]
    # Longest first: if one password begins with another, its end would be left.
    for secret in sorted(map(str, filter(None, secrets)), key=len, reverse=True):
        spelling = "".join(map(_spellings, secret))
        if len(secret) < _SHORT:
            spelling = rf"(?<=:){spelling}(?=@)|(?<=password=){spelling}(?!\w)"
        text = re.sub(spelling, "***", text)
    return text


def _spellings(character: str) -> str:
    """A pattern for one character of a password: percent-encoded, as in a Python or JSON literal,
    doubled as in a format string, or plain."""
    encoded = "".join(f"%(?i:{byte:02x})" for byte in character.encode(errors="surrogateescape"))
    plain = {character, ascii(character)[1:-1], repr(character)[1:-1], json.dumps(character)[1:-1]}
    if character in "'\"\\":
        plain.add(f"\\{character}")
    elif character in "{}":
        plain.add(2 * character)
    elif character == " ":
        plain.add("+")
    texts = map(re.escape, sorted(plain, key=len, reverse=True))
    return f"(?:{'|'.join([encoded, *texts])})"
