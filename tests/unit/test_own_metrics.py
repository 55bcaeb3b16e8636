"""Custom metrics: study files, values, storage."""

import json
from functools import partial
from typing import Any

import numpy as np
import pytest
from builders import assert_problem, epoch, spec_of

from tuner.epoch_report import FIELDS, History
from tuner.metrics.own import OWN_METRICS, Sample, own_metrics
from tuner.spec.metrics import OBJECTIVES, objective_field
from tuner.study.rows import epoch_report

NAME = "mypackage.metrics:cover_rate"
SAMPLE = Sample(np.zeros((3, 2), np.float32), np.zeros((3, 4, 4, 1), np.uint8))


def test_an_objective_must_be_known_or_own() -> None:
    spec = spec_of(f"[metrics]\nown = ['{NAME}']\nobjective = '{NAME}'")
    assert spec.metrics.own == (NAME,)
    assert spec_of("").metrics.own == ()
    assert_problem(f"[metrics]\nobjective = '{NAME}'", "metrics.objective", "which is not in own")
    assert_problem("[metrics]\nobjective = 'fud'", "metrics.objective", "'fud'", "mean 'fid'")
    assert_problem("[metrics]\nown = ['cover_rate']", "metrics.own", "package.module:function")
    assert_problem("[metrics]\nown = [3]", "metrics.own", "found 3")
    assert_problem("[metrics]\nown = 'a:b'", "metrics.own", "expected a list")


def test_an_own_metric_is_labelled_by_its_function() -> None:
    assert OBJECTIVES[NAME] == objective_field(NAME).label == "cover rate"
    assert objective_field("kid") == FIELDS["kid"]


def test_labels_differ() -> None:
    for name, other in (("a:KID", "the built-in KID"), ("a:loss_ratio", "the built-in loss ratio")):
        text = f"[metrics]\nown = ['{name}']"
        assert_problem(text, "metrics.own", f"'{name}' would have the same label as {other};")
    assert_problem("[metrics]\nown = ['a:x', 'b:x']", "metrics.own", "'b:x' would", "as 'a:x'")


def _constant(value: Any, real: Sample, generated: Sample) -> Any:
    return value


def test_values_must_be_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"a:x": np.float32(0.5), "a:y": np.nan, "a:z": None}
    for name, value in values.items():
        monkeypatch.setitem(OWN_METRICS, name, partial(_constant, value))
    assert own_metrics(["a:x", "a:y"], SAMPLE, SAMPLE) == {"a:x": 0.5}
    with pytest.raises(TypeError, match="a:z returned NoneType, expected a number"):
        own_metrics(["a:z"], SAMPLE, SAMPLE)


def test_stored_values_are_read_and_damaged_ones_left_out() -> None:
    row = [getattr(epoch(1), name) for name in FIELDS]
    read = epoch_report([*row, json.dumps({NAME: 0.25, "b:y": "x"})])
    assert read is not None
    assert read.own == {NAME: 0.25}
    assert read.value(NAME) == 0.25
    assert read.value("b:y") is None
    assert History([read]).best_so_far(NAME) == {1: 0.25}
    for damaged in (None, "[1]", "{", 3):
        found = epoch_report([*row, damaged])
        assert found == epoch(1)
