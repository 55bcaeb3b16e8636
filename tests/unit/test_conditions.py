"""Settings that apply only with one choice of another: from the study file to Optuna and back."""

import warnings
from typing import Any

import optuna
import pytest
from builders import PREMISES, spec_of
from optuna.distributions import CategoricalDistribution, FloatDistribution

from tuner.coherence import program_count
from tuner.conditions import branches, plain_params
from tuner.errors import InputError
from tuner.specfile import differences
from tuner.study.search import make_sampler
from tuner.study.space import distributions, trial_config

REMEDIES = """
[trial]
optimizer = ["adam", "sgd"]
loss = ["non_saturating", "wasserstein"]
learning_rate = { low = 1e-4, high = 1e-2, log = true }

[trial.when.optimizer.sgd]
learning_rate = { low = 1e-3, high = 1e-1, log = true }
momentum = { low = 0.0, high = 0.99 }

[trial.when.loss.wasserstein]
weight_clip = [0.01, 0.1]
d_steps = 5
"""


def test_deciding_settings_come_first_and_others_where_they_apply() -> None:
    spec = spec_of(REMEDIES)
    first = distributions(spec)
    assert list(first) == ["optimizer", "loss"]
    assert first["optimizer"] == CategoricalDistribution(("adam", "sgd"))
    usual = distributions(spec, {"optimizer": "adam", "loss": "non_saturating"})
    assert list(usual) == ["optimizer", "loss", "learning_rate"]
    there = distributions(spec, {"optimizer": "sgd", "loss": "wasserstein"})
    assert set(there) == {
        *("optimizer", "loss", "learning_rate[optimizer=sgd]", "momentum[optimizer=sgd]"),
        "weight_clip[loss=wasserstein]",
    }
    assert there["learning_rate[optimizer=sgd]"] == FloatDistribution(1e-3, 1e-1, log=True)


def test_a_point_is_the_trial_of_its_branch() -> None:
    spec = spec_of(REMEDIES)
    point = {"optimizer": "sgd", "loss": "wasserstein", "learning_rate[optimizer=sgd]": 0.05}
    point |= {"momentum[optimizer=sgd]": 0.5, "weight_clip[loss=wasserstein]": 0.1}
    program, numbers, _, _ = trial_config(spec, point, 0, PREMISES)
    assert (program.d_steps, program.generator_optimizer, program.loss) == (5, "sgd", "wasserstein")
    assert (numbers.generator_learning_rate, numbers.momentum, numbers.weight_clip) == (
        *(0.05, 0.5),
        0.1,
    )
    usual = {"optimizer": "adam", "loss": "non_saturating", "learning_rate": 2e-3}
    program, numbers, _, _ = trial_config(spec, usual, 0, PREMISES)
    assert (program.d_steps, numbers.generator_learning_rate, numbers.momentum) == (1, 2e-3, 0.9)
    assert plain_params(point)["learning_rate"] == 0.05


def test_programs_are_counted_branch_by_branch() -> None:
    """Two optimizers with and without five D steps; a choice of clips is no program."""
    assert program_count(spec_of(REMEDIES)) == 4
    more = REMEDIES + "batch_size = [16, 32, 64]"  # under wasserstein alone
    assert program_count(spec_of(more)) == 2 + 2 * 3
    assert len(branches(spec_of(more).trial)) == 4
    assert len(branches(spec_of("").trial)) == 1


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_samplers_model_it_without_a_warning(sampler: str) -> None:
    """Momentum near 0.9 is best, and matters only with sgd: TPE learns it there."""
    spec = spec_of(f"{REMEDIES}[sampler]\nname = '{sampler}'")
    study = optuna.create_study(sampler=make_sampler(spec))
    momenta = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(60):
            trial = study.ask()
            params: dict[str, Any] = {}
            while missing := {
                k: d for k, d in distributions(spec, params).items() if k not in params
            }:
                for name, distribution in missing.items():
                    params[name] = trial._suggest(name, distribution)
            momentum = params.get("momentum[optimizer=sgd]")
            study.tell(trial, 1.0 if momentum is None else abs(momentum - 0.9))
            if momentum is not None:
                momenta.append(momentum)
    last = [abs(momentum - 0.9) for momentum in momenta[-10:]]
    if sampler == "tpe":
        assert len(momenta) > 35
        assert sum(last) / len(last) < 0.2  # a random one: 0.41
    else:
        assert 18 < len(momenta) < 42


WRONG = [
    ("[trial.when.optimiser.sgd]\nmomentum = 0.5", "when.optimiser", "did you mean 'optimizer'"),
    ("[trial.when.d_steps.1]\nmomentum = 0.5", "when.d_steps", "expected a list of choices"),
    ("[trial.when.optimizer.sdg]\nmomentum = 0.5", "when.optimizer.sdg", "did you mean 'sgd'"),
    ("[trial.when.optimizer.sgd]\nmomentun = 0.5", "when.optimizer.sgd.momentun", "'momentum'"),
    ("[trial.when.optimizer.sgd]\nmomentum = 2", "when.optimizer.sgd.momentum", "found 2"),
    ("[trial.when.optimizer.sgd]\noptimizer = 'adam'", "when.optimizer.sgd.optimizer", "depend on"),
    (
        "[trial.when.optimizer.sgd]\ndropout = 0.1\n[trial.when.loss.hinge]\ndropout = 0.2",
        "when.loss",
        "both could hold at once",
    ),
]


@pytest.mark.parametrize(("tables", "key", "reason"), WRONG)
def test_what_is_wrong_under_when(tables: str, key: str, reason: str) -> None:
    text = f"[trial]\noptimizer = ['adam', 'sgd']\nloss = ['hinge', 'minimax']\n{tables}"
    with pytest.raises(InputError) as caught:
        spec_of(text)
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"study.toml: trial.{key}: found ")
    assert reason in line


@pytest.mark.parametrize("sampler", ["grid", "cmaes", "gp", "qmc"])
def test_samplers_that_need_the_same_parameters_in_all_trials(sampler: str) -> None:
    with pytest.raises(InputError, match=r"sampler.name: found .* the same parameters"):
        spec_of(f"{REMEDIES}[sampler]\nname = '{sampler}'")


def test_a_senseless_pair_is_kept_apart_by_a_condition() -> None:
    searched = "[trial]\nloss = ['non_saturating', 'wasserstein_gp']\n"
    norm = "discriminator_norm = ['none', 'batch']\n"
    with pytest.raises(InputError, match="discriminator_norm: found 'batch'"):
        spec_of(searched + norm)
    spec_of(searched + f"[trial.when.loss.non_saturating]\n{norm}")


def test_idle_only_where_it_is_idle_everywhere() -> None:
    text = "[trial]\noptimizer = ['adam', 'sgd']\n[trial.when.optimizer.{}]\nmomentum = [0.5, 0.9]"
    spec_of(text.format("sgd"))
    with pytest.raises(InputError, match=r"trial.momentum: found a search that optimizer = adam"):
        spec_of(text.format("adam"))


@pytest.mark.parametrize(
    ("baseline", "problem"),
    [
        ("optimizer = 'sgd'\nloss = 'wasserstein'\nlearning_rate = 0.05\nweight_clip = 0.1", None),
        ("learning_rate = 0.005", "learning_rate: found it without optimizer"),
        ("optimizer = 'adam'\nloss = 'wasserstein'\nlearning_rate = 0.05", "found 0.05, expected"),
        ("optimizer = 'adam'\nloss = 'wasserstein'\nmomentum = 0.5", "with optimizer = adam"),
        ("optimizer = 'adam'\nloss = 'wasserstein'\nwidth = 8", "trial.width is fixed"),
    ],
)
def test_baselines_are_judged_by_their_branch(baseline: str, problem: str | None) -> None:
    text = f"{REMEDIES}\n[[baseline]]\n{baseline}"
    if problem is None:
        spec_of(text)
        return
    with pytest.raises(InputError, match=problem):
        spec_of(text)


def test_a_changed_condition_is_a_difference() -> None:
    (line,) = differences(spec_of(REMEDIES), spec_of(REMEDIES.replace("0.99", "0.9")))
    assert line.startswith("trial.when.optimizer.sgd.momentum: ")
