"""Two workers whose database, network or own process is away for a while; then they go on."""

import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from postgres import Postgres
from processes import Running, machines, steady, wait_until
from rows import Rows

LEASE = 3


class Proxy:
    """A line to a server that can be cut."""

    def __init__(self, port: int) -> None:
        self._server, self._open = port, list[socket.socket]()
        self.port = 0
        self.restore()

    def restore(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, args=(self._listener,), daemon=True).start()

    def cut(self) -> None:
        """Nobody gets through, and those who are through hear no more."""
        for line in (self._listener, *self._open):
            with suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)
            line.close()
        self._open = []

    def _serve(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                self._connect(listener.accept()[0])

    def _connect(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection(("127.0.0.1", self._server))
        except OSError:
            client.close()
            return
        self._open += [client, server]
        for pair in ((client, server), (server, client)):
            threading.Thread(target=_pass_on, args=pair, daemon=True).start()


def _pass_on(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    for line in (source, sink):
        with suppress(OSError):
            line.shutdown(socket.SHUT_RDWR)


class Pair:
    """Two workers on machines of their own, with a study that always has more trials."""

    def __init__(self, rows: Rows, near: Running, far: Running, line: Proxy, shared: Path) -> None:
        self.rows, self.near, self.far, self.line, self.shared = rows, near, far, line, shared
        for worker in (near, far):
            worker.says(r"trial \d+ epoch 1/")
        hosts = rows.read("SELECT host, worker FROM tuner_workers")
        self.names = {row.host: row.worker for row in hosts}

    def trial_of(self, machine: str) -> int:
        """The trial that a machine's worker has, once it has one."""
        wait_until(lambda: self.names[machine] in self.rows.owners().values(), f"{machine} works")
        return next(n for n, w in self.rows.owners().items() if w == self.names[machine])


@pytest.fixture(scope="module")
def pair(
    tmp_path_factory: pytest.TempPathFactory,
    environment: dict[str, str],
    postgres: Postgres,
    digits: Path,
) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("pair")
    url = postgres.new_database()
    line = Proxy(postgres.port)
    with machines(folder, environment, "near", "far") as (near, far):
        near.environment["TUNER_STORAGE"] = url
        far.environment["TUNER_STORAGE"] = url.replace(f":{postgres.port}/", f":{line.port}/")
        (near.folder / "s.toml").write_text(steady(digits, trials=4, lease=LEASE))
        near.does("create", "s.toml", "--artifacts", str(folder / "shared"))
        workers = near.start("worker", "s", "--grace", "1"), far.start("worker", "s")
        yield Pair(Rows(url), *workers, line, folder / "shared")
    line.cut()


def test_a_crash_of_the_server_is_outlived_and_no_trial_changes_hands(
    pair: Pair, postgres: Postgres
) -> None:
    before = pair.rows.leases()
    postgres.stop("immediate")
    try:
        for worker in (pair.near, pair.far):
            worker.says("the database failed.*; trying again for up to 600 s")
        time.sleep(4)  # longer than a lease
    finally:
        postgres.start()
    for worker in (pair.near, pair.far):
        worker.says("it answers again")
        worker.says("epoch")
    after = pair.rows.leases()
    assert set(after) == set(before) == {0, 1}
    for number, lease in after.items():
        assert (lease.worker, lease.token) == (before[number].worker, 1)
        assert lease.epoch > before[number].epoch
    pair.rows.assert_sound()


def test_a_worker_that_stood_still_for_too_long_drops_its_trial_and_takes_another(
    pair: Pair,
) -> None:
    stopped, other = pair.trial_of("near"), pair.trial_of("far")
    pair.near.signal(signal.SIGSTOP)
    try:
        wait_until(lambda: pair.rows.lapsed(stopped), "the lease runs out")
        pair.rows.end(other)
        found = pair.far.says(rf"trial {stopped} goes on after epoch (\d+)")
        pair.far.says(rf"trial {stopped} epoch {int(found[1]) + 1}/")
    finally:
        pair.near.signal(signal.SIGCONT)
    pair.near.says(f"trial {stopped} the trial's lease ran out and another worker took it over")
    pair.near.says(r"trial \d+ epoch 1/")
    assert pair.trial_of("near") not in (stopped, other)
    tokens, workers = zip(*pair.rows.signatures(stopped), strict=True)
    assert len(tokens) == 2
    assert workers == (pair.names["near"], pair.names["far"])
    pair.rows.assert_sound()


def test_a_worker_that_was_cut_off_alone_drops_its_trial_and_takes_another(pair: Pair) -> None:
    lost, other = pair.trial_of("far"), pair.trial_of("near")
    pair.line.cut()
    began = time.monotonic()
    try:
        pair.far.says("trying again for up to 600 s")
        wait_until(lambda: pair.rows.lapsed(lost), "the lease runs out")
        pair.rows.end(other)
        pair.near.says(rf"trial {lost} goes on after epoch")
        wait_until(lambda: time.monotonic() - began > 3 * LEASE, "three leases")
    finally:
        pair.line.restore()
    pair.far.says(f"trial {lost} the trial's lease ran out and another worker took it over")
    pair.far.says(r"trial \d+ epoch 1/")
    assert pair.trial_of("far") not in (lost, other)
    assert pair.trial_of("near") == lost
    pair.rows.assert_sound()


def test_a_worker_that_is_told_to_leave_while_the_database_is_away_leaves(
    pair: Pair, postgres: Postgres
) -> None:
    left = pair.trial_of("near")
    postgres.stop("immediate")
    try:
        pair.near.says("trying again for up to 600 s")
        pair.near.signal(signal.SIGTERM)
        pair.near.says("abandoning the epoch, unfinished after 1 s")
        assert pair.near.ends(within=20) == 0, pair.near
    finally:
        postgres.start()
    assert pair.near.errors == ""
    pair.far.says("it answers again")
    pair.rows.end(pair.trial_of("far"))
    pair.far.says(f"trial {left} goes on after epoch")  # once its lease has run out


def test_the_total_is_exact_after_all_that(pair: Pair) -> None:
    def ended() -> bool:
        pair.rows.end()
        return not pair.far.alive

    wait_until(ended, "the study's end")
    assert pair.far.ends() == 0, pair.far
    assert pair.far.errors == ""
    pair.rows.assert_ended(total=4)
    assert len(list(pair.shared.glob("s-*/trial-*"))) == 4
    assert not list(pair.shared.glob("s-*/checkpoints/*"))
