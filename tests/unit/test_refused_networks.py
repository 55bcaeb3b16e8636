"""Networks of somebody's own that can't be used: what is said of them, and where."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from builders import SHAPE

from tuner.errors import InputError
from tuner.gan.networks import DISCRIMINATORS, GENERATORS
from tuner.run.own_networks import admit, try_shapes
from tuner.trial import Program

PACKAGE = "somebodys"
GENERATOR = f"{PACKAGE}.models:Generator"
MODELS = """from flax import nnx
class Generator(nnx.Module):
    def __init__(self, program, *, rngs):
        {made}
    def __call__(self, z, labels=None, *, train):
        {called}
"""
Write = Callable[[str], int]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes ``somebodys/models.py``, in the folder that is worked in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / PACKAGE).mkdir()
    (tmp_path / PACKAGE / "__init__.py").touch()
    yield (tmp_path / PACKAGE / "models.py").write_text
    for name in (PACKAGE, f"{PACKAGE}.models"):
        sys.modules.pop(name, None)
    GENERATORS.pop(GENERATOR, None)
    DISCRIMINATORS.pop(GENERATOR, None)


def try_generator() -> None:
    admit([GENERATOR], [PACKAGE])
    kinds = ("non_saturating", "adam", "adam", 1, True)
    try_shapes(Program(GENERATOR, "dcgan", 8, 16, SHAPE, 4, *kinds))


def refused() -> str:
    """What is said of the generator before any trial."""
    with pytest.raises(InputError) as caught:
        try_generator()
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_one_that_ends_the_process_is_refused(write: Write) -> None:
    write("raise SystemExit(7)")
    assert refused().startswith(f"{GENERATOR}: can't be imported: SystemExit: 7")


def test_one_that_ends_the_process_when_tried_is_refused(write: Write) -> None:
    write(MODELS.format(made="pass", called="raise SystemExit(7)"))
    assert refused().startswith(f"trial.generator {GENERATOR}: SystemExit: 7")


def test_a_class_that_is_not_there_is_named(write: Write) -> None:
    write(MODELS.format(made="pass", called="pass").replace("Generator", "Generater"))
    found = f"{GENERATOR}: found no Generator in {PACKAGE}.models, expected one"
    assert refused() == f"{found} (did you mean 'Generater'?)"


def test_what_is_no_network_is_shown(write: Write) -> None:
    write("Generator = 3")
    assert refused() == f"{GENERATOR}: found 3, expected a subclass of flax.nnx.Module"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\nimport numpy.absent", "No module named 'numpy.absent', at somebodys/models.py:2"),
        ("def f():\n    1 / 0\n\nf()", "division by zero, at somebodys/models.py:2"),
        ("\n1 +", "invalid syntax (models.py, line 2)"),
    ],
)
def test_why_it_can_not_be_imported_has_a_line(write: Write, text: str, expected: str) -> None:
    write(text)
    found = refused()
    assert found.startswith(f"{GENERATOR}: can't be imported: ")
    assert found.endswith(expected)


@pytest.mark.parametrize(
    ("made", "called", "line"),
    [
        ("nnx.Linear(8, '9', rngs=rngs)", "pass", 4),
        ("pass", "return z @ z", 6),
        ("pass", "raise ValueError('x' * 9999)", 6),
    ],
)
def test_an_error_of_its_own_has_a_line(write: Write, made: str, called: str, line: int) -> None:
    write(MODELS.format(made=made, called=called))
    found = refused()
    assert found.startswith(f"trial.generator {GENERATOR}: ")
    assert found.endswith(f", at somebodys/models.py:{line}")
    assert len(found) < 600
