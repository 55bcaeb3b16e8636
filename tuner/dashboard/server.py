"""The Optuna Dashboard on a database of studies, with pictures from their artifact stores."""

import io
import logging
import threading
from collections.abc import Callable, Iterable
from typing import Any, BinaryIO
from wsgiref.simple_server import WSGIServer

from optuna_dashboard import wsgi

from tuner import web
from tuner.dashboard import actions
from tuner.environment import default_artifacts
from tuner.errors import InputError, StorageError, TunerError
from tuner.files.pictures import picture_of
from tuner.files.stores import open_store
from tuner.files.study_files import StudyFiles, open_files
from tuner.study.database import Database
from tuner.study.store import StudyStore
from tuner.web import Application

UPLOADS = "uploads"  # folder of files that users add in the dashboard


class Artifacts:
    """Optuna's artifact store protocol over the stores of all studies.

    Serves tuner's pictures and users' uploads.
    """

    def __init__(self, database: Database, url: str | None) -> None:
        """``url``: location of the files on this machine, if it differs from the studies'."""
        self._database, self._url = database, url
        self._known: dict[str, StudyFiles] = {}  # by the beginning of the study's token
        self._lock = threading.Lock()

    def open_reader(self, artifact_id: str) -> BinaryIO:
        """The file's content; TunerError if it is missing or the store is unavailable."""
        found = picture_of(artifact_id)
        if found is None:
            data = open_store(self._url or default_artifacts()).read(f"{UPLOADS}/{artifact_id}")
        else:
            token, picture = found
            data = self._files(token).read(picture.name)
        if data is None:
            raise InputError(f"artifacts: there is no file of artifact {artifact_id}")
        return io.BytesIO(data)

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        """Store a user's upload."""
        store = open_store(self._url or default_artifacts())
        store.write(f"{UPLOADS}/{artifact_id}", content_body.read())

    def remove(self, artifact_id: str) -> None:
        """Remove an uploaded file; it is no error if the file is missing.

        Pictures stay until ``tuner delete``, because a copy of the study by another program refers
        to them too.
        """
        if picture_of(artifact_id) is None:
            open_store(self._url or default_artifacts()).remove(f"{UPLOADS}/{artifact_id}")

    def _files(self, token: str) -> StudyFiles:
        with self._lock:
            if token not in self._known:
                self._known[token] = self._find(token)
            return self._known[token]

    def _find(self, token: str) -> StudyFiles:
        for name in self._database.study_names():
            store = StudyStore(self._database, name)
            if store.token.startswith(token) and store.artifacts is not None:
                return open_files(store, self._url)
        raise InputError(f"artifacts: there is no study whose token begins with {token}")


def dashboard_server(
    database: Database,
    artifacts: str | None,
    host: str,
    port: int,
    announce: Callable[[str], None],
    *,
    behind_proxy: bool = False,
) -> WSGIServer:
    """A server of the dashboard, bound to its port (0 for any free one).

    InputError if the address can't be bound.
    """

    def announce_first_line(record: logging.LogRecord) -> bool:
        announce(record.getMessage().partition("\n")[0])
        return False

    # The dashboard logs tracebacks of storage failures; one line is enough.
    logging.getLogger("optuna_dashboard._bottle_util").addFilter(announce_first_line)
    application = make_application(database, artifacts)
    answering = _with_short_errors(application, announce)
    return web.server(host, port, answering, "--", any_name=behind_proxy)


def make_application(database: Database, artifacts: str | None) -> Any:
    """The dashboard with the rules of ``actions``."""
    storage = database.open_unfenced()
    application = wsgi(storage, artifact_store=Artifacts(database, artifacts))
    actions.install(application, database, storage)
    application.catchall = False
    return application


def _with_short_errors(application: Application, announce: Callable[[str], None]) -> Application:
    """The application, with failures announced in one line and answered with a short reason."""

    def answer(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        try:
            return application(environ, start_response)
        except TunerError as error:
            announce(str(error))
            unavailable = isinstance(error, StorageError)
            status = "503 Service Unavailable" if unavailable else "404 Not Found"
            return web.refuse(start_response, status, str(error))
        except Exception as error:  # a bug in the dashboard
            announce(f"{environ.get('PATH_INFO')}: {type(error).__name__}")
            return web.refuse(start_response, "500 Internal Server Error", type(error).__name__)

    return answer
