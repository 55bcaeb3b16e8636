"""A short storm on each database, and faults that its checks find. ``make storm`` runs longer."""

import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
import storm_checks
from postgres import Postgres
from storm import (
    ASHA,
    NAME,
    NO_PRUNER,
    Outcome,
    Plan,
    own_environment,
    run_storm,
    undisturbed_numbers,
    without_faults,
)
from storm_checks import Found, Numbers, lines_of
from storm_disruptions import Outage
from storm_workers import HANGS, TRAINED, Exit

from tuner.study.records import ARTIFACT
from tuner.study.space import derive_seed

pytestmark = pytest.mark.timeout(500)


class Undisturbed(NamedTuple):
    """The study of the storms and its numbers in an undisturbed run."""

    plan: Plan
    numbers: Numbers
    environment: dict[str, str]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, digits: Path) -> Undisturbed:
    folder = tmp_path_factory.mktemp("calm")
    plan = Plan(
        digits,
        trials=10,
        epochs=5,
        batch_size="64",
        features="random",
        seed=1,
        kills=6,
        stops=2,
        terms=1,
        signals=4,
        hangs=1,
        restarts=1,
        pauses=1,
        fills=1,
        timeout=30.0,
        unread=0.4,
        life=1.0,
        latest_step=150,
        seconds=200.0,
    )
    environment = own_environment(folder)
    return Undisturbed(plan, undisturbed_numbers(plan, folder, environment), environment)


def storm(
    undisturbed: Undisturbed, database: str, folder: Path, server: Postgres | None
) -> Outcome:
    return run_storm(
        undisturbed.plan, database, folder, undisturbed.environment, server, undisturbed.numbers
    )


@pytest.fixture(scope="module")
def on_sqlite(tmp_path_factory: pytest.TempPathFactory, undisturbed: Undisturbed) -> Outcome:
    return storm(undisturbed, "sqlite", tmp_path_factory.mktemp("sqlite"), None)


def assert_whole(outcome: Outcome) -> None:
    plan, happened = outcome.plan, outcome.happened
    assert outcome.violations == [], outcome.row()
    # The last faults may come too late: the study may have ended.
    assert outcome.kills >= plan.kills - 2, happened
    assert outcome.stops >= plan.stops - 1, happened
    assert happened["signals"] >= plan.signals - 2, happened
    assert happened["hangs"] >= plan.hangs, happened
    assert happened["pauses"] >= 1
    assert happened["full disks"] == outcome.plan.fills  # none where no disk can be mounted
    assert storm_checks.epochs_after_reader_left(outcome.found) >= 1
    taken = storm_checks.takeovers(outcome.found)
    assert taken.expired + taken.same_machine >= plan.kills / 2


def test_a_study_survives_a_storm_on_sqlite(on_sqlite: Outcome) -> None:
    assert_whole(on_sqlite)


def test_a_study_survives_a_storm_and_crashes_of_postgres(
    undisturbed: Undisturbed, tmp_path: Path
) -> None:
    """Its trials pause and are promoted."""
    server = Postgres()  # not the shared one, because the storm stops it
    promoting = undisturbed._replace(plan=replace(undisturbed.plan, pruner=ASHA))
    try:
        outcome = storm(promoting, "postgres", tmp_path, server)
    finally:
        server.remove()
    assert_whole(outcome)
    assert outcome.happened["restarts"] >= 1
    assert outcome.happened["slow links"] >= 1
    assert storm_checks.takeovers(outcome.found).promoted >= 5  # most trials ended paused


def test_a_storm_without_the_fence_shows_violations(
    undisturbed: Undisturbed, tmp_path: Path
) -> None:
    """Two workers, one trial: one is stopped and continues after the other has taken over."""
    plan = replace(
        without_faults(undisturbed.plan),
        trials=1,
        epochs=40,
        pruner=NO_PRUNER,
        workers=2,
        stops=undisturbed.plan.stops,
        life=0.5,
        trained=1.0,
        leases=(1.3, 1.5),
        steps=0.0,
    )
    for seed in range(3):  # the second worker may finish the trial too early
        folder = tmp_path / f"{seed}"
        folder.mkdir()
        plan = replace(plan, seed=seed)
        found = run_storm(plan, "sqlite", folder, undisturbed.environment, unfenced=True).violations
        if any("but it was owned by" in line for line in found):
            return
    raise AssertionError("a write without a lease was not noticed")


# The checks, on an intact study that is damaged on purpose

ALTERATIONS = [
    ("UPDATE trials SET state = 'RUNNING' WHERE trial_id = 1", "expected 10 complete or pruned"),
    ("UPDATE trials SET state = 'FAIL' WHERE trial_id = 1", "trial 0 failed"),
    ("UPDATE trials SET number = 77 WHERE trial_id = 10", "found the trial numbers"),
    ("UPDATE trial_params SET param_value = 0.001 WHERE trial_id = 2", "undisturbed it has"),
    ("UPDATE trial_values SET value = value + 1", "its value is"),
    ("UPDATE trial_intermediate_values SET intermediate_value = 0 WHERE step = 1", "Optuna has"),
    (
        "UPDATE trial_system_attributes SET value_json = '1.5' WHERE key = 'completed_rung_0'",
        "at rung 0 noted 1.5",
    ),
    ("DELETE FROM tuner_epochs WHERE epoch = 1", "found the epochs [2"),
    ("UPDATE tuner_epochs SET fid = fid + 1e-9", "undisturbed"),
    ("UPDATE tuner_epochs SET token = 99 WHERE epoch = 1", "tokens went back after epoch 1"),
    ("UPDATE tuner_epochs SET worker = 'x' WHERE epoch = 1", "a token belonged to two workers"),
    ("UPDATE tuner_epochs SET reported_at = 0 WHERE epoch = 2", "was reported before its previous"),
    ("UPDATE tuner_leases SET status = 'held'", "its lease ended as"),
    ("UPDATE tuner_workers SET left_at = NULL", "left without recording it"),
    ("UPDATE storm_journal SET token = token + 1 WHERE what = 'epoch'", "but it was owned by"),
    ("UPDATE storm_journal SET detail = '1' WHERE what = 'epoch'", "found a report of epoch 1"),
    (
        "UPDATE storm_journal SET old_expires_at = at + 1, old_worker = 'x'"
        " WHERE old_status = 'held' AND detail = 'held'",
        "was taken from an owner that lived",
    ),
    (
        "INSERT INTO storm_journal (at, what, trial_id) SELECT at, 'value', trial_id"
        " FROM storm_journal",
        "written to after its end",
    ),
    ("DELETE FROM storm_journal WHERE detail = 'done'", "ended while its lease was"),
    ("DELETE FROM storm_journal", "found no journal"),
]


@pytest.mark.parametrize(("statement", "words"), ALTERATIONS)
def test_checks_find_faults_in_the_database(
    on_sqlite: Outcome, tmp_path: Path, statement: str, words: str
) -> None:
    folder = folder_of(on_sqlite)
    copy = tmp_path / "studies.db"
    with sqlite3.connect(folder / "studies.db") as source, sqlite3.connect(copy) as altered:
        source.backup(altered)
        for (name,) in altered.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'"):
            altered.execute(f"DROP TRIGGER {name}")
        assert altered.execute(statement).rowcount > 0
    source.close()
    altered.close()
    found = look_again(on_sqlite.found, f"sqlite:///{copy}", folder / "artifacts")
    assert_found(found, words)


def folder_of(outcome: Outcome) -> Path:
    """The storm's folder; skips the test if its study is not intact."""
    if outcome.violations:
        pytest.skip("the study has violations already")
    return outcome.found.logs[0].path.parent


def look_again(found: Found, url: str, artifacts: Path) -> Found:
    return storm_checks.find(
        url,
        NAME,
        found.logs,
        found.outages,
        found.expected_params,
        found.reference,
        artifacts=str(artifacts),
    )


def assert_found(found: Found, words: str) -> None:
    lines = storm_checks.violations(found)
    assert any(words in line for line in lines), lines


def missing_generator(found: Found, folder: Path) -> Found:
    generator_of(found, folder).unlink()
    return found


def damaged_generator(found: Found, folder: Path) -> Found:
    file = generator_of(found, folder)
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    return found


def generator_of(found: Found, folder: Path) -> Path:
    """A generator that a trial names; a worker killed while saving may leave others."""
    names = (trial.user_attrs.get(ARTIFACT) for trial in found.trials)
    return next(folder.rglob(next(filter(None, names))))


def leftover_checkpoint(found: Found, folder: Path) -> Found:
    file = generator_of(found, folder)
    (file.parent / "checkpoints" / "trial-00000").mkdir(parents=True)
    shutil.copy(file, file.parent / "checkpoints" / "trial-00000" / "epoch-000001-000001.x")
    return found


def process_that_stays(found: Found, folder: Path) -> Found:
    return found._replace(logs=[log._replace(exit=None) for log in found.logs])


def process_that_fails(found: Found, folder: Path) -> Found:
    logs = [log._replace(exit=Exit(1, 0.0), killed=False) for log in found.logs]
    return found._replace(logs=logs)


def refused_without_an_outage(found: Found, folder: Path) -> Found:
    logs = [log._replace(exit=Exit(3, 0.0), killed=False) for log in found.logs]
    return found._replace(logs=logs, outages=[Outage(100.0, 101.0)])


def with_a_log_of(words: str) -> Callable[[Found, Path], Found]:
    def write(found: Found, folder: Path) -> Found:
        path = folder / "worker.log"
        path.write_text(words + "\n")
        return found._replace(logs=[*found.logs, found.logs[0]._replace(path=path)])

    return write


def hung_without_an_end(found: Found, folder: Path) -> Found:
    found = with_a_log_of(HANGS)(found, folder)
    *logs, log = found.logs
    return found._replace(logs=[*logs, log._replace(exit=Exit(0, 0.0), killed=False)])


SEED_OF_TRIAL_0 = derive_seed(1, 0)
DAMAGED = [
    (missing_generator, "is missing"),
    (damaged_generator, "its checksum does not match"),
    (leftover_checkpoint, "of a trial that has ended"),
    (process_that_stays, "did not leave"),
    (process_that_fails, "left with 1"),
    (refused_without_an_outage, "left with 3"),
    (hung_without_an_end, "hung, and left with 0"),
    (with_a_log_of("Traceback (most recent call last):"), "worker.log: Traceback"),
    (with_a_log_of("16:00:00 trial 1: the machines differ"), "the machines differ"),
    (with_a_log_of(f"{TRAINED} {SEED_OF_TRIAL_0} 1 0.5"), "trial 0 epoch 1: trained"),
]


@pytest.mark.parametrize(("damage", "words"), DAMAGED)
def test_checks_find_faults_in_files_and_logs(
    on_sqlite: Outcome, tmp_path: Path, damage: Callable[[Found, Path], Found], words: str
) -> None:
    folder = folder_of(on_sqlite)
    shutil.copytree(folder / "artifacts", tmp_path / "artifacts")
    url = f"sqlite:///{folder}/studies.db"
    found = look_again(on_sqlite.found, url, tmp_path / "artifacts")
    assert_found(damage(found, tmp_path), words)


def test_the_journal_is_complete(on_sqlite: Outcome) -> None:
    """It holds every report and every end of a trial; the logs hold every epoch."""
    found = on_sqlite.found
    reports = [note for note in found.journal if note.what == "epoch"]
    assert len(reports) == sum(map(len, found.epochs.values()))
    ends = [note for note in found.journal if note.detail in ("COMPLETE", "PRUNED")]
    assert len(ends) == len(found.trials)
    trained = [line for log in found.logs for line in lines_of(log) if line.startswith(TRAINED)]
    assert len(trained) >= len(reports)
