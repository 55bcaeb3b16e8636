"""Markdown notes in the Optuna Dashboard, on ended trials and on the study."""

import re
import shlex
from collections.abc import Mapping, Sequence

from tuner.files.pictures import CURVES
from tuner.spec.metrics import ALL_OBJECTIVES, OBJECTIVES
from tuner.spec.study import StudySpec
from tuner.study.budget import Budget
from tuner.study.confirmation import Result
from tuner.study.objectives import pareto_front
from tuner.study.records import TrialRecord, ranked
from tuner.version import __version__
from tuner.views.budgets import budget_line
from tuner.views.confirmations import winner_line, winner_warnings
from tuner.views.formatting import duration, number
from tuner.views.generator_warnings import trial_warnings
from tuner.views.study_toml import spec_toml
from tuner.views.summaries import best_line, front_line

RED = "\N{LARGE RED CIRCLE}"  # the dashboard shows neither colours nor HTML in a note
STATES = {"COMPLETE": "Complete", "PRUNED": "Pruned", "FAIL": "Failed"}


def trial_note(
    name: str, spec: StudySpec, trial: TrialRecord, best_epoch: int, pictures: Mapping[int, str]
) -> str:
    """A note on an ended trial of study ``name``: reason, results, cost, commands to repeat it.

    ``pictures`` are the URLs of its sample grids by epoch, and of its curves.
    """
    epochs = f"epoch {len(trial.reports)} of {spec.study.epochs}"
    warnings = trial_warnings(trial, spec.metrics.objective)
    parts = [
        f"**{STATES[trial.state]}** after {epochs}: {plain(trial.reason or 'no reason')}",
        *(f"{RED} **Warning: {plain(text)}**" for text in warnings),
        _table(spec, trial, best_epoch),
    ]
    if best_epoch in pictures:
        parts.append(f"Samples after epoch {best_epoch} (the best):")
        parts.append(f"![samples after epoch {best_epoch}]({pictures[best_epoch]})")
    if CURVES in pictures:
        parts.append(f"![curves]({pictures[CURVES]})")
    again = f"tuner retry {shlex.quote(name)} {trial.number} --exactly"
    parts.append(f"To train it again with the same random numbers: `{again}`")
    if trial.artifact:
        sample = f"tuner sample {shlex.quote(name)} --trial {trial.number} --out samples.png"
        parts.append(f"More samples: `{sample}`")
    return "\n\n".join(parts)


def _table(spec: StudySpec, trial: TrialRecord, best_epoch: int) -> str:
    reports, machine = trial.history, trial.machine
    training, evaluating = reports.train_seconds, reports.evaluate_seconds
    images = reports[-1].images if reports else 0
    speed = f"; {images / training:,.0f} images/s in training" if training else ""
    best = f"{number(trial.value)} in epoch {best_epoch}" if best_epoch else "never measured"
    rows = {
        OBJECTIVES[spec.metrics.objective]: best,
        **{OBJECTIVES[n]: number(trial.objectives.get(n)) for n in spec.metrics.names[1:]},
        "loss ratio": _range([report.loss_ratio for report in reports]),
        "D AUC": _range([report.d_auc for report in reports]),
        "time": f"{duration(reports.seconds)}: {duration(training)} training, "
        f"{duration(evaluating)} evaluating{speed}",
        "device": f"{machine.get('device', '-')} on {machine.get('host', '-')}",
        "versions": ", ".join(
            f"{key} {machine[key]}" for key in ("tuner", "jax") if key in machine
        ),
    }
    return "\n".join(["| | |", "|---|---|", *(f"| {k} | {plain(v)} |" for k, v in rows.items())])


def _range(values: Sequence[float | None]) -> str:
    """The first, last, lowest and highest of a value's epochs."""
    known = [value for value in values if value is not None]
    if not known:
        return "not measured"
    bounds = f"{number(min(known))} to {number(max(known))}"
    return f"first {number(known[0])}, last {number(known[-1])}, range {bounds}"


def study_lead(
    name: str,
    spec: StudySpec,
    trials: Sequence[TrialRecord],
    confirmed: Sequence[Result],
    budget: Budget,
) -> list[str]:
    """The lines above the study's note: the winner, the Pareto front, the budget."""
    objective, best = spec.metrics.objective, ranked(trials)[:1]
    line, warnings = winner_line(confirmed, spec), winner_warnings(confirmed, spec)
    if best and not line:
        line, warnings = best_line(best, objective), trial_warnings(best[0], objective)
    lead = plain(line)
    for warning in map(plain, warnings):
        lead = lead.replace(warning, f"{RED} {warning}")
    others = front_line(name, pareto_front(trials)), budget_line(budget, left=0, workers=0)
    return [text for text in (lead, *map(plain, others)) if text]


def study_note(name: str, spec: StudySpec) -> str:
    """A note on the study: its search, useful commands, and its file."""
    metric, quoted = OBJECTIVES[spec.metrics.objective], shlex.quote(name)
    searched = ", ".join(spec.trial.searched()) or "nothing"
    return "\n\n".join(
        [
            f"A GAN hyperparameter search by tuner {__version__}: {_goals(spec)} over "
            f"{plain(searched)} on the images of {plain(spec.data.source)}, in "
            f"{spec.study.trials} trials of up to {spec.study.epochs} epochs.",
            f"To add a worker, on any machine: `tuner worker {quoted}`. To write a report: "
            f"`tuner report {quoted} --out report.html`.",
            "Tuner adds plots to the dashboard's own and updates them as trials end: "
            f"{metric} and loss ratio of every epoch, the best {metric} in each part of the search "
            "space, and device time by outcome.",
            f"```toml\n{spec_toml(spec)}```",
        ]
    )


def _goals(spec: StudySpec) -> str:
    """How the search optimises each objective, as text."""
    verbs = {False: "minimises", True: "maximises"}
    names = spec.metrics.names
    parts = [f"{verbs[ALL_OBJECTIVES[name].higher]} {OBJECTIVES[name]}" for name in names]
    return ", ".join(parts)


def plain(text: str) -> str:
    """The text on one line, with Markdown escaped."""
    return re.sub(r"([\\`*_{}\[\]<>|#])", r"\\\1", " ".join(text.split()))
