"""Invariants of a study after a storm, checked in its database, files and logs.

The database is read with plain SQL and plain Optuna, not with the code that wrote it.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import optuna
import sqlalchemy
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import text
from storm_disruptions import Outage
from storm_journal import Note, read_journal
from storm_workers import HANGS, ON_A_TERMINAL, READER_LEFT, TRAINED, Exit

from tuner.errors import HUNG_EXIT_CODE, InputError, StorageError, TunerError
from tuner.files.serialization import decode
from tuner.files.study_files import StudyFiles, open_files
from tuner.spec.pruners import AshaPruner
from tuner.spec.study import StudySpec
from tuner.study.claims import Claim
from tuner.study.connections import Address
from tuner.study.creation import create_study
from tuner.study.database import Database
from tuner.study.records import ARTIFACT, REASON
from tuner.study.rungs import Ladder
from tuner.study.session import WorkerSession
from tuner.study.space import derive_seed
from tuner.study.store import StudyStore
from tuner.study.verdict import Prune
from tuner.trial import DatasetInfo

LATE = 15.0  # seconds after a full disk in which workers may still exit because of it
DETECTION_DELAY = 0.5  # seconds until the harness notices a death, at most
LOST = ("another worker took it over", "reported, expected", "is another's now")
Numbers = dict[tuple[int, int], str]  # (trial's number, epoch): the FID in full


class Log(NamedTuple):
    """A worker process and its log."""

    pid: int
    machine: str
    path: Path
    began: float  # seconds since 1970
    exit: Exit | None  # None: it did not exit
    killed: bool  # by the storm
    sent: tuple[int, ...] = ()  # the stop signals that it was sent


class Epoch(NamedTuple):
    """A row of ``tuner_epochs``."""

    trial_id: int
    epoch: int
    fid: float | None
    reported_at: float
    worker: str | None
    token: int | None


class Found(NamedTuple):
    """The data that the checks read."""

    spec: StudySpec
    trials: list[FrozenTrial]
    epochs: dict[int, list[Epoch]]  # by trial id
    leases: dict[int, Any]
    workers: dict[str, Any]
    journal: list[Note]
    files: StudyFiles
    logs: list[Log]
    outages: list[Outage]
    expected_params: dict[int, dict[str, Any]]
    reference: Numbers | None  # of an undisturbed run


class Takeovers(NamedTuple):
    """Takeovers by the reason why the lease was free."""

    expired: int
    same_machine: int
    given_back: int
    after_an_epoch: int  # takeovers of these kinds after a report
    promoted: int  # from a pause, or to be ended after it


def find(
    url: str,
    name: str,
    logs: list[Log],
    outages: list[Outage],
    expected_params: dict[int, dict[str, Any]],
    reference: Numbers | None = None,
    artifacts: str | None = None,
) -> Found:
    """Read the study after the storm; ``artifacts`` overrides the location of its files."""
    address = Address(url)
    store = StudyStore(Database(url), name)
    engine = address.engine()
    with engine.connect() as connection:
        rows = connection.execute(
            text("SELECT trial_id, epoch, fid, reported_at, worker, token FROM tuner_epochs")
        )
        epochs = sorted(Epoch(*row) for row in rows)
        leases = {r.trial_id: r for r in connection.execute(text("SELECT * FROM tuner_leases"))}
        workers = {r.worker: r for r in connection.execute(text("SELECT * FROM tuner_workers"))}
        journal = read_journal(connection)
    engine.dispose()
    return Found(
        spec=store.spec,
        trials=_plain_optuna(address, name),
        epochs={key: list(rows) for key, rows in groupby(epochs, lambda row: row.trial_id)},
        leases=leases,
        workers=workers,
        journal=journal,
        files=open_files(store, artifacts),
        logs=logs,
        outages=outages,
        expected_params=expected_params,
        reference=reference,
    )


def _plain_optuna(address: Address, name: str) -> list[FrozenTrial]:
    url = address.url.render_as_string(hide_password=False)
    options = {"poolclass": sqlalchemy.NullPool}  # leaves no connection open
    storage = optuna.storages.RDBStorage(url.replace("{", "{{").replace("}", "}}"), options)
    return optuna.load_study(study_name=name, storage=storage).trials


def undisturbed_params(spec: StudySpec, folder: Path) -> dict[int, dict[str, Any]]:
    """Parameters by trial number if one worker claims all trials without faults."""
    store = create_study(Database(f"sqlite:///{folder}/undisturbed.db", create=True), spec)
    params: dict[int, dict[str, Any]] = {}
    with WorkerSession(store, {}, lambda _: None).joined() as session:
        while isinstance(claim := session.claim(DatasetInfo((32, 32, 1), 60_000)), Claim):
            params[claim.number] = claim.params
            session.finish(claim, Prune("claimed"))
    store.database.rdb.engine.dispose()
    return params


def violations(found: Found) -> list[str]:
    """All violations, one line each."""
    return [line for check in CHECKS for line in check(found)]


# Trials, as Optuna reads them


def check_trials(found: Found) -> Iterator[str]:
    states = Counter(trial.state.name for trial in found.trials)
    finished = states["COMPLETE"] + states["PRUNED"]
    if finished != found.spec.study.trials or finished != len(found.trials):
        yield f"found trials {dict(states)}, expected {found.spec.study.trials} complete or pruned"
    for trial in found.trials:
        if trial.state == TrialState.FAIL:
            yield f"trial {trial.number} failed: {trial.user_attrs.get(REASON)}"
    numbers = [trial.number for trial in found.trials]
    if numbers != list(range(len(numbers))):
        yield f"found the trial numbers {numbers}"


def check_params(found: Found) -> Iterator[str]:
    for trial in found.trials:
        expected = found.expected_params.get(trial.number)
        if trial.params != expected:
            yield f"trial {trial.number}: found {trial.params}, undisturbed it has {expected}"


def check_epochs(found: Found) -> Iterator[str]:
    """Each epoch is recorded once; Optuna's values are the best reports so far."""
    planned = found.spec.study.epochs
    for trial in found.trials:
        rows = found.epochs.get(trial._trial_id, [])
        epochs = [row.epoch for row in rows]
        if epochs != list(range(1, len(rows) + 1)) or not epochs:
            yield f"trial {trial.number}: found the epochs {epochs}"
        if trial.state == TrialState.COMPLETE and len(rows) != planned:
            yield f"trial {trial.number} is complete after {len(rows)} of {planned} epochs"
        best = _running_best(rows)
        if trial.intermediate_values != best:
            yield f"trial {trial.number}: Optuna has {trial.intermediate_values}, we have {best}"
        if trial.value != (min(best.values()) if best else None):
            yield f"trial {trial.number}: its value is {trial.value}, its epochs' best is {best}"


def _running_best(rows: Sequence[Epoch]) -> dict[int, float]:
    best: dict[int, float] = {}
    for row in rows:
        if row.fid is not None:
            best[row.epoch] = min([row.fid, *best.values()])
    return best


def check_pruner_notes(found: Found) -> Iterator[str]:
    """Successive halving records the value of a trial at each rung that it reached."""
    pruner = found.spec.pruner
    if pruner.name != "successive_halving":
        return
    for trial in found.trials:
        for rung in range(10):
            step = pruner.min_resource * pruner.reduction_factor**rung
            expected = trial.intermediate_values.get(int(step))
            noted = trial.system_attrs.get(f"completed_rung_{rung}")
            if noted != expected:
                yield f"trial {trial.number}: at rung {rung} noted {noted}, expected {expected}"


def check_rungs(found: Found) -> Iterator[str]:
    """With ``asha``, a trial that does not complete ends at a rung, and some trial completes."""
    if not isinstance(found.spec.pruner, AshaPruner):
        return
    ladder = Ladder.of(found.spec, found.spec.pruner)
    for trial in found.trials:
        last = len(found.epochs.get(trial._trial_id, []))
        if trial.state == TrialState.PRUNED and last not in ladder.rungs_of(trial.number):
            yield f"trial {trial.number}: pruned at epoch {last}, which is no rung"
    if not any(trial.state == TrialState.COMPLETE for trial in found.trials):
        yield "no trial is complete"


# Ownership of trials


def check_tokens(found: Found) -> Iterator[str]:
    """Successive owners have increasing tokens, by the reports alone."""
    for trial in found.trials:
        rows = found.epochs.get(trial._trial_id, [])
        for before, after in pairwise(rows):
            if (after.token or 0) < (before.token or 0):
                yield f"trial {trial.number}: tokens went back after epoch {before.epoch}"
            if after.reported_at < before.reported_at:
                yield f"trial {trial.number}: epoch {after.epoch} was reported before its previous"
        owners = {(row.token, row.worker) for row in rows}
        if len({token for token, _ in owners}) != len(owners):
            yield f"trial {trial.number}: a token belonged to two workers: {sorted(owners)}"
        lease = found.leases.get(trial._trial_id)
        if lease is None or lease.status != "done" or lease.epoch != len(rows):
            yield f"trial {trial.number}: its lease ended as {lease}, with {len(rows)} epochs"


def check_journal(found: Found) -> Iterator[str]:
    """Each trial had one owner at a time, which alone reported, and ended once."""
    numbers = {trial._trial_id: trial.number for trial in found.trials}
    by_trial: dict[int, list[Note]] = {}
    for note in found.journal:
        by_trial.setdefault(note.trial_id, []).append(note)
    for trial_id, notes in by_trial.items():
        for line in _TrialHistory(found).problems(notes):
            yield f"trial {numbers.get(trial_id)}: {line}"
    if not found.journal:
        yield "found no journal"


class _TrialHistory:
    """The journal of one trial, replayed from its beginning."""

    def __init__(self, found: Found) -> None:
        self._found = found
        self._lease: Note | None = None
        self._ended = False
        self._epoch = 0

    def problems(self, notes: Sequence[Note]) -> Iterator[str]:
        for note in notes:
            if self._ended:
                yield f"written to after its end: {note}"
            elif note.what == "lease":
                yield from self._lease_changed(note)
            elif note.what == "epoch":
                yield from self._reported(note)
            elif note.what == "state":
                yield from self._state_changed(note)
            elif self._lease is None and note.what == "value":
                yield f"written to without an owner: {note}"

    def _lease_changed(self, note: Note) -> Iterator[str]:
        before, self._lease = self._lease, note
        if before is None:
            if note.token != 1:
                yield f"its first token was not 1: {note}"
            return
        assert before.token is not None
        if note.token == before.token:
            freed = (before.detail, note.detail) == ("paused", "free")
            if note.worker not in (before.worker, None) or not (before.detail == "held" or freed):
                yield f"changed its owner under one token: {before}, {note}"
            return
        if note.token != before.token + 1 or before.detail == "done":
            yield f"its lease went from {before} to {note}"
        if before.detail == "held" and not _ran_out(note) and not self._had_died(note):
            yield f"was taken from an owner that lived, before the lease ran out: {note}"

    def _had_died(self, take: Note) -> bool:
        """Whether the old owner was a dead process on the new owner's machine."""
        old, new = (self._found.workers.get(str(x)) for x in (take.old_worker, take.worker))
        if old is None or new is None or old.host != new.host:
            return False
        exits = [
            log.exit for log in self._found.logs if (log.pid, log.machine) == (old.pid, old.host)
        ]
        return any(end is not None and end.at <= take.at + DETECTION_DELAY for end in exits)

    def _reported(self, note: Note) -> Iterator[str]:
        owner = self._lease
        if owner is None or owner.detail != "held":
            yield f"reported on without an owner: {note}"
        elif (note.worker, note.token) != (owner.worker, owner.token):
            yield f"reported on by {note}, but it was owned by {owner}"
        if note.detail != str(self._epoch + 1):
            yield f"found a report of epoch {note.detail} after epoch {self._epoch}"
        self._epoch += 1

    def _state_changed(self, note: Note) -> Iterator[str]:
        if note.detail in ("WAITING", "RUNNING"):
            return
        self._ended = True
        if self._lease is None or self._lease.detail != "done":
            yield f"ended while its lease was {self._lease}"


def _ran_out(take: Note) -> bool:
    return take.old_expires_at is not None and take.old_expires_at < take.at


def takeovers(found: Found) -> Takeovers:
    """Count the takeovers in the journal."""
    begun: set[int] = set()  # trials with a report
    kinds: Counter[str] = Counter()
    for note in found.journal:
        if note.what == "epoch":
            begun.add(note.trial_id)
        elif note.what == "lease" and note.detail == "held" and note.old_status == "paused":
            kinds["promoted"] += 1
        elif note.what == "lease" and note.detail == "held" and note.old_status is not None:
            lost = "expired" if _ran_out(note) else "died"
            kinds["free" if note.old_status == "free" else lost] += 1
            kinds["begun"] += note.trial_id in begun
    names = ("expired", "died", "free", "begun", "promoted")
    return Takeovers(*(kinds[name] for name in names))


# Files


def check_files(found: Found) -> Iterator[str]:
    """Each complete trial has the intact generator of its best epoch, and no checkpoint is left."""
    for trial in found.trials:
        name = trial.user_attrs.get(ARTIFACT)
        if name is None:
            if trial.state == TrialState.COMPLETE:
                yield f"trial {trial.number} is complete and kept no generator"
            continue
        data = found.files.read(name)
        if data is None:
            yield f"trial {trial.number}: its generator {name} is missing"
            continue
        try:
            about = decode(data, name)[1]
        except InputError as error:
            yield f"trial {trial.number}: {error}"
            continue
        if (about["trial"], about["fid"]) != (trial.number, trial.value):
            yield f"trial {trial.number}, value {trial.value}: its generator says {about}"
    for name in found.files.names("checkpoints"):
        yield f"found {name}, of a trial that has ended"


# Logs and processes


def check_logs(found: Found) -> Iterator[str]:
    for log in found.logs:
        where, lines = log.path.name, lines_of(log)
        accepted = accepted_exit(log, found.outages) is not None
        if log.exit is not None and log.exit.code != 0 and not (log.killed or accepted):
            yield f"{where}: left with {log.exit.code}: {lines[-1:]}"
        if (
            HANGS in lines
            and log.exit is not None
            and not log.killed
            and log.exit.code != HUNG_EXIT_CODE
        ):
            yield f"{where}: hung, and left with {log.exit.code}"
        ends_with_error = accepted and lines and lines[-1].startswith("tuner: ")
        for line in lines[:-1] if ends_with_error else lines:
            if not re.match(r"\d\d:\d\d:\d\d |storm: ", line):
                yield f"{where}: {line}"
            if "the machines differ" in line:
                yield f"{where}: {line}"
        screen = log.path.with_name(f"{where}.screen")
        if screen.exists() and "Traceback" in screen.read_text(errors="replace"):
            yield f"{screen.name}: found a traceback"


def accepted_exit(log: Log, outages: Sequence[Outage]) -> str | None:
    """An accepted reason for exiting with one line and a code other than 0, or None."""
    if log.exit is None:
        return None
    lines, code = lines_of(log), log.exit.code
    error = lines[-1] if lines and lines[-1].startswith("tuner: ") else ""

    def says(*expected: str) -> bool:
        return output_lost(lines) or any(text in error for text in expected)

    if was_refused(log, outages):
        return "refused"
    if code == HUNG_EXIT_CODE and says(" hung: unfinished after "):
        return "hangs"
    full = exited_with(log, TunerError.exit_code) and says("No space left on device")
    if full and _was_full(log.exit.at, outages):
        return "ended by a full disk"
    at_once = code - 128 in log.sent and says("stopped at once", "interrupted")
    if at_once or (-code in log.sent and not lines):
        return "stopped at once"
    return None


def _was_full(at: float, outages: Sequence[Outage]) -> bool:
    return any(x.what == "full disks" and x.began <= at <= x.ended + LATE for x in outages)


def output_lost(lines: Sequence[str]) -> bool:
    """Whether the worker's last lines may be missing from its log."""
    return READER_LEFT in lines or ON_A_TERMINAL in lines


def readers_left(found: Found) -> int:
    return sum(READER_LEFT in lines_of(log) for log in found.logs)


def epochs_after_reader_left(found: Found) -> int:
    """Epochs trained after the reader of the worker's output had left."""
    logs = [lines_of(log) for log in found.logs]
    after = [lines[lines.index(READER_LEFT) :] for lines in logs if READER_LEFT in lines]
    return sum(line.startswith(TRAINED) for lines in after for line in lines)


def has_claimed(path: Path) -> bool:
    """Whether the worker's log mentions a trial."""
    log = path.read_text() if path.exists() else ""
    return any(words in log for words in (" starts: ", " continues after ", f"{TRAINED} "))


def has_trained(path: Path) -> bool:
    """Whether the worker's log mentions an epoch."""
    return path.exists() and f"{TRAINED} " in path.read_text()


def exited_with(log: Log, code: int) -> bool:
    """Whether a worker exited with ``code``, or was killed after it had printed its error."""
    if log.exit is None:
        return False
    killed = log.exit.code < 0 and (log.killed or -log.exit.code in log.sent)
    last = "".join(lines_of(log)[-1:])
    return log.exit.code == code or (killed and last.startswith("tuner: "))


def was_refused(log: Log, outages: Sequence[Outage]) -> bool:
    """Whether a worker exited because the database was unreachable at its start. Only workers that
    have joined wait for the database."""
    if log.exit is None or not exited_with(log, StorageError.exit_code):
        return False
    lines, began, left = lines_of(log), log.began, log.exit.at
    away = [outage for outage in outages if outage.what in ("restarts", "pauses")]
    return (len(lines) == 1 or output_lost(lines)) and any(
        began <= outage.ended and outage.began <= left for outage in away
    )


def lines_of(log: Log) -> list[str]:
    """The complete lines of a worker's log."""
    if not log.path.exists():
        return []
    *lines, _ = log.path.read_text().split("\n")
    return lines


def check_processes(found: Found) -> Iterator[str]:
    """Every worker has exited."""
    for log in found.logs:
        if log.exit is None:
            yield f"{log.path.name}: process {log.pid} did not leave"


def check_recorded_exits(found: Found) -> Iterator[str]:
    """Workers that exited in an orderly way have recorded it in the database."""
    accepted = ("refused", "hangs", "stopped at once")
    silent = {
        (log.pid, log.machine)
        for log in found.logs
        if log.killed or accepted_exit(log, found.outages) in accepted
    }
    for worker in found.workers.values():
        if worker.left_at is None and (worker.pid, worker.host) not in silent:
            yield f"worker {worker.worker} (process {worker.pid}) left without recording it"


# Numbers


def check_numbers(found: Found) -> Iterator[str]:
    """Training an epoch always gave the reported FID to the last bit, as did an undisturbed run."""
    reported = {
        (trial.number, row.epoch): repr(row.fid)
        for trial in found.trials
        for row in found.epochs.get(trial._trial_id, [])
    }
    trained = trained_epochs(found.spec, found.logs)
    if not trained:
        yield "found no trained epochs in the logs"
    for key, fids in trained.items():
        for what, others in (("reported", reported), ("undisturbed", found.reference or {})):
            if key in others and fids != {others[key]}:
                yield f"trial {key[0]} epoch {key[1]}: trained {fids}, {what} {others[key]}"
    for key, fid in reported.items():
        undisturbed = found.reference and found.reference.get(key)
        if found.reference is not None and undisturbed != fid:
            yield f"trial {key[0]} epoch {key[1]}: FID {fid}, undisturbed {undisturbed}"


def trained_epochs(spec: StudySpec, logs: Sequence[Log]) -> dict[tuple[int, int], set[str]]:
    """All FIDs that training an epoch gave, by trial number and epoch."""
    numbers = {derive_seed(spec.study.seed, n): n for n in range(2 * spec.study.trials)}
    found: dict[tuple[int, int], set[str]] = {}
    for seed, epoch, fid in _trained_lines(logs):
        found.setdefault((numbers[int(seed)], int(epoch)), set()).add(fid)
    return found


def _trained_lines(logs: Sequence[Log]) -> list[list[str]]:
    lines = (line for log in logs for line in lines_of(log))
    return [line.removeprefix(TRAINED).split() for line in lines if line.startswith(TRAINED)]


def trained_again(found: Found) -> int:
    """How many times an epoch was trained without a report."""
    return len(_trained_lines(found.logs)) - sum(len(rows) for rows in found.epochs.values())


def leases_lost(found: Found) -> int:
    """How many times a worker lost its trial to another."""
    lines = (line for log in found.logs for line in lines_of(log))
    return sum(any(words in line for words in LOST) for line in lines)


CHECKS: tuple[Callable[[Found], Iterator[str]], ...] = (
    check_trials,
    check_params,
    check_epochs,
    check_pruner_notes,
    check_rungs,
    check_tokens,
    check_journal,
    check_files,
    check_logs,
    check_processes,
    check_recorded_exits,
    check_numbers,
)
