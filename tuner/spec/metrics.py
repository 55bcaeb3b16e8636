"""The ``[metrics]`` section."""

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator

from tuner.epoch_report import FIELDS, ReportField
from tuner.spec.kinds import did_you_mean, is_import_name, shown
from tuner.spec.sections import OneOf, Section, entry

When = Literal["off", "end", "every"]
# Feature extractors, and the number of features of each.
FEATURES = {
    "classifier": 128,
    "random": 128,
    "inception": 2048,
    "dinov2": 1024,
    "dinov2-base": 768,
    "clip": 768,
}
PRETRAINED = ("inception", "dinov2", "dinov2-base", "clip")  # their weights come from a file


class Objective(NamedTuple):
    """What a study can minimise or maximise."""

    label: str
    higher: bool = False  # whether higher values are better
    group: str | None = None  # the optional metrics that it is computed with
    alone: bool = False  # whether it can be the only objective
    measured: bool = True  # on generated images, at each evaluation


def _measured(name: str, group: str | None, *, alone: bool = False) -> Objective:
    field = FIELDS[name]
    return Objective(field.label, field.better == "higher", group, alone)


class _Objectives(dict[str, Objective]):
    """Objectives by name; custom metrics are named by their functions."""

    def __missing__(self, name: str) -> Objective:
        return Objective(name.partition(":")[2].replace("_", " ") or name, alone=True)


class _Labels(dict[str, str]):
    """Labels of objectives by name, including custom metrics."""

    def __missing__(self, name: str) -> str:
        return ALL_OBJECTIVES[name].label


ALL_OBJECTIVES = _Objectives(
    {
        "fid": _measured("fid", None, alone=True),
        **{name: _measured(name, name, alone=True) for name in ("kid", "fid_infinity", "cmmd")},
        **{n: _measured(n, "neighbours") for n in ("precision", "recall", "density", "coverage")},
        "seconds": Objective("seconds", measured=False),
        "parameters": Objective("parameters", measured=False),
    }
)
OBJECTIVES = _Labels({name: objective.label for name, objective in ALL_OBJECTIVES.items()})


def objective_field(name: str) -> ReportField:
    """The field of an objective; a custom metric gets one of the same kind."""
    own = ReportField(OBJECTIVES[name], "custom metric", "lower", name=name, nullable=True)
    return FIELDS.get(name, own)


def _objective(value: Any) -> str:
    if isinstance(value, str) and (value in OBJECTIVES or is_import_name(value)):
        return value
    names = ", ".join(map(repr, OBJECTIVES))
    hint = did_you_mean(value, OBJECTIVES) if isinstance(value, str) else ""
    raise ValueError(f"found {shown(value)}, expected one of {names}, or a metric in own{hint}")


def _own(value: Any) -> tuple[str, ...]:
    expected = "expected a list of names like package.module:function"
    if not isinstance(value, list | tuple):
        raise ValueError(f"found {shown(value)}, {expected}")
    for name in value:
        if not is_import_name(name):
            raise ValueError(f"found {shown(name)}, {expected}")
    return tuple(dict.fromkeys(value))


_IMPORT_NAME = {"type": "string", "pattern": r"^[^:]+:[^:]+$"}
_OBJECTIVE_SCHEMA = {"anyOf": [{"enum": list(OBJECTIVES), "type": "string"}, _IMPORT_NAME]}
_OWN_SCHEMA = {"type": "array", "items": _IMPORT_NAME}
_Name = Annotated[str, BeforeValidator(_objective), WithJsonSchema(_OBJECTIVE_SCHEMA)]
# Of pt_inception-2015-12-05-6726825d.pth, the FID network's weights as pytorch-fid publishes them.
INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"


def _sha256(value: str) -> str:
    if not re.fullmatch("[0-9a-fA-F]{64}", value):
        raise ValueError(f"found {value!r}, expected 64 hexadecimal digits")
    return value.lower()


class MetricsSection(Section):
    features: Annotated[str, OneOf(FEATURES)] = entry(
        "classifier",
        "feature extractor: a classifier trained on the data's labels, random filters, the "
        "Inception network of published FIDs, DINOv2 (ViT-L/14, or ViT-B/14 as `dinov2-base`), or "
        "CLIP (ViT-L/14-336)",
    )
    weights: str = entry(
        "",
        "file with the weights of inception, dinov2 or clip; the environment variable "
        "TUNER_WEIGHTS overrides it",
    )
    weights_sha256: Annotated[str, AfterValidator(_sha256)] = entry(
        INCEPTION_SHA256,
        "SHA-256 of that file; by default that of Inception's published file; files for dinov2 and "
        "clip are checked only if it is set",
    )
    input: Literal["clean", "pytorch-fid", "torch-fidelity"] = entry(
        "clean", "library whose resizing to Inception's 299 x 299 pixels is reproduced"
    )
    samples: int = entry(5000, "generated images per evaluation", ge=10, le=1_000_000)
    every: int = entry(
        1,
        "epochs between evaluations, by default 5 with inception, dinov2 and clip; the last epoch "
        "is always evaluated",
        ge=1,
        le=100_000,
    )
    objective: _Name = entry(
        "fid",
        "metric that is minimised and reported to samplers and pruners: `fid`, `kid`, "
        "`fid_infinity`, `cmmd` (only with clip, and its default), or a metric in `own`",
    )
    objectives: tuple[_Name, ...] = Field(
        default=(),
        strict=False,
        description="two or more objectives instead of one: "
        f"{', '.join(OBJECTIVES)}, or metrics in `own`; the first must be a metric of images: it "
        "chooses a trial's epoch, and pruners judge by it",
    )
    own: Annotated[tuple[str, ...], BeforeValidator(_own), WithJsonSchema(_OWN_SCHEMA)] = entry(
        (), "custom metrics, as `package.module:function`; see docs/metrics.md"
    )
    kid: When = entry("off", "KID at every evaluation, at the last, or never")
    neighbours: When = entry("end", "precision, recall, density and coverage, likewise")
    fid_infinity: When = entry("off", "FID extrapolated to infinitely many samples, likewise")
    heldout: When = entry(
        "end",
        "metrics against held-out images, and the share of samples that copy training images, "
        "likewise; applies if data.holdout is above 0",
    )

    @model_validator(mode="before")
    @classmethod
    def _first_objective(cls, table: Any) -> Any:
        """Make the first of several objectives the one that counts where a single one is needed."""
        match table:
            case {"objectives": [str(first), *_]} if first in OBJECTIVES or is_import_name(first):
                return {"objective": first} | table
        return table

    @property
    def names(self) -> tuple[str, ...]:
        """The objectives: one, or several."""
        return self.objectives or (self.objective,)

    @property
    def labels(self) -> list[str]:
        """The labels of the objectives."""
        return [OBJECTIVES[name] for name in self.names]

    def same_labels(self) -> Iterator[tuple[str, str]]:
        """Custom metrics whose label is already in use, each with what uses it."""
        built_in = {*(field.label for field in FIELDS.values()), *OBJECTIVES.values()}
        known = {label.lower(): f"the built-in {label}" for label in built_in}
        for name in self.own:
            label = OBJECTIVES[name].lower()
            if label in known:
                yield name, known[label]
            known[label] = repr(name)

    @property
    def several(self) -> bool:
        """Whether trials are compared by several objectives."""
        return bool(self.objectives)

    @model_validator(mode="before")
    @classmethod
    def _defaults_by_features(cls, table: Any) -> Any:
        if not isinstance(table, dict) or table.get("features") not in PRETRAINED:
            return table
        is_clip = table["features"] == "clip" and "objectives" not in table
        return {"every": 5} | ({"objective": "cmmd"} if is_clip else {}) | table

    def evaluated(self, epoch: int, epochs: int) -> bool:
        """Whether a trial of ``epochs`` epochs is evaluated after ``epoch``."""
        return epoch % self.every == 0 or epoch == epochs

    def extras(self, epoch: int, epochs: int) -> set[str]:
        """The metrics that this evaluation computes in addition to FID."""
        due = ("every", "end") if epoch == epochs else ("every",)
        optional = ("kid", "neighbours", "fid_infinity", "heldout")
        found = {name for name in optional if getattr(self, name) in due}
        groups = {ALL_OBJECTIVES[name].group for name in self.names} - {None}
        return found | self.always | {*map(str, groups)}

    @property
    def always(self) -> set[str]:
        """The metrics that belong to these features, computed at every evaluation."""
        return {"cmmd"} if self.features == "clip" else set()
