"""A study's ``[constraint]`` applied to its programs: count those that violate it, and check that
not all do."""

from typing import NamedTuple

from tuner.errors import InputError
from tuner.gan.state import size_of
from tuner.spec.study import StudySpec
from tuner.study.space import programs
from tuner.trial import DatasetInfo, Program

MAX_CHECKED = 100  # programs; each distinct pair of networks takes a tenth of a second


class Excluded(NamedTuple):
    """How many of a study's programs violate its constraint."""

    programs: int  # 0 if there are too many to check
    violating: int
    example: str | None  # the smallest violation


def is_allowed(spec: StudySpec, program: Program) -> bool:
    """Whether the program's networks are within the study's limits."""
    constraint = spec.constraint
    return not constraint.limits or constraint.violation(size_of(program)) is None


def excluded(spec: StudySpec, dataset: DatasetInfo) -> Excluded:
    """Count the programs that violate the constraint; InputError if all of them do."""
    if not spec.constraint.limits:
        return Excluded(0, 0, None)
    sizes = [size_of(program) for program in programs(spec, {}, dataset, MAX_CHECKED)]
    wrong = [size for size in sizes if spec.constraint.violation(size) is not None]
    least = min(wrong, default=None)
    example = None if least is None else spec.constraint.violation(least)
    if wrong and len(wrong) == len(sizes):
        text = f"even the smallest networks are too large ({example}); raise the limit, or search"
        raise InputError(f"study {spec.study.name!r}: {text} smaller networks")
    return Excluded(len(sizes), len(wrong), example)
