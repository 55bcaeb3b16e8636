"""The ``[guard]`` section: bounds outside which a trial is ended."""

from typing import Annotated

from pydantic import Field

from tuner.spec.sections import Section, entry

_Enabled = Annotated[bool, Field(description="whether this guard can end a trial")]
_Low = Annotated[float | None, Field(ge=0, description="lower bound")]
_High = Annotated[float | None, Field(ge=0, description="upper bound")]
_Grace = Annotated[int, Field(ge=0, description="generator updates before the guard applies")]


class GuardLimits(Section):
    """The bounds of one measurement. Subclasses override its defaults."""

    enabled: _Enabled = True
    low: _Low = None
    high: _High = None
    patience: int = entry(2, "consecutive evaluations out of bounds that end a trial", ge=1)
    grace_steps: _Grace = 500


class LossRatioGuard(GuardLimits):
    low: _Low = 0.001
    high: _High = 100.0
    grace_steps: _Grace = 100


class VarianceRatioGuard(GuardLimits):
    low: _Low = 0.05


class DiscriminatorAucGuard(GuardLimits):
    enabled: _Enabled = False
    high: _High = 0.9999


class ClassCoverageGuard(GuardLimits):
    low: float | None = entry(
        0.25, "lower bound, raised to 1.5 classes if that is more; 0 for none", ge=0, le=1
    )


class GuardSection(Section):
    """Bounds that end a trial. Non-finite numbers always end it at once."""

    loss_ratio: LossRatioGuard = entry(
        LossRatioGuard(),
        "ratio of D's loss to G's, each relative to its value when D cannot tell real from "
        "generated",
    )
    variance_ratio: VarianceRatioGuard = entry(
        VarianceRatioGuard(), "feature variance of generated images over that of real ones"
    )
    d_auc: DiscriminatorAucGuard = entry(DiscriminatorAucGuard(), "AUC of the discriminator")
    class_coverage: ClassCoverageGuard = entry(
        ClassCoverageGuard(), "share of classes that are generated"
    )
