"""Notes for the Optuna Dashboard, in Markdown: on a trial that ended, and on the study."""

import re
import shlex
from collections.abc import Mapping, Sequence

from tuner.spec import OBJECTIVES, StudySpec
from tuner.study.store import TrialRecord
from tuner.version import __version__
from tuner.views.numbers import duration, number
from tuner.views.toml import spec_toml

CURVES = 0  # among pictures, which are known by their epochs


def trial_note(
    name: str, spec: StudySpec, trial: TrialRecord, best_epoch: int, pictures: Mapping[int, str]
) -> str:
    """Why a trial of study ``name`` ended, what it came to and cost, and what shows it again.

    ``pictures`` are addresses of its sample grids by epoch, and of its curves.
    """
    epochs = f"epoch {len(trial.reports)} of {spec.study.epochs}"
    parts = [
        f"**{trial.state.capitalize()}** after {epochs}: {_plain(trial.reason or 'no reason')}",
        _table(spec, trial, best_epoch),
    ]
    if best_epoch in pictures:
        parts.append(f"Samples after epoch {best_epoch}, the best:")
        parts.append(f"![samples after epoch {best_epoch}]({pictures[best_epoch]})")
    if CURVES in pictures:
        parts.append(f"![curves]({pictures[CURVES]})")
    again = f"tuner retry {shlex.quote(name)} {trial.number} --exactly"
    parts.append(f"The same settings with the same random numbers again: `{again}`")
    if trial.artifact:
        sample = f"tuner sample {shlex.quote(name)} --trial {trial.number} --out samples.png"
        parts.append(f"More samples: `{sample}`")
    return "\n\n".join(parts)


def _table(spec: StudySpec, trial: TrialRecord, best_epoch: int) -> str:
    reports, metric = trial.reports, OBJECTIVES[spec.metrics.objective]
    training = sum(report.train_seconds for report in reports)
    evaluating = sum(report.evaluate_seconds for report in reports)
    images = reports[-1].images if reports else 0
    speed = f"; {images / training:,.0f} images/s in training" if training else ""
    machine = trial.machine
    best = f"{number(trial.value)} in epoch {best_epoch}" if best_epoch else "never measured"
    rows = {
        metric: best,
        "loss ratio": _course([report.loss_ratio for report in reports]),
        "D AUC": _course([report.d_auc for report in reports]),
        "time": f"{duration(training + evaluating)}: {duration(training)} training, "
        f"{duration(evaluating)} evaluating{speed}",
        "device": f"{machine.get('device', '-')}, of {machine.get('host', '-')}",
        "versions": ", ".join(
            f"{key} {machine[key]}" for key in ("tuner", "jax") if key in machine
        ),
    }
    return "\n".join(["| | |", "|---|---|", *(f"| {k} | {_plain(v)} |" for k, v in rows.items())])


def _course(values: Sequence[float | None]) -> str:
    """Where a number began and ended, and its bounds."""
    known = [value for value in values if value is not None]
    if not known:
        return "not measured"
    bounds = f"{number(min(known))} to {number(max(known))}"
    return f"{number(known[0])} at first, {number(known[-1])} at last, {bounds} in all"


def study_note(name: str, spec: StudySpec) -> str:
    """What a study is, how to go on with it, and its file."""
    metric, quoted = OBJECTIVES[spec.metrics.objective], shlex.quote(name)
    searched = ", ".join(spec.trial.searched()) or "nothing"
    return "\n\n".join(
        [
            f"A search for GANs made by tuner {__version__}: {metric} is minimised over "
            f"{_plain(searched)}, on the images of {_plain(spec.data.source)}, in "
            f"{spec.study.trials} trials of up to {spec.study.epochs} epochs.",
            f"One more worker, from any machine: `tuner worker {quoted}`. All about it on one "
            f"page: `tuner report {quoted} --out report.html`.",
            "Beside the dashboard's own plots there are four of tuner's, made anew as trials end: "
            f"{metric} and loss ratio of every epoch, the best {metric} in each part of the space, "
            "and the time that went into trials of each outcome.",
            f"```toml\n{spec_toml(spec)}```",
        ]
    )


def _plain(text: str) -> str:
    """Text that Markdown leaves as it is."""
    return re.sub(r"([\\`*_{}\[\]<>|#])", r"\\\1", " ".join(text.split()))
