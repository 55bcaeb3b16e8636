"""A folder of its own for the decoded images of each test.

A test module names the fixture: ``cache = image_cache.cache``. It applies to all of its tests.
"""

from pathlib import Path

import pytest

from tuner.data import DATA_VARIABLE
from tuner.environment import IMAGES_VARIABLE

LONG_AGO = 1_700_000_000  # mtime of files; those changed a moment ago are not cached


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for decoded images."""
    monkeypatch.delenv(DATA_VARIABLE, raising=False)
    monkeypatch.setenv(IMAGES_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"
