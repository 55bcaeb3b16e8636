"""Packed lanes, as benchmarks/lanes.py trains them: every slot as if its trial were alone."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from builders import hyperparameters
from compilations import compiled
from lanes import FORMS, Lane, packed

from tuner.gan.state import GanState, init_state
from tuner.gan.training import train_epoch
from tuner.trial import Hyperparameters, Program, TrialConfig

COUNT = 40
IMAGES = jax.device_put(np.random.default_rng(0).integers(0, 256, (COUNT, 32, 32, 1), np.uint8))
PROGRAM = Program("dcgan", "dcgan", 2, 7, (32, 32, 1), 4, "non_saturating", "adam", "adam", 2, True)
NUMBERS = hyperparameters(ema_decay=0.9)
CLOSE = 2e-6  # relative


def config(seed: int, rate: float) -> TrialConfig:
    rates = {"generator_learning_rate": rate, "discriminator_learning_rate": rate}
    return TrialConfig(PROGRAM, NUMBERS._replace(**rates), seed, 1)


A, B, C, D, E = (config(i, rate) for i, rate in enumerate((1e-3, 3e-4, 2e-3, 5e-4, 1e-3), 1))
DIVERGING = config(6, float("nan"))


class Trained(NamedTuple):
    """A trial after some epochs: the losses of each (epochs, 4), and its state."""

    losses: np.ndarray
    state: GanState


def flat(tree: Any) -> np.ndarray:
    return np.concatenate([np.asarray(leaf).ravel() for leaf in jax.tree.leaves(tree)])


def everything(trained: Trained) -> np.ndarray:
    """All numbers, except the key, which is not trained."""
    return flat((trained.losses, trained.state._asdict() | {"key": None}))


@functools.cache
def alone(trial: TrialConfig, epochs: int) -> Trained:
    """The trial as tuner trains it."""
    h = Hyperparameters(*map(jnp.float32, trial.hyperparameters))
    state, losses = init_state(PROGRAM, h, trial.seed), []
    for epoch in range(epochs):
        state, found = train_epoch(PROGRAM, state, h, IMAGES, None, epoch)
        losses.append(np.stack(jax.device_get(found)))
    return Trained(np.stack(losses), state)


def in_a_lane(form: str, slot: int, *trials: TrialConfig) -> Trained:
    """The trial in ``slot`` after two epochs in a lane of these trials."""
    lane = Lane(trials, IMAGES, form)
    losses = [np.stack(lane.run_epoch(), axis=1)[slot] for _ in range(2)]
    return Trained(np.stack(losses), lane.state(slot))


def assert_close(found: Trained, expected: Trained) -> None:
    np.testing.assert_allclose(found.losses, expected.losses, rtol=CLOSE)
    for part in ("generator", "discriminator", "ema"):
        ours, theirs = (flat(getattr(trained.state, part)) for trained in (found, expected))
        assert np.linalg.norm(ours - theirs) <= CLOSE * np.linalg.norm(theirs), part


@pytest.mark.parametrize("form", FORMS)
def test_slots_and_refilled_slots_train_as_their_trials_alone(form: str) -> None:
    lane = Lane([A, B, C], IMAGES, form)
    losses = [np.stack(lane.run_epoch(), axis=1)]
    lane.refill(1, D)
    losses.append(np.stack(lane.run_epoch(), axis=1))
    lane.refill(0, E)
    losses.append(np.stack(lane.run_epoch(), axis=1))
    for slot, trial, epochs in ((2, C, 3), (1, D, 2), (0, E, 1)):
        own = np.stack([epoch[slot] for epoch in losses[-epochs:]])
        assert_close(Trained(own, lane.state(slot)), alone(trial, epochs))


@pytest.mark.parametrize("form", FORMS)
def test_a_refill_compiles_nothing(form: str) -> None:
    lane = Lane([A, B, C], IMAGES, form)
    lane.run_epoch()
    lane.refill(1, D)
    with compiled() as names:
        lane.refill(2, E)
        lane.run_epoch()
        lane.run_epoch()
    assert names == []


@pytest.mark.parametrize(
    ("slot", "trials"),
    [(2, (D, E, C)), (0, (C, A, B)), (2, (DIVERGING, B, C)), (1, (A, C, DIVERGING))],
    ids=["other trials", "another slot", "a NaN before it", "a NaN after it"],
)
def test_neighbours_and_place_change_no_bit_of_a_slot_under_vmap(
    slot: int, trials: tuple[Any, ...]
) -> None:
    expected = in_a_lane("vmapped", 2, A, B, C)
    found = in_a_lane("vmapped", slot, *trials)
    assert np.isfinite(everything(found)).all()
    np.testing.assert_array_equal(everything(found), everything(expected))


def test_a_diverging_trial_is_not_finite_in_its_slot() -> None:
    assert not np.isfinite(everything(in_a_lane("vmapped", 0, DIVERGING, B, C))).all()


@pytest.mark.parametrize(("slot", "trials"), [(2, (D, E, C)), (0, (C, A, B))])
def test_neighbours_and_place_change_only_rounding_of_a_stacked_slot(
    slot: int, trials: tuple[Any, ...]
) -> None:
    assert_close(in_a_lane("stacked", slot, *trials), in_a_lane("stacked", 2, A, B, C))


@pytest.mark.parametrize(
    "changes",
    [{"loss": "wasserstein"}, {"classes": 3}, {"flips": True}, {"augment_adapts": True}],
)
def test_lanes_refuse_programs_that_they_do_not_train(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="lanes"):
        packed(PROGRAM._replace(**changes))
