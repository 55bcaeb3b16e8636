"""Search spaces of the shipped studies against published settings."""

from pathlib import Path

import pytest

from tuner.spec.loading import load_spec
from tuner.spec.parameters import Range

STUDIES = Path(__file__).parents[2] / "studies"


@pytest.mark.parametrize(
    ("name", "first", "last"),
    [("r3gan_32", 0.05, 0.005), ("r3gan_64", 2.0, 0.2)],  # CIFAR-10, FFHQ-64
)
def test_r3gans_penalties_are_searched_around_the_authors(
    name: str, first: float, last: float
) -> None:
    """The authors' gamma, halved in the loss like ``r1`` and ``r2``, decays from first to last."""
    spec = load_spec(STUDIES / f"{name}.toml")
    for penalty in ("r1", "r2"):
        setting = getattr(spec.trial, penalty)
        assert isinstance(setting, Range)
        assert setting.log
        assert setting.low <= last / 5
        assert setting.high >= 10 * first
        assert spec.baseline[0][penalty] == first
