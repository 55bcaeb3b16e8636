"""Real digits, and one cache of compiled programs for all tests and the processes they start."""

import gzip
import os
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

import forked
import numpy as np
import pytest
from postgres import BINARIES, Postgres
from processes import STUDY, Tuner, run

from tuner.data import load_images
from tuner.spec import DataSpec

_cache = tempfile.TemporaryDirectory(prefix="tuner-compiled-")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", _cache.name)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 384 real digits of all ten classes, as MNIST's own files are written."""
    folder = tmp_path_factory.mktemp("digits")
    mnist = load_images(DataSpec())
    chosen = np.random.default_rng(0).permutation(5000)[:384]
    assert mnist.labels is not None
    images, labels = mnist.images[chosen, 2:-2, 2:-2, 0], mnist.labels[chosen].astype(np.uint8)
    for name, array in (("train-images-idx3", images), ("train-labels-idx1", labels)):
        header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
        (folder / f"{name}-ubyte.gz").write_bytes(gzip.compress(header + array.tobytes()))
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
