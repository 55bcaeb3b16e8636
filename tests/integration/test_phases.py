"""Seconds of trials by phase: stored, added up over workers, and shown."""

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Timer

import command_line
import jax
import jax.numpy as jnp
import pytest
import study_databases
from builders import DATASET, epoch
from fake_trainer import FakeTrainer, run_trials
from postgres import Postgres
from study_databases import EXPIRE_LEASES, Studies, claim, each_lost_commit
from trials import rendered

from tuner.epoch_report import EpochReport
from tuner.errors import StorageError
from tuner.files.study_files import open_files
from tuner.phases import UNCOUNTED, Phase, PhaseClock, PhaseSeconds
from tuner.run.monitoring import Monitor
from tuner.study import retrying
from tuner.study.claims import Idle
from tuner.study.database import Database
from tuner.study.session import WorkerSession
from tuner.study.snapshot import StudyPoller
from tuner.study.verdict import Complete
from tuner.views.html_report import study_page
from tuner.views.summaries import phase_shares
from tuner.views.trial_detail import trial_view
from tuner.xla import COMPILING, compilation_seconds

url, studies = study_databases.url, study_databases.studies
sqlite = study_databases.sqlite

OUTAGE, SLOW = 1.0, 0.3  # seconds
SPENT = dict(zip(Phase, (160.0, 20.0, 6.0, 1.0, 2.0, 10.0, 1.0), strict=True))


class Timed:
    """A worker whose time passes only in ``train``."""

    def __init__(self, studies: Studies) -> None:
        self.now = 0.0
        clock = PhaseClock(now=lambda: self.now)
        store = studies.store()
        self.session = WorkerSession(store, {}, studies.messages.append, 20.0, clock)

    def train(self, seconds: float, phase: Phase = Phase.TRAINING) -> None:
        with self.session.clock.phase(phase):
            self.now += seconds


def stored(studies: Studies, number: int = 0) -> PhaseSeconds:
    """The phases of a trial that have taken time."""
    return {phase: s for phase, s in studies.store().trial(number).phase_seconds.items() if s}


def test_a_trials_seconds_add_up_over_its_workers(studies: Studies) -> None:
    studies.create()
    first, second, third = (Timed(studies) for _ in range(3))
    with first.session.joined() as session:
        begun = claim(session)
        first.train(1)
        session.report(begun, epoch(1), [])
        assert stored(studies) == {Phase.TRAINING: 1}
        first.train(2, Phase.FILES)
        session.release(begun)
    assert stored(studies) == {Phase.TRAINING: 1, Phase.FILES: 2}
    with second.session.joined() as lost, third.session.joined() as session:
        assert claim(lost).number == 0
        second.train(4)  # never stored
        studies.rows(EXPIRE_LEASES)
        resumed = claim(session)
        third.train(8)
        third.train(16, Phase.EVALUATION)
        session.finish(resumed, Complete())
    found = {Phase.TRAINING: 9, Phase.FILES: 2, Phase.EVALUATION: 16}
    assert stored(studies) == found


def test_a_trial_that_ran_again_has_the_seconds_of_its_last_end(sqlite: Studies) -> None:
    """Another program restarted it after its first end."""
    sqlite.create(trials=1)
    first, second = Timed(sqlite), Timed(sqlite)
    with first.session.joined() as session:
        session.finish(claim(session), Complete())
        sqlite.rows("UPDATE trials SET state = 'RUNNING'")
        with second.session.joined() as other:
            assert other.claim(DATASET) is Idle.WAIT
            again = claim(other)
            second.train(2)
            other.finish(again, Complete())
        first.train(4, Phase.WAITING)
    assert stored(sqlite) == {Phase.TRAINING: 2}


def test_a_lost_answer_counts_nothing_twice(
    studies: Studies, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrying, "LONGEST_PAUSE", 0.0)
    studies.create(trials=100)
    worker = Timed(studies)
    with worker.session.joined() as session:
        for number, lost_commit in enumerate(each_lost_commit(session)):
            with lost_commit:
                begun = claim(session)
                worker.train(1)
                session.report(begun, epoch(1), [])
                worker.train(2)
                session.finish(begun, Complete())
            assert stored(studies, number) == {Phase.TRAINING: 3}


def test_time_between_trials_counts_for_the_next_one_and_at_last_for_the_last(
    studies: Studies,
) -> None:
    studies.create()
    worker = Timed(studies)
    with worker.session.joined() as session:
        session.finish(claim(session), Complete())
        worker.train(1, Phase.WAITING)
        begun = claim(session)
        worker.train(2)
        session.finish(begun, Complete())
        worker.train(4, Phase.WAITING)
    assert stored(studies, 0) == {}
    assert stored(studies, 1) == {Phase.WAITING: 5, Phase.TRAINING: 2}


class SlowTrainer(FakeTrainer):
    """Compiles in every epoch, and crashes the database server in the first one."""

    def __init__(self, server: Postgres, clock: PhaseClock) -> None:
        super().__init__(clock)
        self._server = server

    def run_epoch(self) -> EpochReport:
        jax.jit(lambda x: jnp.linalg.qr(jnp.sin(x) @ x)).lower(jnp.ones((8, 8))).compile()
        time.sleep(SLOW)
        self.clock.switch(Phase.EVALUATION)
        time.sleep(SLOW)
        if self.epoch == 0:
            self._server.stop("immediate")
        return super().run_epoch()


@pytest.fixture
def compilations() -> Iterator[list[float]]:
    """Seconds of each compilation during the test, as JAX reports them."""
    found: list[float] = []

    def listen(event: str, duration_secs: float, **_: str | int) -> None:
        if event == COMPILING[-1]:
            found.append(duration_secs)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield found
    jax.monitoring.unregister_event_duration_listener(listen)


def test_a_slow_store_an_outage_and_a_compilation_are_counted_as_such(
    postgres: Postgres,
    tmp_path: Path,
    compilations: list[float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The store takes SLOW seconds for a file, and fails once after as long."""
    url = postgres.new_database()
    Database(url, create=True).rdb.engine.dispose()
    studies = Studies(url)
    store = studies.create(trials=1, epochs=2, checkpoint_seconds=600)
    files = open_files(store, str(tmp_path))
    write, attempts = files.write, list[str]()

    def write_slowly(name: str, data: bytes) -> None:
        time.sleep(SLOW)
        attempts.append(name)
        if len(attempts) == 1:
            raise StorageError("the store is away", transient=True)
        write(name, data)

    def announce(text: str) -> None:
        if "the database failed" in text:
            Timer(OUTAGE, postgres.start).start()

    monkeypatch.setattr(files, "write", write_slowly)
    clock = PhaseClock(compilation_seconds)
    session = WorkerSession(store, {}, announce, clock=clock)
    began = time.perf_counter()
    with session.joined():
        run_trials(session, SlowTrainer(postgres, clock), files)
    wall = time.perf_counter() - began
    [trial] = store.trials()
    seconds = trial.phase_seconds
    assert (trial.state, len(trial.reports), len(attempts)) == ("COMPLETE", 2, 2)
    assert seconds[Phase.TRAINING] >= 2 * SLOW
    assert seconds[Phase.EVALUATION] >= 2 * SLOW
    assert seconds[Phase.COMPILATION] >= 0.95 * sum(compilations) > 0
    assert seconds[Phase.FILES] >= SLOW
    assert seconds[Phase.WAITING] >= 0.95 * OUTAGE + SLOW
    assert seconds[Phase.DATABASE] > 0
    assert sum(seconds.values()) <= wall
    studies.close()


@pytest.fixture
def timed(sqlite: Studies) -> Iterator[Timed]:
    """A worker with a trial that took 200 seconds so far."""
    sqlite.create(trials=1)
    worker = Timed(sqlite)
    with worker.session.joined() as session:
        begun = claim(session)
        for phase, seconds in SPENT.items():
            worker.train(seconds, phase)
        session.report(begun, epoch(1), [])
        yield worker


def test_commands_show_the_phases(
    timed: Timed, sqlite: Studies, capsys: pytest.CaptureFixture[str]
) -> None:
    def tuner(*words: str) -> str:
        assert command_line.call(*words, "--storage", sqlite.url) == 0
        return capsys.readouterr().out

    line = "Time: training 80%, evaluation 10%, waiting 5%, compilation 3%, other 2%."
    assert line in tuner("status", "s").splitlines()
    assert json.loads(tuner("status", "s", "--json"))["phase_seconds"] == SPENT
    assert [trial["phase_seconds"] for trial in json.loads(tuner("trials", "s", "--json"))] == [
        SPENT
    ]
    assert json.loads(tuner("show", "s", "0", "--json"))["phase_seconds"] == SPENT
    shown = " ".join(tuner("show", "s", "0").split())
    parts = "training 2 min 40 s, evaluation 20 s, compilation 6 s, database 1 s, files 2 s"
    assert f"phases {parts}, waiting 10 s, other 1 s" in shown
    store = sqlite.store()
    page = study_page(store.spec, store.summary(), {}, store.trials())
    for cell in ("training", "2.67", "80.0%", "database", "0.5%"):
        assert re.search(f"<td[^>]*>{cell}</td>", page), cell
    assert "time (min)</th>" in page


def test_prometheus_shows_the_workers_seconds(timed: Timed, sqlite: Studies) -> None:
    monitor = Monitor(sqlite.store())
    monitor.watch(timed.session)
    found = {
        sample.labels["phase"]: sample.value
        for family in monitor.registry.collect()
        for sample in family.samples
        if sample.name == "tuner_phase_seconds_total"
    }
    assert found == SPENT


def test_a_study_from_before_phases_were_counted_shows_none(sqlite: Studies) -> None:
    sqlite.create()
    study_databases.run(sqlite.join(), [30.0], Complete())
    sqlite.rows(f"UPDATE tuner_leases SET {', '.join(f'{phase}_seconds = 0' for phase in Phase)}")
    store = sqlite.store()
    [trial] = store.trials()
    assert trial.phase_seconds == UNCOUNTED
    assert phase_shares(StudyPoller(store).snapshot().phase_seconds) == ""
    assert "phases" not in "".join(rendered(trial_view(store.spec, trial, [], None, 80), 80))
    assert "of the workers" not in study_page(store.spec, store.summary(), {}, [trial])
