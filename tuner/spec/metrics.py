"""The ``[metrics]`` section."""

import re
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, Field, model_validator

from tuner.spec.sections import OneOf, Section, entry
from tuner.trial import FIELDS

When = Literal["off", "end", "every"]
# Feature extractors, and the number of features of each.
FEATURES = {"classifier": 128, "random": 128, "inception": 2048}


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


ALL_OBJECTIVES = {
    "fid": _measured("fid", None, alone=True),
    "kid": _measured("kid", "kid", alone=True),
    "fid_infinity": _measured("fid_infinity", "fid_infinity", alone=True),
    **{n: _measured(n, "neighbours") for n in ("precision", "recall", "density", "coverage")},
    "seconds": Objective("seconds", measured=False),
    "parameters": Objective("parameters", measured=False),
}
OBJECTIVES = {name: objective.label for name, objective in ALL_OBJECTIVES.items()}
# Of pt_inception-2015-12-05-6726825d.pth, the FID network's weights as pytorch-fid publishes them.
INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"


def _sha256(value: str) -> str:
    if not re.fullmatch("[0-9a-fA-F]{64}", value):
        raise ValueError(f"found {value!r}, expected 64 hexadecimal digits")
    return value.lower()


class MetricsSection(Section):
    features: Annotated[str, OneOf(FEATURES)] = entry(
        "classifier",
        "feature extractor: a classifier trained on the data's labels, random filters, or the "
        "Inception network of published FIDs",
    )
    weights: str = entry(
        "", "file with Inception's weights; the environment variable TUNER_WEIGHTS overrides it"
    )
    weights_sha256: Annotated[str, AfterValidator(_sha256)] = entry(
        INCEPTION_SHA256, "SHA-256 of that file; by default that of the published file"
    )
    input: Literal["clean", "pytorch-fid", "torch-fidelity"] = entry(
        "clean", "library whose resizing to Inception's 299 x 299 pixels is reproduced"
    )
    samples: int = entry(5000, "generated images per evaluation", ge=10, le=1_000_000)
    every: int = entry(
        1,
        "epochs between evaluations, by default 5 with inception; the last is always evaluated",
        ge=1,
        le=100_000,
    )
    objective: Annotated[str, OneOf(OBJECTIVES)] = entry(
        "fid",
        "metric that is minimised and reported to samplers and pruners: fid, kid, fid_infinity",
    )
    objectives: tuple[Annotated[str, OneOf(OBJECTIVES)], ...] = Field(
        default=(),
        strict=False,
        description="two or more objectives instead of one: "
        f"{', '.join(OBJECTIVES)}; the first, a metric of images, chooses a trial's epoch and is "
        "what pruners see",
    )
    kid: When = entry("off", "KID at every evaluation, at the last, or never")
    neighbours: When = entry("end", "precision, recall, density and coverage, likewise")
    fid_infinity: When = entry("off", "FID extrapolated to infinitely many samples, likewise")
    heldout: When = entry(
        "end",
        "metrics against held-out images, and the share of copied training images, likewise; it "
        "applies if data.holdout is above 0",
    )

    @model_validator(mode="before")
    @classmethod
    def _first_objective(cls, table: Any) -> Any:
        """The first of several objectives is the one where a single number is needed."""
        match table:
            case {"objectives": [str(first), *_]} if first in OBJECTIVES:
                return {"objective": first} | table
        return table

    @property
    def names(self) -> tuple[str, ...]:
        """The objectives: one, or several."""
        return self.objectives or (self.objective,)

    @property
    def labels(self) -> list[str]:
        """What the objectives are called in text."""
        return [OBJECTIVES[name] for name in self.names]

    @property
    def several(self) -> bool:
        """Whether trials are compared by several objectives."""
        return bool(self.objectives)

    @model_validator(mode="before")
    @classmethod
    def _fewer_inception_evaluations(cls, table: Any) -> Any:
        if isinstance(table, dict) and table.get("features") == "inception":
            return {"every": 5} | table
        return table

    def evaluated(self, epoch: int, epochs: int) -> bool:
        """Whether a trial of ``epochs`` epochs is evaluated after ``epoch``."""
        return epoch % self.every == 0 or epoch == epochs

    def extras(self, epoch: int, epochs: int) -> set[str]:
        """The metrics that this evaluation computes in addition to FID."""
        due = ("every", "end") if epoch == epochs else ("every",)
        optional = ("kid", "neighbours", "fid_infinity", "heldout")
        groups = {ALL_OBJECTIVES[name].group for name in self.names} - {None}
        return {name for name in optional if getattr(self, name) in due} | {*map(str, groups)}
