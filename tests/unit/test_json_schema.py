"""JSON Schema of study files."""

import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pydantic
import pytest

from tuner.spec.study import StudySpec, study_file_schema

STUDIES = sorted((Path(__file__).parents[2] / "studies").glob("*.toml"))
SCHEMA = study_file_schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)

GOOD = [
    "[trial]\nwidth = 16",
    "[trial]\nwidth = [16, 32]",
    "[trial]\nwidth = { low = 8, high = 32, step = 8 }",
    "[trial]\nlearning_rate = { low = 1e-4, high = 1e-2, log = true }",
    '[trial]\ngenerator = ["dcgan", "mypackage.models:Generator"]',
    '[trial]\nloss = ["hinge", "wasserstein"]\n[trial.when.loss.wasserstein]\nweight_clip = [0.01]',
    '[sampler]\nname = "cmaes"\npopsize = 8',
    '[pruner]\nname = "patient"\n[pruner.wrapped]\nname = "median"',
    "[guard.loss_ratio]\nenabled = false",
    "[[baseline]]\nlearning_rate = 2e-4\noptimizer = 'adam'",
]
BAD = [
    "[trial]\nwidth = 0",
    "[trial]\nwidth = 1.5",
    "[trial]\nwidth = []",
    "[trial]\nwidth = [16, 16]",
    "[trial]\nwidth = { low = 8 }",
    "[trial]\nwidth = { low = 8, high = 16, by = 2 }",
    "[trial]\nlearning_rate = 0",
    "[trial]\nlearning_rate = '2e-4'",
    "[trial]\ndropout = 1.0",
    "[trial]\nloss = 'hing'",
    "[trial]\nloss = { low = 1, high = 2 }",
    "[trial]\ngenerator = 'dcgann'",
    "[trial]\nlearningrate = 1e-4",
    "[trial.when.loss.hinge]\nrate = 1",
    "[data]\nsource = 'png'",
    "[sampler]\nname = 'tpee'",
    "[sampler]\nname = 'random'\npopsize = 8",
    "[study]\nname = '../x'",
    "[studie]\ntrials = 3",
]


def accepted(table: dict[str, Any]) -> bool:
    try:
        StudySpec.model_validate(table)
    except pydantic.ValidationError:
        return False
    return True


def test_the_schema_is_valid() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.name)
def test_study_files_are_valid(path: Path) -> None:
    VALIDATOR.validate(tomllib.loads(path.read_text()))


@pytest.mark.parametrize("text", GOOD)
def test_good_keys_are_valid(text: str) -> None:
    assert accepted(tomllib.loads(text))
    VALIDATOR.validate(tomllib.loads(text))


@pytest.mark.parametrize("text", BAD)
def test_bad_keys_are_not_valid(text: str) -> None:
    assert not VALIDATOR.is_valid(tomllib.loads(text))


def test_every_key_has_a_description() -> None:
    keys = {
        f"{name}.{key}": value
        for name, section in SCHEMA["$defs"].items()
        for key, value in section.get("properties", {}).items()
        if "$ref" not in value
    }
    undescribed = {key for key, value in keys.items() if "description" not in value}
    assert {key for key in undescribed if not key.endswith("name")} == set()
