"""The report on an epoch, with the label and meaning of each number, and a trial's history."""

import itertools
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple, get_args, get_type_hints


class ReportField(NamedTuple):
    """How one number of an epoch report is stored, shown and documented.

    Each field of ``EpochReport`` except ``own`` is annotated with one. Database columns, the
    reading of rows, terminal output, tables, data frames, Prometheus metrics and docs/metrics.md
    derive from them.
    """

    label: str  # in text, tables and plots
    meaning: str  # one line, for the documentation
    better: str = ""  # "lower", "higher", or the ideal value
    unit: str = ""  # "s" for durations; plain numbers have none
    logged: bool = True  # whether a measurement is part of an epoch's log line
    gauge: str = ""  # its Prometheus metric is tuner_trial_<gauge>; none if empty
    may_be_infinite: bool = False
    # What follows is filled in from the annotated field.
    name: str = ""
    kind: type = float  # int, float or bool
    nullable: bool = False  # a measurement, which not every epoch has
    default: float | None = None  # for rows from before the field existed


def _held_out(label: str, better: str = "lower", *, logged: bool = False) -> ReportField:
    """The field of a metric against held-out images."""
    return ReportField(f"held-out {label}", f"{label} against held-out images", better, "", logged)


def _gap(label: str, *, logged: bool = False) -> ReportField:
    """The field of the gap between a metric against held-out and against training images."""
    meaning = f"held-out {label} minus {label} against as many training images"
    return ReportField(f"{label} gap", meaning, "0", "", logged)


class EpochReport(NamedTuple):
    """The numbers of one epoch of a trial.

    A measurement that was not made is None: ``loss_ratio`` if the loss has no indifference value,
    metrics of generated images after an epoch without evaluation. If ``finite`` is False, the
    measurements are None, or whatever could still be computed. Times exclude compilation. New
    fields go last and have a default, because earlier reports were stored without them.
    """

    epoch: Annotated[int, ReportField("epoch", "counted from 1")]
    fid: Annotated[
        float | None,
        ReportField("FID", "Fréchet distance to the real features", "lower", gauge="fid"),
    ]
    d_loss: Annotated[
        float | None,
        ReportField("D loss", "mean loss of the discriminator", logged=False, may_be_infinite=True),
    ]
    g_loss: Annotated[
        float | None,
        ReportField("G loss", "mean loss of the generator", logged=False, may_be_infinite=True),
    ]
    loss_ratio: Annotated[
        float | None,
        ReportField(
            "loss ratio",
            "loss of D over loss of G, each relative to its value at indifference",
            "1",
            gauge="loss_ratio",
            may_be_infinite=True,
        ),
    ]
    d_auc: Annotated[
        float | None,
        ReportField(
            "D AUC",
            "probability that D scores a real image above a generated one",
            "0.5",
            gauge="discriminator_auc",  # promtool reads d_ as days
        ),
    ]
    variance_ratio: Annotated[
        float | None,
        ReportField("variance ratio", "variance of generated features over that of real ones", "1"),
    ]
    finite: Annotated[
        bool, ReportField("finite", "whether all weights and losses are finite numbers")
    ]
    steps: Annotated[int, ReportField("steps", "generator updates since the trial began")]
    images: Annotated[int, ReportField("images", "real images seen since the trial began")]
    train_seconds: Annotated[float, ReportField("training", "time spent on training", unit="s")]
    evaluate_seconds: Annotated[
        float, ReportField("evaluation", "time spent on evaluation", unit="s")
    ]
    kid: Annotated[
        float | None,
        ReportField("KID", "kernel distance (squared MMD) to the real features", "lower"),
    ] = None
    fid_infinity: Annotated[
        float | None,
        ReportField(
            "FID infinity", "FID extrapolated to infinitely many generated images", "lower"
        ),
    ] = None
    precision: Annotated[
        float | None,
        ReportField("precision", "share of generated images within the real manifold", "higher"),
    ] = None
    recall: Annotated[
        float | None,
        ReportField("recall", "share of real images within the generated manifold", "higher"),
    ] = None
    density: Annotated[
        float | None,
        ReportField(
            "density", "real neighbourhoods around a generated image, mean over k", "higher"
        ),
    ] = None
    coverage: Annotated[
        float | None,
        ReportField(
            "coverage", "share of real neighbourhoods that hold a generated image", "higher"
        ),
    ] = None
    class_coverage: Annotated[
        float | None,
        ReportField("class coverage", "share of the data's classes that are generated", "higher"),
    ] = None
    class_entropy: Annotated[
        float | None,
        ReportField("class entropy", "entropy of generated classes over that of the data's", "1"),
    ] = None
    generate_seconds: Annotated[
        float, ReportField("generating", "part of evaluation: generating images", unit="s")
    ] = 0.0
    extract_seconds: Annotated[
        float, ReportField("features", "part of evaluation: extracting features", unit="s")
    ] = 0.0
    score_seconds: Annotated[
        float,
        ReportField("metrics", "part of evaluation: computing metrics from features", unit="s"),
    ] = 0.0
    heldout_fid: Annotated[float | None, _held_out("FID", logged=True)] = None
    fid_gap: Annotated[float | None, _gap("FID", logged=True)] = None
    heldout_kid: Annotated[float | None, _held_out("KID")] = None
    kid_gap: Annotated[float | None, _gap("KID")] = None
    heldout_fid_infinity: Annotated[float | None, _held_out("FID infinity")] = None
    fid_infinity_gap: Annotated[float | None, _gap("FID infinity")] = None
    heldout_precision: Annotated[float | None, _held_out("precision", "higher")] = None
    precision_gap: Annotated[float | None, _gap("precision")] = None
    heldout_recall: Annotated[float | None, _held_out("recall", "higher")] = None
    recall_gap: Annotated[float | None, _gap("recall")] = None
    heldout_density: Annotated[float | None, _held_out("density", "higher")] = None
    density_gap: Annotated[float | None, _gap("density")] = None
    heldout_coverage: Annotated[float | None, _held_out("coverage", "higher")] = None
    coverage_gap: Annotated[float | None, _gap("coverage")] = None
    heldout_variance_ratio: Annotated[float | None, _held_out("variance ratio", "1")] = None
    variance_ratio_gap: Annotated[float | None, _gap("variance ratio")] = None
    cmmd: Annotated[
        float | None, ReportField("CMMD", "Gaussian MMD to the real CLIP embeddings", "lower")
    ] = None
    heldout_cmmd: Annotated[float | None, _held_out("CMMD")] = None
    cmmd_gap: Annotated[float | None, _gap("CMMD")] = None
    copied: Annotated[
        float | None,
        ReportField("copied", "share of samples that copy training images", "lower"),
    ] = None
    own: Mapping[str, float] = {}  # custom metrics, by name
    augmentation: Annotated[
        float | None,
        ReportField(
            "augmentation",
            "probability with which images are augmented, if augment_target adapts it",
            gauge="augmentation",
        ),
    ] = None

    def value(self, field: str) -> float | None:
        """The number in a field, such as the study's objective; None if it was not measured."""
        if ":" in field:
            return self.own.get(field)
        measured: float | None = getattr(self, field)
        return measured

    @property
    def seconds(self) -> float:
        """Training and evaluation together."""
        return self.train_seconds + self.evaluate_seconds

    @property
    def images_per_second(self) -> float:
        """Real images per second of training, over this epoch."""
        return self.images / self.epoch / self.train_seconds if self.train_seconds else 0.0


class History(tuple[EpochReport, ...]):
    """The reports of a trial so far, in the order of its epochs."""

    __slots__ = ()

    def measured(self, field: str) -> list[tuple[int, float]]:
        """(epoch, value) for every epoch in which the field was measured."""
        values = [(report.epoch, report.value(field)) for report in self]
        return [(epoch, value) for epoch, value in values if value is not None]

    def last_value(self, objective: str) -> float | None:
        """The last measured value; None if there is none."""
        measured = self.measured(objective)
        return measured[-1][1] if measured else None

    def best_so_far(self, objective: str) -> dict[int, float]:
        """The best value up to each epoch in which the objective was measured."""
        measured = self.measured(objective)
        best = itertools.accumulate((value for _, value in measured), _better(objective))
        return dict(zip((epoch for epoch, _ in measured), best, strict=True))

    def best_value(self, objective: str) -> float | None:
        """The best measured value; None if there is none."""
        best: float | None = _better(objective)(
            (value for _, value in self.measured(objective)), default=None
        )
        return best

    def scored_epoch(self, objective: str, which: str) -> int:
        """The epoch that the trial's value comes from; 0 if nothing was measured.

        ``which`` is the study's ``value``: "best" for the best measured value, else the last.
        """
        measured = self.measured(objective)
        if which == "best":
            better = _better(objective)
            epoch: int = better(measured, key=lambda pair: pair[1], default=(0, 0.0))[0]
            return epoch
        return measured[-1][0] if measured else 0

    @property
    def train_seconds(self) -> float:
        return sum(report.train_seconds for report in self)

    @property
    def evaluate_seconds(self) -> float:
        return sum(report.evaluate_seconds for report in self)

    @property
    def seconds(self) -> float:
        """Training and evaluation together."""
        return self.train_seconds + self.evaluate_seconds

    @property
    def evaluation_share(self) -> float:
        """The fraction of the time that was spent evaluating."""
        return self.evaluate_seconds / self.seconds if self.seconds else 0.0


def _better(objective: str) -> Any:
    """The function that returns the better one of two values."""
    field = FIELDS.get(objective)  # custom metrics are minimised
    return max if field is not None and field.better == "higher" else min


def _fields() -> dict[str, ReportField]:
    fields = {}
    for name, hint in get_type_hints(EpochReport, include_extras=True).items():
        if name == "own":
            continue
        annotated, field = get_args(hint)
        kind, *none = get_args(annotated) or (annotated,)
        default = EpochReport._field_defaults.get(name)
        fields[name] = field._replace(name=name, kind=kind, nullable=bool(none), default=default)
    return fields


FIELDS = _fields()  # by name, in the order of ``EpochReport``
# Metrics that are also measured against held-out images.
COMPARED = tuple(n.removeprefix("heldout_") for n in FIELDS if n.startswith("heldout_"))
MEASUREMENTS = tuple(field for field in FIELDS.values() if field.nullable)
DURATIONS = tuple(name for name, field in FIELDS.items() if field.unit == "s")
