"""A study under constant faults: workers killed, stopped and signalled, the database restarted.

    python tests/storm.py --database postgres --kills 100 --stops 20 --restarts 10

Worker processes, some of which claim to share a machine, run one study. Each is assigned a fault,
which strikes at a random time after the worker has claimed a trial, or at a random step in the
database. The worker is killed; stopped for longer than its lease, then continued; sent SIGTERM;
made to hang in an epoch; or sent SIGTERM, SIGINT or SIGHUP while it starts or compiles. Some
workers write to a pipe or a terminal whose reader leaves; some reach Postgres over a slow link. At
intervals the database freezes or restarts, or the disk of the artifacts is full. After the last
fault the workers finish the study undisturbed, and ``storm_checks`` looks for violations. The same
seed plans the same faults, but their effects differ because processes race.

The workers are forked from a process that has imported JAX (see ``storm_workers``), so that
``tuner worker`` starts some seconds sooner. Everything else is real: Postgres on
the loopback interface, an SQLite file, real digits; only the networks are tiny.
"""

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import storm_checks
from postgres import Postgres
from proxy import Proxy
from real_digits import write_digits
from storm_checks import Found, Log, Numbers
from storm_disruptions import (
    Disruption,
    Disruptions,
    frozen_server,
    full_disk,
    locked_file,
    restarts,
    small_disk,
)
from storm_journal import keep_journal
from storm_workers import ForkedWorkers, Injection, is_stopped

from tuner.files.study_files import open_files
from tuner.spec.loading import load_spec
from tuner.spec.study import StudySpec
from tuner.study.connections import Address
from tuner.study.creation import create_study
from tuner.study.database import Database

NAME = "storm"
LEASE = 3.0  # seconds
DATABASES = ("postgres", "sqlite")
ON_ONE_MACHINE = 0.6  # share of workers on one machine; each other has a machine of its own
COUNTS = (
    "kills",
    "stops",
    "terms",
    "signals",
    "hangs",
    "workers",
    "trials",
    "epochs",
    "seed",
    "latest_step",
)
DISRUPTIONS = ("restarts", "pauses", "fills")
MEASURES = ("seconds", "life", "steps", "timeout", "unread", "far")
MAX_UNEXPECTED_EXITS = 10  # beyond this, the storm is aborted
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
DELAYS = (0.0, 0.002, 0.01, 0.05)  # seconds for each message over a slow link

STUDY = """
[study]
trials = {trials}
epochs = {epochs}
seed = {seed}
lease_seconds = {lease}
checkpoint_seconds = 0
max_takeovers = 1000
epoch_timeout = {timeout}

[data]
source = "idx"
path = "{digits}"

[trial]
width = 2
latent_dim = 8
learning_rate = {{ low = 1e-4, high = 1e-2, log = true }}
beta1 = {{ low = 0.0, high = 0.9 }}
batch_size = {batch_size}

[[baseline]]
learning_rate = 2e-4

[sampler]
name = "random"

[pruner]
{pruner}

[guard]
variance_ratio = {{ enabled = false }}

[metrics]
features = "{features}"
samples = 200
"""
HALVING = 'name = "successive_halving"\nmin_resource = 3\nreduction_factor = 2'
ASHA = 'name = "asha"\nreduction_factor = 2'  # rungs at epochs 1, 2, 4, ...
NO_PRUNER = 'name = "none"'


@dataclass(frozen=True)
class Plan:
    """The study of a storm, and the number and kinds of its faults."""

    digits: Path
    trials: int = 40
    epochs: int = 6
    batch_size: str = "[32, 64]"
    features: str = "classifier"
    pruner: str = HALVING
    seed: int = 0
    workers: int = 4
    kills: int = 100
    stops: int = 20
    terms: int = 10
    restarts: int = 10
    pauses: int = 6  # freezes of the database
    fills: int = 3  # times that the disk of the artifacts is full
    signals: int = 15  # while a worker starts, or compiles
    hangs: int = 6
    timeout: float = 20.0  # seconds for an epoch
    unread: float = 0.25  # the share of workers whose output's reader leaves
    far: float = 0.3  # the share of workers that reach the server over a slow link
    life: float = 3.0  # longest delay of a fault after the worker has begun, in seconds
    trained: float = 0.8  # the share of delays that start with an epoch, not with the claim
    leases: tuple[float, float] = (1.2, 2.5)  # the duration of a stop, in multiples of a lease
    steps: float = 0.4  # the share of kills and stops that come at a step in the database
    # A worker takes 85 steps before it trains, 25 an epoch, 90 at the end of a trial.
    latest_step: int = 250
    seconds: float = 1200.0  # time limit of the storm

    @property
    def study(self) -> str:
        """The study file."""
        return STUDY.format(
            trials=self.trials,
            epochs=self.epochs,
            seed=self.seed,
            lease=LEASE,
            digits=self.digits,
            batch_size=self.batch_size,
            pruner=self.pruner,
            features=self.features,
            timeout=self.timeout,
        )


class Fault(NamedTuple):
    """A fault of a worker and its time: at a ``step`` in the database or, if that is 0, some
    seconds ``after`` the worker has claimed a trial or ``trained`` an epoch."""

    what: str  # kill, stop, term, signal, hang
    step: int
    trained: bool
    after: float
    lasts: float  # duration of a stop in seconds
    early: bool = False  # ``after`` counts from the start of the process


@dataclass
class Worker:
    """The storm's record of a worker process."""

    pid: int
    machine: str
    log: Path
    fault: Fault | None
    started: float  # seconds since 1970
    claimed: bool = False  # a trial
    begun: float | None = None  # start of the delay of its fault
    stopped: float | None = None
    killed: bool = False
    sent: int = 0  # the stop signal that it was sent
    cause: str = ""  # the kind of fault that sent it


@dataclass
class Storm:
    """Run workers and inject faults until the study has ended."""

    plan: Plan
    folder: Path
    url: str
    forked: ForkedWorkers
    server: Postgres | None
    happened: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    def __post_init__(self) -> None:
        plan = self.plan
        self._random = random.Random(plan.seed)
        self._faults = self._shuffled_faults()
        self._fault_count = len(self._faults)
        self._living: list[Worker] = []
        self._gone: list[Worker] = []
        self._ended = False
        self._unexpected_exits = 0
        self.disruptions = Disruptions(self._disruptions())
        self._proxy = Proxy(self.server.port) if self.server and plan.far else None

    def _disruptions(self) -> list[Disruption]:
        plan, paused = self.plan, (LEASE * 0.5, LEASE * 1.7)
        full = full_disk(self.folder / "artifacts", plan.fills, paused)
        if self.server is None:
            return [locked_file(self.folder / "studies.db", plan.pauses, paused), full]
        crashed = restarts(self.server, plan.restarts, (0.0, 1.3 * LEASE))
        return [crashed, frozen_server(self.server, plan.pauses, paused), full]

    def _shuffled_faults(self) -> deque[str]:
        plan = self.plan
        kinds = ["kill"] * plan.kills + ["stop"] * plan.stops + ["term"] * plan.terms
        kinds += ["signal"] * plan.signals + ["hang"] * plan.hangs
        self._random.shuffle(kinds)
        return deque(kinds)

    def run(self) -> list[Log]:
        """Run until the study ends or time is up; the logs of all workers."""
        began = time.monotonic()
        deadline = began + self.plan.seconds
        while (self._living or not self._ended) and time.monotonic() < deadline:
            self._reap()
            if self._unexpected_exits > MAX_UNEXPECTED_EXITS:
                break
            while len(self._living) < self.plan.workers and not self._ended:
                self._start()
            for worker in self._living:
                self._apply_fault(worker)
            self._update_disruptions()
            time.sleep(0.03)
        self.seconds = time.monotonic() - began
        logs = [self._log_of(worker) for worker in (*self._gone, *self._living)]
        for worker in self._living:
            self.forked.signal(worker.pid, signal.SIGKILL)
        return logs

    def _start(self) -> None:
        number = len(self._gone) + len(self._living)
        # Workers of one machine notice at once when one of them has died.
        machine = "shared" if self._random.random() < ON_ONE_MACHINE else f"machine-{number}"
        log = self.folder / f"worker-{number:04d}.log"
        fault = self._draw(steps=self.plan.steps)
        words = ["worker", NAME, "--storage", self._url_of_a_worker()]
        started = time.time()
        pid = self.forked.start(words, machine, log, self._injection(fault))
        self._living.append(Worker(pid, machine, log, fault, started))

    def _url_of_a_worker(self) -> str:
        """The database's URL for a new worker."""
        if self._proxy is None or self.server is None or self._random.random() > self.plan.far:
            return self.url
        self.happened["slow links"] += 1
        return self.url.replace(f":{self.server.port}/", f":{self._proxy.port}/")

    def _injection(self, fault: Fault | None) -> Injection:
        chance, injection = self._random, Injection()
        if fault is not None and fault.step:
            number = signal.SIGKILL if fault.what == "kill" else signal.SIGSTOP
            injection = injection._replace(step=fault.step, number=number)
        if fault is not None and fault.what == "hang":
            injection = injection._replace(hangs=chance.randint(1, 3))
        if chance.random() < self.plan.unread:
            kind = chance.choice(["pipe", "terminal"])
            injection = injection._replace(reader=kind, stays=chance.uniform(1.0, 10.0))
        return injection

    def _draw(self, steps: float) -> Fault | None:
        """The next fault; ``steps`` is the probability that it strikes at a database step."""
        if not self._faults:
            return None
        chance = self._random
        what, at_step = self._faults.popleft(), chance.random() < steps
        if what == "signal":
            early = chance.random() < 0.5
            return Fault(what, 0, False, chance.uniform(0.0, 3.0 if early else 0.5), 0.0, early)
        at_step = at_step and what in ("kill", "stop")
        return Fault(
            what,
            step=chance.randint(1, self.plan.latest_step) if at_step else 0,
            trained=chance.random() < self.plan.trained,
            after=chance.uniform(0.1, self.plan.life),
            lasts=LEASE * chance.uniform(*self.plan.leases),
        )

    def _apply_fault(self, worker: Worker) -> None:
        """Inject the worker's fault once it is due."""
        now, fault = time.monotonic(), worker.fault
        worker.claimed = worker.claimed or storm_checks.has_claimed(worker.log)
        if fault is None or fault.what == "hang":
            return
        if worker.stopped is not None:
            if now > worker.stopped + fault.lasts:
                self._continue(worker)
        elif fault.step:
            if fault.what == "stop" and is_stopped(worker.pid):
                self._record_stop(worker, "stops at a step")
        elif worker.begun is None:
            ready = storm_checks.has_trained if fault.trained else storm_checks.has_claimed
            worker.begun = now if fault.early or ready(worker.log) else None
        elif now > worker.begun + fault.after:
            self._signal(worker, fault)

    def _signal(self, worker: Worker, fault: Fault) -> None:
        if fault.what == "stop":
            if 2 * sum(other.stopped is not None for other in self._living) >= len(self._living):
                return  # enough workers must be running to take over its trial
            self.forked.signal(worker.pid, signal.SIGSTOP)
            self._record_stop(worker, "stops")
            return
        if fault.what == "kill":
            self.forked.signal(worker.pid, signal.SIGKILL)
        else:
            number = self._random.choice(SIGNALS) if fault.what == "signal" else signal.SIGTERM
            self.forked.signal(worker.pid, number)
            worker.sent, worker.cause = number, f"{fault.what}s"
        worker.fault = None

    def _record_stop(self, worker: Worker, what: str) -> None:
        worker.stopped = time.monotonic()
        self.happened[what] += 1

    def _continue(self, worker: Worker) -> None:
        self.forked.signal(worker.pid, signal.SIGCONT)
        worker.stopped = None
        if worker.begun is not None:
            worker.begun = time.monotonic()
        worker.fault = self._draw(steps=0.0)
        # A hang can only be injected when a worker starts.
        if worker.fault is not None and worker.fault.what == "hang":
            self._faults.append("hang")
            worker.fault = None

    def _reap(self) -> None:
        for worker in [w for w in self._living if w.pid in self.forked.exits]:
            self._living.remove(worker)
            self._gone.append(worker)
            code = self.forked.exits[worker.pid].code
            why = storm_checks.accepted_exit(self._log_of(worker), self.disruptions.outages)
            if code == -signal.SIGKILL:
                worker.killed = True
                by_itself = worker.fault is not None and worker.fault.step
                self.happened["kills at a step" if by_itself else "kills"] += 1
            elif code == 0 and not worker.sent:
                self._ended = True
            elif code == 0 or why is not None:
                self.happened[worker.cause or str(why)] += 1
            else:
                self._unexpected_exits += 1
            if why == "hangs":
                worker.fault = None
            if not (worker.killed or worker.sent) and worker.fault is not None:
                self._faults.append(worker.fault.what)  # it exited before its fault was due

    def _update_disruptions(self) -> None:
        """Spread the disruptions evenly over the faults, but wait until half of the workers have a
        trial to lose."""
        busy = sum(worker.claimed for worker in self._living) >= self.plan.workers / 2
        injected = self._fault_count - len(self._faults)
        active = busy and self._fault_count and not self._ended
        part = injected / self._fault_count if active else 0.0
        self.disruptions.advance(part, self._random.uniform)
        if self._proxy is not None and self._random.random() < 0.03:  # about once a second
            self._proxy.delay = self._random.choice(DELAYS)

    def _log_of(self, worker: Worker) -> Log:
        end = self.forked.exits.get(worker.pid)
        sent = (worker.sent,) if worker.sent else ()
        log, began = worker.log, worker.started
        return Log(worker.pid, worker.machine, log, began, end, worker.killed, sent)

    def close(self) -> None:
        self.disruptions.clear()
        if self._proxy is not None:
            self._proxy.cut()


class Outcome(NamedTuple):
    """The outcome of a storm."""

    plan: Plan
    database: str
    happened: Counter[str]
    seconds: float
    found: Found
    violations: list[str]

    def row(self) -> dict[str, object]:
        """The row of the results table, by heading."""
        happened, found = self.happened, self.found
        taken = storm_checks.takeovers(found)
        return {
            "database": self.database,
            "seed": self.plan.seed,
            "workers": self.plan.workers,
            "trials": self.plan.trials,
            "kills": self.kills,
            "of them at a database step": happened["kills at a step"],
            "stops": self.stops,
            "SIGTERMs": happened["terms"],
            "signals at the start": happened["signals"],
            "hung epochs": happened["hangs"],
            "restarts": happened["restarts"],
            "database pauses": happened["pauses"],
            "full disks": happened["full disks"],
            "workers that these ended": happened["ended by a full disk"],
            "slow links": happened["slow links"],
            "readers that left": storm_checks.readers_left(found),
            "epochs after that": storm_checks.epochs_after_reader_left(found),
            "taken over: lease ran out": taken.expired,
            "same machine": taken.same_machine,
            "given back": taken.given_back,
            "of them after an epoch": taken.after_an_epoch,
            "leases lost": storm_checks.leases_lost(found),
            "epochs": sum(map(len, found.epochs.values())),
            "trained again": storm_checks.trained_again(found),
            "seconds": round(self.seconds),
            "exact": "yes" if found.reference is not None else "-",
            "violations": len(self.violations),
        }

    @property
    def kills(self) -> int:
        return self.happened["kills"] + self.happened["kills at a step"]

    @property
    def stops(self) -> int:
        return self.happened["stops"] + self.happened["stops at a step"]


def table_row(cells: Iterable[object]) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def table(rows: list[dict[str, object]]) -> str:
    """A Markdown table with a line per heading and a column per storm."""
    lines = [table_row([heading, *(row[heading] for row in rows)]) for heading in rows[0]]
    return "\n".join([lines[0], table_row(["---"] * (len(rows) + 1)), *lines[1:]]) + "\n"


def run_storm(
    plan: Plan,
    database: str,
    folder: Path,
    environment: dict[str, str],
    server: Postgres | None = None,
    reference: Numbers | None = None,
    *,
    unfenced: bool = False,
) -> Outcome:
    """Run the study of ``plan`` in a storm, in an empty ``folder``, and check the results."""
    url = f"sqlite:///{folder}/studies.db" if server is None else server.new_database()
    with small_disk(folder / "artifacts") as small:
        if plan.fills and not small:
            sys.stdout.write("full disks are left out: no disk can be mounted here\n")
            plan = replace(plan, fills=0)
        spec = prepare(plan, folder, url)
        with forked_workers(folder, environment, unfenced=unfenced) as forked:
            storm = Storm(plan, folder, url, forked, server)
            try:
                logs = storm.run()
            finally:
                storm.close()
    outages = storm.disruptions.outages
    params = storm_checks.undisturbed_params(spec, folder)
    found = storm_checks.find(url, NAME, logs, outages, params, reference)
    wrong = storm_checks.violations(found)
    storm.happened.update(outage.what for outage in outages)
    return Outcome(plan, database, storm.happened, storm.seconds, found, wrong)


def prepare(plan: Plan, folder: Path, url: str) -> StudySpec:
    """Create the study with its journal in the database."""
    file = folder / f"{NAME}.toml"
    file.write_text(plan.study)
    spec = load_spec(file)
    store = create_study(Database(url, create=True), spec)
    open_files(store, str(folder / "artifacts"))
    store.database.rdb.engine.dispose()
    engine = Address(url).engine()
    keep_journal(engine)
    engine.dispose()
    return spec


@contextmanager
def forked_workers(
    folder: Path, environment: dict[str, str], *, unfenced: bool = False
) -> Iterator[ForkedWorkers]:
    forked = ForkedWorkers(folder, environment, unfenced=unfenced)
    try:
        yield forked
    finally:
        forked.close()


def without_faults(plan: Plan) -> Plan:
    """The plan without faults."""
    plan = replace(plan, kills=0, stops=0, terms=0, signals=0, hangs=0, unread=0.0, far=0.0)
    return replace(plan, restarts=0, pauses=0, fills=0)


def undisturbed_numbers(plan: Plan, folder: Path, environment: dict[str, str]) -> Numbers:
    """Each epoch's FID in a run without faults or pruning."""
    undisturbed = replace(without_faults(plan), pruner=NO_PRUNER, workers=2, timeout=3600.0)
    url = f"sqlite:///{folder}/studies.db"
    spec = prepare(undisturbed, folder, url)
    with forked_workers(folder, environment) as forked:
        logs = Storm(undisturbed, folder, url, forked, None).run()
    trained = storm_checks.trained_epochs(spec, logs)
    assert all(len(fids) == 1 for fids in trained.values()), (
        "FIDs vary between trainings on this machine"
    )
    return {key: fid for key, [fid] in trained.items()}


def compile_programs(plan: Plan, folder: Path, environment: dict[str, str]) -> None:
    """Fill the cache of compiled programs: workers may be killed before they fill it."""
    undisturbed_numbers(replace(plan, trials=4, epochs=1), folder, environment)


# The command line


def own_environment(folder: Path) -> dict[str, str]:
    """Environment of the workers: no TUNER_ variables, warnings as errors, one shared cache."""
    own = {
        "JAX_PLATFORMS": "cpu",
        "COLUMNS": "160",
        "PYTHONWARNINGS": "error,ignore::ResourceWarning",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("TUNER_")}
    return {"JAX_COMPILATION_CACHE_DIR": str(folder / "compiled")} | inherited | own


def parse_words(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="A study in a storm.")
    add = parser.add_argument
    add("--database", choices=DATABASES, action="append", help="repeatable; default: both")
    for name in (*COUNTS, *DISRUPTIONS):
        add(f"--{name}", type=int, default=getattr(Plan, name))
    for name in MEASURES:
        add(f"--{name}", type=float, default=getattr(Plan, name))
    add("--images", type=int, default=1500, help="digits to train on; sets the length of an epoch")
    add("--exact", action="store_true", help="compare FIDs with those of an undisturbed run")
    add("--unfenced", action="store_true", help="disable fencing, to see that the checks notice")
    add("--report", type=Path, help="a Markdown file for the results")
    add("--keep", type=Path, help="leave databases, files and logs in this folder")
    return parser.parse_args(words)


def main() -> int:
    chosen = parse_words(sys.argv[1:])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the server is stopped
    folder = chosen.keep or Path(tempfile.mkdtemp(prefix="tuner-storm-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        return _storms(chosen, folder)
    finally:
        if chosen.keep is None:
            shutil.rmtree(folder, ignore_errors=True)


def _storms(chosen: argparse.Namespace, folder: Path) -> int:
    numbers = {name: getattr(chosen, name) for name in (*COUNTS, *DISRUPTIONS, *MEASURES)}
    environment = own_environment(folder)
    digits = _new_folder(folder / "digits")
    write_digits(digits, chosen.images)
    plan = Plan(digits, **numbers)
    reference, undisturbed = None, _new_folder(folder / "undisturbed")
    if chosen.exact:
        reference = undisturbed_numbers(plan, undisturbed, environment)
    else:
        compile_programs(plan, undisturbed, environment)
    rows, wrong = list[dict[str, object]](), 0
    for database in chosen.database or DATABASES:
        outcome = _one_storm(
            plan, database, _new_folder(folder / database), environment, reference, chosen.unfenced
        )
        rows.append(outcome.row())
        shortfall = _shortfall(outcome)
        for line in (*outcome.violations, *shortfall):
            sys.stdout.write(f"{database}: {line}\n")
        wrong += len(outcome.violations) + len(shortfall)
        sys.stdout.flush()
    results = table(rows)
    sys.stdout.write(results)
    if chosen.report:
        chosen.report.write_text(results)
    return min(wrong, 1)


def _one_storm(
    plan: Plan,
    database: str,
    folder: Path,
    environment: dict[str, str],
    reference: Numbers | None,
    unfenced: bool,
) -> Outcome:
    server = Postgres() if database == "postgres" else None
    try:
        return run_storm(plan, database, folder, environment, server, reference, unfenced=unfenced)
    finally:
        if server is not None:
            server.remove()


def _shortfall(outcome: Outcome) -> list[str]:
    """Planned faults that did not happen because the study ended first."""
    plan, happened = outcome.plan, outcome.happened
    crashes = plan.restarts if outcome.database == "postgres" else 0
    pairs = {
        "kills": (outcome.kills, plan.kills),
        "stops": (outcome.stops, plan.stops),
        "restarts": (happened["restarts"], crashes),
        "pauses": (happened["pauses"], plan.pauses),
        "full disks": (happened["full disks"], plan.fills),
        "signals": (happened["signals"], plan.signals),
        "hangs": (happened["hangs"], plan.hangs),
    }
    return [
        f"only {got} of {n} planned {what} happened" for what, (got, n) in pairs.items() if got < n
    ]


def _new_folder(folder: Path) -> Path:
    folder.mkdir()
    return folder


if __name__ == "__main__":
    sys.exit(main())
