"""Custom metrics, by the example in docs/metrics.md run unchanged, and held-out images."""

import json
import re
from pathlib import Path

import pytest
from processes import Tuner, write_example

MISS, COVER = "mypackage.metrics:miss_rate", "mypackage.metrics:cover_rate"


@pytest.fixture
def folder(tmp_path: Path, digits: Path) -> Path:
    """A study file next to the package of the example."""
    return write_example(tmp_path, "metrics.md", "metrics", digits, "holdout = 0.2\n")


def test_the_example_runs_where_it_is_allowed_and_nowhere_else(folder: Path, tuner: Tuner) -> None:
    refused = tuner("sweep", "own.toml")
    assert refused.returncode == 2
    assert "add --allow mypackage" in refused.stderr
    done = tuner("sweep", "own.toml", "--allow", "mypackage")
    assert done.returncode == 0, done.stderr
    found = json.loads(tuner("export", "own", "--format", "json").stdout)
    for trial in found["trials"]:
        rates = [report["own"] for report in trial["reports"]]
        assert all(own[MISS] == pytest.approx(1 - own[COVER]) for own in rates)
        assert trial["value"] == min(own[MISS] for own in rates)
    first, last = next(t for t in found["trials"] if t["state"] == "COMPLETE")["reports"]
    assert last["copied"] < 0.5
    assert last["heldout_fid"] > 0
    assert first["copied"] is None  # by default, only the last epoch
    page = tuner("report", "own", "--out", "own.html")
    assert page.returncode == 0, page.stderr
    assert "<h3>Nearest training images</h3>" in (folder / "own.html").read_text()
    header = tuner("export", "own").stdout.splitlines()[0]
    assert header.endswith(f",{COVER},{MISS}")
    assert re.search(r"miss rate [\d.]+", done.stdout)
    assert "miss rate" in tuner("show", "own", "0").stdout
    assert tuner("best", "own").returncode == 2
    best = json.loads(tuner("best", "own", "--json", "--allow", "mypackage").stdout)
    assert 0 <= best["fresh"][MISS] <= 1
    assert best["fresh"]["copied"] < 0.5
    metrics = folder / "mypackage" / "metrics.py"
    metrics.write_text(metrics.read_text().replace("[:500]", "[:400]"))
    other = tuner("worker", "own", "--trials", "3", "--allow", "mypackage")
    assert other.returncode == 2
    assert f"code of {COVER}" in other.stderr


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("return 1 - cover", "return 'x', cover", f"{MISS}: TypeError: {MISS} returned tuple"),
        ("np.sort(", "np.sorted(", "AttributeError"),
        ("def miss_rate", "def mist_rate", "has no miss_rate (did you mean 'mist_rate'?)"),
    ],
)
def test_problems_are_reported_before_any_trial(
    folder: Path, tuner: Tuner, old: str, new: str, expected: str
) -> None:
    metrics = folder / "mypackage" / "metrics.py"
    metrics.write_text(metrics.read_text().replace(old, new))
    found = tuner("sweep", "own.toml", "--allow", "mypackage")
    assert found.returncode == 2
    assert expected in found.stderr.splitlines()[-1]
