"""Workers on several machines that share a Postgres database and a folder, and nothing else."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from postgres import Postgres
from processes import Machine, machines, steady
from rows import Rows

LEASE = 3


class Site:
    """A study in Postgres, and the machines that work on it."""

    def __init__(self, url: str, shared: Path, study: str, named: list[Machine]) -> None:
        self.rows, self.shared = Rows(url), shared
        self.desk, self.north, self.south, self.west = named
        for machine in named:
            machine.environment["TUNER_STORAGE"] = url
        (self.desk.folder / "s.toml").write_text(study)
        words = ("create", "s.toml", "--artifacts", str(shared))
        both = [self.desk.start(*words) for _ in range(2)]  # at once, in an empty database
        for create in both:
            assert (create.ends(), create.errors) == (0, ""), create

    def workers(self) -> dict[str, Any]:
        """By machine, as ``tuner status`` tells it."""
        status = json.loads(self.desk.does("status", "s", "--json"))
        return {worker["host"]: worker for worker in status["workers"]}


@pytest.fixture
def site(
    tmp_path: Path, environment: dict[str, str], postgres: Postgres, digits: Path
) -> Iterator[Site]:
    with machines(tmp_path, environment, "desk", "north", "south", "west") as named:
        study = steady(digits, trials=2, lease=LEASE)
        yield Site(postgres.new_database(), tmp_path / "shared", study, named)


def test_a_lost_machine_s_trial_goes_on_as_itself_on_another(site: Site) -> None:
    lost = site.north.start("worker", "s")
    other = site.south.start("worker", "s", "--max-trials", "1")
    for worker in (lost, other):
        worker.says(r"trial \d epoch 1/")
    hurried = site.west.start("worker", "s", "--max-time", "2s")
    idle = site.west.start("worker", "s", "--exit-when-idle")
    heir = site.west.start("worker", "s")
    for worker in (hurried, idle):
        assert worker.ends() == 0, worker
        worker.says("2 of 2 trials are left")
    seen = site.workers()
    assert {name: worker["alive"] for name, worker in seen.items()} == {
        "north": True,
        "south": True,
        "west": True,
    }
    assert {seen["north"]["trial"], seen["south"]["trial"], seen["west"]["trial"]} == {0, 1, None}
    assert seen["north"]["pid"] == lost.pid

    lost.dies()
    trial = seen["north"]["trial"]
    before = site.rows.epochs(trial)
    heir.says(rf"trial {trial} goes on after epoch {len(before)}")
    heir.says(rf"trial {trial} epoch {len(before) + 1}/")
    assert site.rows.silence(trial) > LEASE
    assert site.rows.epochs(trial)[: len(before)] == before
    tokens, workers = zip(*site.rows.signatures(trial), strict=True)
    assert tokens == (1, 2)
    assert workers[0] == seen["north"]["worker"]
    seen = site.workers()
    assert (seen["north"]["alive"], seen["north"]["trial"]) == (False, None)
    assert (seen["west"]["alive"], seen["west"]["trial"]) == (True, trial)

    site.rows.end(1 - trial)
    assert other.ends() == 0, other
    other.says("1 of 2 trials are left")
    site.rows.end()
    assert heir.ends() == 0, heir
    heir.says("the study has ended")
    assert [worker.errors for worker in (lost, other, hurried, idle, heir)] == [""] * 5
    site.rows.assert_ended(total=2)
    assert set(site.workers()) == {"north"}  # the others said goodbye
