"""Custom networks: the example in docs/networks.md, run unchanged."""

from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest
from postgres import PASSWORD, Postgres
from processes import Machine, Tuner, write_example

from tuner import open_study
from tuner.errors import InputError


@pytest.fixture
def folder(tmp_path: Path, digits: Path) -> Path:
    """A study file next to the package of the example."""
    return write_example(tmp_path, "networks.md", "models", digits)


def test_the_example_runs_where_it_is_allowed_and_nowhere_else(
    folder: Path, tuner: Tuner, monkeypatch: pytest.MonkeyPatch
) -> None:
    for command in ("check", "sweep"):
        refused = tuner(command, "own.toml")
        assert refused.returncode == 2
        assert "add --allow mypackage" in refused.stderr
    done = tuner("sweep", "own.toml", "--allow", "mypackage")
    assert done.returncode == 0, done.stderr
    assert "2 complete" in done.stdout or "FID" in done.stdout
    assert tuner("sample", "own", "--out", "x.png").returncode == 2
    drawn = tuner("sample", "own", "--out", "x.png", "--allow", "mypackage")
    assert drawn.returncode == 0, drawn.stderr
    assert drawn.stderr == ""
    url = f"sqlite:///{folder}/tuner-data/studies.db"
    with pytest.raises(InputError, match="importing the package 'mypackage' is not allowed"):
        open_study("own", url).best.samples(2)
    monkeypatch.syspath_prepend(folder)
    allowed = open_study("own", url, allow=["mypackage"])
    assert [image.size for image in allowed.best.samples(2)] == [(32, 32)] * 2
    models = folder / "mypackage" / "models.py"
    models.write_text(models.read_text().replace("nnx.relu", "nnx.gelu"))
    other = tuner("worker", "own", "--trials", "3", "--allow", "mypackage")
    assert other.returncode == 2
    assert "code of mypackage.models:Generator" in other.stderr
    assert tuner("best", "own", "--allow", "mypackage").returncode == 2
    drawn = tuner("sample", "own", "--out", "y.png", "--allow", "mypackage")
    assert drawn.returncode == 0, drawn.stderr
    [line] = drawn.stderr.splitlines()
    assert line.startswith("tuner: warning: study 'own': found code of mypackage.models:Gen")
    assert line.endswith("samples are drawn with the code found here")
    # The report shows samples that were drawn during training, with the code of that time.
    report = tuner("report", "own", "--out", "y.html")
    assert (report.returncode, report.stderr) == (0, "")


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            ".reshape(-1, *self.shape)",
            "",
            "trial.generator: mypackage.models:Generator returned images (2, 1024) for noise "
            "(2, 100), expected (2, 32, 32, 1)",
        ),
        (
            "return self.out(x)[:, 0]",
            "return self.out(x)",
            "returned logits (2, 1) for images (2, 32, 32, 1), expected (2,)",
        ),
        ("4 * program.width, size", "program.width, size", "trial.generator: mypackage.models"),
        (
            "return self.out(x)[:, 0]",
            "return self.out(x)[:, 0] + (key.ndim if train else 0)",  # key may be None
            "trial.discriminator: mypackage.models:Discriminator: AttributeError",
        ),
        (
            "class Generator(nnx.Module)",
            "class Generator",
            "expected a subclass of flax.nnx.Module",
        ),
        ("import jax.numpy", "import jax.nunpy", "can't be imported: ModuleNotFoundError"),
    ],
)
def test_problems_are_reported_before_any_trial(
    folder: Path, tuner: Tuner, old: str, new: str, expected: str
) -> None:
    models = folder / "mypackage" / "models.py"
    text = models.read_text()
    assert old in text
    models.write_text(text.replace(old, new))
    found = tuner("check", "own.toml", "--allow", "mypackage")
    assert found.returncode == 2
    assert expected in found.stderr
    assert len(found.stderr.splitlines()) == 1


BREAKS = """
        if z.shape[0] > 2:  # in training, not in the shape check
            import os
            raise OSError(f"no response from {os.environ['TUNER_STORAGE']}")
"""


def test_passwords_in_network_errors_are_not_stored(
    folder: Path, environment: dict[str, str], postgres: Postgres
) -> None:
    url = postgres.new_database()
    models = folder / "mypackage" / "models.py"
    before, call, after = models.read_text().partition(
        "def __call__(self, z, labels=None, *, train):\n"
    )
    assert call
    models.write_text(before + call + BREAKS + after)
    machine = Machine(folder, environment, TUNER_STORAGE=url)
    machine.succeeds("create", "own.toml")
    done = machine.run("worker", "own", "--allow", "mypackage", "--max-trials", "1")
    shown = machine.succeeds("show", "own", "0")
    assert "OSError: no response from postgresql://owner:***@127.0.0.1" in done.stdout
    assert shown.count("OSError: no response from postgresql://owner:***@127.0.0.1") == 2
    assert "Traceback" in shown
    secrets = PASSWORD, quote(PASSWORD), quote(PASSWORD, safe="")
    with psycopg.connect(url) as connection:
        query = "SELECT quote_ident(tablename) FROM pg_tables WHERE schemaname = 'public'"
        tables = [str(name) for (name,) in connection.execute(query)]
        rows = [
            str(row)
            for table in tables
            for (row,) in connection.execute(f"SELECT t::text FROM {table} t".encode())
        ]
    assert any("owner:***@127.0.0.1" in row for row in rows)
    for text in (done.stdout, done.stderr, shown, *rows):
        assert not any(secret in text for secret in secrets), text
