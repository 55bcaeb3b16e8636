"""``[budget]`` and ``[stop]``: when a study ends before it has all of its trials."""

from tuner.spec.sections import Section, entry


class BudgetSection(Section):
    """What all workers of a study may spend together: see ``tuner.study.budget``."""

    device_hours: float | None = entry(
        None, "hours that workers may spend on trials, summed over all workers", gt=0
    )
    epochs: int | None = entry(None, "epochs that may be trained, summed over all trials", ge=1)
    wall_hours: float | None = entry(
        None, "hours from when the first worker joined, whether workers are running or not", gt=0
    )

    @property
    def limits(self) -> dict[str, float]:
        """The limits that are set, by key."""
        return {key: limit for key, limit in self if limit is not None}


class StopSection(Section):
    """When a search ends early: see ``tuner.study.stopping``."""

    patience: int | None = entry(
        None,
        "trials in a row without an improvement larger than the study's seed noise, after which "
        "the search ends",
        ge=1,
    )
