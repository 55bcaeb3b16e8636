"""Networks of somebody's own: the example in docs/networks.md is run as it stands."""

import re
from pathlib import Path

import pytest
from processes import Tuner

from tuner import open_study
from tuner.errors import InputError

DOC = Path(__file__).parents[2] / "docs" / "networks.md"
BLOCKS = dict(re.findall(r"```(\w+)\n(.*?)```", DOC.read_text(), re.DOTALL))


@pytest.fixture
def folder(tmp_path: Path, digits: Path) -> Path:
    """A package beside a study file, as the example has them."""
    (tmp_path / "mypackage").mkdir()
    (tmp_path / "mypackage" / "__init__.py").write_text("")
    (tmp_path / "mypackage" / "models.py").write_text(BLOCKS["python"])
    data = f'[data]\nsource = "idx"\npath = "{digits}"\n'
    (tmp_path / "own.toml").write_text(BLOCKS["toml"] + data)
    return tmp_path


def test_the_example_runs_where_it_is_allowed_and_nowhere_else(
    folder: Path, tuner: Tuner, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = tuner("check", "own.toml")
    assert refused.returncode == 2
    assert "expected --allow mypackage" in refused.stderr
    refused = tuner("sweep", "own.toml")
    assert refused.returncode == 2
    assert "expected --allow mypackage" in refused.stderr
    done = tuner("sweep", "own.toml", "--allow", "mypackage")
    assert done.returncode == 0, done.stderr
    assert "2 complete" in done.stdout or "FID" in done.stdout
    assert tuner("sample", "own", "--out", "x.png").returncode == 2
    drawn = tuner("sample", "own", "--out", "x.png", "--allow", "mypackage")
    assert drawn.returncode == 0, drawn.stderr
    assert drawn.stderr == ""
    url = f"sqlite:///{folder}/tuner-data/studies.db"
    with pytest.raises(InputError, match="'mypackage', which this process was not allowed"):
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
    # It shows what was drawn in training, and so by the code that was trained.
    report = tuner("report", "own", "--out", "y.html")
    assert (report.returncode, report.stderr) == (0, "")


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            ".reshape(-1, *self.shape)",
            "",
            "trial.generator: mypackage.models:Generator made images (2, 1024) of noise (2, 100), "
            "expected (2, 32, 32, 1)",
        ),
        (
            "return self.out(x)[:, 0]",
            "return self.out(x)",
            "made logits (2, 1) of images (2, 32, 32, 1), expected (2,)",
        ),
        ("4 * program.width, size", "program.width, size", "trial.generator mypackage.models"),
        (
            "return self.out(x)[:, 0]",
            "return self.out(x)[:, 0] + (key.ndim if train else 0)",  # it may have no key
            "trial.discriminator mypackage.models:Discriminator: AttributeError",
        ),
        (
            "class Generator(nnx.Module)",
            "class Generator",
            "expected a subclass of flax.nnx.Module",
        ),
        ("import jax.numpy", "import jax.nunpy", "can't be imported: ModuleNotFoundError"),
    ],
)
def test_what_is_wrong_is_said_before_any_trial(
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
