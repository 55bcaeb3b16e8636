"""A budget of epochs with workers that are killed and replaced. The tests build on each other."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import Machine, machines, unpruned_study
from rows import Rows

BUDGET, RAISED = 8, 12
WORKERS = 2
SPENT = f"budget.epochs: all {BUDGET} epochs are trained"
UNFINISHED = rf"{SPENT}. Unfinished trials: (1 released, 2|2 released, 1) not begun; to continue: "


class Desk:
    """A machine, and the database of its study."""

    def __init__(self, here: Machine) -> None:
        self.here = here
        self.rows = Rows(f"sqlite:///{here.folder}/tuner-data/studies.db")

    def epochs(self) -> int:
        return sum(lease.epoch for lease in self.rows.leases().values())


@pytest.fixture(scope="module")
def desk(
    tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str], digits: Path
) -> Iterator[Desk]:
    with machines(tmp_path_factory.mktemp("budget"), environment, "here") as [here]:
        study = unpruned_study(digits, trials=WORKERS + 1)
        (here.folder / "s.toml").write_text(f"{study}[budget]\nepochs = {BUDGET}\n")
        here.succeeds("create", "s.toml")
        yield Desk(here)


def test_workers_leave_within_an_epoch_of_its_end(desk: Desk) -> None:
    """One was killed before; its epochs count, and a successor resumes its trial."""
    killed = desk.here.start("worker", "s")
    killed.wait_for("epoch 2/")
    killed.kill()
    assert desk.epochs() >= 2
    workers = [desk.here.start("worker", "s") for _ in range(WORKERS)]
    for worker in workers:
        worker.wait_for(f"{SPENT}: exiting")
        worker.wait_for("Unfinished trials: .*; to continue: .*tuner edit s budget.epochs=")
        assert worker.wait() == 0, worker
        assert worker.errors == ""
    assert BUDGET <= desk.epochs() <= BUDGET + WORKERS - 1
    states = {(lease.state, lease.status) for lease in desk.rows.leases().values()}
    assert states == {("RUNNING", "free")}
    desk.rows.assert_consistent()


def test_a_later_sweep_trains_nothing_and_shows_the_results(desk: Desk) -> None:
    before = desk.rows.leases()
    sweep = desk.here.start("sweep", "s.toml")
    assert sweep.wait() == 0, sweep
    sweep.wait_for("Study 's' has spent its budget: nothing to run.")
    sweep.wait_for(UNFINISHED)
    assert desk.rows.leases() == before
    output = desk.here.succeeds("status", "s")
    assert f"Budget: {desk.epochs()} of {BUDGET} epochs trained." in output


def test_a_raised_budget_goes_on_where_it_stopped(desk: Desk) -> None:
    before = desk.rows.leases()
    old, new = (rf'"epochs"\:{limit}' for limit in (BUDGET, RAISED))
    desk.rows.write(f"UPDATE tuner_studies SET spec = replace(spec, '{old}', '{new}')")
    worker = desk.here.start("worker", "s")
    found = worker.wait_for(r"trial (\d) continues after epoch (\d+)")
    number, epoch = map(int, found.groups())
    assert before[number].epoch == epoch
    assert worker.wait() == 0, worker
    assert desk.epochs() == RAISED
    desk.rows.assert_consistent()
