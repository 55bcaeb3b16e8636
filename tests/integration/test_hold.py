"""Studies on hold: workers release their trials and wait until the study is resumed."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import study_databases
from builders import DATASET
from command_line import call
from fake_trainer import FakeTrainer, run_trials
from study_databases import EXPIRE_LEASES, RANDOM, Studies, claim, eventually, report, run

from tuner import hints
from tuner.epoch_report import EpochReport
from tuner.errors import StorageError
from tuner.files.checkpoints import CHECKPOINTS
from tuner.files.study_files import open_files
from tuner.run.signals import Stop
from tuner.run.worker import NO_LIMITS, Limits
from tuner.study import steering
from tuner.study.claims import Idle
from tuner.study.sinks import Sinks
from tuner.study.snapshot import StudyPoller
from tuner.study.verdict import Complete

url, studies, sqlite = study_databases.url, study_databases.studies, study_databases.sqlite


def waiting() -> list[str]:
    """The messages of a worker that waits."""
    resume = hints.command("resume", "s")
    return [f"waiting: the study is on hold; to resume it, run: {resume}"]


class GatedTrainer(FakeTrainer):
    """No epoch after the first one ends before the gate is open."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()

    def run_epoch(self) -> EpochReport:
        report = super().run_epoch()
        assert self.epoch == 1 or self.gate.wait(60)
        return report


class Messages(Sinks):
    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def announce(self, text: str, part: float | None = None) -> None:
        self.texts.append(text)


class Running:
    """A worker in a thread."""

    def __init__(self, studies: Studies, folder: Path, limits: Limits) -> None:
        self.session, self.trainer, self.sink = studies.join(), GatedTrainer(), Messages()
        self.stop = Stop()
        self.files = open_files(self.session.store, str(folder))
        parts = (self.session, self.trainer, self.files, self.sink, None, self.stop, limits)
        self.thread = threading.Thread(target=run_trials, args=parts)
        self.thread.start()

    def ends(self) -> bool:
        self.thread.join(60)
        return not self.thread.is_alive()


@contextmanager
def workers(
    studies: Studies, folder: Path, count: int, limits: Limits = NO_LIMITS
) -> Iterator[list[Running]]:
    found = [Running(studies, folder, limits) for _ in range(count)]
    try:
        yield found
    finally:
        for worker in found:
            worker.trainer.gate.set()
            worker.stop.request()
            assert worker.ends()


def test_workers_release_their_trials_and_go_on_later(studies: Studies, tmp_path: Path) -> None:
    store = studies.create(trials=3, checkpoint_seconds=600, lease_seconds=1)
    control = studies.store()
    with workers(studies, tmp_path, 2) as running:
        assert eventually(lambda: all(worker.trainer.epoch == 2 for worker in running))
        control.hold()
        assert eventually(lambda: all(worker.session.on_hold for worker in running))
        for worker in running:
            worker.trainer.gate.set()
        assert eventually(lambda: all(worker.sink.texts == waiting() for worker in running))
        assert [lease[1:3] + lease[4:6] for lease in studies.leases()] == [("free", None, 2, 0)] * 2
        names = running[0].files.own_names(CHECKPOINTS)
        assert len(names) == 2
        assert all("/epoch-000002-" in name for name in names)
        assert store.remaining() == 3
        control.end_hold()
        assert all(worker.ends() for worker in running)
    trials = control.trials()
    assert [trial.state for trial in trials] == ["COMPLETE"] * 3
    assert [[r.epoch for r in trial.reports] for trial in trials] == [[1, 2, 3, 4]] * 3


def test_a_worker_on_hold_can_be_stopped(studies: Studies, tmp_path: Path) -> None:
    store = studies.create(lease_seconds=1)
    control = studies.store()
    control.hold()
    with workers(studies, tmp_path, 1) as [worker]:
        assert eventually(lambda: worker.sink.texts == waiting())
        control.request_stop()
        assert worker.ends()
    assert store.trials() == []


def test_a_worker_that_exits_when_idle_does_not_wait(studies: Studies, tmp_path: Path) -> None:
    studies.create()
    studies.store().hold()
    with workers(studies, tmp_path, 1, Limits(when_idle=True)) as [worker]:
        assert worker.ends()
        assert worker.sink.texts == []


def test_no_trial_is_claimed_while_a_study_is_on_hold(studies: Studies) -> None:
    store = studies.create(trials=3)
    session = studies.join()
    claimed = claim(session)
    report(session, claimed, [50.0])
    control = studies.store()
    control.hold()
    session.release(claimed)
    steering.enqueue(store, {"beta1": 0.5}, {})
    late = studies.join()
    for one in (session, late):
        assert one.claim(DATASET) is Idle.ON_HOLD
        assert one.on_hold
    control.end_hold()
    again = claim(late)
    assert (again.number, len(again.history), late.on_hold) == (0, 1, False)
    assert claim(session).number == 1


def test_the_heartbeat_notices_both(studies: Studies) -> None:
    studies.create(lease_seconds=600)
    session, control = studies.join(), studies.store()
    for act, on_hold in ((control.hold, True), (control.end_hold, False)):
        act()
        assert session.on_hold is not on_hold
        session._heart.beat()
        assert session.on_hold is on_hold


def test_a_trial_whose_worker_died_waits_as_well(studies: Studies) -> None:
    store = studies.create()
    session = studies.join()
    claimed = claim(session)
    report(session, claimed, [50.0])
    store.hold()
    studies.rows(EXPIRE_LEASES)  # before the worker could release it
    late = studies.join()
    assert late.claim(DATASET) is Idle.ON_HOLD
    assert studies.leases()[0][1:3] == ("held", session.worker)
    store.end_hold()
    again = claim(late)
    assert (again.number, again.token, len(again.history)) == (0, 2, 1)


def test_a_study_that_has_ended_keeps_no_worker(studies: Studies) -> None:
    store = studies.create(trials=1)
    session = studies.join()
    run(session, [9.0], Complete())
    store.hold()
    assert session.claim(DATASET) is Idle.ENDED


def test_a_deleted_study_is_not_held(sqlite: Studies) -> None:
    store = sqlite.create()
    steering.delete(sqlite.store())
    other = sqlite.create(RANDOM)
    with pytest.raises(StorageError, match="gone"):
        store.hold()
    other.refresh()
    assert not other.on_hold


def test_the_commands_say_what_happens(
    sqlite: Studies, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNER_STORAGE", sqlite.url)
    store = sqlite.create()

    def output(*words: str) -> str:
        assert call(*words) == 0
        return capsys.readouterr().out

    on_hold = "On hold: no trial begins or resumes until tuner resume s is run."
    assert output("resume", "s") == "Study 's' is not on hold.\n"
    assert output("pause", "s") == (
        "Study 's' is on hold; no workers are running. To resume it: tuner resume s\n"
    )
    assert output("pause", "s") == "Study 's' is on hold already.\n"
    assert on_hold in output("status", "s")
    assert json.loads(output("status", "s", "--json"))["on_hold"] is True
    assert "s (on hold)" in output("list")
    assert StudyPoller(store).snapshot().on_hold
    start = "to start one: tuner worker s"
    assert output("resume", "s") == f"Study 's' is resumed, but no workers are running; {start}\n"
    assert on_hold not in output("status", "s")
    assert not StudyPoller(store).snapshot().on_hold
    sqlite.join()
    assert "; 1 worker will wait after the current epoch. To" in output("pause", "s")
    assert output("resume", "s") == "Study 's' is resumed, with 1 worker.\n"
