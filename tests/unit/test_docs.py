"""The README says what the code says."""

import re
from pathlib import Path
from typing import Any, cast, get_args

import pytest
import typer.main
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from tuner import policies
from tuner.cli import app
from tuner.combinations import kind_of
from tuner.conditions import kinds
from tuner.settings import to_toml
from tuner.spec import DataSpec, MetricsSection, PicturesSection, StudySection, TrialSection

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
COMMANDS: dict[str, Any] = cast(Any, typer.main.get_command(app)).commands


def key_rows() -> list[str]:
    """A table row for every key of the study file."""
    sections: list[tuple[str, type[BaseModel]]] = [
        ("study", StudySection),
        ("data", DataSpec),
        ("trial", TrialSection),
        ("metrics", MetricsSection),
        ("guard.loss_ratio", policies.LossRatioGuard),
        ("guard.variance_ratio", policies.VarianceRatioGuard),
        ("guard.d_auc", policies.DiscriminatorAucGuard),
        ("guard.class_coverage", policies.ClassCoverageGuard),
        ("pictures", PicturesSection),
    ]
    for group, members in (("sampler", policies.SamplerSpec), ("pruner", policies.PrunerSpec)):
        kinds = get_args(get_args(members)[0])
        sections += [(f"{group} `{k.model_fields['name'].default}`", k) for k in kinds]
    return [row for title, section in sections for row in _rows(title, section)]


def _rows(title: str, section: type[BaseModel]) -> list[str]:
    rows = []
    for key, field in section.model_fields.items():
        if key == "name" and title.split()[0] in ("sampler", "pruner"):
            continue
        default = _toml(field.default)
        setting = section is TrialSection and key in kinds()
        expected = kind_of(key).describe() if setting else ""
        text = "; ".join(part for part in (field.description or "", expected) if part)
        rows.append(f"| {title} | `{key}` | {default} | {text} |")
    return rows


def _toml(value: Any) -> str:
    if value is None or value is PydanticUndefined or value == "":
        return "-"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, str):
        return f'`"{value}"`'
    return f"`{to_toml(value)}`"


@pytest.mark.parametrize("row", key_rows())
def test_readme_has_every_key(row: str) -> None:
    assert row in README


def test_readme_has_no_key_of_its_own() -> None:
    written = [line for line in README.splitlines() if re.match(r"\| \S.* \| `\w+` \|", line)]
    assert sorted(written) == sorted(key_rows())


def test_readme_names_commands_that_exist_and_all_of_them() -> None:
    assert _commands(README) == set(COMMANDS)


@pytest.mark.parametrize("path", sorted((ROOT / "docs").glob("*.md")), ids=lambda path: path.name)
def test_docs_name_commands_that_exist(path: Path) -> None:
    assert _commands(path.read_text()) <= set(COMMANDS)


def _commands(text: str) -> set[str]:
    return set(re.findall(r"\btuner ([a-z][a-z-]+)\b", "\n".join(_code(text))))


def _code(text: str) -> list[str]:
    return re.findall(r"```.*?\n(.*?)```", text, re.S) + re.findall(r"`(tuner [^`]*)`", text)


def test_make_targets_in_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"\bmake ([a-z]+)\b", "\n".join(_code(README)))):
        assert re.search(rf"^{target}:", makefile, re.M), target


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_help_with_an_example(name: str) -> None:
    command = COMMANDS[name]
    assert command.help
    assert re.search(rf"Example: tuner {name}\b", command.help)


def test_file_map_names_every_module() -> None:
    modules = [p for p in (ROOT / "tuner").rglob("*.py") if p.read_text().strip()]
    for path in modules:
        name = path.relative_to(ROOT)
        migrations = "tuner/study/migrations"
        known = migrations + "/" if str(name).startswith(migrations) else str(name)
        assert f"`{known}`" in README, path
