"""Notifications, delivered by apprise to a server on this machine."""

import http.server
import json
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import study_databases
from builders import DATASET, epoch
from command_line import call
from study_databases import RANDOM, Studies, claim, eventually, run
from trials import claim_of

from tuner.errors import InputError
from tuner.launch import slurm_job
from tuner.launch.slurm_job import WorkerJob
from tuner.notify.sender import Sender, open_sender
from tuner.notify.sink import notifying, send_due
from tuner.notify.stalls import send_stalls
from tuner.study.claims import Claim
from tuner.study.records import FRESH
from tuner.study.sinks import Released
from tuner.study.steering import dequeue, enqueue
from tuner.study.store import StudyStore
from tuner.study.verdict import Complete, Fail, Prune

url, studies, sqlite = study_databases.url, study_databases.studies, study_databases.sqlite
NOTIFY = "[notify]\non = ['ended', 'best', 'failed', 'stalled']\n"
PASSWORD = "sesame-4711"
_stores: dict[str, list[StudyStore]] = {}  # of the workers, by database


class Receiver:
    """A server that keeps the notifications posted to it; ``status`` is its answer."""

    def __init__(self) -> None:
        self.received: list[tuple[str, str]] = []
        self.status = 200
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.received.append((body["title"], body["message"]))
                self.send_response(outer.status)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                return None

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"json://me:{PASSWORD}@127.0.0.1:{self.server.server_port}/"

    @property
    def titles(self) -> list[str]:
        return [title for title, _ in self.received]


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    receiver = Receiver()
    monkeypatch.setenv("TUNER_NOTIFY_URLS", receiver.url)
    monkeypatch.delenv("APPRISE_URLS", raising=False)
    yield receiver
    receiver.server.shutdown()
    receiver.server.server_close()


@pytest.fixture
def sender(receiver: Receiver) -> Sender:
    found = open_sender()
    assert found is not None
    return found


def look_from(studies: Studies, sender: Sender, workers: int = 1, leaving: bool = False) -> None:
    """Look for events as several workers do that end their trials at the same time."""
    stores = _stores.setdefault(studies.url, [])
    stores += [studies.store() for _ in range(workers - len(stores))]
    threads = [
        threading.Thread(target=send_due, args=(store, sender, print), kwargs={"leaving": leaving})
        for store in stores[:workers]
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_each_event_is_sent_once_whatever_the_number_of_workers(
    studies: Studies, sender: Sender, receiver: Receiver
) -> None:
    studies.create(RANDOM + NOTIFY, trials=3)
    session = studies.join()
    run(session, [50.0, 40.0], Complete())
    look_from(studies, sender, workers=3)
    [(title, text)] = receiver.received
    assert title == "Study s: new best, FID 40"
    assert text.startswith("trial 0, FID 40: learning_rate=")
    run(session, [60.0], Complete())  # is no better
    run(session, [70.0], Fail("RuntimeError: a bug"))
    look_from(studies, sender, workers=3)
    assert receiver.received[1:] == [
        (
            "Study s: trial 2 has failed",
            "RuntimeError: a bug\n1 of the study's trials have failed so far.",
        )
    ]
    run(session, [80.0], Fail("RuntimeError: another bug"))  # within the hour
    run(session, [30.0], Prune("bad"))
    look_from(studies, sender, workers=3)
    [(title, text)] = receiver.received[2:]
    assert title == "Study s has ended"
    first, second = text.split("\n")
    assert first == "all of its trials have ended. Trials: 2 complete, 2 fail, 1 pruned."
    assert second.startswith("Best: trial 0, FID 40: ")
    look_from(studies, sender)
    assert len(receiver.received) == 3
    studies.store().raise_total(4)
    run(session, [20.0], Complete())
    look_from(studies, sender, workers=2)
    assert sorted(receiver.titles[3:]) == ["Study s has ended", "Study s: new best, FID 20"]


def test_failures_are_reported_again_after_an_hour(
    sqlite: Studies, sender: Sender, receiver: Receiver
) -> None:
    sqlite.create(RANDOM + NOTIFY, trials=3)
    session = sqlite.join()
    run(session, [70.0], Fail("a bug"))
    look_from(sqlite, sender)
    sqlite.rows(
        "UPDATE study_system_attributes SET value_json = '[1, 0]' WHERE key = :key",
        key="tuner:notified:failed",
    )
    look_from(sqlite, sender)  # the same failure
    assert len(receiver.received) == 1
    run(session, [70.0], Fail("another bug"))
    look_from(sqlite, sender)
    assert receiver.titles[1:] == ["Study s: trial 1 has failed"]


def test_trials_removed_from_the_queue_are_no_failures(
    sqlite: Studies, sender: Sender, receiver: Receiver
) -> None:
    store = sqlite.create(RANDOM + NOTIFY, trials=3)
    enqueue(store, {"learning_rate": 1e-3}, {})
    dequeue(store, [0])
    look_from(sqlite, sender)
    assert receiver.received == []
    run(sqlite.join(), [70.0], Fail("a bug"))
    look_from(sqlite, sender)
    [(title, text)] = receiver.received
    assert title == "Study s: trial 1 has failed"
    assert text.endswith("1 of the study's trials have failed so far.")


def test_the_best_of_a_first_objective_that_is_maximised_is_the_highest(
    sqlite: Studies, sender: Sender, receiver: Receiver
) -> None:
    objectives = "[metrics]\nobjectives = ['recall', 'fid']\n"
    sqlite.create(RANDOM + objectives + "[notify]\non = ['best']\n", trials=9)
    session = sqlite.join()
    for recall in (0.5, 0.4, 0.6):
        claimed = claim(session)
        session.report(claimed, epoch(1, 20.0, recall=recall), [])
        session.finish(claimed, Complete())
        look_from(sqlite, sender)
    assert receiver.titles == [f"Study s: new best, recall {value}" for value in (0.5, 0.6)]
    assert receiver.received[1][1].startswith("trial 2, recall 0.6, FID 20: ")


def test_the_end_of_a_confirmed_study_names_the_confirmed_winner(
    sqlite: Studies, sender: Sender, receiver: Receiver
) -> None:
    more = "[confirm]\ntop = 2\nseeds = 2\n[notify]\non = ['ended']\n"
    sqlite.create(RANDOM + more, trials=2, epochs=1)
    session = sqlite.join()
    run(session, [20.0], Complete())
    run(session, [30.0], Complete())
    look_from(sqlite, sender)
    assert receiver.received == []  # the search has ended, the study has not
    while isinstance(claimed := session.claim(DATASET), Claim):
        assert claimed.confirms is not None
        fid = {0: 50.0, 1: 35.0}[claimed.confirms.trial] + claimed.confirms.seed
        session.report(claimed, epoch(1, fid), [])
        session.finish(claimed, Complete(), attributes={FRESH: fid})
    look_from(sqlite, sender)
    [(title, text)] = receiver.received
    assert title == "Study s has ended"
    assert "\nConfirmed: trial 1, FID 35.5 over 2 seeds" in text


def test_only_requested_events_are_sent(
    sqlite: Studies, sender: Sender, receiver: Receiver
) -> None:
    sqlite.create(RANDOM + "[notify]\non = ['ended']\n", trials=1)
    session = sqlite.join()
    run(session, [70.0], Fail("a bug"))
    look_from(sqlite, sender)
    assert receiver.received == []
    run(session, [70.0], Complete())
    look_from(sqlite, sender)
    assert receiver.titles == ["Study s has ended"]


def test_a_spent_budget_ends_the_study(sqlite: Studies, sender: Sender, receiver: Receiver) -> None:
    sqlite.create(RANDOM + NOTIFY + "[budget]\nepochs = 2\n", trials=3)
    run(sqlite.join(), [50.0, 40.0], Prune("bad"))
    look_from(sqlite, sender, workers=3)
    [(title, text)] = receiver.received
    assert title == "Study s has ended"
    assert text.startswith("budget.epochs: all 2 epochs are trained. Trials: 1 pruned.")


def test_the_last_worker_to_leave_reports_that_none_is_left(
    studies: Studies, sender: Sender, receiver: Receiver
) -> None:
    studies.create(RANDOM + NOTIFY, trials=3)
    first, second = studies.join(), studies.join()
    first.leave_at_once()
    look_from(studies, sender, leaving=True)
    assert receiver.received == []
    second.leave_at_once()
    look_from(studies, sender, workers=3, leaving=True)
    assert receiver.received == [
        ("Study s has no worker", "No worker is running now; 3 of 3 trials are left.")
    ]
    studies.join().leave_at_once()
    look_from(studies, sender, leaving=True)
    assert len(receiver.received) == 2  # another stall


def test_a_job_reports_a_missing_worker_only_if_it_does_not_start_one_again(
    sqlite: Studies, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = sqlite.create(RANDOM + NOTIFY, trials=3)
    monkeypatch.setenv("TUNER_JOB_RESTARTS", "1")
    with notifying(store, print):
        sqlite.join().leave_at_once()
    assert receiver.received == []
    monkeypatch.setenv("TUNER_STORAGE", sqlite.url)
    job, refuses = WorkerJob("s", []), False
    monkeypatch.setattr(job, "_run", lambda: (128 + signal.SIGINT, [slurm_job.TIME_LIMIT]))
    monkeypatch.setattr(slurm_job, "requeue", lambda _: not refuses)
    with pytest.raises(SystemExit, match="0"):
        job()
    assert receiver.received == []
    refuses = True
    with pytest.raises(SystemExit, match="1"):
        job()
    assert receiver.titles == ["Study s has no worker"]


@pytest.mark.parametrize("request_to_wait", ["stop", "hold"])
def test_workers_that_a_user_stopped_are_not_missed(
    sqlite: Studies, sender: Sender, receiver: Receiver, request_to_wait: str
) -> None:
    sqlite.create(RANDOM + NOTIFY, trials=3)
    session = sqlite.join()
    if request_to_wait == "stop":
        sqlite.store().request_stop()
    else:
        sqlite.store().hold()
    session.leave_at_once()
    look_from(sqlite, sender, leaving=True)
    assert receiver.received == []


def test_a_watcher_reports_workers_that_were_killed(
    sqlite: Studies, sender: Sender, receiver: Receiver
) -> None:
    sqlite.create(RANDOM + NOTIFY, trials=3)
    send_stalls(sqlite.open(), sender, print)
    sqlite.join()
    sqlite.rows("UPDATE tuner_workers SET seen_at = seen_at - 500, place = ''")
    send_stalls(sqlite.open(), sender, print)
    assert receiver.received == []  # a worker may be about to begin
    sqlite.rows("UPDATE tuner_workers SET seen_at = seen_at - 200")
    for _ in range(2):
        send_stalls(sqlite.open(), sender, print)
    [(title, text)] = receiver.received
    assert title == "Study s has no worker"
    assert text.startswith("No worker has been running for 11 min 4")


def test_a_worker_looks_when_a_trial_has_ended_and_when_it_leaves(
    sqlite: Studies, receiver: Receiver
) -> None:
    store, announced = sqlite.create(RANDOM + NOTIFY, trials=2), list[str]()
    session: Any = sqlite.join()
    with notifying(store, announced.append) as [sink]:
        sink.started(claim_of(0))
        run(session, [50.0], Complete())
        sink.ended(claim_of(0), Complete())
        assert eventually(lambda: receiver.titles == ["Study s: new best, FID 50"])
        sink.ended(claim_of(1), Released("stopped"))
        session.leave_at_once()
    assert receiver.titles[1:] == ["Study s has no worker"]
    assert announced == []


def test_an_unreachable_service_holds_nothing_up_and_is_announced_without_its_password(
    sqlite: Studies, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.setattr("tuner.notify.sender.PAUSES", (0.01,))
    receiver.status = 500
    store, announced = sqlite.create(RANDOM + NOTIFY, trials=2), list[str]()
    session = sqlite.join()
    run(session, [50.0], Complete())
    with notifying(store, announced.append) as [sink]:
        began = time.monotonic()
        sink.ended(claim_of(0), Complete())
        assert time.monotonic() - began < 1
    assert receiver.titles == ["Study s: new best, FID 50"] * 2  # it was tried twice
    assert announced == ["notification 'Study s: new best, FID 50' was not delivered by JSON"]
    assert PASSWORD not in "".join(capfd.readouterr())
    stored = sqlite.rows("SELECT value_json FROM study_system_attributes")
    assert PASSWORD not in str([*stored, *sqlite.rows("SELECT spec FROM tuner_studies")])


def test_a_worker_without_urls_leaves_the_events_to_others(
    sqlite: Studies, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("TUNER_NOTIFY_URLS", "APPRISE_URLS", "APPRISE_CONFIG_PATH"):
        monkeypatch.delenv(name, raising=False)
    store, announced = sqlite.create(RANDOM + NOTIFY, trials=2), list[str]()
    with notifying(store, announced.append) as sinks:
        assert sinks == []
    assert announced == ["TUNER_NOTIFY_URLS is not set: this worker sends no notifications"]
    assert sqlite.rows("SELECT key FROM study_system_attributes WHERE key LIKE 'tuner:not%'") == []


def test_an_unusable_url_is_refused_without_showing_it(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.setenv("TUNER_NOTIFY_URLS", f"{receiver.url}, nonsense://me:{PASSWORD}@host")
    with pytest.raises(InputError) as caught:
        open_sender()
    assert str(caught.value) == (
        "TUNER_NOTIFY_URLS: apprise can't use URL 2 of 2 (not shown, because it may contain a "
        "password)"
    )
    assert PASSWORD not in "".join(capfd.readouterr())


def test_a_missing_package_is_one_line_before_anything_begins(
    receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "apprise", None)
    (tmp_path / "s.toml").write_text(f'[data]\nsource = "gaussians"\n{NOTIFY}')
    for command in ("check", "sweep"):
        assert call(command, "s.toml") == 2
        [line] = capsys.readouterr().err.splitlines()
        assert line.startswith("tuner: TUNER_NOTIFY_URLS needs the package apprise; install it")
    assert not (tmp_path / "tuner-data").exists()


def test_apprises_own_configuration_is_read(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("TUNER_NOTIFY_URLS")
    (tmp_path / "apprise.conf").write_text(receiver.url)
    monkeypatch.setenv("APPRISE_CONFIG_PATH", str(tmp_path / "apprise.conf"))
    sender = open_sender()
    assert sender is not None
    assert sender.send("title", "text") is None
    assert receiver.received == [("title", "text")]
