"""One worker runs 150 trials without leaking memory, threads, files or connections.

Training is faked; the database, checkpoints, pictures, plots and the live view are real.
"""

import io
import os
import threading
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import study_databases
from fake_trainer import FakeTrainer, run_trials
from rich.console import Console
from study_databases import RANDOM, Studies

from tuner.dashboard import publishing
from tuner.epoch_report import EpochReport
from tuner.files.study_files import open_files
from tuner.study.claims import Claim
from tuner.study.sinks import Ending
from tuner.study.snapshot import StudyPoller, seconds_left
from tuner.study.store import StudyStore
from tuner.views.progress import LiveProgress

url, studies = study_databases.url, study_databases.studies

TRIALS, EARLY = 150, 50  # after EARLY trials, every one-time allocation has been made
# Bytes in 100 trials: Optuna caches each trial, and freed memory stays with the process.
GROWTH = 12 * 2**20


class Resources(NamedTuple):
    """What the process uses."""

    memory: int  # bytes
    threads: int
    files: int
    connections: int  # to the database


class DrawingTrainer(FakeTrainer):
    """Has samples to draw, and states of a few hundred kilobytes."""

    def run_epoch(self) -> EpochReport:
        report = super().run_epoch()
        self.samples = np.full((16, 32, 32, 1), self.epoch, np.uint8)
        return report

    def packed_state(self) -> dict[str, Any]:
        return {"weights": np.zeros(50_000, np.float32)}


class MeasuringProgress(LiveProgress):
    """The live view, which measures the process after each trial."""

    def __init__(self, studies: Studies, store: StudyStore) -> None:
        terminal = Console(file=io.StringIO(), force_terminal=True, width=100)
        poller = StudyPoller(store)
        super().__init__(terminal, 0, TRIALS, "fid", lambda: seconds_left(poller.snapshot(), 1))
        self._studies, self._terminal = studies, terminal
        self.used: list[Resources] = []

    def ended(self, claim: Claim, ending: Ending) -> None:
        super().ended(claim, ending)
        self._terminal.file = io.StringIO()  # a real terminal does not keep old frames
        self.used.append(self._measure())

    def _measure(self) -> Resources:
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
        files = len(os.listdir("/proc/self/fd"))
        return Resources(resident, threading.active_count(), files, self._connections())

    def _connections(self) -> int:
        if self._studies.url.startswith("sqlite"):
            return 0
        [[found]] = self._studies.rows(
            "SELECT count(*) - 1 FROM pg_stat_activity"  # not the connection of this query
            " WHERE application_name = 'tuner' AND datname = current_database()"
        )
        return int(found)


@pytest.mark.timeout(300)
def test_memory_and_files_do_not_grow_with_the_trials(
    studies: Studies, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "FIRST", 0.01)  # import plotly and draw plots early
    store = studies.create(RANDOM, trials=TRIALS, epochs=2, checkpoint_seconds=0, lease_seconds=600)
    files = open_files(store, str(tmp_path / "store"))
    progress = MeasuringProgress(studies, store)
    with progress.live:
        publisher = publishing.DashboardPublisher(store, files, progress.announce)
        run_trials(studies.join(), DrawingTrainer(), files, progress, publisher)
    assert store.remaining() == 0
    assert len(progress.used) == TRIALS
    early, late = progress.used[EARLY : EARLY + 20], progress.used[-20:]
    for what in ("threads", "files", "connections"):  # the least, since some are just ending
        assert min(getattr(x, what) for x in late) <= min(getattr(x, what) for x in early), what
    grown = min(x.memory for x in late) - max(x.memory for x in early)
    assert grown < GROWTH, f"{grown / 2**20:.1f} MB"
    assert not [*(tmp_path / "store").glob("*/checkpoints/*")]
    assert max(x.connections for x in progress.used) <= 2
