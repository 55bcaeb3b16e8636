"""What is said in words about a study and its best trial."""

from collections.abc import Mapping, Sequence
from typing import Any

from tuner.coherence import warnings
from tuner.spec import OBJECTIVES, StudySpec
from tuner.study.store import TrialRecord, best_of
from tuner.views.numbers import number, settings, size
from tuner.views.progress import share


def best_line(trials: Sequence[TrialRecord], objective: str) -> str:
    """The best trial so far, in words."""
    trial = best_of(trials)
    if trial is None:
        return "No trial is complete yet."
    name = OBJECTIVES[objective]
    return f"Best: trial {trial.number}, {name} {number(trial.value)}, {settings(trial.params)}"


def cost(trials: Sequence[TrialRecord]) -> str:
    """What evaluating took of the time, in words; nothing before there is any."""
    reports = [report for trial in trials for report in trial.reports]
    seconds = sum(report.evaluate_seconds for report in reports)
    if not seconds:
        return ""
    parts = {
        "generating": sum(report.generate_seconds for report in reports),
        "features": sum(report.extract_seconds for report in reports),
        "numbers": sum(report.score_seconds for report in reports),
    }
    words = ", ".join(f"{name} {part / seconds:.0%}" for name, part in parts.items())
    known = f" ({words} of that)" if any(parts.values()) else ""  # older studies did not time them
    return f"Evaluating took {share(reports):.1%} of the time{known}."


def measured_as(parts: Mapping[str, str], fingerprint: str) -> str:
    """What a study's numbers depend on, in words."""
    if not parts:
        return "Nothing is measured yet."
    return f"Measured as {fingerprint}: " + ", ".join(f"{k} {v}" for k, v in parts.items())


def appraisal(found: Mapping[str, Any], objective: str) -> str:
    """The best trial and what its numbers mean."""
    trial: TrialRecord = found["trial"]
    fresh = found["fresh"]
    best = trial.best_epoch(objective)
    when = f" in epoch {best} of {len(trial.reports)}" if best else ""
    further = ""
    if fresh.fid_infinity is not None:
        further = f", extrapolated to infinitely many {number(fresh.fid_infinity)}"
    lines = [
        f"\nBest: trial {trial.number}, {OBJECTIVES[objective]} {number(trial.value)}{when}: "
        f"{settings(trial.params)}",
        f"FID on fresh latents {number(fresh.fid)}{further}; real against real images "
        f"{number(found['real_fid'])} ({found['real_count']} each)",
        f"KID {number(fresh.kid)}, precision {number(fresh.precision)}, recall "
        f"{number(fresh.recall)}, density {number(fresh.density)}, coverage "
        f"{number(fresh.coverage)}",
    ]
    if found["classes"] is not None:
        lines.append(
            f"Classes generated: {round(fresh.class_coverage * found['classes'])} of "
            f"{found['classes']}, entropy {number(fresh.class_entropy)} of the data's"
            f" (by a classifier that is right on {found['accuracy']:.1%} of held-out images)"
        )
    return "\n".join(lines)


def _evaluation(spec: StudySpec, found: Mapping[str, Any]) -> str:
    """What evaluating will cost beside training, in arithmetic."""
    every, epochs = spec.metrics.every, spec.study.epochs
    training, evaluation = found["training_flops"], found["evaluation_flops"]
    evaluations = -(-epochs // every)
    part = evaluation * evaluations / (evaluation * evaluations + training * epochs)
    when = "every epoch" if every == 1 else f"every {every} epochs"
    dear = "; a larger metrics.every or fewer metrics.samples make it less" if part > 0.5 else ""
    return (
        f"evaluation {when}: {evaluation / 1e12:.3g} TFLOP, an epoch's training "
        f"{training / 1e12:.3g}: {part:.0%} of a whole trial's arithmetic{dear}"
    )


def plan(spec: StudySpec, found: Mapping[str, Any]) -> str:
    """What a study will compile and need, and what to beware of."""
    largest = found["largest"]
    lines = [
        "",
        f"trials: {spec.study.trials} of up to {spec.study.epochs} epochs, "
        f"sampler {spec.sampler.name}, pruner {spec.pruner.name}",
        f"distinct compiled programs: {found['programs']:,}",
        f"images: {found['images']:,} of {'x'.join(map(str, found['image_shape']))}",
        f"the largest program: width {largest['width']}, batch size {largest['batch_size']}: "
        f"generator {found['generator_parameters']:,} parameters, "
        f"discriminator {found['discriminator_parameters']:,}; "
        f"state {size(found['state_bytes'])}, "
        f"activations {size(found['activation_bytes'])} on this {found['device']}",
        _evaluation(spec, found),
    ]
    return "\n".join([*lines, *(f"warning: {text}" for text in warnings(spec))])
