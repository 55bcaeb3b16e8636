"""The text of ``tuner check``: a study's programs, memory, cost and warnings."""

from collections.abc import Mapping
from typing import Any

from tuner.spec.study import StudySpec
from tuner.spec.warnings import warnings
from tuner.views.budgets import budget_plan
from tuner.views.formatting import size


def plan_text(spec: StudySpec, found: Mapping[str, Any]) -> str:
    """The programs that a study will compile, the memory that it needs, and warnings."""
    largest, measured = found["largest"], found["activation_bytes"]
    activations = "not measured (compiling takes too long)" if measured is None else size(measured)
    lines = [
        "",
        f"trials: {spec.study.trials} of up to {spec.study.epochs} epochs, "
        f"sampler {spec.sampler.name}, pruner {spec.pruner.name}",
        f"distinct compiled programs: {found['programs']:,}",
        f"images: {found['images']:,} of {'x'.join(map(str, found['image_shape']))}",
        f"largest program: width {largest['width']}, batch size {largest['batch_size']}: "
        f"generator {found['generator_parameters']:,} parameters, "
        f"discriminator {found['discriminator_parameters']:,}; "
        f"state {size(found['state_bytes'])}, "
        f"activations {activations} on this {found['device']}",
        _evaluation(spec, found),
        *plan_exclusions(found.get("excluded")),
        *budget_plan(spec, found.get("epoch_seconds")),
    ]
    texts = [*warnings(spec), *_too_little_memory(found)]
    return "\n".join([*lines, *(f"warning: {text}" for text in texts)])


def _evaluation(spec: StudySpec, found: Mapping[str, Any]) -> str:
    """The cost of evaluation compared with training, in floating-point operations."""
    every, epochs = spec.metrics.every, spec.study.epochs
    training, evaluation = found["training_flops"], found["evaluation_flops"]
    evaluations = -(-epochs // every)
    part = evaluation * evaluations / (evaluation * evaluations + training * epochs)
    when = "every epoch" if every == 1 else f"every {every} epochs"
    advice = "; to reduce it, raise metrics.every or lower metrics.samples" if part > 0.5 else ""
    return (
        f"evaluation {when}: {evaluation / 1e12:.3g} TFLOP each, training "
        f"{training / 1e12:.3g} TFLOP per epoch: evaluation is {part:.0%} of a trial's "
        f"arithmetic{advice}"
    )


def plan_exclusions(found: Mapping[str, Any] | None) -> list[str]:
    """How many programs the constraint excludes, in one line; none if no program is excluded."""
    if not found or not found["violating"]:
        return []
    count = f"{found['violating']} of {found['programs']} programs are not trained"
    return [f"constraint: {count}; the smallest of them: {found['example']}"]


def _too_little_memory(found: Mapping[str, Any]) -> list[str]:
    """A warning if the largest program does not fit on the device, with a batch size that does."""
    activations, available = found["activation_bytes"], found["device_bytes"]
    fixed = found["state_bytes"] + found["image_bytes"]
    if activations is None or fixed + activations <= available:
        return []
    needed = f"the largest program needs {size(fixed + activations)}, this {found['device']} has"
    # Activations grow in proportion to the batch size.
    fitting = int(found["largest"]["batch_size"] * (available - fixed) / activations)
    advice = f"lower batch_size to at most {fitting}" if fitting > 0 else "lower width"
    return [f"{needed} {size(available)}: {advice}, or its trials run out of memory"]
