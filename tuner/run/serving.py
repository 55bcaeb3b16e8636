"""The Optuna Dashboard on a database of studies, with the pictures from their artifact stores."""

import io
import json
import logging
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, BinaryIO
from wsgiref.simple_server import WSGIServer

from optuna_dashboard import wsgi

from tuner.errors import InputError, TunerError
from tuner.places import default_artifacts
from tuner.run import web
from tuner.run.album import picture_of
from tuner.run.files import StudyFiles
from tuner.run.stores import open_store
from tuner.study.database import Database
from tuner.study.store import StudyStore

LOOPBACK = ("127.0.0.1", "localhost", "::1")
UPLOADS = "uploads"  # the folder of what people add in the dashboard
Application = Callable[[dict[str, Any], Any], Iterable[bytes]]


class Artifacts:
    """Optuna's artifact store, as its protocol has it, made of the stores of all studies: the
    pictures that tuner wrote, and beside them what people upload."""

    def __init__(self, database: Database, url: str | None) -> None:
        """``url`` is where this machine finds the files, where studies don't say it rightly."""
        self._database, self._url = database, url
        self._known: dict[str, StudyFiles] = {}  # by the beginning of the study's token
        self._lock = threading.Lock()

    def open_reader(self, artifact_id: str) -> BinaryIO:
        """The file's content. TunerError where it is not there, or the store is away."""
        found = picture_of(artifact_id)
        if found is None:
            data = open_store(self._url or default_artifacts()).read(f"{UPLOADS}/{artifact_id}")
        else:
            token, picture = found
            data = self._files(token).read(picture.name)
        if data is None:
            raise InputError(f"artifacts: found no file of artifact {artifact_id}")
        return io.BytesIO(data)

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        """Keep what a person uploads."""
        store = open_store(self._url or default_artifacts())
        store.write(f"{UPLOADS}/{artifact_id}", content_body.read())

    def remove(self, artifact_id: str) -> None:
        """Remove the file; what is gone already is no error."""
        found = picture_of(artifact_id)
        if found is None:
            open_store(self._url or default_artifacts()).remove(f"{UPLOADS}/{artifact_id}")
            return
        with suppress(InputError):  # of a study that is gone
            token, picture = found
            self._files(token).remove(picture.name)

    def _files(self, token: str) -> StudyFiles:
        with self._lock:
            if token not in self._known:
                self._known[token] = self._find(token)
            return self._known[token]

    def _find(self, token: str) -> StudyFiles:
        for name in self._database.study_names():
            store = StudyStore(self._database, name)
            if store.token.startswith(token) and store.artifacts is not None:
                return StudyFiles(open_store(self._url or store.artifacts), store.folder)
        raise InputError(f"artifacts: found no study whose token begins with {token}")


def dashboard_server(
    database: Database, artifacts: str | None, host: str, port: int, announce: Callable[[str], None]
) -> WSGIServer:
    """A server of the dashboard, bound to its port (0 for any that is free). InputError where that
    can't be had."""
    # It logs whole tracebacks of what fails behind it: a line is enough.
    logging.getLogger("optuna_dashboard._bottle_util").addFilter(_first_line(announce))
    application: Any = wsgi(
        database.open_to_others(), artifact_store=Artifacts(database, artifacts)
    )
    application.catchall = False
    return web.server(host, port, _guarded(application, host, announce), "--")


def _first_line(announce: Callable[[str], None]) -> Callable[[logging.LogRecord], bool]:
    def tell(record: logging.LogRecord) -> bool:
        announce(record.getMessage().partition("\n")[0])
        return False

    return tell


def _guarded(application: Application, host: str, announce: Callable[[str], None]) -> Application:
    """The application behind what keeps other pages of a person's browser from it, for it has no
    login; and what fails in it as one line here and a short answer there."""

    def answer(environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        refusal = _refusal(environ, host)
        if refusal is not None:
            return _plain(start, "403 Forbidden", refusal)
        try:
            return application(environ, start)
        except TunerError as error:
            announce(str(error))
            return _plain(start, "404 Not Found", str(error))
        except Exception as error:  # of the dashboard's own
            announce(f"{environ.get('PATH_INFO')}: {type(error).__name__}")
            return _plain(start, "500 Internal Server Error", type(error).__name__)

    return answer


def _refusal(environ: dict[str, Any], host: str) -> str | None:
    """Why a request is refused: another site's page made the browser send it (it says so), or gave
    this machine a name of its own."""
    sent_by = environ.get("HTTP_SEC_FETCH_SITE", "")
    changes = environ["REQUEST_METHOD"] not in ("GET", "HEAD", "OPTIONS")
    if changes and sent_by in ("cross-site", "same-site"):
        return "found a request from another site's page"
    asked = environ.get("HTTP_HOST", "").rpartition("]")
    name = asked[0].removeprefix("[") or asked[2].partition(":")[0]
    if host in LOOPBACK and name not in ("", *LOOPBACK):
        return f"found a request for host {name[:80]!r}, expected one for {host}"
    return None


def _plain(start: Any, status: str, text: str) -> Iterable[bytes]:
    start(status, [("Content-Type", "application/json")])
    return [json.dumps({"reason": text}).encode()]
