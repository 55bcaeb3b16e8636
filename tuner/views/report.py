"""What is said in words about a study and its best trial."""

from collections.abc import Mapping, Sequence
from typing import Any

from tuner.coherence import warnings
from tuner.spec import StudySpec
from tuner.study.store import TrialRecord, best_of
from tuner.views.numbers import number, size
from tuner.views.progress import settings


def best_line(trials: Sequence[TrialRecord]) -> str:
    """The best trial so far, in words."""
    trial = best_of(trials)
    if trial is None:
        return "No trial is complete yet."
    return f"Best: trial {trial.number}, FID {number(trial.value)}, {settings(trial.params)}"


def appraisal(found: Mapping[str, Any]) -> str:
    """The best trial and what its numbers mean."""
    trial: TrialRecord = found["trial"]
    epochs = [r.epoch for r in trial.reports if r.fid == trial.value]
    when = f" in epoch {epochs[0]} of {len(trial.reports)}" if epochs else ""
    lines = [
        f"\nBest: trial {trial.number}, FID {number(trial.value)}{when}: {settings(trial.params)}",
        f"FID on fresh latents {number(found['fresh_fid'])}; real against real images "
        f"{number(found['real_fid'])} ({found['real_count']} each)",
    ]
    if found["classes"] is not None:
        lines.append(
            f"Classes found among {found['class_samples']:,} samples: "
            f"{found['classes_found']} of {found['classes']}"
            f" (by a classifier that is right on {found['accuracy']:.1%} of held-out images)"
        )
    return "\n".join(lines)


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
    ]
    return "\n".join([*lines, *(f"warning: {text}" for text in warnings(spec))])
