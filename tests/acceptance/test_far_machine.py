"""A worker behind a network that drops all packets, and one with a wrong clock."""

import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from postgres import Postgres
from processes import machines, unpruned_study
from rows import Rows

LEASE = 3
NEAR, FAR = "10.213.7.1", "10.213.7.2"


def ip(*words: str) -> int:
    return subprocess.run(["ip", *words], capture_output=True, check=False).returncode


class Network:
    """A network namespace behind a veth pair, and a proxy from there to a local server."""

    def __init__(self, port: int) -> None:
        self._listener: socket.socket | None = None
        self.name, self._ends = f"tuner{os.getpid()}", (f"tn{os.getpid()}", f"tf{os.getpid()}")
        near, far = self._ends
        steps = [
            ("netns", "add", self.name),
            ("link", "add", near, "type", "veth", "peer", "name", far, "netns", self.name),
            ("addr", "add", f"{NEAR}/30", "dev", near),
            ("link", "set", near, "up"),
            ("-n", self.name, "addr", "add", f"{FAR}/30", "dev", far),
            ("-n", self.name, "link", "set", far, "up"),
            ("-n", self.name, "link", "set", "lo", "up"),
        ]
        if any(ip(*step) for step in steps):
            self.remove()
            pytest.skip("this machine does not allow network namespaces")
        self._server = port
        self._listener = socket.create_server((NEAR, 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, args=(self._listener,), daemon=True).start()

    def cut(self) -> None:
        """Drop packets without closing any connection."""
        assert ip("link", "set", self._ends[0], "down") == 0

    def restore(self) -> None:
        assert ip("link", "set", self._ends[0], "up") == 0

    def remove(self) -> None:
        if self._listener is not None:
            with suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
        ip("netns", "del", self.name)
        ip("link", "del", self._ends[0])

    def _serve(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                ends = (
                    listener.accept()[0],
                    socket.create_connection(("127.0.0.1", self._server)),
                )
                for pair in (ends, ends[::-1]):
                    threading.Thread(target=_forward, args=pair, daemon=True).start()


def _forward(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    for end in (source, sink):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()


@pytest.fixture
def network(postgres: Postgres) -> Iterator[Network]:
    made = Network(postgres.port)
    yield made
    made.remove()


def test_a_worker_cut_off_from_the_network_loses_its_trial(
    network: Network, tmp_path: Path, environment: dict[str, str], postgres: Postgres, digits: Path
) -> None:
    """A worker whose clock is seven hours fast takes it over, but only after the lease expires."""
    url = postgres.new_database()
    rows = Rows(url)
    faketime = shutil.which("faketime")
    fast = (faketime, "-f", "+7h") if faketime else ()
    with machines(tmp_path, environment, "near", "far") as (near, far):
        near.environment["TUNER_STORAGE"] = url
        far_url = url.replace(f"127.0.0.1:{postgres.port}", f"{NEAR}:{network.port}")
        far.environment["TUNER_STORAGE"] = far_url
        (near.folder / "s.toml").write_text(unpruned_study(digits, trials=3, lease=LEASE))
        near.succeeds("create", "s.toml", "--artifacts", str(tmp_path / "shared"))
        cut_off = far.start("worker", "s", under=("ip", "netns", "exec", network.name))
        cut_off.wait_for("trial 0 epoch 2/")
        other = near.start("worker", "s", under=fast)
        other.wait_for("trial 1 epoch 2/")
        assert rows.owners().keys() == {0, 1}
        network.cut()
        cut_off.wait_for("the database failed.*; trying again", within=60)
        rows.request_prune(1)
        other.wait_for("trial 0 continues after epoch")
        other.wait_for("trial 0 epoch")
        network.restore()
        cut_off.wait_for("trial 0 the trial's lease ran out and another worker took it over")
        cut_off.wait_for("trial 2 epoch 1/")
        rows.request_prune()
        assert (cut_off.wait(), other.wait()) == (0, 0)
    assert len(rows.ownership_history(0)) == 2
    assert len(rows.ownership_history(1)) == 1
    rows.assert_finished(3)
