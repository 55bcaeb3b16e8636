"""Text summaries of a study and its best trial."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.text import Text

from tuner import hints
from tuner.epoch_report import COMPARED, DURATIONS, FIELDS, History, ReportField
from tuner.phases import Phase, PhaseSeconds
from tuner.spec.metrics import OBJECTIVES, objective_field
from tuner.spec.study import StudySpec
from tuner.study.records import TrialRecord, best_of, ranked
from tuner.views.formatting import number, params_text
from tuner.views.generator_warnings import (
    WARNING,
    advice,
    in_red,
    measured_warnings,
    trial_warnings,
)

# Measurements that ``remeasurement`` shows on separate lines.
SHOWN_APART = (
    *("fid", "fid_infinity", "class_coverage", "class_entropy", "copied"),
    *(field for name in COMPARED for field in (f"heldout_{name}", f"{name}_gap")),
)
MAX_LISTED = 20  # numbers of trials in a line
MAX_PHASES = 2  # shown in one line, in addition to training and evaluation
PARTS = ("generate_seconds", "extract_seconds", "score_seconds")  # of an evaluation


def best_line(trials: Sequence[TrialRecord], objective: str) -> str:
    """The best trial so far, in one line."""
    trial = best_of(trials)
    if trial is None:
        return "No trial is complete yet."
    name = OBJECTIVES[objective]
    warning = "".join(f" ({text})" for text in trial_warnings(trial, objective))
    by = f" by {name}" if trial.objectives else ""
    values = values_text(trial.objectives) or f"{name} {number(trial.value)}"
    return (
        f"Best{by}: trial {trial.number}, {values} (one seed){warning}, {params_text(trial.params)}"
    )


def best_text(trials: Sequence[TrialRecord], objective: str) -> Text:
    """``best_line`` for a terminal: warnings about the generator are red."""
    warnings = [text for trial in ranked(trials)[:1] for text in trial_warnings(trial, objective)]
    return in_red(best_line(trials, objective), *warnings)


def values_text(objectives: Mapping[str, float]) -> str:
    """The values of several objectives."""
    return ", ".join(f"{OBJECTIVES[name]} {number(value)}" for name, value in objectives.items())


def front_line(name: str, front: Sequence[TrialRecord]) -> str:
    """The trials of the Pareto front, in one line; empty without several objectives."""
    if not front or not front[0].objectives:
        return ""
    numbers = ", ".join(str(trial.number) for trial in front[:MAX_LISTED])
    more = ", ..." if len(front) > MAX_LISTED else ""
    of = " and ".join(OBJECTIVES[objective] for objective in front[0].objectives)
    listed = hints.command("best", name) + " --all"
    return f"Pareto front of {of}: {counted(len(front))} ({numbers}{more}); to list them: {listed}"


def counted(trials: int) -> str:
    return f"{trials} trial" if trials == 1 else f"{trials} trials"


def hold_line(name: str) -> str:
    """How to end the hold of a study that is on hold."""
    return f"On hold: no trial begins or resumes until {hints.command('resume', name)} is run."


def no_worker_line(*names: str, where: Sequence[str] = ()) -> str:
    """How to start a worker for studies that have none; ``where`` are options for the database."""
    start = hints.command("worker", names[0], *where)
    of = f" for {', '.join(names)}" if len(names) > 1 else ""
    return f"No worker is running{of}; start one with: {start}"


def baseline_gain(trials: Sequence[TrialRecord], objective: str) -> str:
    """By how much the best value beats the best baseline's; empty without baselines."""
    best, baselines = best_of(trials), [trial for trial in trials if trial.baseline]
    if best is None or not baselines:
        return ""
    baseline, name = best_of(baselines), OBJECTIVES[objective]
    if baseline is None or baseline.value is None or best.value is None:
        return "No baseline trial is complete, so the gain over the baseline is unknown."
    if best.cost == baseline.cost:
        return f"No trial is better than the best baseline (trial {baseline.number})."
    gain = abs(baseline.value - best.value)
    share = f", {gain / baseline.value:.0%}" if baseline.value > 0 else ""
    return (
        f"Gain over the best baseline (trial {baseline.number}, {name} "
        f"{number(baseline.value)}): {number(gain)}{share}."
    )


def curve_fields(spec: StudySpec) -> tuple[ReportField, ...]:
    """The fields that a trial's curves show: objective, loss ratio and D's AUC."""
    return objective_field(spec.metrics.objective), FIELDS["loss_ratio"], FIELDS["d_auc"]


def own_names(trials: Sequence[TrialRecord]) -> list[str]:
    """The names of the custom metrics that the trials measured."""
    return list(dict.fromkeys(name for report in epochs_of(trials) for name in report.own))


def epochs_of(trials: Sequence[TrialRecord]) -> History:
    """The epochs of several trials as one history, which sums their times."""
    return History(report for trial in trials for report in trial.reports)


def trial_held_out_line(trial: TrialRecord, objective: str) -> str:
    """The metrics against held-out images in the trial's best epoch, else in the last epoch in
    which they were measured; empty if there is none."""
    measured = [report for report in trial.reports if report.copied is not None]
    if not measured:
        return ""
    best = trial.best_epoch(objective)
    report = next((report for report in measured if report.epoch == best), measured[-1])
    where = "best epoch" if report.epoch == best else "not the best one"
    return f"Epoch {report.epoch} ({where}): {held_out_line(report._asdict())}"


def held_out_line(measured: Mapping[str, Any]) -> str:
    """The metrics against held-out images with their gaps; empty if none are held out."""
    if measured.get("copied") is None:
        return ""
    known = [name for name in COMPARED if measured.get(f"heldout_{name}") is not None]
    parts = [
        f"{FIELDS[name].label} {number(measured[f'heldout_{name}'])} "
        f"({measured[f'{name}_gap']:+.3g})"
        for name in known
    ]
    return (
        f"Against held-out images (gap to training images): {', '.join(parts)}; "
        f"copies of training images: {measured['copied']:.0%}"
    )


def durations(trials: Sequence[TrialRecord]) -> dict[str, float]:
    """The durations in the trials' epoch reports, each summed over all of them."""
    epochs = epochs_of(trials)
    return {name: sum(getattr(report, name) for report in epochs) for name in DURATIONS}


def phases_of(trials: Sequence[TrialRecord]) -> PhaseSeconds:
    """The seconds of the trials' workers in each phase."""
    return {phase: sum(trial.phase_seconds[phase] for trial in trials) for phase in Phase}


def phase_shares(seconds: PhaseSeconds) -> str:
    """The share of each phase, in one line of at most 80 characters; empty if none was counted.

    Small phases, and those after the ``MAX_PHASES`` largest, count as other.
    """
    total = sum(seconds.values())
    if not total:
        return ""
    shares = {phase: value / total for phase, value in seconds.items()}
    main = {phase: shares.pop(phase) for phase in (Phase.TRAINING, Phase.EVALUATION)}
    other = shares.pop(Phase.OTHER)
    largest = sorted(shares, key=lambda phase: -shares[phase])[:MAX_PHASES]
    shown = main | {phase: shares.pop(phase) for phase in largest if shares[phase] >= 0.005}
    shown[Phase.OTHER] = other + sum(shares.values())
    return f"Time: {', '.join(f'{phase} {share:.0%}' for phase, share in shown.items())}."


def evaluation_cost(seconds: Mapping[str, float]) -> str:
    """The share of the device time spent evaluating, by part; empty before the first epoch.

    ``seconds`` are the study's ``durations``.
    """
    evaluating = seconds["evaluate_seconds"]
    if not evaluating:
        return ""
    parts = {FIELDS[name].label: seconds[name] / evaluating for name in PARTS}
    shares = ", ".join(f"{label} {share:.0%}" for label, share in parts.items())
    known = f" ({shares} of that)" if any(parts.values()) else ""  # older studies lack the parts
    share = evaluating / (evaluating + seconds["train_seconds"])
    return f"Evaluating took {share:.1%} of the device time{known}."


def measured_as(parts: Mapping[str, str], fingerprint: str) -> str:
    """The parts of a study's fingerprint, in one line."""
    if not parts:
        return "Nothing has been measured yet."
    return f"Measured as {fingerprint}: " + ", ".join(f"{k} {v}" for k, v in parts.items())


def remeasurement(found: Mapping[str, Any], objective: str) -> str:
    """The best trial, measured again on fresh latents."""
    trial: TrialRecord = found["trial"]
    fresh, classes = found["fresh"], found["classes"]
    best = trial.best_epoch(objective)
    when = f" in epoch {best} of {len(trial.reports)}" if best else ""
    infinity = fresh["fid_infinity"]
    extrapolated = (
        "" if infinity is None else f" ({number(infinity)} extrapolated to infinitely many images)"
    )
    others = [name for name, x in fresh.items() if name not in SHOWN_APART and x is not None]
    lines = [
        f"\nBest: trial {trial.number}, {OBJECTIVES[objective]} {number(trial.value)}{when}: "
        f"{params_text(trial.params)}"
    ]
    lines += [
        f"{WARNING}{text}. {advice(text, 'FID')}" for text in measured_warnings(fresh, classes)
    ]
    lines += [
        f"FID on fresh latents {number(fresh['fid'])}{extrapolated}; real against real images "
        f"{number(found['real_fid'])} ({found['real_count']} each)",
        ", ".join(f"{objective_field(name).label} {number(fresh[name])}" for name in others),
    ]
    if held_out := held_out_line(fresh):
        lines.append(held_out)
    if classes is not None:
        lines.append(
            f"Classes generated: {round(fresh['class_coverage'] * classes)} of {classes}, "
            f"entropy {number(fresh['class_entropy'])} of the data's "
            f"(classifier accuracy on held-out images: {found['accuracy']:.1%})"
        )
    return "\n".join(lines)


def remeasurement_text(found: Mapping[str, Any], objective: str) -> Text:
    """``remeasurement`` for a terminal: warnings about the generator are red."""
    text = remeasurement(found, objective)
    return in_red(text, *(line for line in text.splitlines() if line.startswith(WARNING)))
