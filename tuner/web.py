"""A small WSGI server for metrics and the dashboard.

Neither has a login, and the metrics server runs in a process that trains. Connections, time and
memory are therefore bounded whatever a client sends, and requests that a browser sends for another
site's page are refused.
"""

import errno
import functools
import ipaddress
import json
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException
from io import BufferedIOBase
from socketserver import ThreadingMixIn
from typing import Any
from urllib.parse import SplitResult, urlsplit
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from tuner.errors import InputError

Application = Callable[[dict[str, Any], Any], Iterable[bytes]]

LOOPBACK = ("127.0.0.1", "localhost", "::1")
MAX_CONNECTIONS = 32  # at a time; a browser opens six, a process may open 1,024 files
SILENCE = 10.0  # seconds without a byte sent or received
HEAD_TIME, WHOLE_TIME = 10.0, 120.0  # seconds for a request's headers, and for all of it
MAX_HEAD = 64 * 1024  # bytes of a request's headers
MAX_BODY = 32 * 1024 * 1024  # bytes of an upload
SAFE = ("GET", "HEAD", "OPTIONS")  # methods without side effects


class _Head:
    """A request's header lines, bounded to ``MAX_HEAD`` bytes."""

    def __init__(self, file: BufferedIOBase) -> None:
        self._file, self._left = file, MAX_HEAD

    def readline(self, size: int) -> bytes:
        line = self._file.readline(min(size, self._left + 1))
        self._left -= len(line)
        if self._left < 0:
            raise HTTPException("too many headers")
        return line


class _Handler(WSGIRequestHandler):
    server: "_Server"
    rfile: Any
    timeout = SILENCE

    def parse_request(self) -> bool:
        file, self.rfile = self.rfile, _Head(self.rfile)
        try:
            complete = super().parse_request()
        finally:
            self.rfile = file
        self.server.set_deadline(self.request, WHOLE_TIME)
        return complete

    def log_message(self, *words: object) -> None:
        """Do not log requests."""


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True  # a slow client delays neither others nor the shutdown
    request_queue_size = 64  # with a full queue, clients retry after a second

    def __init__(self, host: str, port: int, application: Application) -> None:
        self._deadlines: dict[socket.socket, float] = {}  # by time.monotonic()
        family, *_, found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        self.address_family = family
        super().__init__((str(found[0]), port), _Handler)
        self.set_app(application)

    def set_deadline(self, connection: socket.socket, seconds: float) -> None:
        """Set the connection's deadline to ``seconds`` from now."""
        self._deadlines[connection] = time.monotonic() + seconds

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Refuse connections beyond ``MAX_CONNECTIONS``."""
        return len(self._deadlines) < MAX_CONNECTIONS

    def process_request(self, request: Any, client_address: Any) -> None:
        self.set_deadline(request, HEAD_TIME)
        super().process_request(request, client_address)

    def service_actions(self) -> None:
        """Close connections past their deadline, which ends their threads.

        The socket's ``timeout`` alone restarts with every byte.
        """
        now = time.monotonic()
        for connection, deadline in list(self._deadlines.items()):
            if now > deadline:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def close_request(self, request: Any) -> None:
        self._deadlines.pop(request, None)
        super().close_request(request)

    def handle_error(self, *_: object) -> None:
        """Do not log clients that hung up."""


def server(
    host: str, port: int, application: Application, option_prefix: str, *, any_name: bool = False
) -> WSGIServer:
    """A server of a WSGI application, bound to its port (0 for any free one).

    It answers requests for this machine's own names and addresses; with ``any_name``, which is for
    use behind a proxy, for every name. InputError if the address can't be bound; ``option_prefix``
    is the prefix of the command line's options for host and port.
    """
    guarded = _guarded(application, None if any_name else host)
    with _address_errors(host, port, option_prefix):
        return _Server(host, port, guarded)


def try_port(host: str, port: int, option_prefix: str) -> None:
    """InputError if a server can't be bound to the address now."""
    with _address_errors(host, port, option_prefix):
        family, *_, found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        socket.create_server((str(found[0]), port), family=family).close()


def address(host: str, port: int) -> str:
    """The URL of a server."""
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def refuse(start_response: Any, status: str, reason: str) -> Iterable[bytes]:
    """Answer with a reason in JSON, as the dashboard's API does."""
    start_response(status, [("Content-Type", "application/json")])
    return [json.dumps({"reason": reason}).encode()]


# Reasons to refuse a request


def _guarded(application: Application, host: str | None) -> Application:
    def answer(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if reason := _wrong_name(environ, host) or _sent_by_another_site(environ):
            return refuse(start_response, "403 Forbidden", reason)
        if reason := _wrong_body(environ):
            return refuse(start_response, "413 Content Too Large", reason)
        return application(environ, start_response)

    return answer


def _wrong_name(environ: dict[str, Any], host: str | None) -> str | None:
    """Why the Host header is refused: protection against DNS rebinding.

    A hostile site may point its name at this machine, so that its pages count as same-origin here;
    the browser still sends that name.
    """
    header = environ.get("HTTP_HOST")
    if host is None or not header:
        return None
    name = (_split(f"//{header}").hostname or "").lower()
    with suppress(ValueError):
        ipaddress.ip_address(name)
        return None
    if name in (host.lower(), "localhost"):
        return None
    if host not in LOOPBACK and name in _names_of_this_machine():
        return None
    return f"this server is not {name[:80]!r}; use this machine's name or address"


@functools.cache
def _names_of_this_machine() -> frozenset[str]:
    """Cached, because ``getfqdn`` queries a name server."""
    return frozenset({socket.gethostname().lower(), socket.getfqdn().lower()})


def _sent_by_another_site(environ: dict[str, Any]) -> str | None:
    """Why a request from another site's page is refused.

    Browsers name the page's site in up to three headers. Other programs may omit them: no page can
    make those programs send requests.
    """
    method, site = environ["REQUEST_METHOD"], environ.get("HTTP_SEC_FETCH_SITE", "")
    followed_link = method == "GET" and environ.get("HTTP_SEC_FETCH_MODE") == "navigate"
    foreign = site in ("cross-site", "same-site") and not followed_link
    origin = environ.get("HTTP_ORIGIN")
    if origin is None and method not in SAFE:
        origin = environ.get("HTTP_REFERER")
    if origin is not None:
        foreign |= _split(origin).netloc.lower() != environ.get("HTTP_HOST", "").lower()
    return "requests from another site's page are refused" if foreign else None


def _wrong_body(environ: dict[str, Any]) -> str | None:
    length = environ.get("CONTENT_LENGTH") or "0"
    if "HTTP_TRANSFER_ENCODING" in environ or not length.isdecimal():
        return "the body's length is unknown; send a Content-Length"
    if int(length[:20]) > MAX_BODY:
        return f"the body has {length[:20]} bytes, more than the {MAX_BODY} allowed"
    return None


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:
        return SplitResult("", "", "", "", "")


@contextmanager
def _address_errors(host: str, port: int, option_prefix: str) -> Iterator[None]:
    """Raise InputError if the host is not this machine's, or the port is taken.

    An empty host is refused: it would mean all addresses.
    """
    wrong_host = f"{option_prefix}host: found {host!r}, expected an address of this machine"
    if not host:
        raise InputError(wrong_host)
    try:
        yield
    except UnicodeError as error:
        raise InputError(wrong_host) from error
    except OSError as error:
        if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
            raise InputError(wrong_host) from error
        text = (
            f"{option_prefix}port: can't use {port} on {host}: {error.strerror}; choose a free port"
        )
        raise InputError(text) from error
