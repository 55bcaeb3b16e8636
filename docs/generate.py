"""Generate the parts of docs/ that repeat the code: keys, commands, report fields, the file map.

Run it as ``python docs/generate.py``, or with ``make docs``; a test fails when these parts are
stale.
"""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast, get_args

import typer.cli
import typer.main
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from tuner.cli import app
from tuner.cli.app import Commands, Task
from tuner.epoch_report import FIELDS
from tuner.launch import kubernetes
from tuner.launch.workers import Workers
from tuner.run import monitoring
from tuner.run.signals import GRACE
from tuner.spec import guard, pruners, samplers, traits
from tuner.spec.budget import BudgetSection, StopSection
from tuner.spec.constraint import ConstraintSection
from tuner.spec.data import DataSpec
from tuner.spec.metrics import MetricsSection
from tuner.spec.parameters import to_toml
from tuner.spec.study import (
    ConfirmSection,
    PicturesSection,
    StudySection,
    WarmStartSection,
    study_file_schema,
)
from tuner.spec.tracking import NotifySection, TrackingSection
from tuner.spec.trial import TrialSection, kind_of, setting_names

DOCS = Path(__file__).parent
ROOT = DOCS.parent
GROUP = cast(Commands, typer.main.get_command(app))
COMMANDS: dict[str, Any] = {name: c for task in Task for name, c in GROUP.of(task).items()}
SUBCOMMANDS: dict[str, Any] = {
    f"{group} {name}": command
    for group, commands in COMMANDS.items()
    for name, command in getattr(commands, "commands", {}).items()
}

SECTIONS: dict[str, type[BaseModel]] = {
    "study": StudySection,
    "data": DataSpec,
    "trial": TrialSection,
    "warm_start": WarmStartSection,
    "metrics": MetricsSection,
    "guard.loss_ratio": guard.LossRatioGuard,
    "guard.variance_ratio": guard.VarianceRatioGuard,
    "guard.d_auc": guard.DiscriminatorAucGuard,
    "guard.class_coverage": guard.ClassCoverageGuard,
    "budget": BudgetSection,
    "stop": StopSection,
    "constraint": ConstraintSection,
    "confirm": ConfirmSection,
    "pictures": PicturesSection,
    "tracking": TrackingSection,
    "notify": NotifySection,
}


def study_file_keys() -> str:
    """A heading and a table for each section of the study file."""
    unions = {"sampler": samplers.SamplerSpec, "pruner": pruners.PrunerSpec}
    parts = [_table(f"`[{title}]`", section) for title, section in SECTIONS.items()]
    for title, union in unions.items():
        for section in get_args(get_args(union)[0]):
            if len(section.model_fields) > 1:  # has options besides its name
                name = section.model_fields["name"].default
                parts.append(_table(f'`[{title}]` with `name = "{name}"`', section))
    return "\n".join([*parts, _uses()])


def _uses() -> str:
    """A table of the settings that apply only with some losses, networks, optimizers, ..."""
    rows = ["### Keys that apply only with some values of others\n"]
    rows += ["| key | applies with |", "| --- | --- |"]
    for decider, table in {**traits.DECIDING, "source": traits.SOURCES}.items():
        for key in dict.fromkeys(key for entry in table.values() for key in entry.uses):
            values = [name for name, entry in table.items() if key in entry.uses]
            rows.append(f"| `{key}` | `{decider}`: {', '.join(values)} |")
    return "\n".join(rows) + "\n"


def networks() -> str:
    """A table of the architectures, their norms and how they are conditioned on labels."""
    rows = ["| network | default norms of G, D | conditioned on labels |", "| --- | --- | --- |"]
    for name, network in traits.NETWORKS.items():
        norms = ", ".join(network.norms) + (" (fixed)" if network.norms_fixed else "")
        rows.append(f"| `{name}` | {norms} | {_CONDITIONING[network.labels]} |")
    return "\n".join(rows) + "\n"


_CONDITIONING = {
    "norm": "conditional batch norm in G, projection in D",
    "embedding": "embeddings in both",
    None: "no",
}


def _table(title: str, section: type[BaseModel]) -> str:
    rows = [f"### {title}\n", "| key | default | meaning |", "| --- | --- | --- |"]
    for key, field in section.model_fields.items():
        if key == "name" and section is not StudySection:
            continue
        setting = section is TrialSection and key in setting_names()
        expected = kind_of(key).describe() if setting else ""
        meaning = "; ".join(filter(None, (field.description, expected)))
        rows.append(f"| `{key}` | {_default(field.default)} | {meaning} |")
    return "\n".join(rows) + "\n"


def _default(value: Any) -> str:
    if value is None or value is PydanticUndefined or value in ("", ()):
        return "-"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f'`"{value}"`' if isinstance(value, str) else f"`{to_toml(value)}`"


def commands() -> str:
    """All commands by task, then each command with its arguments and options."""
    text = ""
    for task in Task:
        text += f"\n| {task} | |\n| --- | --- |\n"
        for name, command in GROUP.of(task).items():
            text += f"| [`tuner {name}`](#tuner-{name}) | {_summary(command)} |\n"
    text += "\n"
    for name, command in COMMANDS.items():
        context = typer.Context(command, info_name=name)
        text += typer.cli.get_docs_for_click(
            obj=command, ctx=context, indent=1, name=name, call_prefix="tuner"
        )
    return text.replace("\n\n\n", "\n\n")


def _summary(command: Any) -> str:
    return (command.help or "").partition("\n\n")[0].replace("\n", " ").rstrip(".")


def report_fields() -> str:
    """A table of the fields of an epoch report."""
    rows = [
        f"| `{name}` | {field.label} | {field.better or '-'} | {field.meaning}"
        f"{', in seconds' * (field.unit == 's')} |"
        for name, field in FIELDS.items()
    ]
    return (
        "\n".join(["| field | label | best | meaning |", "| --- | --- | --- | --- |", *rows]) + "\n"
    )


def metrics() -> str:
    """A table of the metrics that a worker serves to Prometheus."""
    rows = ["| metric | type | labels | meaning |", "| --- | --- | --- | --- |"]
    for name, meaning in monitoring.MEANINGS.items():
        labels = ", ".join(f"`{label}`" for label in monitoring.LABELS.get(name, ()))
        kind = monitoring.kind_of(name)
        rows.append(f"| `{name}` | {kind} | {labels} | {meaning} |")
    return "\n".join(rows) + "\n"


def file_map() -> str:
    """A table of all modules with the first lines of their docstrings."""
    rows = [f"| `{path}` | {line} |" for path, line in _modules()]
    return "\n".join(["| file | contents |", "| --- | --- |", *rows]) + "\n"


def _modules() -> Iterator[tuple[str, str]]:
    for path in sorted((ROOT / "tuner").rglob("*.py")):
        docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
        if docstring and "versions" not in path.parts:
            first = docstring.partition("\n\n")[0].replace("\n", " ")
            yield path.relative_to(ROOT).as_posix(), first.rstrip(".")


SCHEMA = DOCS / "study-file.schema.json"


def schema() -> str:
    """The JSON Schema of study files, as ``tuner schema`` prints it."""
    return json.dumps(study_file_schema(), indent=2) + "\n"


MANIFESTS = ROOT / "deploy" / "kubernetes"


def manifests() -> dict[str, str]:
    """The kustomize base: what ``tuner launch kubernetes quickstart`` writes, by file name."""
    workers = Workers("quickstart", 4, "postgresql://tuner@postgres/tuner", None, GRACE)
    pods = kubernetes.Pods(image="tuner:local", secret="tuner-database")
    return {
        "job.yaml": kubernetes.job(workers, pods),
        "dashboard.yaml": kubernetes.dashboard(workers, pods),
    }


GENERATED = {
    "study-file.md": study_file_keys,
    "networks.md": networks,
    "cli.md": commands,
    "architecture.md": file_map,
    "metrics.md": report_fields,
    "operations.md": metrics,
}
_MARKED = re.compile(r"(?<=<!-- generated -->\n).*(?=<!-- end -->)", re.DOTALL)


def page(name: str) -> str:
    """The page ``name`` with its generated part updated."""
    generated = f"\n{GENERATED[name]()}\n"
    return _MARKED.sub(lambda _: generated, (DOCS / name).read_text(), count=1)


if __name__ == "__main__":
    for name in GENERATED:
        (DOCS / name).write_text(page(name))
    SCHEMA.write_text(schema())
    for name, text in manifests().items():
        (MANIFESTS / name).write_text(text)
