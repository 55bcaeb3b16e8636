"""A study in a storm: its workers are killed, stopped and told to leave, its database restarted.

    python tests/storm.py --database postgres --kills 100 --stops 20 --restarts 10

Worker processes (of which some say that they share a machine) run one study. Each is dealt a card,
which says what becomes of it, a random time after it has claimed a trial or at a random step in the
database: it is killed, or stopped for longer than its lease and continued, or sent SIGTERM. Once
all cards are dealt, the workers are left alone until the study has ended. Then ``storm_checks``
looks for anything that should not be. The same seed deals the same cards, but processes race.

The workers are forked from a process that has imported JAX (see ``storm_workers``): they run the
command line's ``tuner worker``, and start some seconds sooner. Everything else is as it is in use:
the databases are a real Postgres on the loopback interface and a real SQLite file, the digits are
real, the networks tiny.
"""

import argparse
import gzip
import os
import random
import shutil
import signal
import struct
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import storm_checks
from postgres import Postgres
from storm_checks import Found, Log, Numbers, Outage
from storm_journal import keep_journal
from storm_workers import Nursery, is_stopped

from tuner.data import load_images
from tuner.run.files import open_files
from tuner.spec import DataSpec, StudySpec
from tuner.specfile import load_spec
from tuner.study.connections import Address
from tuner.study.creation import create_study
from tuner.study.database import Database

NAME = "storm"
LEASE = 3.0  # seconds
DATABASES = ("postgres", "sqlite")
SHARED_SHARE = 0.6  # of the workers are on one machine, the others on machines of their own
COUNTS = ("kills", "stops", "terms", "workers", "trials", "epochs", "seed", "latest_step")
MEASURES = ("seconds", "life", "steps")
MOST_SURPRISES = 10  # workers that left and should not have, before the storm is called off
HEADINGS = (
    *("database", "seed", "workers", "trials", "kills", "of them at a database step", "stops"),
    *("SIGTERMs", "restarts", "taken over: lease ran out", "same machine", "given back"),
    *("of them after an epoch", "leases lost", "epochs", "trained again", "seconds", "exact"),
    "violations",
)

STUDY = """
[study]
trials = {trials}
epochs = {epochs}
seed = {seed}
lease_seconds = {lease}
checkpoint_seconds = 0
max_takeovers = 1000

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
NO_PRUNER = 'name = "none"'


@dataclass(frozen=True)
class Plan:
    """A storm: its study, and how much of what is to happen."""

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
    life: float = 3.0  # seconds until something happens to a worker that has begun, at most
    trained: float = 0.8  # the share of workers that begin with an epoch, not with their claim
    leases: tuple[float, float] = (1.2, 2.5)  # how many a stop lasts
    steps: float = 0.4  # the share of kills and stops that come at a step in the database
    # A worker takes 85 steps before it trains, 25 an epoch, 90 at the end of a trial.
    latest_step: int = 250
    seconds: float = 1200.0  # after which all is ended

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
        )


class Card(NamedTuple):
    """What becomes of a worker, and when: at a ``step`` in the database; or where that is 0, some
    seconds ``after`` it has claimed a trial, or after it has trained an epoch of one."""

    what: str  # kill, stop, term
    step: int
    trained: bool
    after: float
    lasts: float  # of a stop, in seconds


@dataclass
class Worker:
    """A worker process as the storm sees it."""

    pid: int
    machine: str
    log: Path
    card: Card | None
    started: float  # seconds since 1970
    claimed: bool = False  # a trial
    begun: float | None = None  # when the time of its card began
    stopped: float | None = None
    killed: bool = False
    told_to_leave: bool = False


@dataclass
class Storm:
    """Runs workers and deals cards until the study has ended."""

    plan: Plan
    folder: Path
    url: str
    nursery: Nursery
    server: Postgres | None
    happened: Counter[str] = field(default_factory=Counter)
    outages: list[Outage] = field(default_factory=list)
    seconds: float = 0.0

    def __post_init__(self) -> None:
        plan = self.plan
        self._random = random.Random(plan.seed)
        self._deck = self._shuffled()
        self._cards = len(self._deck)
        self._living: list[Worker] = []
        self._gone: list[Worker] = []
        self._ended = False
        self._surprises = 0

    def _shuffled(self) -> deque[str]:
        plan = self.plan
        whats = ["kill"] * plan.kills + ["stop"] * plan.stops + ["term"] * plan.terms
        self._random.shuffle(whats)
        return deque(whats)

    def run(self) -> list[Log]:
        """Every worker that there was."""
        began = time.monotonic()
        deadline = began + self.plan.seconds
        while (self._living or not self._ended) and time.monotonic() < deadline:
            self._bury()
            if self._surprises > MOST_SURPRISES:
                break
            while len(self._living) < self.plan.workers and not self._ended:
                self._start()
            for worker in self._living:
                self._deal_with(worker)
            self._restart_if_due()
            time.sleep(0.03)
        self.seconds = time.monotonic() - began
        logs = [self._log_of(worker) for worker in (*self._gone, *self._living)]
        for worker in self._living:
            self.nursery.signal(worker.pid, signal.SIGKILL)
        return logs

    def _start(self) -> None:
        number = len(self._gone) + len(self._living)
        # Most share a machine, whose workers see at once that one of them has died.
        machine = "shared" if self._random.random() < SHARED_SHARE else f"machine-{number}"
        log = self.folder / f"worker-{number:04d}.log"
        card = self._draw(steps=self.plan.steps)
        step, signal_number = 0, 0
        if card is not None and card.step:
            step = card.step
            signal_number = signal.SIGKILL if card.what == "kill" else signal.SIGSTOP
        words = ["worker", NAME, "--storage", self.url]
        started = time.time()
        pid = self.nursery.start(words, machine, log, step, signal_number)
        self._living.append(Worker(pid, machine, log, card, started))

    def _draw(self, steps: float) -> Card | None:
        """The next card; a share of ``steps`` of them, at a step in the database."""
        if not self._deck:
            return None
        chance = self._random
        what, at_step = self._deck.popleft(), chance.random() < steps
        return Card(
            what,
            step=chance.randint(1, self.plan.latest_step) if at_step and what != "term" else 0,
            trained=chance.random() < self.plan.trained,
            after=chance.uniform(0.1, self.plan.life),
            lasts=LEASE * chance.uniform(*self.plan.leases),
        )

    def _deal_with(self, worker: Worker) -> None:
        """Do what the worker's card says once it is time."""
        now, card = time.monotonic(), worker.card
        worker.claimed = worker.claimed or storm_checks.has_claimed(worker.log)
        if card is None:
            return
        if worker.stopped is not None:
            if now > worker.stopped + card.lasts:
                self._continue(worker)
        elif card.step:
            if card.what == "stop" and is_stopped(worker.pid):
                self._note_stop(worker, "stops at a step")
        elif worker.begun is None:
            ready = storm_checks.has_trained if card.trained else storm_checks.has_claimed
            worker.begun = now if ready(worker.log) else None
        elif now > worker.begun + card.after:
            self._strike(worker, card)

    def _strike(self, worker: Worker, card: Card) -> None:
        if card.what == "stop":
            if 2 * sum(other.stopped is not None for other in self._living) >= len(self._living):
                return  # the others are to take its trial over
            self.nursery.signal(worker.pid, signal.SIGSTOP)
            self._note_stop(worker, "stops")
            return
        number = {"kill": signal.SIGKILL, "term": signal.SIGTERM}[card.what]
        self.nursery.signal(worker.pid, number)
        worker.told_to_leave = card.what == "term"
        worker.card = None

    def _note_stop(self, worker: Worker, what: str) -> None:
        worker.stopped = time.monotonic()
        self.happened[what] += 1

    def _continue(self, worker: Worker) -> None:
        self.nursery.signal(worker.pid, signal.SIGCONT)
        worker.stopped = None
        if worker.begun is not None:
            worker.begun = time.monotonic()
        worker.card = self._draw(steps=0.0)

    def _bury(self) -> None:
        for worker in [w for w in self._living if w.pid in self.nursery.exits]:
            self._living.remove(worker)
            self._gone.append(worker)
            code = self.nursery.exits[worker.pid].code
            if code == -signal.SIGKILL:
                worker.killed = True
                by_itself = worker.card is not None and worker.card.step
                self.happened["kills at a step" if by_itself else "kills"] += 1
            elif worker.told_to_leave:
                self.happened["terms"] += 1
            elif code == 0:
                self._ended = True
            elif storm_checks.was_refused(self._log_of(worker), self.outages):
                self.happened["refused"] += 1
            else:
                self._surprises += 1
            if not (worker.killed or worker.told_to_leave) and worker.card is not None:
                self._deck.append(worker.card.what)  # it left too early for it

    def _restart_if_due(self) -> None:
        """The server's crashes are spread evenly over the dealing of the cards, and come when half
        of the workers have something to lose."""
        done = self.happened["restarts"]
        if self.server is None or done >= self.plan.restarts or self._ended:
            return
        due = (done + 0.5) / self.plan.restarts * self._cards
        busy = sum(worker.claimed for worker in self._living)
        if self._cards - len(self._deck) < due or busy < self.plan.workers / 2:
            return
        began = time.time()
        self.server.stop("immediate")
        time.sleep(self._random.uniform(0.0, 1.3 * LEASE))
        self.server.start()
        self.outages.append(Outage(began, time.time()))
        self.happened["restarts"] += 1

    def _log_of(self, worker: Worker) -> Log:
        end = self.nursery.exits.get(worker.pid)
        return Log(worker.pid, worker.machine, worker.log, worker.started, end, worker.killed)


class Outcome(NamedTuple):
    """What came of a storm."""

    plan: Plan
    database: str
    happened: Counter[str]
    seconds: float
    found: Found
    violations: list[str]

    def row(self) -> str:
        """For a Markdown table, under ``HEADINGS``."""
        happened, found = self.happened, self.found
        taken = storm_checks.takeovers(found)
        cells = [
            *(self.database, self.plan.seed, self.plan.workers, self.plan.trials),
            *(self.kills, happened["kills at a step"], self.stops, happened["terms"]),
            *(happened["restarts"], taken.expired, taken.same_machine, taken.given_back),
            *(
                taken.after_an_epoch,
                storm_checks.leases_lost(found),
                sum(map(len, found.epochs.values())),
            ),
            *(storm_checks.trained_again(found), round(self.seconds)),
            *("yes" if found.reference is not None else "-", len(self.violations)),
        ]
        return table_row(cells)

    @property
    def kills(self) -> int:
        return self.happened["kills"] + self.happened["kills at a step"]

    @property
    def stops(self) -> int:
        return self.happened["stops"] + self.happened["stops at a step"]


def table_row(cells: Iterable[object]) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def table_head() -> str:
    return f"{table_row(HEADINGS)}\n|{' --- |' * len(HEADINGS)}"


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
    """Run the study of ``plan`` in a storm, in an empty ``folder``; what is found afterwards."""
    url = f"sqlite:///{folder}/studies.db" if server is None else server.new_database()
    spec = prepare(plan, folder, url)
    with nursery_in(folder, environment, unfenced=unfenced) as nursery:
        storm = Storm(plan, folder, url, nursery, server)
        logs = storm.run()
    params = storm_checks.undisturbed_params(spec, folder)
    found = storm_checks.find(url, NAME, logs, storm.outages, params, reference)
    wrong = storm_checks.violations(found)
    return Outcome(plan, database, storm.happened, storm.seconds, found, wrong)


def prepare(plan: Plan, folder: Path, url: str) -> StudySpec:
    """Put the study into the database, with its journal."""
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
def nursery_in(
    folder: Path, environment: dict[str, str], *, unfenced: bool = False
) -> Iterator[Nursery]:
    nursery = Nursery(folder, environment, unfenced=unfenced)
    try:
        yield nursery
    finally:
        nursery.close()


def undisturbed_numbers(plan: Plan, folder: Path, environment: dict[str, str]) -> Numbers:
    """Every epoch's FID in a run in which nothing happens, and no trial is given up early."""
    calm = replace(plan, pruner=NO_PRUNER, workers=2, kills=0, stops=0, terms=0, restarts=0)
    url = f"sqlite:///{folder}/studies.db"
    spec = prepare(calm, folder, url)
    with nursery_in(folder, environment) as nursery:
        logs = Storm(calm, folder, url, nursery, None).run()
    trained = storm_checks.trained_epochs(spec, logs)
    assert all(len(fids) == 1 for fids in trained.values()), "the machine's numbers vary"
    return {key: fid for key, [fid] in trained.items()}


def compile_programs(plan: Plan, folder: Path, environment: dict[str, str]) -> None:
    """Fill the cache of compiled programs: workers that are killed all the time never would."""
    undisturbed_numbers(replace(plan, trials=4, epochs=1), folder, environment)


# By hand, and from make storm


def write_digits(folder: Path, count: int) -> Path:
    """Real digits as MNIST's own files are written."""
    mnist = load_images(DataSpec())
    chosen = np.random.default_rng(0).permutation(len(mnist.images))[:count]
    assert mnist.labels is not None
    images, labels = mnist.images[chosen, 2:-2, 2:-2, 0], mnist.labels[chosen].astype(np.uint8)
    folder.mkdir()
    for name, array in (("train-images-idx3", images), ("train-labels-idx1", labels)):
        header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
        (folder / f"{name}-ubyte.gz").write_bytes(gzip.compress(header + array.tobytes()))
    return folder


def own_environment(folder: Path) -> dict[str, str]:
    """What the workers see: none of our settings, warnings as errors, a cache that they share."""
    mine = {
        "JAX_PLATFORMS": "cpu",
        "COLUMNS": "160",
        "PYTHONWARNINGS": "error,ignore::ResourceWarning",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    theirs = {k: v for k, v in os.environ.items() if not k.startswith("TUNER_")}
    return {"JAX_COMPILATION_CACHE_DIR": str(folder / "compiled")} | theirs | mine


def parse_words(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="A study in a storm.")
    add = parser.add_argument
    add("--database", choices=DATABASES, action="append", help="may be given twice; default: both")
    for name in (*COUNTS, "restarts"):
        add(f"--{name}", type=int, default=getattr(Plan, name))
    for name in MEASURES:
        add(f"--{name}", type=float, default=getattr(Plan, name))
    add("--images", type=int, default=1500, help="digits to train on: the length of an epoch")
    add("--exact", action="store_true", help="compare FIDs with those of an undisturbed run")
    add("--unfenced", action="store_true", help="let every worker write: checks must find it")
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
    numbers = {name: getattr(chosen, name) for name in (*COUNTS, *MEASURES)}
    environment = own_environment(folder)
    plan = Plan(write_digits(folder / "digits", chosen.images), restarts=chosen.restarts, **numbers)
    reference, calm = None, _new_folder(folder / "undisturbed")
    if chosen.exact:
        reference = undisturbed_numbers(plan, calm, environment)
    else:
        compile_programs(plan, calm, environment)
    rows, wrong = [table_head()], 0
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
    table = "\n".join(rows) + "\n"
    sys.stdout.write(table)
    if chosen.report:
        chosen.report.write_text(table)
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
    """What the storm was to bring and did not, the study having ended before."""
    plan, happened = outcome.plan, outcome.happened
    restarts = plan.restarts if outcome.database == "postgres" else 0
    pairs = {
        "kills": (outcome.kills, plan.kills),
        "stops": (outcome.stops, plan.stops),
        "restarts": (happened["restarts"], restarts),
    }
    return [f"found {got} {what}, expected {n}" for what, (got, n) in pairs.items() if got < n]


def _new_folder(folder: Path) -> Path:
    folder.mkdir()
    return folder


if __name__ == "__main__":
    sys.exit(main())
