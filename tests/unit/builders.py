"""What the unit tests build: specs from TOML, epoch reports, and strategies for settings."""

import functools
import tempfile
import tomllib
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from tuner.combinations import kind_of
from tuner.conditions import kinds
from tuner.settings import Kind, Name, Real
from tuner.spec import StudySpec
from tuner.specfile import parse_spec
from tuner.study.database import Database
from tuner.study.space import trial_config
from tuner.trial import EpochReport, Hyperparameters, Premises

SHAPE = (32, 32, 1)
PREMISES = Premises(SHAPE, 64_000, 10)
RANGES = """
[trial]
learning_rate = { low = 1e-4, high = 1e-2, log = true }
beta1 = { low = 0.0, high = 0.9 }
"""


def spec_of(toml: str) -> StudySpec:
    """The study that ``toml`` describes."""
    return parse_spec(tomllib.loads(toml), "study.toml")


def epoch(number: int, fid: float | None = 50.0, **changes: Any) -> EpochReport:
    """A healthy epoch, but for ``changes``."""
    report = EpochReport(
        epoch=number,
        fid=fid,
        d_loss=1.2,
        g_loss=0.8,
        loss_ratio=1.5,
        d_auc=0.75,
        variance_ratio=0.9,
        finite=True,
        steps=1000 * number,
        images=64_000 * number,
        train_seconds=4.0,
        evaluate_seconds=1.0,
    )
    return report._replace(**changes)


def numbers(**changes: float) -> Hyperparameters:
    """A trial's numbers as by default, but for ``changes``."""
    return trial_config(spec_of(""), {}, 0, PREMISES).hyperparameters._replace(**changes)


def new_database(path: Path) -> str:
    """The URL of an empty database at ``path``: a copy of one, as making one takes a second."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_empty_database())
    return f"sqlite:///{path}"


@functools.cache
def _empty_database() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "empty.db"
        Database(f"sqlite:///{path}", create=True).rdb.engine.dispose()
        # Nothing of it is in a journal beside it.
        assert {file.name for file in Path(folder).iterdir()} == {"empty.db", ".empty.db.lock"}
        return path.read_bytes()


def setting_tables() -> st.SearchStrategy[dict[str, Any]]:
    """``[trial]`` tables with any setting under any key, as a study file writes them."""
    return st.fixed_dictionaries({}, optional={name: _settings(kind_of(name)) for name in kinds()})


def _settings(kind: Kind) -> st.SearchStrategy[Any]:
    if isinstance(kind, Name):
        return _value_or_choices(st.sampled_from(kind.names))
    if isinstance(kind, Real):
        low = Decimal("0.000001") if kind.open_low else Decimal(repr(kind.low))
        high = Decimal("0.999" if kind.high == 1 else str(min(kind.high, 1000)))
        numbers = st.decimals(low, high, places=6)
        return st.one_of(_value_or_choices(numbers.map(float)), _ranges(numbers, high, float))
    whole = st.integers(kind.low, int(min(kind.high, 5000)))
    return st.one_of(_value_or_choices(whole), _ranges(whole, int(min(kind.high, 5000)), int))


def _value_or_choices(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(values, st.lists(values, min_size=1, max_size=4, unique=True))


@st.composite
def _ranges(
    draw: st.DrawFn, numbers: st.SearchStrategy[Any], most: Any, kind: Callable[[Any], Any]
) -> dict[str, Any]:
    """A plain range, one with ``log``, or one whose ``step`` divides it."""
    low, high = sorted(draw(st.lists(numbers, min_size=2, max_size=2, unique=True)))
    form = draw(st.sampled_from(["plain", "log", "step"]))
    if form == "log" and low > 0:
        return {"low": kind(low), "high": kind(high), "log": True}
    if form == "step":
        step = high - low
        count = draw(st.integers(1, 9))
        high = min(low + count * step, low + (most - low) // step * step)
        return {"low": kind(low), "high": kind(high), "step": kind(step)}
    return {"low": kind(low), "high": kind(high)}
