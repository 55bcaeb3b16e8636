"""The confirmed winner of a study, and the race that found it, as text and tables."""

import math
from collections.abc import Sequence
from typing import Any

from rich.text import Text

from tuner import hints
from tuner.spec.metrics import OBJECTIVES
from tuner.spec.study import StudySpec
from tuner.study.confirmation import Result
from tuner.study.racing import Difference, Interval, Noise
from tuner.views.formatting import number, params_text
from tuner.views.generator_warnings import in_red, trial_warnings
from tuner.views.tables import FittingTable

LEFT = "left the race"  # the only column that is prose


def winner_line(results: Sequence[Result], spec: StudySpec) -> str:
    """The confirmed winner, in one line; empty if nothing is confirmed."""
    if not (found := confirmed_value(results, spec)):
        return ""
    warning = "".join(f" ({text})" for text in winner_warnings(results, spec))
    return f"Confirmed: {found}{warning}: {params_text(results[0].trial.params)}"


def winner_warnings(results: Sequence[Result], spec: StudySpec) -> list[str]:
    """Warnings about the generator of the confirmed winner."""
    return trial_warnings(results[0].trial, spec.metrics.objective) if results else []


def winner_text(results: Sequence[Result], spec: StudySpec) -> Text:
    """``winner_line`` for a terminal: warnings about the generator are red."""
    return in_red(winner_line(results, spec), *winner_warnings(results, spec))


def confirmed_value(results: Sequence[Result], spec: StudySpec) -> str:
    """The first result's mean, interval and probability; empty if it is not confirmed."""
    if not results or not math.isfinite(results[0].value.mean):
        return ""
    best, metric = results[0], OBJECTIVES[spec.metrics.objective]
    seeds = f"{best.value.n} seed{'s' * (best.value.n > 1)}"
    parts = [f"{metric} {number(best.value.mean)} over {seeds}{_interval(best.value, spec)}"]
    if best.probability is not None:
        parts.append(f"the best with a probability of {_percent(best.probability)}")
    return f"trial {best.trial.number}, {', '.join(parts)}"


def _interval(value: Interval, spec: StudySpec) -> str:
    if value.low is None or value.high is None:
        return ""
    return f" ({spec.confirm.confidence:.0%} interval {number(value.low)} to {number(value.high)})"


def _percent(share: float) -> str:
    """A probability that never reads as certain."""
    return "over 99%" if share > 0.99 else "under 1%" if share < 0.01 else f"{share:.0%}"


def gain_line(results: Sequence[Result], spec: StudySpec) -> str:
    """By how much the winner beats the baseline; empty if they were not compared."""
    over = results[0].over_baseline if results else None
    if over is None or not math.isfinite(over.mean):
        return ""
    metric = OBJECTIVES[spec.metrics.objective]
    text = f"{metric} {number(abs(over.mean))} {'below' if over.mean < 0 else 'above'} the baseline"
    if over.low is None or over.high is None:
        return f"The winner is {text}."
    bounds = f"{over.low:+.4g} to {over.high:+.4g}"
    return f"The winner is {text} ({spec.confirm.confidence:.0%} interval {bounds})."


def how_to_confirm(name: str) -> str:
    """A line for a study whose winner rests on one seed."""
    return (
        f"One seed decides; to train the best again with others: {hints.command('confirm', name)}"
    )


HEADINGS = ("trial", "{metric}", "from", "to", "sd", "seeds", "best epoch", "last epoch", "P(best)")


def results_rows(results: Sequence[Result], spec: StudySpec) -> tuple[list[str], list[list[str]]]:
    """Headings and cells of a table with one row per configuration, the best first.

    ``from`` and ``to`` bound the mean. ``best epoch`` and ``last epoch`` are means of the objective
    on the latents of the search; the other columns are of fresh latents.
    """
    objective = spec.metrics.objective
    headings = [heading.format(metric=OBJECTIVES[objective]) for heading in HEADINGS]
    compared = any(result.over_baseline for result in results)
    over = ["over baseline"] if compared else []
    return [*headings, *over, LEFT], [
        [
            str(result.trial.number),
            number(result.value.mean),
            number(result.value.low),
            number(result.value.high),
            number(result.value.deviation),
            str(result.value.n),
            number(result.best_epoch.mean),
            number(result.last_epoch.mean),
            "-" if result.probability is None else _percent(result.probability),
            *([_over(result.over_baseline)] if compared else []),
            result.left or "",
        ]
        for result in results
    ]


def _over(difference: Difference | None) -> str:
    if difference is None or not math.isfinite(difference.mean):
        return "-"
    return f"{difference.mean:+.3g}"


def results_table(results: Sequence[Result], spec: StudySpec) -> FittingTable:
    """``results_rows`` for a terminal."""
    headings, rows = results_rows(results, spec)
    spare = [h for h in ("best epoch", "last epoch", "sd", "over baseline") if h in headings]
    table = FittingTable(headings, prose=[LEFT], spare=spare)
    for place, row in enumerate(rows):
        table.add_row(*row, style="bold green" if place == 0 else None)
    return table


def results_values(results: Sequence[Result]) -> list[dict[str, Any]]:
    """The results as JSON values."""
    return [
        {
            "trial": result.trial.number,
            "params": result.trial.params,
            **{
                name: _finite(getattr(result, name)._asdict())
                for name in ("value", "best_epoch", "last_epoch")
            },
            "probability_best": result.probability,
            "over_baseline": result.over_baseline and _finite(result.over_baseline._asdict()),
            "left": result.left,
        }
        for result in results
    ]


def noise_lines(found: Noise, spec: StudySpec) -> list[str]:
    """How much of the spread between trials is due to their seeds, as text."""
    metric, lines = OBJECTIVES[spec.metrics.objective], []
    if found.deviation is not None:
        runs = f"{found.freedom} degree{'s' * (found.freedom > 1)} of freedom"
        lines.append(
            f"With other seeds, the {metric} of the same configuration varies with a standard "
            f"deviation of {number(found.deviation)} ({runs})."
        )
        if found.share is not None:
            lines.append(f"Seeds explain {found.share:.0%} of the variance between the trials.")
    if found.bound is not None:
        share = "" if found.bound_share is None else f" ({found.bound_share:.0%} of the variance)"
        pairs = f"{found.pairs} pair{'s' * (found.pairs > 1)}"
        lines.append(
            f"Upper bound from the most similar complete trials ({pairs}): a standard deviation "
            f"of {number(found.bound)}{share}."
        )
    return lines or ["Too few complete trials to estimate how much of their spread is seed noise."]


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in values.items()
    }
