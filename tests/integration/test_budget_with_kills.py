"""A budget of epochs, spent by eight worker processes of which many are killed and replaced.

Training is faked; workers, database, checkpoints and signals are real.
"""

import multiprocessing
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import study_databases
from builders import DATASET, epoch
from study_databases import RANDOM, Studies

from tuner.errors import TunerError
from tuner.files.study_files import open_files
from tuner.phases import PhaseClock
from tuner.run.precompile import Precompiler
from tuner.run.signals import Stop
from tuner.run.watchdog import Watchdog
from tuner.run.worker import Worker
from tuner.study.database import Database
from tuner.study.session import WorkerSession
from tuner.study.sinks import Publisher, Sinks
from tuner.study.store import StudyStore
from tuner.trial import EpochReport

url, studies = study_databases.url, study_databases.studies

WORKERS, BUDGET, EPOCHS = 8, 72, 50
KILLS = 5
_processes = multiprocessing.get_context("forkserver")


class SlowTrainer:
    """Trains nothing, in a few milliseconds."""

    dataset, classes, samples = DATASET, 0, None

    def __init__(self) -> None:
        self.clock, self.epoch = PhaseClock(), 0

    def load(self, config: Any, state: Any = None, epoch: int = 0) -> None:
        self.epoch = epoch

    def run_epoch(self) -> EpochReport:
        time.sleep(random.uniform(0.02, 0.2))
        self.epoch += 1
        return epoch(self.epoch, 100.0 / self.epoch)

    def packed_state(self) -> dict[str, Any]:
        return {"weights": np.zeros(8, np.float32)}

    packed_generator = packed_state

    def appraise(self, arrays: Any) -> tuple[float, None]:
        return 9.0, None


def work(url: str, folder: str) -> None:
    """A worker process. One that can't go on exits, as the command would."""
    store = StudyStore(Database(url), "s")
    session = WorkerSession(store, study_databases.MACHINE, lambda text: None, 60.0)
    files, trainer, stop = open_files(store, folder), SlowTrainer(), Stop()
    stand_in: Any = trainer
    with session.joined(), Watchdog(session, stop, lambda text: None, None).watching() as dog:
        ahead = Precompiler(session)
        try:
            Worker(session, stand_in, files, Sinks(), Publisher(), dog, stop, ahead).work()
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
