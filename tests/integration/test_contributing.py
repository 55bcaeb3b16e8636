"""The steps in docs/contributing.md, followed in a copy of the package."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from builders import new_database

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "contributing.md").read_text()
MEASURE_AND_UPGRADE = """
import sys
import numpy as np
import sqlalchemy
from tuner.metrics.evaluate import reference_statistics, scores
from tuner.study import database
from tuner.epoch_report import FIELDS

real = np.random.default_rng(0).normal(size=(40, 4))
found = scores(reference_statistics(real, None, 0, 20), real + 1)
print(FIELDS["mean_shift"].label, f"{found['mean_shift']:.6g}")
before, after = database.upgrade(sys.argv[1])
print(int(after) - int(before))
opened = database.Database(sys.argv[1])
print(sqlalchemy.inspect(opened.rdb.engine).get_columns("tuner_epochs")[-1]["name"])
"""
LOAD = """
from tuner.data import load_images
from tuner.spec.loading import load_spec

images, labels, *_ = found = load_images(load_spec("study.toml").data)
print(images.shape, found.classes)
print(sum((x == x[:, :1]).all() for x in images[::2]))
"""


class Copy:
    """A copy of the package, to which sections of the guide are applied."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / "tuner", folder / "tuner", ignore=ignored)

    def apply(self, title: str) -> None:
        """Make the changes that the section shows in diffs and whole files."""
        [section] = re.findall(rf"^## {title}\n(.*?)(?=^## |\Z)", GUIDE, re.S | re.M)
        steps = re.findall(r"`(tuner/\S+\.py)`:\n\n```(diff|python)\n(.*?)```", section, re.S)
        assert steps
        for name, kind, text in steps:
            path = self.folder / name
            path.write_text(text if kind == "python" else _patched(path.read_text(), text))

    def python(self, *arguments: str, code: int = 0) -> list[str]:
        """Run Python in the copy, which must exit with ``code``; the lines it prints."""
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=self.folder,
            env=os.environ | {"PYTHONPATH": str(self.folder)},
            capture_output=True,
            text=True,
            timeout=250,
        )
        assert done.returncode == code, done.stderr
        return (done.stderr if code else done.stdout).splitlines()


def _patched(source: str, diff: str) -> str:
    lines = diff.splitlines(keepends=True)
    old = "".join(line[1:] for line in lines if line[0] != "+")
    new = "".join(line[1:] for line in lines if line[0] != "-")
    assert source.count(old) == 1, old
    return source.replace(old, new)


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    return Copy(tmp_path)


def test_the_steps_to_add_a_metric_work(copy: Copy, tmp_path: Path) -> None:
    old = new_database(tmp_path / "old.db")
    copy.apply("Add a metric")
    copy.python("-m", "tuner.study.migrations", "Mean shift")
    [path] = (copy.folder / "tuner/study/migrations/versions").glob("*_mean_shift.py")
    assert path.read_text().count("op.add_column(") == 1
    [*_, line] = copy.python("-m", "tuner.study.migrations", "Again", code=1)
    assert line == "nothing to migrate: the tables match the newest schema"
    assert copy.python("-c", MEASURE_AND_UPGRADE, old) == ["mean shift 2", "1", "mean_shift"]


def test_the_steps_to_add_a_data_source_work(copy: Copy, tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text("[data]\nsource = 'stripes'\n")
    copy.apply("Add a data source")
    assert copy.python("-c", LOAD) == ["(1000, 32, 32, 1) 2", "500"]
