"""Read rows that other programs may have written.

Anyone with access to the database may write to it: other Optuna clients, the dashboard, older
versions, people with SQL. Unusable values are left out on reading, so that one bad value never
hides the rest of a study.
"""

import json
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from optuna.distributions import json_to_distribution
from optuna.trial import FrozenTrial
from sqlalchemy.exc import SQLAlchemyError

from tuner.epoch_report import FIELDS, EpochReport
from tuner.phases import Phase, PhaseSeconds

UNREADABLE = "tuner:unreadable"  # attribute added on reading: which rows of the trial are left out


class UnreadableTrialError(ValueError):
    """The trial's own row holds a value that can't be read."""


def whole(value: Any) -> int | None:
    """``value`` if it is an integer of at least 0."""
    return value if type(value) is int and value >= 0 else None


def real(value: Any) -> float | None:
    """``value`` if it is a number, which may be infinite."""
    return value if type(value) in (int, float) and not math.isnan(value) else None


def finite(value: Any) -> float | None:
    """``value`` if it is a finite number."""
    found = real(value)
    return found if found is not None and math.isfinite(found) else None


def text(value: Any) -> str | None:
    """``value``, as ``printable``, if it is text."""
    return printable(value) if isinstance(value, str) else None


def printable(value: str) -> str:
    """Text that every encoding and database can hold: no lone surrogates, no NUL."""
    return value.encode(errors="replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")


def storable(value: Any) -> Any:
    """``value`` with every text in it made ``printable``."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {storable(key): storable(item) for key, item in value.items()}
    return [storable(item) for item in value] if isinstance(value, list | tuple) else value


def texts(value: Any) -> dict[str, str]:
    """The entries of a dict that are texts; empty if ``value`` is not a dict."""
    pairs = value.items() if isinstance(value, dict) else ()
    return {printable(key): printable(item) for key, item in pairs if isinstance(item, str)}


def attribute(value_json: Any) -> Any:
    """An attribute's value; None if it is not valid JSON."""
    try:
        return json.loads(value_json)
    except (TypeError, ValueError, RecursionError):
        return None


def attributes(pairs: Iterable[Any]) -> dict[str, Any]:
    """Attributes from their keys and JSON, without those that can't be read."""
    found = {}
    for key, value_json in pairs:
        with suppress(TypeError, ValueError, RecursionError):
            found[_typed(key, str)] = json.loads(value_json)
    return found


def is_sound(trial: FrozenTrial) -> bool:
    """Whether a trial that Optuna could read has the types that Optuna promises: SQLite allows
    text in numeric columns."""
    numbers = [*(trial.values or ()), *trial.intermediate_values.values()]
    keys = [*trial.params, *trial.user_attrs, *trial.system_attrs]
    return (
        whole(trial.number) is not None
        and all(isinstance(key, str) for key in keys)
        and all(type(step) is int for step in trial.intermediate_values)
        and all(type(number) in (int, float) for number in numbers)
    )


@contextmanager
def skipping_unreadable(what: str, lost: dict[str, None]) -> Iterator[None]:
    """Skip the rest of the block if it can't read Optuna's rows, and add ``what`` to ``lost``."""
    try:
        yield
    except SQLAlchemyError:
        raise
    # Optuna's parsers and SQLAlchemy's column types do not check what they read and document no
    # errors, so a damaged value may raise anything. One such row must not hide the whole study.
    except Exception:
        lost[what] = None


def readable(model: Any) -> FrozenTrial:
    """The readable part of Optuna's ``model`` of a trial, with the attribute ``UNREADABLE``.

    UnreadableTrialError if the trial has no number.
    """
    if whole(model.number) is None:
        raise UnreadableTrialError(f"trial {model.trial_id} has no number")
    lost: dict[str, None] = {}

    def read(
        what: str, rows: Callable[[], Iterable[Any]], pair: Callable[[Any], tuple[Any, Any]]
    ) -> dict[Any, Any]:
        found = {}
        with skipping_unreadable(what, lost):
            for row in rows():
                with skipping_unreadable(what, lost):
                    key, value = pair(row)
                    found[key] = value
        return found

    params = read("parameters", lambda: sorted(model.params, key=lambda p: p.param_id), _param)
    values = read("values", lambda: model.values, _value)
    in_order = [values[i] for i in range(len(values)) if i in values]
    return FrozenTrial(
        number=model.number,
        state=model.state,
        value=None,
        values=in_order if in_order and len(in_order) == len(values) else None,
        datetime_start=model.datetime_start,
        datetime_complete=model.datetime_complete,
        params={name: value for name, (_, value) in params.items()},
        distributions={name: distribution for name, (distribution, _) in params.items()},
        system_attrs=read("system attributes", lambda: model.system_attributes, _attribute),
        intermediate_values=read("reports", lambda: model.intermediate_values, _intermediate),
        user_attrs=read("attributes", lambda: model.user_attributes, _attribute)
        | {UNREADABLE: ", ".join(lost)},
        trial_id=model.trial_id,
    )


def _param(row: Any) -> tuple[str, Any]:
    distribution = json_to_distribution(row.distribution_json)
    value = distribution.to_external_repr(row.param_value)
    return _typed(row.param_name, str), (distribution, value)


def _value(row: Any) -> tuple[int, float]:
    value = row.stored_repr_to_value(row.value, row.value_type)
    return _typed(row.objective, int), _typed(value, int, float)


def _intermediate(row: Any) -> tuple[int, float]:
    value = row.stored_repr_to_intermediate_value(
        row.intermediate_value, row.intermediate_value_type
    )
    return _typed(row.step, int), _typed(value, int, float)


def _attribute(row: Any) -> tuple[str, Any]:
    return _typed(row.key, str), json.loads(row.value_json)


def _typed(value: Any, *types: type) -> Any:
    if type(value) not in types:
        raise TypeError(type(value).__name__)
    return value


def epoch_report(values: Iterable[Any]) -> EpochReport | None:
    """A row of ``tuner_epochs``; None if its epoch, a count or a duration is not valid.

    The last of ``values`` are the custom metrics, as JSON. A measurement that is not a number
    counts as missing.
    """
    *numbers, own = values
    row = dict(zip(FIELDS, numbers, strict=True))
    for name, field in FIELDS.items():
        value = row[name]
        if field.nullable:
            row[name] = real(value) if field.may_be_infinite else finite(value)
        elif field.kind is not bool:
            found = whole(value) if field.kind is int else finite(value)
            if found is None or found < 0:
                return None
    row |= {"finite": row["finite"] is True, "own": _own_metrics(own)}
    return EpochReport(**row) if row["epoch"] else None


def _own_metrics(value_json: Any) -> dict[str, float]:
    """Custom metrics from their JSON, without those that are not finite numbers."""
    value = attribute(value_json)
    pairs = value.items() if isinstance(value, dict) else ()
    return {printable(name): found for name, x in pairs if (found := finite(x)) is not None}


def phase_seconds(values: Iterable[Any]) -> PhaseSeconds:
    """The phase columns of ``tuner_leases``; a value that is not a number counts as 0."""
    return {phase: finite(value) or 0.0 for phase, value in zip(Phase, values, strict=True)}
