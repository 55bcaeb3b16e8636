"""Readers and workers survive random changes to a study's rows, or report one line."""

import io
import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import study_databases
from builders import DATASET, epoch, new_database
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console, RenderableType
from study_databases import EXPIRE_LEASES, MACHINE, Studies, claim, report, run

from tuner.dashboard.publishing import refresh_plots
from tuner.errors import TunerError
from tuner.study import steering
from tuner.study.claims import Claim
from tuner.study.creation import study_summaries
from tuner.study.curves import curves_of, rank_correlations
from tuner.study.database import Database
from tuner.study.epochs import ownership_history
from tuner.study.session import WorkerSession
from tuner.study.snapshot import StudyPoller
from tuner.study.store import StudyStore
from tuner.study.verdict import Complete, Fail, Prune
from tuner.views import data_frames, notebook_html, studies
from tuner.views.curves import trial_curves
from tuner.views.figures import PLOTS
from tuner.views.html_report import study_page
from tuner.views.status import status_view, worker_table
from tuner.views.summaries import best_line, evaluation_cost, measured_as
from tuner.views.trial_data import epochs_csv, trial_values
from tuner.views.trial_detail import trial_details, trial_view

EXAMPLES = int(os.environ.get("TUNER_TEST_EXAMPLES", "6"))
STUDY = """
[trial]
batch_size = [32, 64]
learning_rate = { low = 1e-4, high = 1e-2, log = true }
beta1 = { low = 0.0, high = 0.9 }
[sampler]
name = "tpe"
n_startup_trials = 1
[pruner]
name = "successive_halving"
"""
TABLES = (
    *("studies", "study_directions", "study_system_attributes", "study_user_attributes"),
    *("trials", "trial_intermediate_values", "trial_params", "trial_system_attributes"),
    *("trial_user_attributes", "trial_values"),
    *("tuner_epochs", "tuner_leases", "tuner_studies", "tuner_workers"),
)
ODD_VALUES: list[Any] = [
    *(None, -1, 0, 1, 7, 2**62, 0.5, -1e308, 1e308, float("inf"), float("-inf"), b"\xff\xfe"),
    *("", "x", "a\0b", "\x1b[31m", "<script>", "9" * 5000, "[" * 5000, "1e999", "2999-01-01"),
    *("null", "{}", "[1]", '"text"', '"\\ud800\\u0000"', "NaN", '{"batch_size": 48}', "17"),
    *("RUNNING", "WAITING", "COMPLETE", "PRUNED", "FAIL", "MAXIMIZE", "FOO", "INF_NEG", "held"),
    '{"name": "IntDistribution", "attributes": {"low": 1, "high": 9, "log": false, "step": 1}}',
    '{"name": "CategoricalDistribution", "attributes": {"choices": [null, "\\ud800"]}}',
]
MUTATIONS = st.tuples(
    st.sampled_from(TABLES),
    st.sampled_from(["update", "update", "update", "insert", "delete"]),
    *(st.integers(0, 50), st.integers(0, 50)),
    st.sampled_from(ODD_VALUES),
)


@pytest.fixture(scope="module", autouse=True)
def _cached_migrations() -> Iterator[None]:
    with study_databases.cached_migrations():
        yield


@pytest.fixture(scope="module")
def whole() -> bytes:
    """A database with trials in every state, one of them without a live worker."""
    with tempfile.TemporaryDirectory() as folder:
        url = new_database(Path(folder) / "studies.db")
        with closing(Studies(url)) as found:
            found.create(STUDY, trials=12)
            session = found.join()
            session.store.bind({"data": "abc", "samples": "200"})
            for fid in (30.0, 20.0, 25.0, 40.0, 35.0):
                run(session, [fid + 5, fid], Complete(), f"generators/{fid:g}.safetensors")
            run(session, [90.0], Prune("by the pruner"))
            failed = claim(session)
            report(session, failed, [50.0])
            session.finish(failed, Fail("a bug"), traceback="Traceback ...", note="a note")
            report(session, claim(session), [45.0])
            steering.enqueue(session.store, {"batch_size": 64}, {})
            refresh_plots(session.store)
        found.rows(EXPIRE_LEASES)
        assert not (Path(folder) / "studies.db-wal").exists()
        return (Path(folder) / "studies.db").read_bytes()


def mutate(path: Path, mutations: list[tuple[str, str, int, int, Any]]) -> None:
    with closing(sqlite3.connect(path)) as connection:
        for table, action, row, column, value in mutations:
            columns = [name for _, name, *_ in connection.execute(f"PRAGMA table_info({table})")]
            ids = [i for (i,) in connection.execute(f"SELECT rowid FROM {table} ORDER BY rowid")]
            if not ids:
                continue
            chosen, name = ids[row % len(ids)], columns[column % len(columns)]
            try:
                if action == "update":
                    statement = f"UPDATE {table} SET {name} = ? WHERE rowid = ?"
                    connection.execute(statement, (value, chosen))
                elif action == "delete":
                    connection.execute(f"DELETE FROM {table} WHERE rowid = ?", (chosen,))
                else:
                    others = ", ".join("?" if c == name else c for c in columns[1:])
                    names, key = ", ".join(columns[1:]), max(ids) + 1
                    values = (key, value) if name in columns[1:] else (key,)
                    connection.execute(
                        f"INSERT INTO {table} ({columns[0]}, {names}) "
                        f"SELECT ?, {others} FROM {table} WHERE rowid = ?",
                        (*values, chosen),
                    )
            except sqlite3.IntegrityError:  # refused by the database
                continue
        connection.commit()


def render(*parts: RenderableType) -> None:
    console = Console(file=io.StringIO(), width=80)
    for part in parts:
        console.print(part)


@contextmanager
def opened(url: str) -> Iterator[StudyStore]:
    database = Database(url)
    try:
        yield StudyStore(database, "s")
    finally:
        database.rdb.engine.dispose()


def show_lists(store: StudyStore) -> None:
    render(studies.study_table(study_summaries(store.database, lambda text: None)))
    trials, objective = store.trials(), store.spec.metrics.objective
    render(studies.trial_table(trials, objective), worker_table(store.workers()))
    render(
        best_line(trials, objective),
        evaluation_cost(store.seconds()),
        measured_as(store.fingerprint(), "x"),
    )
    assert epochs_csv(trials).encode()
    assert "\ud800" not in str([trial_values(trial, "fid") for trial in trials])


def show_trials(store: StudyStore) -> None:
    for trial in store.trials():
        if trial.number < 2:
            trial_curves(store.spec, trial)
        known = ownership_history(store, trial.number), store.traceback(trial.number)
        render(trial_view(store.spec, trial, *known, 80))
        trial_details(store.spec, trial, *known, None)
        notebook_html.trial_card(store.spec, trial, "s")


def show_status(store: StudyStore) -> None:
    render(status_view(StudyPoller(store).snapshot(), store.spec))


def show_best(store: StudyStore) -> None:
    render(studies.comparison_table([("s", store.best()), ("t", store.best_kept())], "fid"))


def show_report(store: StudyStore) -> None:
    study_page(store.spec, store.summary(), store.fingerprint(), store.trials())
    PLOTS["marginals"].draw(store.spec, store.trials())


def show_in_notebook(store: StudyStore) -> None:
    trials = store.trials()
    data_frames.trials_frame(store.spec, trials)
    data_frames.epochs_frame(trials)
    notebook_html.study_card(store.spec, store.total, store.fingerprint(), trials, "s", "here")


def rank_curves(store: StudyStore) -> None:
    rank_correlations(curves_of(store.trials(), "fid", keeps_best=True))


def show_in_dashboard(store: StudyStore) -> None:
    refresh_plots(store, last=True)
    others = store.database.open_unfenced()
    for study in others.get_all_studies():
        others.get_all_trials(study._study_id)


def steer(store: StudyStore) -> None:
    steering.retry(store, 0)
    steering.enqueue(store, {"batch_size": 32}, {})
    steering.request_prune(store, 7, "enough")


ACTIONS: list[Callable[[StudyStore], None]] = [
    *(show_lists, show_trials, show_status, show_best, show_report),
    *(show_in_notebook, rank_curves, show_in_dashboard, steer),
]


def work(store: StudyStore) -> None:
    """Claim up to four trials; report an epoch of each, then end it."""
    with WorkerSession(store, MACHINE, lambda text: None, retry_seconds=0.0).joined() as session:
        for _ in range(4):
            claimed = session.claim(DATASET)
            if not isinstance(claimed, Claim):
                return
            new = epoch(len(claimed.history) + 1, 22.0)
            session.report(claimed, new, claimed.history)
            session.pruner_decision(claimed, new.epoch)
            session.finish(claimed, Complete(), note="a note")


@settings(
    max_examples=EXAMPLES,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(mutations=st.lists(MUTATIONS, min_size=1, max_size=4))
def test_damaged_rows_are_left_out_or_reported_in_one_line(
    whole: bytes, tmp_path: Path, mutations: list[tuple[str, str, int, int, Any]]
) -> None:
    for path in tmp_path.iterdir():
        path.unlink()
    path = tmp_path / "studies.db"
    path.write_bytes(whole)
    mutate(path, mutations)
    for use in (*ACTIONS, work):
        failure = ""
        try:
            with opened(f"sqlite:///{path}") as store:
                use(store)
        except TunerError as error:
            failure = str(error)
        assert "\n" not in failure
