"""Database URLs: which are taken, and how they are shown to people."""

import os
import re
from pathlib import Path
from urllib.parse import quote, quote_plus

import sqlalchemy
from sqlalchemy import URL

from tuner.errors import InputError
from tuner.places import PASSWORD_FILE_VARIABLE

NETWORK_FILE_SYSTEMS = ("nfs", "cifs", "smb", "fuse.sshfs", "9p", "lustre", "ceph", "glusterfs")
EXPECTED = "expected sqlite:///FILE or postgresql://USER@HOST/DATABASE"
_PORT = "expected a number from 1 to 65535, as in postgresql://USER@HOST:5432/DATABASE"
_UP_TO_THE_HOST = re.compile(r"[\w+]+://(?:[^:/]*(?::[^@]*)?@)?")  # as SQLAlchemy reads it
_SHORT = 4  # a password of fewer letters stands in many a word by chance


def parse_url(text: str) -> URL:
    """The URL with its driver and password; InputError, which shows no password, for any other
    than a SQLite file's or a Postgres server's, and where a password's end is a guess."""
    before = _UP_TO_THE_HOST.match(text)
    if before and not text.startswith("sqlite") and "@" in text[before.end() :]:
        raise InputError(
            "storage: found an @ too many in the URL, expected one in a password escaped as %40 "
            "(likewise : as %3A, / as %2F, ? as %3F, # as %23)"
        )
    try:
        url = sqlalchemy.make_url(text)
    except sqlalchemy.exc.ArgumentError:
        raise InputError(f"storage: found no database URL, {EXPECTED}") from None
    except ValueError:  # not shown: where the host was left out, a password stands there
        raise InputError(f"storage: found a port that is no number, {_PORT}") from None
    backend, _, driver = url.drivername.partition("+")
    if backend == "sqlite" and driver in ("", "pysqlite"):
        return _sqlite(url)
    if backend in ("postgresql", "postgres") and driver in ("", "psycopg"):
        return _postgres(url)
    raise InputError(f"storage: found a {url.drivername} URL, {EXPECTED}")


def _sqlite(url: URL) -> URL:
    if not url.database or url.database == ":memory:":
        raise InputError("storage: found a database in memory, expected sqlite:///FILE")
    kind = _file_system(Path(url.database).resolve())
    if kind.startswith(NETWORK_FILE_SYSTEMS):
        raise InputError(
            f"storage: found {url.database} on a network file system ({kind}), where SQLite loses "
            "data; expected a local file, or a postgresql:// URL for several machines"
        )
    return url


def _postgres(url: URL) -> URL:
    url = url.set(drivername="postgresql+psycopg")
    if url.port is not None and not 0 < url.port < 65536:
        raise InputError(f"storage: found a port that no server has, {_PORT}")
    if not url.database:
        raise InputError(f"storage: found a URL without a database, {EXPECTED}")
    path = os.environ.get(PASSWORD_FILE_VARIABLE)
    if url.password is not None or not path:
        return url
    try:
        return url.set(password=Path(path).read_text().strip())
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not text"
        raise InputError(f"{PASSWORD_FILE_VARIABLE}: {path} can't be read: {why}") from None


def _file_system(path: Path) -> str:
    """The type of the file system that ``path`` is, or will be, on; '' where nothing says so."""
    try:
        lines = Path("/proc/self/mounts").read_text().splitlines()
    except OSError:
        return ""
    mounts = {fields[1]: fields[2] for fields in map(str.split, lines) if len(fields) > 2}
    return next((mounts[str(p)] for p in (path, *path.parents) if str(p) in mounts), "")


def shown(url: URL) -> str:
    """The URL as people may see it: no password, no options. A SQLite file's path."""
    if url.get_backend_name() == "sqlite":
        return str(url.database)
    place = URL.create("postgresql", url.username, None, url.host, url.port, url.database)
    return place.render_as_string()


def masked(text: str, url: URL) -> str:
    """``text`` without the URL's passwords, plain or as URLs spell them.

    A short one is masked only where it stands as a password does: to mask it wherever it occurs
    would show which letters it has.
    """
    options = url.normalized_query
    secrets = [url.password, *options.get("password", ()), *options.get("sslpassword", ())]
    for secret in map(str, filter(None, secrets)):
        spellings = {secret, quote(secret), quote(secret, safe=""), quote_plus(secret)}
        for spelling in sorted(map(re.escape, spellings), key=len, reverse=True):
            if len(secret) < _SHORT:
                spelling = rf"(?<=:){spelling}(?=@)|(?<=password=){spelling}(?!\w)"
            text = re.sub(spelling, "***", text)
    return text
