"""Creation of studies: repeated, concurrent, interrupted, refused, in unusable databases."""

import os
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
import study_databases
from builders import RANGES
from postgres import Postgres
from study_databases import RANDOM, Studies, claim, spec

from tuner.errors import InputError, StorageError
from tuner.study.creation import create_study, study_summaries
from tuner.study.database import Database
from tuner.study.tables import TOKEN

url, studies = study_databases.url, study_databases.studies

BASELINES = "[[baseline]]\nbeta1 = 0.5\n[[baseline]]\nbeta1 = 0.25\n"


def test_creating_a_study_twice_changes_nothing(studies: Studies) -> None:
    first = studies.create(RANDOM + BASELINES)
    store = studies.create(RANDOM + BASELINES)
    assert store.database.study_names() == ["s"]
    assert len(studies.trials()) == 2
    assert (store.token, store.study_id) == (first.token, first.study_id)
    assert store.spec == spec(RANDOM + BASELINES)


def test_another_study_file_is_refused(studies: Studies) -> None:
    studies.create()
    claim(studies.join())
    with pytest.raises(InputError) as caught:
        studies.create(RANDOM.replace("0.9", "0.8"), epochs=9)
    text = str(caught.value)
    assert "study 's'" in text
    assert "study.epochs: 4 in the database, 9 in the file" in text
    assert "trial.beta1: {'low': 0.0, 'high': 0.9} in the database" in text
    studies.create(name="another", epochs=9)
    assert {summary.name for summary in study_summaries(studies.open(), print)} == {"s", "another"}


def test_the_total_may_differ(studies: Studies) -> None:
    studies.create(trials=3)
    claim(studies.join())
    assert studies.create(trials=5).total == 3


def test_a_study_without_trials_is_replaced_by_a_corrected_file(studies: Studies) -> None:
    first = studies.create(RANDOM + BASELINES, epochs=3)
    store = studies.create(RANDOM + BASELINES, epochs=4)
    assert store.spec.study.epochs == 4
    assert store.token != first.token
    assert store.database.study_names() == ["s"]
    assert len(studies.trials()) == 2


def test_a_half_created_study_is_created_again(studies: Studies) -> None:
    """A process died before its last step; the baselines must not be queued twice."""
    studies.create(RANDOM + BASELINES)
    studies.rows("DELETE FROM tuner_studies")
    assert studies.open().study_names() == []
    studies.create(RANDOM + BASELINES)
    assert len(studies.trials()) == 2


def test_studies_of_other_programs_are_refused(studies: Studies) -> None:
    optuna.create_study(storage=studies.optuna_storage, study_name="s")
    begun = optuna.create_study(storage=studies.optuna_storage, study_name="begun")
    begun.set_user_attr(TOKEN, "not in our table")
    begun.ask()
    for name in ("s", "begun"):
        with pytest.raises(InputError, match="that tuner did not create; choose another name"):
            studies.create(name=name)
        assert len(studies.optuna_study(name).trials) == (name == "begun")
    assert studies.open().study_names() == []


CREATE = """
import os, sys
from builders import spec_of
from tuner.study.creation import create_study
from tuner.study.database import Database
children = []
for _ in range(4):
    child = os.fork()
    if child == 0:
        store = create_study(Database(sys.argv[1], create=True), spec_of(sys.argv[2]))
        os.write(1, (store.token + "\\n").encode())
        os._exit(0)
    children.append(child)
sys.exit(sum(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0 for child in children))
"""


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_concurrent_processes_create_one_study(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """The tables do not exist yet either."""
    url = f"sqlite:///{tmp_path}/deep/er/studies.db"
    if kind == "postgres":
        server: Postgres = request.getfixturevalue("postgres")
        url = server.new_database()
    done = subprocess.run(
        [sys.executable, "-c", CREATE, url, RANGES + BASELINES],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    tokens = done.stdout.split()
    assert len(tokens) == 4
    assert len(set(tokens)) == 1
    studies = Studies(url)
    assert len(studies.trials("study")) == 2
    studies.close()


def test_unusable_paths_are_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "corrupt.db").write_bytes(b"not a database at all " * 300)
    (tmp_path / "folder.db").mkdir()
    places = ["file/studies.db", "corrupt.db", "folder.db"]
    if os.geteuid() != 0:  # root may write anywhere
        (tmp_path / "locked").mkdir(mode=0o500)
        places.append("locked/studies.db")
    for place in places:
        with pytest.raises(StorageError) as caught:
            Database(f"sqlite:///{tmp_path}/{place}", create=True)
        assert str(caught.value).startswith(f"{tmp_path}/{place}: ")
        assert "\n" not in str(caught.value)
        assert caught.value.exit_code == 3
        assert not caught.value.transient


def test_an_unwritable_folder_is_refused() -> None:
    with pytest.raises(StorageError, match=r"^/proc/tuner/studies.db: "):
        Database("sqlite:////proc/tuner/studies.db", create=True)


def test_a_damaged_database_is_reported_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "studies.db"
    database = Database(f"sqlite:///{path}", create=True)
    create_study(database, spec())
    database.rdb.engine.dispose()
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 4096 * 8)
    with pytest.raises(StorageError, match=f"^{path}: the database failed: .*malformed") as caught:
        create_study(Database(f"sqlite:///{path}"), spec())
    assert not caught.value.transient
