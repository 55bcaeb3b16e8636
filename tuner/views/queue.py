"""The trials that are waiting for a worker as a table, and what follows them as text."""

from collections.abc import Sequence

from tuner.study.upcoming import Upcoming
from tuner.views.formatting import params_text
from tuner.views.tables import FittingTable


def queue_table(waiting: Sequence[Upcoming]) -> FittingTable:
    """One row per waiting trial, in the order in which workers take them."""
    table = FittingTable(("trial", "origin", "settings"), prose=("origin", "settings"))
    for one in waiting:
        table.add_row(one.number, one.origin, params_text(one.params))
    return table


def queue_lines(waiting: Sequence[Upcoming], paused: int, new: int, sampler: str) -> list[str]:
    """What workers do once no more trials are waiting, as text."""
    lines = [] if waiting else ["No trials are waiting for a worker."]
    if paused:
        trials = "1 paused trial is" if paused == 1 else f"{paused} paused trials are"
        lines.append(f"{trials} left to the pruner.")
    if new:
        then, trials = "Then the" if waiting else "The", f"trial{'s' * (new > 1)}"
        lines.append(f"{then} sampler {sampler} chooses {new:,} new {trials}.")
    return lines
