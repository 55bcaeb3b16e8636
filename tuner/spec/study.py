"""``StudySpec``: the study file as typed, checked values.

Every key has a default; the defaults are the recipe of TensorFlow's DCGAN tutorial. Keys are
checked one by one here; rules between keys are in ``validation``.
"""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, PlainValidator

from tuner.spec.budget import BudgetSection, StopSection
from tuner.spec.constraint import ConstraintSection
from tuner.spec.data import DataSpec
from tuner.spec.guard import GuardSection
from tuner.spec.kinds import shown
from tuner.spec.metrics import MetricsSection
from tuner.spec.parameters import Value
from tuner.spec.pruners import AshaPruner, PrunerSpec
from tuner.spec.samplers import SamplerSpec, TpeSampler
from tuner.spec.sections import Section, entry
from tuner.spec.tracking import NotifySection, TrackingSection
from tuner.spec.trial import TrialSection

MAX_TRIALS = 1_000_000
STUDY_NAME = "[A-Za-z0-9][A-Za-z0-9._-]*"
_PASSWORD = re.compile(r"^(?!sqlite:)[^/]*//.*:.*@|password=", re.IGNORECASE | re.DOTALL)
LONGEST_NAME = 246  # a study's folder adds nine characters; file systems allow 255


def _scalar(value: Any) -> Value:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"found {shown(value)}, expected one value")
    return value


class StudySection(Section):
    name: str = entry(
        "study",
        "name of the study in the database; by default the name of the file",
        pattern=f"^{STUDY_NAME}$",
        max_length=LONGEST_NAME,
    )
    trials: int = entry(
        20, "total number of trials, complete and pruned; may be raised later", ge=1, le=MAX_TRIALS
    )
    epochs: int = entry(20, "epochs of a trial that is not pruned", ge=1, le=100_000)
    seed: int = entry(0, "seed of everything random in the study", ge=0, lt=2**31)
    value: Literal["best", "last"] = entry(
        "best",
        "value of a trial for samplers and pruners: that of its best epoch so far, or of its last",
    )
    lease_seconds: float = entry(
        60.0,
        "seconds without a heartbeat after which another worker takes over the trial",
        ge=1,
        le=86_400,
    )
    checkpoint_seconds: float = entry(
        30.0, "minimum number of seconds between checkpoints of a trial", ge=0, le=86_400
    )
    checkpoint_gb: float = entry(
        20.0,
        "GB for the checkpoints of paused trials; beyond it, the paused trial ranked last is "
        "pruned",
        gt=0,
    )
    max_takeovers: int = entry(
        3, "times a trial may lose its worker without completing another epoch", ge=0, le=1000
    )
    epoch_timeout: float | None = entry(
        None,
        "seconds after which an epoch counts as hung and its worker exits; by default 10 times "
        "the duration of the trial's epochs, but at least 10 minutes, or 3 hours for an epoch "
        "that compiles",
        ge=1,
        le=31_536_000,
    )


class ConfirmSection(Section):
    """How a study that has ended confirms its winner: see ``tuner.study.confirmation``."""

    top: int = entry(
        0, "best configurations to train again with fresh seeds; 0 for none", ge=0, le=100
    )
    seeds: int = entry(5, "maximum number of seeds for each configuration", ge=2, le=1000)
    confidence: float = entry(
        0.95, "confidence of intervals, and for removing a configuration", gt=0.5, lt=1
    )


class PicturesSection(Section):
    images: int = entry(36, "images in the sample grid of a trial; 0 for no grids", ge=0, le=400)
    first: int = entry(5, "every evaluated epoch up to this one gets a grid", ge=0)
    every: int = entry(10, "epochs between later grids; the best epoch gets one too", ge=1)

    def due(self, epoch: int, evaluated_every: int) -> bool:
        """Whether an evaluated epoch gets a grid.

        After epoch ``first``, it gets one if it is the first to be evaluated since a multiple of
        ``every`` was reached.
        """
        previous = (epoch - 1) // evaluated_every * evaluated_every
        return epoch <= self.first or epoch // self.every > previous // self.every


def _without_password(url: str | None) -> str | None:
    if url is not None and _PASSWORD.search(url):  # the message must not quote it
        raise ValueError("found a URL with a password; give it in PGPASSWORD or ~/.pgpass instead")
    return url


class WarmStartSection(Section):
    study: str | None = entry(
        None, "earlier study whose best configurations are queued first", pattern=f"^{STUDY_NAME}$"
    )
    storage: Annotated[str | None, AfterValidator(_without_password)] = entry(
        None, "URL of its database, without a password; by default the new study's"
    )
    top: int = entry(5, "configurations to queue", ge=1, le=1000)


class StudySpec(Section):
    """A complete study file."""

    study: StudySection = StudySection()
    data: DataSpec = DataSpec()
    trial: TrialSection = TrialSection()
    baseline: tuple[dict[str, Annotated[Value, PlainValidator(_scalar)]], ...] = Field(
        (), strict=False
    )
    warm_start: WarmStartSection = WarmStartSection()
    sampler: SamplerSpec = TpeSampler()
    pruner: PrunerSpec = AshaPruner()
    budget: BudgetSection = BudgetSection()
    stop: StopSection = StopSection()
    constraint: ConstraintSection = ConstraintSection()
    confirm: ConfirmSection = ConfirmSection()
    guard: GuardSection = GuardSection()
    metrics: MetricsSection = MetricsSection()
    pictures: PicturesSection = PicturesSection()
    tracking: TrackingSection = TrackingSection()
    notify: NotifySection = NotifySection()


def file_table(spec: StudySpec) -> dict[str, Any]:
    """A study file as parsed from TOML, without keys that have their defaults.

    Samplers and pruners keep their names, which decide on the other keys of their sections.
    """
    table = spec.model_dump(mode="json", exclude_defaults=True)
    for key in ("sampler", "pruner"):
        if key in table:
            table[key] = {"name": getattr(spec, key).name} | table[key]
    # Of these, the features decide on the defaults.
    usual = MetricsSection(features=spec.metrics.features)
    for key in ("every", "objective"):
        if getattr(spec.metrics, key) != getattr(usual, key):
            table.setdefault("metrics", {})[key] = getattr(spec.metrics, key)
    if spec.metrics.several:  # the first of them is the objective
        table["metrics"].pop("objective", None)
    wrapped = getattr(spec.pruner, "wrapped", None)
    if wrapped is not None:
        table["pruner"]["wrapped"] = {"name": wrapped.name} | table["pruner"]["wrapped"]
    return table


def study_file_schema() -> dict[str, Any]:
    """The schema of a study file (JSON Schema, draft 2020-12).

    It covers single keys. ``tuner check`` also checks the rules between keys.
    """
    schema = StudySpec.model_json_schema()
    trial = schema["$defs"]["TrialSection"]["properties"]
    settings = {k: {"$ref": f"#/$defs/TrialSection/properties/{k}"} for k in trial if k != "when"}
    branch = {"type": "object", "properties": settings, "additionalProperties": False}
    schema["$defs"]["Branch"] = branch
    by_choice = {"type": "object", "additionalProperties": {"$ref": "#/$defs/Branch"}}
    trial["when"] |= {"additionalProperties": by_choice}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
