"""CMMD against an independent formula, and studies that use it."""

import numpy as np
import pytest
from builders import assert_problem, spec_of

from tuner.metrics.cmmd import cmmd
from tuner.metrics.evaluate import reference_statistics, scores


def embeddings(count: int, seed: int, shift: float = 0.0) -> np.ndarray:
    """Unit vectors, float32."""
    x = np.random.default_rng(seed).normal(size=(count, 16)) + shift * np.eye(16)[0]
    found: np.ndarray = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
    return found


def plain_cmmd(x: np.ndarray, y: np.ndarray) -> float:
    """The formula pair by pair: 1,000 (E k(x, x') + E k(y, y') - 2 E k(x, y)), sigma = 10."""

    def kernels(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        differences = a.astype(np.longdouble)[:, None] - b.astype(np.longdouble)
        found: np.ndarray = np.exp(-(differences**2).sum(axis=2) / 200)
        return found

    return float(1000 * (kernels(x, x).mean() + kernels(y, y).mean() - 2 * kernels(x, y).mean()))


@pytest.mark.parametrize("shift", [0.0, 0.1, 2.0])
def test_cmmd_is_the_biased_squared_mmd_times_1000(shift: float) -> None:
    x, y = embeddings(60, 0), embeddings(45, 1, shift)
    assert cmmd(x, y) == pytest.approx(plain_cmmd(x, y), rel=1e-9)
    assert cmmd(x, y) == pytest.approx(cmmd(y, x), rel=1e-12)


def test_blocks_change_nothing() -> None:
    x, y = embeddings(1300, 0), embeddings(700, 1)
    assert cmmd(x, y) == pytest.approx(plain_cmmd(x, y), rel=1e-9)
    assert cmmd(x, x) == pytest.approx(0, abs=1e-12)


def test_bad_embeddings_are_refused() -> None:
    x = embeddings(5, 0)
    with pytest.raises(ValueError, match="found \\(5, 16\\) and \\(5, 3\\)"):
        cmmd(x, x[:, :3])
    with pytest.raises(ValueError, match="found a distance of nan"):
        cmmd(x, x * np.nan)


def test_cmmd_is_computed_with_clip_and_is_its_default_objective() -> None:
    clip = spec_of("[metrics]\nfeatures = 'clip'\nweights = 'x'").metrics
    assert (clip.objective, clip.every) == ("cmmd", 5)
    assert "cmmd" in clip.extras(5, 20)
    other = spec_of("[metrics]\nfeatures = 'clip'\nobjective = 'kid'").metrics
    assert other.objective == "kid"
    assert {"cmmd", "kid"} <= other.extras(5, 20)
    dinov2 = spec_of("[metrics]\nfeatures = 'dinov2'").metrics
    assert (dinov2.objective, dinov2.every) == ("fid", 5)
    assert_problem("[metrics]\nobjective = 'cmmd'", "metrics.objective", '"clip"')
    assert_problem("[metrics]\nweights = 'x'", "metrics.weights", '"dinov2"', '"clip"')
    assert_problem(
        "[metrics]\nfeatures = 'dinov2'\ninput = 'pytorch-fid'", "metrics.input", '"inception"'
    )
    real = reference_statistics(embeddings(60, 0), None, 0, 30)
    found = scores(real, embeddings(30, 1), None, {"cmmd"})
    assert found["cmmd"] == cmmd(real.features, embeddings(30, 1))
    assert scores(real, embeddings(30, 1))["cmmd"] is None
