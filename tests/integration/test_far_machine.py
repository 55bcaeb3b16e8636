"""A worker on the far side of a network that loses every packet, and one whose clock is wrong."""

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
from processes import machines, steady
from rows import Rows

LEASE = 3
NEAR, FAR = "10.213.7.1", "10.213.7.2"


def ip(*words: str) -> int:
    return subprocess.run(["ip", *words], capture_output=True, check=False).returncode


class Wire:
    """A network name space at the end of a wire, and a way from there to a server here."""

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
            pytest.skip("this machine does not allow network name spaces")
        self._server = port
        self._listener = socket.create_server((NEAR, 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, args=(self._listener,), daemon=True).start()

    def cut(self) -> None:
        """Packets are lost: neither end is told."""
        assert ip("link", "set", self._ends[0], "down") == 0

    def mend(self) -> None:
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
                    threading.Thread(target=_pass_on, args=pair, daemon=True).start()


def _pass_on(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    for end in (source, sink):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()


@pytest.fixture
def wire(postgres: Postgres) -> Iterator[Wire]:
    made = Wire(postgres.port)
    yield made
    made.remove()


def test_a_worker_whose_packets_are_lost_finds_its_trial_taken(
    wire: Wire, tmp_path: Path, environment: dict[str, str], postgres: Postgres, digits: Path
) -> None:
    """And one on a machine whose clock is seven hours fast takes it, no sooner than it may."""
    url = postgres.new_database()
    rows = Rows(url)
    faketime = shutil.which("faketime")
    fast = (faketime, "-f", "+7h") if faketime else ()
    with machines(tmp_path, environment, "near", "far") as (near, far):
        near.environment["TUNER_STORAGE"] = url
        there = url.replace(f"127.0.0.1:{postgres.port}", f"{NEAR}:{wire.port}")
        far.environment["TUNER_STORAGE"] = there
        (near.folder / "s.toml").write_text(steady(digits, trials=3, lease=LEASE))
        near.does("create", "s.toml", "--artifacts", str(tmp_path / "shared"))
        cut_off = far.start("worker", "s", under=("ip", "netns", "exec", wire.name))
        cut_off.says("trial 0 epoch 2/")
        other = near.start("worker", "s", under=fast)
        other.says("trial 1 epoch 2/")
        assert rows.owners().keys() == {0, 1}
        wire.cut()
        cut_off.says("the database failed.*; trying again", within=60)
        rows.end(1)
        other.says("trial 0 goes on after epoch")
        other.says("trial 0 epoch")
        wire.mend()
        cut_off.says("trial 0 the trial's lease ran out and another worker took it over")
        cut_off.says("trial 2 epoch 1/")
        rows.end()
        assert (cut_off.ends(), other.ends()) == (0, 0)
    assert len(rows.signatures(0)) == 2
    assert len(rows.signatures(1)) == 1
    rows.assert_ended(3)
