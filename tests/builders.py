"""Specs from TOML, epoch reports, and Hypothesis strategies for settings."""

import functools
import tempfile
import tomllib
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from tuner.epoch_report import EpochReport
from tuner.errors import InputError
from tuner.spec.kinds import Kind, Name
from tuner.spec.loading import parse_spec
from tuner.spec.study import StudySpec
from tuner.spec.trial import kind_of, setting_names
from tuner.study.database import Database
from tuner.study.space import trial_config
from tuner.trial import DatasetInfo, Hyperparameters

SHAPE = (32, 32, 1)
DATASET = DatasetInfo(SHAPE, 64_000, 10)
RANGES = """
[trial]
learning_rate = { low = 1e-4, high = 1e-2, log = true }
beta1 = { low = 0.0, high = 0.9 }
"""


def spec_of(toml: str) -> StudySpec:
    return parse_spec(tomllib.loads(toml), "study.toml")


def epoch(number: int, fid: float | None = 50.0, **changes: Any) -> EpochReport:
    """The report of a healthy epoch, with ``changes``."""
    return EpochReport(
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
    )._replace(**changes)


def hyperparameters(**changes: float) -> Hyperparameters:
    """The default hyperparameters, with ``changes``."""
    return trial_config(spec_of(""), {}, 0, DATASET).hyperparameters._replace(**changes)


def new_database(path: Path) -> str:
    """The URL of a new database with all tables and no study: a copy, as creating one is slow."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_empty_database())
    return f"sqlite:///{path}"


@functools.cache
def _empty_database() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "empty.db"
        Database(f"sqlite:///{path}", create=True).rdb.engine.dispose()
        # The copy is complete: there is no journal file.
        assert {file.name for file in Path(folder).iterdir()} == {"empty.db", ".empty.db.lock"}
        return path.read_bytes()


def setting_tables() -> st.SearchStrategy[dict[str, Any]]:
    """``[trial]`` tables of a study file: any subset of the settings, fixed or searched."""
    return st.fixed_dictionaries(
        {}, optional={name: _settings(kind_of(name)) for name in setting_names()}
    )


def _settings(kind: Kind) -> st.SearchStrategy[Any]:
    if isinstance(kind, Name):
        return _value_or_choices(st.sampled_from(kind.names))
    if kind.whole:
        high = int(min(kind.high, 5000))
        whole = st.integers(int(kind.low), high)
        return st.one_of(_value_or_choices(whole), _ranges(whole, high, int))
    lowest = Decimal("0.000001") if kind.open_low else Decimal(repr(kind.low))
    highest = Decimal("0.999" if kind.high == 1 else str(min(kind.high, 1000)))
    numbers = st.decimals(lowest, highest, places=6)
    return st.one_of(_value_or_choices(numbers.map(float)), _ranges(numbers, highest, float))


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


def problems(toml: str) -> list[str]:
    """The problems of a study file, one per line."""
    try:
        parse_spec(tomllib.loads(toml), "study.toml")
    except InputError as error:
        return str(error).splitlines()
    return []


def assert_problem(toml: str, key: str, *parts: str) -> None:
    """Assert that the only problem concerns ``key`` and mentions all ``parts``."""
    lines = problems(toml)
    assert len(lines) == 1, lines
    assert lines[0].startswith(f"study.toml: {key}: "), lines[0]
    assert len(lines[0]) > len(f"study.toml: {key}: "), lines[0]
    for part in parts:
        assert part in lines[0], lines[0]
