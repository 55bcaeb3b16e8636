"""The cost of viewing a large study: 1,000 trials of 50 epochs, with pictures and notes.

    python benchmarks/large_study.py [--rounds 5] [--viewers 3]

Starts its own Postgres server. Measures the time of `tuner report`, `tuner status` and `tuner
trials`, of redrawing the dashboard's plots, and of a worker's report after an epoch: with and
without viewers of the dashboard, in alternation. Viewers send the requests of the dashboard's page,
but more often.
"""

import contextlib
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import optuna
import typer
from postgres import Postgres
from sqlalchemy import insert
from storage import EPOCHS, SPACE, TRIALS, make_report, optuna_url, spec

from tuner.dashboard.publishing import events, plots
from tuner.study import tables
from tuner.study.claims import Claim
from tuner.study.creation import create_study
from tuner.study.dashboard_attributes import publish
from tuner.study.database import Database
from tuner.study.session import WorkerSession
from tuner.study.store import StudyStore
from tuner.trial import DatasetInfo

PICTURES = 10  # artifacts per trial
PAUSE = 2.0  # seconds between a viewer's requests; the dashboard's page waits for 10


def fill(store: StudyStore, url: str) -> None:
    """Add trials that ran to the last epoch, with everything that workers store about them."""
    rng = random.Random(0)
    plain = optuna.load_study(study_name=store.name, storage=optuna_url(url))
    plain.add_trials([_trial(rng, number) for number in range(TRIALS)])
    rows, notes = [], []
    for trial in plain.get_trials(deepcopy=False):
        about = {"trial_id": trial._trial_id, "worker": "w", "token": 1, "reported_at": time.time()}
        for epoch, fid in trial.intermediate_values.items():
            rows.append(make_report(epoch, fid)._asdict() | about | {"own": None})
        prefix = f"dashboard:{trial._trial_id}:note_"
        for key, value in ((f"{prefix}ver", 1), (f"{prefix}str:0", "how the trial ended " * 60)):
            notes.append({"study_id": store.study_id, "key": key, "value_json": json.dumps(value)})
    with store.database.rdb.engine.begin() as connection:
        connection.execute(insert(tables.epochs), rows)
        connection.execute(insert(tables.study_attributes), notes)


def _trial(rng: random.Random, number: int) -> optuna.trial.FrozenTrial:
    fid, values = rng.uniform(200, 400), {}
    for epoch in range(1, EPOCHS + 1):
        fid *= rng.uniform(0.93, 1.0)
        values[epoch] = fid
    pictures = [f"01234567-{number:05d}-{epoch:06d}" for epoch in range(1, PICTURES + 1)]
    return optuna.trial.create_trial(
        state=optuna.trial.TrialState.COMPLETE,
        value=fid,
        params={"learning_rate": 10 ** rng.uniform(-4, -2), "batch_size": 32 << number % 3},
        distributions=SPACE,
        intermediate_values=values,
        user_attrs={"tuner:reason": "all epochs trained", "tuner:machine": {"device": "none"}},
        system_attrs={
            f"artifacts:{name}": json.dumps({"artifact_id": name, "filename": "samples.png"})
            for name in pictures
        },
    )


def time_command(words: list[str], url: str) -> float:
    """Seconds that a command takes, including its start-up."""
    environment = os.environ | {"TUNER_STORAGE": url, "JAX_PLATFORMS": "cpu"}
    began = time.perf_counter()
    program = [sys.executable, "-m", "tuner.cli"]
    subprocess.run([*program, *words], check=True, env=environment, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


@contextlib.contextmanager
def dashboard(url: str) -> Iterator[str]:
    """The address of a dashboard, which runs until the block ends."""
    environment = os.environ | {"TUNER_STORAGE": url, "PYTHONUNBUFFERED": "1"}
    words = [sys.executable, "-m", "tuner.cli", "dashboard", "--port", "0"]
    server = subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        line = server.stdout.readline()
        yield line.split("http://")[1].split("/")[0]
    finally:
        server.terminate()
        server.wait(20)


def view(address: str, after: int) -> tuple[float, int]:
    """Seconds and bytes of the page's request for the trials after number ``after``."""
    began = time.perf_counter()
    with urllib.request.urlopen(f"{address}?after={after}", timeout=120) as answer:
        size = len(answer.read())
    return time.perf_counter() - began, size


def keep_viewing(address: str, done: threading.Event) -> None:
    view(address, 0)
    while not done.wait(random.uniform(0.67, 1.33) * PAUSE):
        view(address, TRIALS)


def time_reports(session: WorkerSession, seconds: float) -> list[float]:
    """Report for ``seconds``; the seconds of each report with the pruner's decision."""
    claim = session.claim(DatasetInfo((32, 32, 1), 60_000))
    assert isinstance(claim, Claim)
    taken, history, until = [], list(claim.history), time.perf_counter() + seconds
    while time.perf_counter() < until:
        time.sleep(0.1)
        report = make_report(len(history) + 1, 100.0)
        began = time.perf_counter()
        session.report(claim, report, history)
        session.pruner_decision(claim, report.epoch)
        taken.append(time.perf_counter() - began)
        history.append(report)
    session.release(claim)
    return taken[5:]  # the first ones read the whole study


def milliseconds(samples: list[float]) -> str:
    ordered = sorted(samples)
    p95 = ordered[int(0.95 * len(ordered))]
    return f"median {1e3 * statistics.median(ordered):.1f} ms, 95% {1e3 * p95:.1f} ms"


def measure(url: str, rounds: int, viewers: int) -> None:
    store = create_study(Database(url, create=True), spec("large"))
    fill(store, url)
    with tempfile.TemporaryDirectory() as folder:
        report = ["report", store.name, "--samples", "0", "--out", f"{folder}/report.html"]
        for words in (report, ["status", store.name], ["trials", store.name]):
            times = [time_command(words, url) for _ in range(rounds)]
            print(f"tuner {words[0]}: median of {rounds} {statistics.median(times):.1f} s")
        page = Path(folder, "report.html").stat().st_size
        print(f"the report: {page / 1e6:.1f} MB")
    _measure_plots(store, rounds)
    with dashboard(url) as host:
        address = f"http://{host}/api/studies/{store.study_id}"
        seconds, size = view(address, 0)
        again = [view(address, TRIALS) for _ in range(rounds)]
        print(f"dashboard, first request: {seconds:.2f} s, {size / 1e6:.1f} MB")
        later = statistics.median(s for s, _ in again)
        print(f"dashboard, each further request: {later:.2f} s, {again[0][1] / 1e6:.2f} MB")
        _measure_reports(store, address, rounds, viewers)


def _measure_plots(store: StudyStore, rounds: int) -> None:
    taken = []
    for turn in range(rounds + 1):
        began = time.perf_counter()
        trials = store.trials()
        made = plots(store.spec, trials)
        publish(store, events(trials) + turn, 1.0, made, "note")
        taken.append(time.perf_counter() - began)
    size = sum(map(len, made.values()))
    print(f"plots redrawn: median {statistics.median(taken[1:]):.2f} s, {size / 1e3:.0f} kB")


def _measure_reports(store: StudyStore, address: str, rounds: int, viewers: int) -> None:
    samples: dict[int, list[float]] = {0: [], viewers: []}
    for _ in range(rounds):
        for count, taken in samples.items():
            done = threading.Event()
            threads = [
                threading.Thread(target=keep_viewing, args=(address, done)) for _ in range(count)
            ]
            for thread in threads:
                thread.start()
            same = StudyStore(store.database, store.name)
            with WorkerSession(same, {"device": "none"}, print).joined() as session:
                taken += time_reports(session, 10.0)
            done.set()
            for thread in threads:
                thread.join()
    for count, taken in samples.items():
        print(f"a worker's report, {count} viewers: {milliseconds(taken)}")


def main(rounds: int = 5, viewers: int = 3) -> None:
    server = Postgres()
    try:
        measure(server.new_database(), rounds, viewers)
    finally:
        server.remove()


if __name__ == "__main__":
    typer.run(main)
