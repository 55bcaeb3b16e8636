"""``[tracking]`` and ``[notify]``: names of trackers and events, and nothing else."""

import pytest
from builders import assert_problem, spec_of

from tuner.spec.edits import edited, parse_assignments
from tuner.spec.study import StudySpec, study_file_schema
from tuner.spec.tracking import EVENTS, TRACKERS
from tuner.views.study_toml import spec_toml


def test_trackers_and_events_are_lists_of_names() -> None:
    spec = spec_of("[tracking]\nto = ['mlflow', 'wandb']\n[notify]\non = ['ended']")
    assert spec.tracking.to == ("mlflow", "wandb")
    assert spec.notify.on == ("ended",)
    assert StudySpec.model_validate_json(spec.model_dump_json()) == spec
    assert 'to = ["mlflow", "wandb"]' in spec_toml(spec)
    assert spec_of("").tracking.to == spec_of("").notify.on == ()


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("to = 'mlflow'", ["found 'mlflow', expected a list of any of tensorboard, mlflow"]),
        ("to = ['mlflw']", ["found 'mlflw'", "did you mean 'mlflow'?"]),
        ("to = ['mlflow', 'mlflow']", ["each name once"]),
        ("to = [3]", ["found 3"]),
        ("to = [['mlflow']]", ["expected a list of any of"]),
    ],
)
def test_other_values_are_refused(line: str, parts: list[str]) -> None:
    assert_problem(f"[tracking]\n{line}", "tracking.to", *parts)


@pytest.mark.parametrize("key", ["uri", "url", "urls", "token", "folder"])
@pytest.mark.parametrize("section", ["tracking", "notify"])
def test_a_study_file_holds_no_addresses_and_no_passwords(section: str, key: str) -> None:
    """A study in a database must not make a worker contact a host that its author chose."""
    assert_problem(f"[{section}]\n{key} = 'http://host'", f"{section}.{key}", "unknown key")


def test_a_running_study_can_begin_to_be_tracked() -> None:
    spec = edited(spec_of(""), parse_assignments(['tracking.to=["mlflow"]']), "s")
    assert spec.tracking.to == ("mlflow",)


def test_the_schema_lists_the_names() -> None:
    sections = study_file_schema()["$defs"]
    for name, key, known in [("Tracking", "to", TRACKERS), ("Notify", "on", EVENTS)]:
        found = sections[f"{name}Section"]["properties"][key]
        assert found["items"]["enum"] == [*known]
