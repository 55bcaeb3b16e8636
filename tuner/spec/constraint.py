"""``[constraint]``: limits on the size of networks, checked before training."""

from typing import NamedTuple

from tuner.spec.sections import Section, entry

VIOLATED = "constraint."  # the start of the reason of trials that violate a limit


class Size(NamedTuple):
    """Weights of a trial's networks."""

    generator: int
    discriminator: int

    @property
    def total(self) -> int:
        return self.generator + self.discriminator


class ConstraintSection(Section):
    """Trials that violate a limit end as PRUNED without being trained."""

    parameters: float | None = entry(
        None, "largest number of weights of generator and discriminator together", gt=0
    )
    generator_parameters: float | None = entry(
        None, "largest number of weights of the generator", gt=0
    )

    @property
    def limits(self) -> dict[str, float]:
        """The limits that are set, by key."""
        return {key: limit for key, limit in self if limit is not None}

    def excess(self, size: Size) -> dict[str, float]:
        """The share by which networks exceed each limit; at most 0 within the limit."""
        counts = self._counts(size)
        return {key: counts[key] / limit - 1 for key, limit in self.limits.items()}

    def violation(self, size: Size) -> str | None:
        """The first limit that the networks exceed, as text; None if they exceed none."""
        counts = self._counts(size)
        for key, limit in self.limits.items():
            if counts[key] > limit:
                return f"{VIOLATED}{key}: {counts[key]:,} weights, at most {limit:,.0f} allowed"
        return None

    @staticmethod
    def _counts(size: Size) -> dict[str, int]:
        return {"parameters": size.total, "generator_parameters": size.generator}
