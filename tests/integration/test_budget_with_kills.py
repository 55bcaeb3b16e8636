"""A budget of epochs, spent by eight worker processes of which many are killed and replaced.

Training is faked; workers, database, checkpoints and signals are real.
"""

import multiprocessing
import random
import time
from pathlib import Path
from typing import Any

import pytest
import study_databases
from fake_trainer import FakeTrainer, run_trials
from study_databases import RANDOM, Studies

from tuner.epoch_report import EpochReport
from tuner.errors import TunerError
from tuner.files.study_files import open_files
from tuner.study.database import Database
from tuner.study.session import WorkerSession
from tuner.study.store import StudyStore

url, studies = study_databases.url, study_databases.studies

WORKERS, BUDGET, EPOCHS = 8, 72, 50
KILLS = 5
_processes = multiprocessing.get_context("forkserver")


class SlowTrainer(FakeTrainer):
    """Takes a few milliseconds for an epoch."""

    def run_epoch(self) -> EpochReport:
        time.sleep(random.uniform(0.02, 0.2))
        return super().run_epoch()


def work(url: str, folder: str) -> None:
    """A worker process, which exits like the command if it can't continue."""
    store = StudyStore(Database(url), "s")
    session = WorkerSession(store, study_databases.MACHINE, lambda text: None, 60.0)
    with session.joined():
        try:
            run_trials(session, SlowTrainer(), open_files(store, folder))
        except TunerError as error:
            raise SystemExit(str(error)) from None


@pytest.mark.parametrize("url", ["postgres"], indirect=True)
def test_no_worker_exceeds_the_budget_by_more_than_an_epoch(
    studies: Studies, tmp_path: Path, environment: dict[str, str]
) -> None:
    toml = f"{RANDOM}[budget]\nepochs = {BUDGET}\n"
    studies.create(toml, trials=12, epochs=EPOCHS, checkpoint_seconds=0, lease_seconds=3)
    draw = random.Random(1)

    def start() -> Any:
        process = _processes.Process(target=work, args=(studies.url, str(tmp_path)))
        process.start()
        return process

    workers, killed = [start() for _ in range(WORKERS)], 0
    end = time.monotonic() + 120
    while any(worker.is_alive() for worker in workers):
        assert time.monotonic() < end, studies.leases()
        time.sleep(draw.uniform(0.05, 0.3))
        place = draw.randrange(WORKERS)
        if killed < KILLS and workers[place].is_alive() and trained(studies) < BUDGET - WORKERS:
            workers[place].kill()
            workers[place].join()
            workers[place] = start()
            killed += 1
    assert [worker.exitcode for worker in workers] == [0] * WORKERS
    assert killed >= 2
    assert BUDGET <= trained(studies) <= BUDGET + WORKERS - 1
    assert trained(studies) == studies.rows("SELECT count(*) FROM tuner_epochs")[0][0]


def trained(studies: Studies) -> int:
    """Epochs that were reported, by the leases."""
    return int(studies.rows("SELECT sum(epoch) FROM tuner_leases")[0][0] or 0)
