"""Workers on several machines that share only a Postgres database and an artifact folder."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from postgres import Postgres
from processes import Machine, machines, unpruned_study
from rows import Rows

LEASE = 3


class Site:
    """A study in Postgres and four machines."""

    def __init__(self, url: str, shared: Path, study: str, named: list[Machine]) -> None:
        self.rows, self.shared = Rows(url), shared
        self.desk, self.north, self.south, self.west = named
        for machine in named:
            machine.environment["TUNER_STORAGE"] = url
        (self.desk.folder / "s.toml").write_text(study)
        words = ("create", "s.toml", "--artifacts", str(shared))
        # Concurrently, in an empty database.
        creations = [self.desk.start(*words) for _ in range(2)]
        for create in creations:
            assert (create.wait(), create.errors) == (0, ""), create

    def workers(self) -> dict[str, Any]:
        """The workers of ``tuner status`` by machine."""
        status = json.loads(self.desk.succeeds("status", "s", "--json"))
        return {worker["host"]: worker for worker in status["workers"]}


@pytest.fixture
def site(
    tmp_path: Path, environment: dict[str, str], postgres: Postgres, digits: Path
) -> Iterator[Site]:
    with machines(tmp_path, environment, "desk", "north", "south", "west") as named:
        study = unpruned_study(digits, trials=2, lease=LEASE)
        yield Site(postgres.new_database(), tmp_path / "shared", study, named)


def test_a_lost_machines_trial_resumes_on_another(site: Site) -> None:
    lost = site.north.start("worker", "s")
    other = site.south.start("worker", "s", "--max-trials", "1")
    for worker in (lost, other):
        worker.wait_for(r"trial \d epoch 1/")
    limited = site.west.start("worker", "s", "--max-time", "2s")
    idle = site.west.start("worker", "s", "--exit-when-idle")
    successor = site.west.start("worker", "s")
    for worker in (limited, idle):
        assert worker.wait() == 0, worker
        worker.wait_for("2 of 2 trials are left")
    workers = site.workers()
    assert {name: worker["alive"] for name, worker in workers.items()} == {
        "north": True,
        "south": True,
        "west": True,
    }
    trials = {name: worker["trial"] for name, worker in workers.items()}
    assert {trials["north"], trials["south"], trials["west"]} == {0, 1, None}
    assert workers["north"]["pid"] == lost.pid

    lost.kill()
    trial = trials["north"]
    before = site.rows.epochs(trial)
    successor.wait_for(
        rf"trial {trial} continues after epoch {len(before)} \(trained by worker \w+ on north\)"
    )
    successor.wait_for(rf"trial {trial} epoch {len(before) + 1}/")
    assert site.rows.longest_gap(trial) > LEASE
    assert site.rows.epochs(trial)[: len(before)] == before
    tokens, owners = zip(*site.rows.ownership_history(trial), strict=True)
    assert tokens == (1, 2)
    assert owners[0] == workers["north"]["worker"]
    workers = site.workers()
    assert (workers["north"]["alive"], workers["north"]["trial"]) == (False, None)
    assert (workers["west"]["alive"], workers["west"]["trial"]) == (True, trial)

    site.rows.request_prune(1 - trial)
    assert other.wait() == 0, other
    other.wait_for("1 of 2 trials are left")
    site.rows.request_prune()
    assert successor.wait() == 0, successor
    successor.wait_for("the study has ended")
    assert [worker.errors for worker in (lost, other, limited, idle, successor)] == [""] * 5
    site.rows.assert_finished(total=2)
    assert set(site.workers()) == {"north"}  # the others left cleanly
