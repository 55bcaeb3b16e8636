"""Constraints on the size of networks: limits, violations, and what is shown of them."""

from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from builders import DATASET, assert_problem, spec_of

from tuner.data.images import ImageSet
from tuner.errors import InputError
from tuner.gan.state import abstract_state, size_of
from tuner.run.constraints import excluded, is_allowed
from tuner.run.startup import _apply_edit
from tuner.spec.constraint import ConstraintSection, Size
from tuner.spec.warnings import warnings
from tuner.study.space import programs, trial_config
from tuner.views.plan import plan_exclusions

WIDTHS = "[trial]\nwidth = [4, 8, 64]\n"


@pytest.mark.parametrize(
    ("limits", "violation", "excess"),
    [
        ({}, None, {}),
        ({"parameters": 4e6}, None, {"parameters": 0.0}),
        (
            {"parameters": 2e6},
            "constraint.parameters: 4,000,000 weights, at most 2,000,000 allowed",
            {"parameters": 1.0},
        ),
        (
            {"parameters": 8e6, "generator_parameters": 2.5e6},
            "constraint.generator_parameters: 3,000,000 weights, at most 2,500,000 allowed",
            {"parameters": -0.5, "generator_parameters": pytest.approx(0.2)},
        ),
    ],
)
def test_networks_violate_the_limits_that_they_exceed(
    limits: dict[str, float], violation: str | None, excess: dict[str, float]
) -> None:
    section, size = ConstraintSection(**limits), Size(3_000_000, 1_000_000)
    assert section.violation(size) == violation
    assert section.excess(size) == excess


def test_limits_are_positive_numbers() -> None:
    assert spec_of("[constraint]\nparameters = 4e6\n").constraint.limits == {"parameters": 4e6}
    assert spec_of("[constraint]\nparameters = 100\n").constraint.limits == {"parameters": 100}
    assert_problem("[constraint]\nparameters = 0\n", "constraint.parameters", "expected above 0")
    assert_problem("[constraint]\nweights = 1\n", "constraint.weights", "parameters")


@pytest.mark.parametrize("trial", ["", "generator = 'resnet'\ndiscriminator_norm = 'spectral'\n"])
def test_the_weights_of_the_initial_state_are_counted(trial: str) -> None:
    spec = spec_of(f"[trial]\nwidth = 4\n{trial}")
    program = trial_config(spec, {}, 0, DATASET).program
    state = abstract_state(program)
    networks = state.generator, state.discriminator
    sizes = [sum(leaf.size for leaf in jax.tree.leaves(network)) for network in networks]
    assert size_of(program) == tuple(sizes)


def test_programs_that_violate_the_constraint_are_counted() -> None:
    found = excluded(spec_of(WIDTHS + "[constraint]\nparameters = 3e5\n"), DATASET)
    assert (found.programs, found.violating) == (3, 1)
    [line] = plan_exclusions(found._asdict())
    assert line.startswith("constraint: 1 of 3 programs are not trained; the smallest of them: ")
    assert line.endswith("weights, at most 300,000 allowed")
    assert plan_exclusions(excluded(spec_of(WIDTHS), DATASET)._asdict()) == []


def test_only_programs_that_keep_the_constraint_are_allowed() -> None:
    limited, free = spec_of(WIDTHS + "[constraint]\nparameters = 3e5\n"), spec_of(WIDTHS)
    found = programs(free, {}, DATASET, 8)
    assert {p.width: is_allowed(limited, p) for p in found} == {4: True, 8: True, 64: False}
    assert all(is_allowed(free, program) for program in found)


def test_a_constraint_that_no_network_keeps_is_refused() -> None:
    with pytest.raises(InputError, match=r"constraint.parameters: .* raise the limit"):
        excluded(spec_of(WIDTHS + "[constraint]\nparameters = 100\n"), DATASET)


def test_an_edit_to_a_limit_that_no_network_keeps_is_refused() -> None:
    images = ImageSet(np.zeros((64, 32, 32, 1), np.uint8), np.arange(64) % 2, "0")
    stand_in: Any = SimpleNamespace(spec=None, dataset=DATASET)
    with pytest.raises(InputError, match="raise the limit"):
        _apply_edit(stand_in, images, spec_of(WIDTHS + "[constraint]\nparameters = 100\n"))
    assert stand_in.spec is None


def test_samplers_that_do_not_learn_the_constraint_are_named() -> None:
    toml = "[constraint]\nparameters = 3e5\n[trial]\nlearning_rate = { low = 0.1, high = 0.2 }\n"
    toml += "beta1 = { low = 0.1, high = 0.2 }\n[sampler]\nname = "
    lines = [
        [line for line in warnings(spec_of(f"{toml}'{name}'")) if "[constraint]" in line]
        for name in ("tpe", "random", "cmaes")
    ]
    assert lines == [[], [], ["sampler: cmaes does not learn which trials violate [constraint]"]]
