"""A small web server on an address of this machine: for metrics, and for the dashboard."""

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from tuner.errors import InputError


class _Handler(WSGIRequestHandler):
    timeout = 10.0  # seconds for which a client may keep silent

    def log_message(self, *words: object) -> None:
        """Say nothing of each request."""


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True  # nobody who is slow holds up another, or the end

    def __init__(self, host: str, port: int, application: Any) -> None:
        [self.address_family, *_, address], *_ = _addresses(host, port)
        super().__init__((str(address[0]), port), _Handler)
        self.set_app(application)

    def handle_error(self, *_: object) -> None:
        """Say nothing of a client that hung up."""


def server(host: str, port: int, application: Any, options: str) -> WSGIServer:
    """A server of a WSGI application, bound to its port (0 for any that is free). InputError where
    that can't be had; ``options`` is how those of host and port begin on the command line."""
    with _saying_what_is_wrong(host, port, options):
        return _Server(host, port, application)


def try_port(host: str, port: int, options: str) -> None:
    """InputError where a server could not be bound to it now."""
    with _saying_what_is_wrong(host, port, options):
        family, *_, found = _addresses(host, port)[0]
        socket.create_server((str(found[0]), port), family=family).close()


def address(host: str, port: int) -> str:
    """The URL of what is served there."""
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def _addresses(host: str, port: int) -> list[Any]:
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)


@contextmanager
def _saying_what_is_wrong(host: str, port: int, options: str) -> Iterator[None]:
    """InputError where the address is none of this machine's (none at all would mean all of
    them), or the port is taken."""
    where = f"{options}host: found {host!r}, expected an address of this machine"
    if not host:
        raise InputError(where)
    try:
        yield
    except (socket.gaierror, UnicodeError) as error:
        raise InputError(where) from error
    except OSError as error:
        if error.errno == errno.EADDRNOTAVAIL:
            raise InputError(where) from error
        why = error.strerror
        raise InputError(
            f"{options}port: found {port} of {host}: {why}; expected a free one"
        ) from error
