"""The web server of metrics and dashboard: refused requests, and bounds on connections and time."""

import contextlib
import http.client
import os
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuner import web

WAIT = 30.0


def application(environ: dict[str, Any], start: Any) -> Iterable[bytes]:
    """A WSGI application that answers with the length of the body."""
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    start("200 OK", [("Content-Type", "text/plain")])
    return [str(len(body)).encode()]


@contextlib.contextmanager
def served(host: str = "127.0.0.1", **options: Any) -> Iterator[int]:
    """Run a server; yield its port."""
    server = web.server(host, 0, application, "--", **options)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join(WAIT)
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with served() as found:
        yield found


def ask(port: int, method: str = "GET", body: bytes | None = None, **headers: str) -> int:
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT)
    with contextlib.closing(connection):
        connection.request(method, "/", body, named)
        answer = connection.getresponse()
        answer.read()
        return answer.status


@pytest.mark.parametrize(
    ("name", "status"),
    [
        *[
            (name, 200)
            for name in ("127.0.0.1", "localhost:8080", "LOCALHOST", "[::1]:8", "10.1.2.3")
        ],
        *[(name, 403) for name in ("evil.example", "127.0.0.1.evil.example", "localhost.evil:80")],
        *[
            (name, 403)
            for name in ("127.0.0.1,evil.example", "evil.example@127.0.0.2x", "[::1", "@")
        ],
    ],
)
def test_host_names_of_other_sites_are_refused(port: int, name: str, status: int) -> None:
    assert ask(port, Host=name) == status


def test_network_requests_must_name_this_machine() -> None:
    with served("0.0.0.0") as port:
        for name in (socket.gethostname(), socket.getfqdn(), f"127.0.0.1:{port}", "0.0.0.0"):
            assert ask(port, Host=name) == 200, name
        assert ask(port, Host="evil.example") == 403
    with served("0.0.0.0", any_name=True) as port:
        assert ask(port, Host="dashboard.example") == 200


OWN, OTHER = "http://127.0.0.1:80", "http://127.0.0.1:81"


@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [
        ("POST", {}, 200),  # a script
        ("POST", {"Origin": OWN}, 200),
        ("POST", {"Origin": OWN, "Sec_Fetch_Site": "same-origin"}, 200),
        ("POST", {"Referer": f"{OWN}/dashboard"}, 200),
        ("POST", {"Origin": "http://evil.example"}, 403),
        ("POST", {"Origin": OTHER}, 403),
        ("POST", {"Origin": "null"}, 403),
        ("POST", {"Origin": ""}, 403),
        ("POST", {"Origin": "http://[::1"}, 403),
        ("POST", {"Origin": f"{OWN}.evil.example"}, 403),
        ("POST", {"Origin": f"http://evil.example/{OWN}"}, 403),
        ("POST", {"Referer": "http://evil.example/127.0.0.1:80"}, 403),
        ("DELETE", {"Referer": "http://evil.example/"}, 403),
        ("PUT", {"Sec_Fetch_Site": "same-site"}, 403),
        ("PATCH", {"Sec_Fetch_Site": "cross-site"}, 403),
        ("X", {"Origin": "http://evil.example"}, 403),
        # Reading: links to the server are allowed, fetches by other pages are not.
        ("GET", {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate"}, 200),
        ("GET", {"Referer": "http://evil.example/"}, 200),
        ("GET", {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "no-cors"}, 403),
        ("GET", {"Origin": "http://evil.example"}, 403),
        ("POST", {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate"}, 403),
    ],
)
def test_pages_of_other_sites_are_refused(
    port: int, method: str, headers: dict[str, str], status: int
) -> None:
    assert ask(port, method, None, Host="127.0.0.1:80", **headers) == status


def test_bodies_need_a_length_within_the_bound(port: int) -> None:
    assert ask(port, "POST", b"x" * 100_000) == 200
    for length in (str(web.MAX_BODY + 1), "9" * 5000, "-1", "1e3", "²"):
        with raw(port, f"POST / HTTP/1.1\r\nContent-Length: {length}\r\n\r\n") as connection:
            assert b" 413 " in connection.recv(4096), length
    with raw(port, "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n") as connection:
        assert b" 413 " in connection.recv(4096)


@contextlib.contextmanager
def raw(port: int, text: str = "") -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), timeout=WAIT) as connection:
        connection.sendall(text.encode("latin-1"))
        yield connection


def test_headers_are_bounded(port: int) -> None:
    long = "x" * 1000
    for head in (
        "GET / HTTP/1.1\r\n" + "".join(f"A{i}: {long}\r\n" for i in range(90)),
        "GET / HTTP/1.1\r\n" + "".join(f"A{i}: 1\r\n" for i in range(200)),
        "GET / HTTP/1.1\r\nA: " + "x" * web.MAX_HEAD,
    ):
        with raw(port) as connection:
            with contextlib.suppress(OSError):  # the server may close before reading everything
                connection.sendall(head.encode())
            assert b" 431 " in connection.recv(4096)


@given(st.binary(max_size=300))
def test_the_server_survives_arbitrary_bytes(sent: bytes) -> None:
    with raw(shared_port()) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError):
            while connection.recv(4096):
                pass
    assert ask(shared_port()) == 200


_servers = contextlib.ExitStack()
_port: list[int] = []


def shared_port() -> int:
    """One server for all examples."""
    if not _port:
        _port.append(_servers.enter_context(served()))
    return _port[0]


def teardown_module() -> None:
    _servers.close()


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
def short_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "HEAD_TIME", 0.5)
    monkeypatch.setattr(web, "WHOLE_TIME", 0.5)


def connected(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=WAIT)


def is_closed(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def test_idle_connections_are_closed(short_timeouts: None) -> None:
    """The server soon closes whatever a client holds open."""
    with served() as port, contextlib.ExitStack() as stack:
        before, threads = open_files(), threading.active_count()
        connections = [stack.enter_context(connected(port)) for _ in range(4 * web.MAX_CONNECTIONS)]
        assert all(is_closed(connection) for connection in connections)
        deadline = time.monotonic() + WAIT
        while open_files() > before + len(connections) or threading.active_count() > threads:
            assert time.monotonic() < deadline, (open_files(), before, threading.enumerate())
            time.sleep(0.02)
        assert ask(port) == 200


def test_concurrent_connections_are_bounded() -> None:
    with served() as port, contextlib.ExitStack() as stack:
        before, threads = open_files(), threading.active_count()
        connections = [stack.enter_context(connected(port)) for _ in range(4 * web.MAX_CONNECTIONS)]
        refused = [
            connection for connection in connections[web.MAX_CONNECTIONS :] if is_closed(connection)
        ]
        assert len(refused) == 3 * web.MAX_CONNECTIONS
        assert open_files() <= before + len(connections) + web.MAX_CONNECTIONS
        assert threading.active_count() <= threads + web.MAX_CONNECTIONS
        for connection in connections:
            connection.close()
        deadline = time.monotonic() + WAIT
        while True:
            with contextlib.suppress(OSError, http.client.HTTPException):
                assert ask(port) == 200
                break
            assert time.monotonic() < deadline


@pytest.mark.parametrize(
    "start", ["", "GET / HTTP/1.1\r\n", "POST / HTTP/1.1\r\nContent-Length: 1000\r\n\r\n"]
)
def test_slow_requests_time_out(short_timeouts: None, start: str) -> None:
    with served() as port, raw(port, start) as connection:
        began = time.monotonic()
        with contextlib.suppress(OSError):
            while time.monotonic() < began + WAIT:
                connection.sendall(b"X")
                time.sleep(0.05)
        assert time.monotonic() < began + WAIT / 2


def test_shutdown_does_not_wait_for_connections() -> None:
    with contextlib.ExitStack() as stack:
        with served() as port:
            for _ in range(web.MAX_CONNECTIONS + 3):
                stack.enter_context(connected(port))
            began = time.monotonic()
        assert time.monotonic() < began + 5
