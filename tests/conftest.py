"""Real digits, and one cache of compiled programs for all tests and the processes they start."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import forked
import pytest
from postgres import BINARIES, Postgres
from processes import STUDY, Tuner, run
from real_digits import write_digits

_cache = tempfile.TemporaryDirectory(prefix="tuner-compiled-")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", _cache.name)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 384 real digits of all ten classes, as MNIST's own files are written."""
    folder = tmp_path_factory.mktemp("digits")
    write_digits(folder, 384)
    return folder


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A real Postgres server (of another version where POSTGRES_BINARIES names a folder with its
    programs); take a ``new_database`` of it for each test."""
    server = Postgres(Path(os.environ.get("POSTGRES_BINARIES", BINARIES)))
    yield server
    server.remove()


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    """What the processes see: no settings of whoever runs the tests, warnings as errors."""
    mine = {"JAX_PLATFORMS": "cpu", "COLUMNS": "160", "PYTHONWARNINGS": "error"}
    mine["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"  # many are started: a second each
    found = {k: v for k, v in os.environ.items() if not k.startswith("TUNER_")} | mine
    forked.start_server(found)
    return found


@pytest.fixture
def study_file(tmp_path: Path, digits: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(STUDY.format(digits=digits))
    return path


@pytest.fixture
def tuner(tmp_path: Path, environment: dict[str, str]) -> Tuner:
    """Runs the command line in ``tmp_path`` to its end."""
    return lambda *words: run(tmp_path, environment, *words)
