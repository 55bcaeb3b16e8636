"""Fixtures for digits, Postgres and commands; one compilation cache for all test processes."""

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import forked
import one_thread  # noqa: F401 - sets a variable that NumPy reads on import
import pytest
from postgres import BINARIES, Postgres
from processes import STUDY, Tuner, run
from real_digits import write_digits

# Kept between runs, except in CI, which must also pass without it.
_cache = tempfile.TemporaryDirectory(prefix="tuner-compiled-")
_kept = Path(__file__).parent.parent / ".pytest_cache" / "compiled"
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", _cache.name if "CI" in os.environ else str(_kept)
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
if "PYTEST_XDIST_WORKER" not in os.environ:  # whose processes share the first one's
    os.environ["XDG_CACHE_HOME"] = _cache.name  # nothing of the user is read or left

# Audit events that tests under tests/unit must not trigger.
NOT_PURE = {"os.fork", "os.posix_spawn", "socket.connect", "sqlite3.connect", "subprocess.Popen"}
_unit_tests: list[str] = []  # the running unit test, if any


def _refuse(event: str, _: tuple[object, ...]) -> None:
    if _unit_tests and event in NOT_PURE:
        pytest.fail(f"{event} in a unit test; move the test to tests/integration")


sys.addaudithook(_refuse)


@pytest.fixture(autouse=True)
def _mark_unit_test(request: pytest.FixtureRequest) -> Iterator[None]:
    """Unit tests must start no process, open no database and make no connection."""
    if request.path.parent.name == "unit":
        _unit_tests.append(request.node.name)
    yield
    _unit_tests.clear()


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 384 real digits of all ten classes in MNIST's file format."""
    folder = tmp_path_factory.mktemp("digits")
    write_digits(folder, 384)
    return folder


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A real Postgres server; each test takes a ``new_database``. POSTGRES_BINARIES names a folder
    with the binaries of another version."""
    server = Postgres(Path(os.environ.get("POSTGRES_BINARIES", BINARIES)))
    yield server
    server.remove()


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    """Environment of the commands: no TUNER_ variables, warnings as errors."""
    own = {"JAX_PLATFORMS": "cpu", "COLUMNS": "160", "PYTHONWARNINGS": "error"}
    found = {k: v for k, v in os.environ.items() if not k.startswith("TUNER_")} | own
    forked.start_server(found)
    return found


@pytest.fixture
def study_file(tmp_path: Path, digits: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(STUDY.format(digits=digits))
    return path


@pytest.fixture
def tuner(tmp_path: Path, environment: dict[str, str]) -> Tuner:
    """Run a command to completion in ``tmp_path``."""
    return lambda *words: run(tmp_path, environment, *words)
