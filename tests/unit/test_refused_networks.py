"""Errors of invalid custom networks."""

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from builders import SHAPE

from tuner.errors import InputError
from tuner.gan.networks import DISCRIMINATORS, GENERATORS
from tuner.run.custom_networks import check_shapes, import_allowed
from tuner.trial import Program

PACKAGE = "custom"
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
    """Write ``custom/models.py`` in the working folder."""
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
    import_allowed([GENERATOR], [PACKAGE])
    kinds = ("non_saturating", "adam", "adam", 1, True)
    check_shapes(Program(GENERATOR, "dcgan", 8, 16, SHAPE, 4, *kinds))


def refusal() -> str:
    """The one-line error from trying the generator."""
    with pytest.raises(InputError) as caught:
        try_generator()
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_a_network_that_exits_on_import_is_refused(write: Write) -> None:
    write("raise SystemExit(7)")
    assert refusal().startswith(f"{GENERATOR}: can't be imported: SystemExit: 7")


def test_a_network_that_exits_when_called_is_refused(write: Write) -> None:
    write(MODELS.format(made="pass", called="raise SystemExit(7)"))
    assert refusal().startswith(f"trial.generator: {GENERATOR}: SystemExit: 7")


def test_only_allowed_packages_are_imported_from_the_working_folder(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path != str(tmp_path)])
    (tmp_path / "colorsys.py").write_text("raise SystemExit('shadows the library')")
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    write(MODELS.format(made="import colorsys", called="raise ValueError('it ran')"))
    assert "it ran" in refusal()
    (tmp_path / "helper.py").touch()
    with pytest.raises(ImportError):
        importlib.import_module("helper")
    assert str(tmp_path) not in sys.path


def test_a_missing_class_is_named(write: Write) -> None:
    write(MODELS.format(made="pass", called="pass").replace("Generator", "Generater"))
    found = f"{GENERATOR}: {PACKAGE}.models has no Generator"
    assert refusal() == f"{found} (did you mean 'Generater'?)"


def test_invalid_networks_are_named(write: Write) -> None:
    write("Generator = 3")
    assert refusal() == f"{GENERATOR}: found 3, expected a subclass of flax.nnx.Module"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\nimport numpy.absent", "No module named 'numpy.absent', at custom/models.py:2"),
        ("def f():\n    1 / 0\n\nf()", "division by zero, at custom/models.py:2"),
        ("\n1 +", "invalid syntax (models.py, line 2)"),
    ],
)
def test_import_errors_name_the_line(write: Write, text: str, expected: str) -> None:
    write(text)
    found = refusal()
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
def test_errors_of_a_network_name_the_line(write: Write, made: str, called: str, line: int) -> None:
    write(MODELS.format(made=made, called=called))
    found = refusal()
    assert found.startswith(f"trial.generator: {GENERATOR}: ")
    assert found.endswith(f", at custom/models.py:{line}")
    assert len(found) < 600
