"""The cost of sharing a study: latency of database operations by number of workers.

    python benchmarks/storage.py --workers 1 16 64 256

Workers are processes that train nothing: an epoch is a sleep. The study already has 1,000 trials of
up to 50 epochs. Bare Optuna (report and should_prune on the same server, with the same history)
takes turns with tuner in the same run: the difference is the cost of leases, our tables and
fencing. Starts its own Postgres server; with --pgbouncer, workers reach it through the pgbouncer on
the PATH or in /usr/sbin.
"""

import argparse
import contextlib
import multiprocessing
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.queues import Queue
from pathlib import Path
from queue import Empty
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import optuna
import psycopg
from optuna.trial import TrialState
from postgres import PASSWORD, Postgres, free_port

from tuner.epoch_report import EpochReport
from tuner.spec.loading import parse_spec
from tuner.study.claims import Claim
from tuner.study.creation import create_study
from tuner.study.database import Database
from tuner.study.session import WorkerSession
from tuner.study.store import StudyStore
from tuner.study.verdict import Continue, verdict
from tuner.trial import DatasetInfo

TRIALS, EPOCHS = 1000, 50
COLUMNS = (
    *("workers", "", "claim", "report and verdict", "finish", "heartbeat"),
    *("connections", "CPU", "retries", "errors"),
)
SHAPE = (32, 32, 1)
SPACE = {
    "learning_rate": optuna.distributions.FloatDistribution(1e-4, 1e-2, log=True),
    "batch_size": optuna.distributions.CategoricalDistribution([32, 64, 128]),
}
Sample = tuple[str, float]  # an operation and its seconds, or an announcement and 0


def spec(name: str) -> Any:
    return parse_spec(
        {
            "study": {"name": name, "trials": 100_000, "epochs": EPOCHS, "lease_seconds": 60},
            "trial": {
                "learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
                "batch_size": [32, 64, 128],
            },
            "guard": {"loss_ratio": {"enabled": False}, "variance_ratio": {"enabled": False}},
        },
        "benchmark",
    )


def make_report(epoch: int, fid: float) -> EpochReport:
    return EpochReport(epoch, fid, 1.2, 0.8, 1.0, 0.8, 0.7, True, epoch, 64 * epoch, 1.0, 0.1)


def fill(url: str, study: str, trials: int) -> None:
    """Add the history of an earlier run. A quarter of the trials ran to the last epoch, the others
    were pruned at the rungs of successive halving."""
    rng = random.Random(0)
    optuna_study = optuna.load_study(study_name=study, storage=optuna_url(url))
    frozen = []
    for i in range(trials):
        last = rng.choice((1, 3, 9, EPOCHS))
        fid, values = rng.uniform(200, 400), {}
        for epoch in range(1, last + 1):
            fid *= rng.uniform(0.93, 1.0)
            values[epoch] = fid
        rungs = [r for r, step in enumerate((1, 3, 9, 27)) if step <= last]
        frozen.append(
            optuna.trial.create_trial(
                state=TrialState.COMPLETE if last == EPOCHS else TrialState.PRUNED,
                value=fid,
                params={"learning_rate": 10 ** rng.uniform(-4, -2), "batch_size": 32 << i % 3},
                distributions=SPACE,
                intermediate_values=values,
                system_attrs={f"completed_rung_{r}": values[3**r] for r in rungs},
            )
        )
    optuna_study.add_trials(frozen)


def optuna_url(url: str) -> str:
    return url.replace("postgresql://", "postgresql+psycopg://", 1)


def open_bare(url: str) -> optuna.Study:
    """The study as a plain Optuna worker opens it."""
    storage = optuna.storages.RDBStorage(
        optuna_url(url),
        engine_kwargs={"pool_size": 1, "max_overflow": 1, "pool_pre_ping": True},
        skip_table_creation=True,
    )
    sampler = optuna.samplers.TPESampler(constant_liar=True)
    pruner = optuna.pruners.SuccessiveHalvingPruner(reduction_factor=3)
    return optuna.load_study(study_name="bare", storage=storage, sampler=sampler, pruner=pruner)


@contextlib.contextmanager
def timed(samples: list[Sample], what: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    samples.append((what, time.perf_counter() - began))


def sleep_about(seconds: float, rng: random.Random) -> None:
    time.sleep(rng.uniform(0.67, 1.33) * seconds)


def warm_study(kind: str, url: str) -> Any:
    """Open the study for workers to fork, with its history in memory and its statements compiled,
    as in a worker that has run for long. Otherwise all workers would spend a second on that at the
    same time."""
    study = StudyStore(Database(url), "ours") if kind == "tuner" else open_bare(url)
    run(study, 0.1, time.time() + 3.0, random.Random(0))
    return study


def run(study: Any, seconds: float, until: float, rng: random.Random) -> list[Sample]:
    """Run trials until the time ``until``; an epoch takes ``seconds`` on average."""
    ours = isinstance(study, StudyStore)
    return (run_ours if ours else run_bare)(study, seconds, until, rng)


def drop_connections(storage: Any) -> None:
    """Forget the parent's connections after a fork, without closing them."""
    storage.remove_session()
    storage.engine.dispose(close=False)


def run_ours(store: Any, seconds: float, until: float, rng: random.Random) -> list[Sample]:
    samples: list[Sample] = []
    warm = False
    drop_connections(store.database.rdb)

    def announce(text: str) -> None:
        samples.append((text, 0.0))

    with WorkerSession(store, {"device": "none"}, announce).joined() as session:
        sleep_about(seconds, rng)
        while time.time() < until:
            with timed(samples, "claim"):
                claim = session.claim(DatasetInfo((32, 32, 1), 60_000))
            if not isinstance(claim, Claim):
                break
            run_trial(session, claim, samples, seconds, until, rng)
            if not warm:
                drop_times(samples)
                warm = True
    return samples


def drop_times(samples: list[Sample]) -> None:
    """Drop the times of a worker's first trial, but not its announcements."""
    samples[:] = [sample for sample in samples if sample[1] == 0.0]


def run_trial(
    session: WorkerSession,
    claim: Claim,
    samples: list[Sample],
    seconds: float,
    until: float,
    rng: random.Random,
) -> None:
    history = list(claim.history)
    fid = history[-1].fid if history and history[-1].fid else rng.uniform(200, 400)
    end: Any = Continue()
    while isinstance(end, Continue):
        sleep_about(seconds, rng)
        if time.time() > until:
            session.release(claim)
            return
        fid *= rng.uniform(0.93, 1.0)
        report = make_report(len(history) + 1, fid)
        with timed(samples, "report"):
            request = session.report(claim, report, history)
            history.append(report)
            early = session.pruner_decision(claim, report.epoch)
            end = verdict(session.spec.guard, history, EPOCHS, early, request)
        with timed(samples, "heartbeat"):
            session._heart.beat()
    with timed(samples, "finish"):
        session.finish(claim, end)


def run_bare(study: Any, seconds: float, until: float, rng: random.Random) -> list[Sample]:
    samples: list[Sample] = []
    warm = False
    drop_connections(study._storage._backend)
    sleep_about(seconds, rng)
    while time.time() < until:
        with timed(samples, "claim"):
            trial = study.ask(fixed_distributions=SPACE)
        fid, stop = rng.uniform(200, 400), False
        for epoch in range(1, EPOCHS + 1):
            sleep_about(seconds, rng)
            if time.time() > until:
                study.tell(trial, state=TrialState.FAIL)
                return samples
            fid *= rng.uniform(0.93, 1.0)
            with timed(samples, "report"):
                trial.report(fid, epoch)
                stop = trial.should_prune()
            if stop:
                break
        with timed(samples, "finish"):
            if stop:
                study.tell(trial, state=TrialState.PRUNED)
            else:
                study.tell(trial, fid)
        if not warm:
            drop_times(samples)
            warm = True
    return samples


def work(study: Any, seconds: float, until: float, seed: int, results: "Queue[Any]") -> None:
    try:
        results.put((run(study, seconds, until, random.Random(seed)), None))
    except Exception as error:
        results.put(([], f"{type(error).__name__}: {error}"))


def measure(
    kind: str, url: str, load: "ServerLoad", workers: int, seconds: float, duration: float
) -> dict[str, Any]:
    """Run ``workers`` processes for ``duration`` seconds; their samples, and the server's load."""
    context = multiprocessing.get_context("fork")
    results: Queue[Any] = context.Queue()
    study = warm_study(kind, url)
    start_up = 2 + 0.1 * workers
    until = time.time() + start_up + duration
    processes = [
        context.Process(target=work, args=(study, seconds, until, seed, results))
        for seed in range(workers)
    ]
    before, idle, most = load.cpu_seconds(), load.connections(), 0
    for process in processes:
        process.start()
    collected: list[tuple[list[Sample], str | None]] = []
    while len(collected) < workers:
        most = max(most, load.connections())
        with contextlib.suppress(Empty):
            collected.append(results.get(timeout=0.5))
    for process in processes:
        process.join(timeout=30)
    samples = [sample for found, _ in collected for sample in found]
    errors = [error for _, error in collected if error]
    return {
        "samples": samples,
        "errors": errors,
        "connections": most - idle,
        "cpu": (load.cpu_seconds() - before) / (start_up + duration),
    }


class ServerLoad:
    """The server's connections, and the processor time of all its processes so far."""

    def __init__(self, server: Postgres) -> None:
        self._connection = server.connect()
        self._seen: dict[str, float] = {}  # seconds by process

    def connections(self) -> int:
        """Client connections of the moment, except this one."""
        self._record_cpu()
        row = self._connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"
        ).fetchone()
        assert row is not None
        return int(row[0]) - 1

    def _record_cpu(self) -> None:
        """Record the processor time of each server process while it lives."""
        tick = os.sysconf("SC_CLK_TCK")
        for folder in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError, IndexError):
                fields = (folder / "stat").read_text().rpartition(")")
                if "(postgres" in fields[0]:
                    numbers = fields[2].split()
                    key = f"{folder.name}-{numbers[19]}"
                    self._seen[key] = (int(numbers[11]) + int(numbers[12])) / tick

    def cpu_seconds(self) -> float:
        self._record_cpu()
        return sum(self._seen.values())


def quantiles(samples: list[Sample], what: str) -> str:
    values = sorted(1000 * seconds for name, seconds in samples if name == what)
    if len(values) < 2:
        return "-"
    p95 = values[min(len(values) - 1, int(0.95 * len(values)))]
    return f"{statistics.median(values):.1f} / {p95:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--epoch-seconds", type=float, default=3.0)
    parser.add_argument("--duration", type=float, default=60.0)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--pgbouncer", choices=["transaction", "session"], help="its pool mode")
    options = parser.parse_args()
    server = Postgres()
    server.execute("ALTER SYSTEM SET max_connections = 600")  # two per worker, and some to spare
    server.stop("fast")
    server.start()
    proxy = contextlib.ExitStack()
    try:
        url = server.new_database()
        prepare(url)
        if options.pgbouncer:
            url = proxy.enter_context(pgbouncer(server, options.pgbouncer, url))
        load = ServerLoad(server)
        print(f"| {' | '.join(COLUMNS)} |")
        print("| --- " * len(COLUMNS) + "|")
        for workers in options.workers:
            for _ in range(options.rounds):
                for kind in ("bare", "tuner"):
                    times = options.epoch_seconds, options.duration
                    measured = measure(kind, url, load, workers, *times)
                    print(row(workers, kind, measured), flush=True)
    finally:
        proxy.close()
        server.remove()


PGBOUNCER = """
[databases]
* = host=127.0.0.1 port={server}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {folder}/users
pool_mode = {mode}
max_client_conn = 1000
default_pool_size = {size}
"""


@contextlib.contextmanager
def pgbouncer(server: Postgres, mode: str, url: str) -> Iterator[str]:
    """The database's URL through PgBouncer; in transaction mode over 20 connections at most."""
    port, size = free_port(), 20 if mode == "transaction" else 500
    with tempfile.TemporaryDirectory(prefix="tuner-pgbouncer-") as name:
        folder = Path(name)
        settings = PGBOUNCER.format(
            server=server.port, port=port, folder=folder, mode=mode, size=size
        )
        (folder / "settings.ini").write_text(settings)
        (folder / "users").write_text(f'"owner" "{PASSWORD}"\n')
        root = os.getuid() == 0  # PgBouncer refuses to run as root
        if root:
            for path in (folder, *folder.iterdir()):
                shutil.chown(path, "nobody")
        program = shutil.which("pgbouncer") or "/usr/sbin/pgbouncer"
        process = subprocess.Popen(
            [program, "--quiet", str(folder / "settings.ini")], user="nobody" if root else None
        )
        try:
            time.sleep(1)
            yield url.replace(f":{server.port}/", f":{port}/")
        finally:
            process.terminate()
            process.wait(timeout=10)


def prepare(url: str) -> None:
    """Create a study of each kind with the same history."""
    database = Database(url, create=True)
    store = create_study(database, spec("ours"))
    store.record_artifacts("none")
    optuna.create_study(study_name="bare", storage=optuna_url(url), direction="minimize")
    fill(url, "bare", TRIALS)
    with psycopg.connect(url, autocommit=True) as connection:
        copy_trials(connection, store.study_id)
        connection.execute("ANALYZE")


def copy_trials(connection: Any, study_id: int) -> None:
    """Copy all trials to another study."""
    columns = {
        "trial_params": "param_name, param_value, distribution_json",
        "trial_values": "objective, value, value_type",
        "trial_intermediate_values": "step, intermediate_value, intermediate_value_type",
        "trial_system_attributes": "key, value_json",
    }
    last = connection.execute("SELECT max(trial_id) FROM trials").fetchone()[0]
    connection.execute(
        "INSERT INTO trials (trial_id, number, study_id, state, datetime_start, datetime_complete) "
        f"SELECT trial_id + {last}, number, {study_id}, state, datetime_start, datetime_complete "
        "FROM trials"
    )
    for table, names in columns.items():
        theirs = f"SELECT trial_id + {last}, {names} FROM {table}"
        connection.execute(f"INSERT INTO {table} (trial_id, {names}) {theirs}")
    connection.execute(f"SELECT setval('trials_trial_id_seq', {2 * last})")


def row(workers: int, kind: str, measured: dict[str, Any]) -> str:
    samples, errors = measured["samples"], measured["errors"]
    cells = [quantiles(samples, what) for what in ("claim", "report", "finish", "heartbeat")]
    retries = sum("trying again" in text for text, seconds in samples if seconds == 0.0)
    cells += [f"{measured['connections']}", f"{measured['cpu']:.2f}", f"{retries}"]
    error = f"{len(errors)}: {errors[0][:80]}" if errors else "0"
    return f"| {workers} | {kind} | {' | '.join(cells)} | {error} |"


if __name__ == "__main__":
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    main()
