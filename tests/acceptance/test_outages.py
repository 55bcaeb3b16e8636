"""Two workers during outages of the database, the network and their own process."""

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from postgres import Postgres
from processes import Running, machines, unpruned_study, wait_until
from proxy import Proxy
from rows import Rows

LEASE = 3


class Pair:
    """Workers on two machines, on a study with more trials than workers."""

    def __init__(self, rows: Rows, near: Running, far: Running, proxy: Proxy, shared: Path) -> None:
        self.rows, self.near, self.far, self.proxy, self.shared = rows, near, far, proxy, shared
        for worker in (near, far):
            worker.wait_for(r"trial \d+ epoch 1/")
        hosts = rows.read("SELECT host, worker FROM tuner_workers")
        self.names = {row.host: row.worker for row in hosts}

    def trial_of(self, machine: str) -> int:
        """Wait until the worker of a machine holds a trial; its number."""
        wait_until(
            lambda: self.names[machine] in self.rows.owners().values(), f"{machine} holds a trial"
        )
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
    proxy = Proxy(postgres.port)
    with machines(folder, environment, "near", "far") as (near, far):
        near.environment["TUNER_STORAGE"] = url
        far.environment["TUNER_STORAGE"] = url.replace(f":{postgres.port}/", f":{proxy.port}/")
        (near.folder / "s.toml").write_text(unpruned_study(digits, trials=4, lease=LEASE))
        near.succeeds("create", "s.toml", "--artifacts", str(folder / "shared"))
        workers = near.start("worker", "s", "--grace", "1"), far.start("worker", "s")
        yield Pair(Rows(url), *workers, proxy, folder / "shared")
    proxy.cut()


def test_workers_survive_a_server_crash_and_keep_their_trials(
    pair: Pair, postgres: Postgres
) -> None:
    before = pair.rows.leases()
    postgres.stop("immediate")
    try:
        for worker in (pair.near, pair.far):
            worker.wait_for("the database failed.*; trying again for up to 600 s")
        time.sleep(LEASE + 1)
    finally:
        postgres.start()
    for worker in (pair.near, pair.far):
        worker.wait_for("recovered; continuing")
        worker.wait_for("epoch")
    after = pair.rows.leases()
    assert set(after) == set(before) == {0, 1}
    for number, lease in after.items():
        assert (lease.worker, lease.token) == (before[number].worker, 1)
        assert lease.epoch > before[number].epoch
    pair.rows.assert_consistent()


def test_a_suspended_worker_drops_its_trial_and_claims_another(
    pair: Pair,
) -> None:
    suspended, other = pair.trial_of("near"), pair.trial_of("far")
    pair.near.signal(signal.SIGSTOP)
    try:
        wait_until(lambda: pair.rows.lease_expired(suspended), "the lease expires")
        pair.rows.request_prune(other)
        found = pair.far.wait_for(rf"trial {suspended} continues after epoch (\d+)")
        pair.far.wait_for(rf"trial {suspended} epoch {int(found[1]) + 1}/")
    finally:
        pair.near.signal(signal.SIGCONT)
    pair.near.wait_for(
        f"trial {suspended} the trial's lease ran out and another worker took it over"
    )
    pair.near.wait_for(r"trial \d+ epoch 1/")
    assert pair.trial_of("near") not in (suspended, other)
    tokens, workers = zip(*pair.rows.ownership_history(suspended), strict=True)
    assert len(tokens) == 2
    assert workers == (pair.names["near"], pair.names["far"])
    pair.rows.assert_consistent()


def test_a_disconnected_worker_drops_its_trial_and_claims_another(pair: Pair) -> None:
    lost, other = pair.trial_of("far"), pair.trial_of("near")
    pair.proxy.cut()
    began = time.monotonic()
    try:
        pair.far.wait_for("trying again for up to 600 s")
        wait_until(lambda: pair.rows.lease_expired(lost), "the lease expires")
        pair.rows.request_prune(other)
        pair.near.wait_for(rf"trial {lost} continues after epoch")
        wait_until(lambda: time.monotonic() - began > 3 * LEASE, "three leases")
    finally:
        pair.proxy.restore()
    pair.far.wait_for(f"trial {lost} the trial's lease ran out and another worker took it over")
    pair.far.wait_for(r"trial \d+ epoch 1/")
    assert pair.trial_of("far") not in (lost, other)
    assert pair.trial_of("near") == lost
    pair.rows.assert_consistent()


def test_a_stopped_worker_leaves_during_an_outage(pair: Pair, postgres: Postgres) -> None:
    held = pair.trial_of("near")
    postgres.stop("immediate")
    try:
        pair.near.wait_for("trying again for up to 600 s")
        pair.near.signal(signal.SIGTERM)
        pair.near.wait_for("abandoning the epoch, unfinished after 1 s")
        assert pair.near.wait(within=20) == 0, pair.near
    finally:
        postgres.start()
    assert pair.near.errors == ""
    pair.far.wait_for("recovered; continuing")
    pair.rows.request_prune(pair.trial_of("far"))
    pair.far.wait_for(f"trial {held} continues after epoch")  # once its lease has expired


def test_the_total_is_exact_after_the_outages(pair: Pair) -> None:
    def has_ended() -> bool:
        pair.rows.request_prune()
        return not pair.far.alive

    wait_until(has_ended, "the study ends")
    assert pair.far.wait() == 0, pair.far
    assert pair.far.errors == ""
    pair.rows.assert_finished(total=4)
    assert len(list(pair.shared.glob("s-*/trial-*"))) == 4
    assert not list(pair.shared.glob("s-*/checkpoints/*"))
