"""Settings as Optuna distributions, and sampled parameters as a trial."""

import itertools
from typing import Any

import optuna
import pytest
from builders import DATASET, RANGES, SHAPE, setting_tables, spec_of
from hypothesis import given, settings
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from tuner.spec.kinds import Whole
from tuner.spec.parameters import Choices, Range, Setting
from tuner.spec.study import StudySpec
from tuner.spec.traits import FINAL, OPTIMIZERS, PENALTIES, SCHEDULED
from tuner.spec.trial import kind_of, setting_names
from tuner.study.space import derive_seed, distributions, programs, trial_config


def assert_within(value: Any, setting: Setting) -> None:
    if isinstance(setting, Choices):
        assert value in setting.values
        assert type(value) in {type(choice) for choice in setting.values}
    elif isinstance(setting, Range):
        assert setting.low <= value <= setting.high
        assert type(value) is type(setting.low)
        if setting.step:
            steps = (value - setting.low) / setting.step
            assert steps == pytest.approx(round(steps), abs=1e-6)
    else:
        assert value == setting


CONVERTED = ("augment", "flips")  # to tuples and booleans
# Numbers that a trial has only if its program uses them.
OPTIONAL = (*FINAL, "augment_probability", "augment_target", "augment_images", "ema_half_life")


@settings(deadline=None)
@given(setting_tables())
def test_suggested_values_lie_in_range_and_reach_the_trial(trial: dict[str, Any]) -> None:
    spec = StudySpec.model_validate({"trial": trial, "study": {"seed": 3, "epochs": 7}})
    space = distributions(spec)
    assert set(space) == set(spec.trial.searched())
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(0))
    for _ in range(3):
        asked = study.ask(fixed_distributions=space)
        assert set(asked.params) == set(space)
        config = trial_config(spec, asked.params, asked.number, DATASET)
        program, used = config.program, config.hyperparameters._asdict()
        used |= {k: v for k, v in program._asdict().items() if k not in used}
        values = {name: asked.params.get(name, setting) for name, setting in spec.trial}
        for name, setting in spec.trial:
            if setting is not None:
                assert_within(values[name], setting)
            if name in used and name not in (*CONVERTED, *OPTIONAL) and setting is not None:
                replaced = name == "ema_decay" and values["ema_half_life"] != 0
                assert used[name] == values[name] or replaced
            if name in used and isinstance(kind_of(name), Whole):
                assert type(used[name]) is int
        for name in ("optimizer", "learning_rate", "beta1", "beta2"):
            for side in ("generator", "discriminator"):
                own = values[f"{side}_{name}"]
                assert used[f"{side}_{name}"] == (values[name] if own is None else own)
        averaged = values["ema_decay"] != 0 or values["ema_half_life"] != 0
        assert program.ema == (averaged or "ema_half_life" in program.scheduled)
        for name in SCHEDULED:
            assert used[f"{name}_final"] == (
                values[f"{name}_final"]
                if name in program.scheduled
                else config.hyperparameters._field_defaults[f"{name}_final"]
            )
        assert program.instance_noise == (used["instance_noise"] > 0)
        assert program.clips == (used["clip_norm"] > 0)
        assert program.penalties == tuple(n for n in PENALTIES if used[n] > 0)
        assert "+".join(program.augment) == str(values["augment"]).replace("none", "")
        assert program.flips == (values["flips"] == "on")
        assert program.classes == (10 if values["conditional"] == "on" else 0)
        assert used["image_shape"] == SHAPE
        assert (config.seed, config.epochs) == (derive_seed(3, asked.number), 7)


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("[8, 16]", CategoricalDistribution((8, 16))),
        ("{ low = 8, high = 16 }", IntDistribution(8, 16)),
        ("{ low = 8, high = 16, log = true }", IntDistribution(8, 16, log=True)),
        ("{ low = 8, high = 30, step = 10 }", IntDistribution(8, 28, step=10)),
    ],
)
def test_whole_numbers_have_integer_distributions(setting: str, expected: object) -> None:
    assert distributions(spec_of(f"[trial]\nwidth = {setting}")) == {"width": expected}


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("[0, 0.5]", CategoricalDistribution((0.0, 0.5))),
        ("{ low = 0, high = 0.5 }", FloatDistribution(0, 0.5)),
        ("{ low = 0.1, high = 0.5, log = true }", FloatDistribution(0.1, 0.5, log=True)),
        ("{ low = 0.1, high = 0.5, step = 0.2 }", FloatDistribution(0.1, 0.5, step=0.2)),
    ],
)
def test_numbers_have_float_distributions(setting: str, expected: object) -> None:
    assert distributions(spec_of(f"[trial]\ndropout = {setting}")) == {"dropout": expected}


def test_names_have_a_categorical_distribution() -> None:
    found = distributions(spec_of("[trial]\noptimizer = ['adam', 'sgd']"))
    assert found == {"optimizer": CategoricalDistribution(("adam", "sgd"))}


def test_separate_rates_override_the_shared_one() -> None:
    spec = spec_of("[trial]\nlearning_rate = 0.1\ngenerator_learning_rate = 0.2")
    numbers = trial_config(spec, {}, 0, DATASET).hyperparameters
    assert (numbers.generator_learning_rate, numbers.discriminator_learning_rate) == (0.2, 0.1)
    numbers = trial_config(spec, {"generator_learning_rate": 0.3}, 0, DATASET).hyperparameters
    assert numbers.generator_learning_rate == 0.3


def test_a_trial_depends_only_on_its_number_and_parameters() -> None:
    spec, point = spec_of(RANGES), {"learning_rate": 1e-3, "beta1": 0.4}
    assert trial_config(spec, point, 5, DATASET) == trial_config(spec, point, 5, DATASET)
    assert trial_config(spec, point, 5, DATASET) != trial_config(spec, point, 6, DATASET)


def test_every_field_of_a_trial_is_a_setting() -> None:
    config = trial_config(spec_of(""), {}, 0, DATASET)
    fields = {*config.program._fields, *config.hyperparameters._fields}
    derived = {"image_shape", "total_images", "ema", "clips", "classes", "penalties", "sources"}
    derived |= {"scheduled", "augment_some", "augment_adapts"}
    shared = {"optimizer", "learning_rate", "beta1", "beta2", "conditional", "burn_in"}
    assert fields - derived == set(setting_names()) - shared


def test_derived_settings_follow_from_others() -> None:
    """64,000 images in batches of 64, 20 epochs."""
    config = trial_config(spec_of("[trial]\nwarmup_images = 80_000"), {}, 0, DATASET)
    assert config.hyperparameters.total_images == 1_280_000
    assert config.hyperparameters.decay_images == 1_200_000
    assert (config.program.generator_norm, config.program.discriminator_norm) == ("batch", "none")
    for loss, weight in (("hinge", 0), ("wasserstein_gp", 10), ("dragan", 10)):
        config = trial_config(spec_of(f"[trial]\nloss = '{loss}'"), {}, 0, DATASET)
        assert config.hyperparameters.gradient_penalty == weight
        assert config.program.penalties == (("gradient_penalty",) if weight else ())


RECIPE = """
[trial]
r1 = 0.05
r1_final = 0.005
r2_final = 0.005
beta2 = 0.9
beta2_final = 0.99
ema_half_life_final = 25_600
augment = "color"
augment_probability = 0.0
augment_probability_final = 0.55
warmup_images = 80_000
burn_in = 0.5
"""


def test_a_schedule_moves_settings_with_a_final_value_that_have_an_effect() -> None:
    """R2 is off; half of 1,280,000 images of burn-in include the warm-up."""
    spec = spec_of(RECIPE.replace("r2_final = 0.005\n", "") + "schedule = 'cosine'")
    program, numbers, *_ = trial_config(spec, {}, 0, DATASET)
    assert program.scheduled == ("r1", "beta2", "ema_half_life", "augment_probability")
    assert (program.ema, program.augment_some, program.penalties) == (True, True, ("r1",))
    assert (numbers.r1, numbers.r1_final, numbers.r2_final) == (0.05, 0.005, 0.0)
    assert (numbers.generator_beta2, numbers.beta2_final) == (0.9, 0.99)
    assert (numbers.ema_decay, numbers.ema_half_life, numbers.ema_half_life_final) == (0, 0, 25_600)
    assert (numbers.augment_probability, numbers.augment_probability_final) == (0.0, 0.55)
    assert numbers.decay_images == 640_000 - 80_000


def test_a_final_value_needs_a_schedule_an_effect_and_a_use() -> None:
    spec = spec_of("[trial]\nr1 = [0.0, 1.0]\nr1_final = 0.1\nschedule = ['constant', 'cosine']")
    for r1, schedule in itertools.product((0.0, 1.0), ("constant", "cosine")):
        config = trial_config(spec, {"r1": r1, "schedule": schedule}, 0, DATASET)
        used = r1 > 0 and schedule == "cosine"
        assert config.program.scheduled == (("r1",) if used else ())
        assert config.hyperparameters.r1_final == (0.1 if used else 0.0)
    for optimizer in OPTIMIZERS:
        changes = {"optimizer": optimizer, "schedule": "linear", "beta2_final": 0.99}
        point = StudySpec.model_validate({"trial": changes})
        program = trial_config(point, {}, 0, DATASET).program
        assert bool(program.scheduled) == ("beta2" in OPTIMIZERS[optimizer].uses)


def test_a_constant_half_life_is_a_decay() -> None:
    """64 * 2 images per update: 0.5 ** (128 / 1280) is 0.933; no program of its own."""
    spec = spec_of("[trial]\nema_half_life = 1280\nd_steps = 2")
    config = trial_config(spec, {}, 0, DATASET)
    assert config.hyperparameters.ema_decay == pytest.approx(0.9330329915)
    decayed = trial_config(spec_of("[trial]\nema_decay = 0.9\nd_steps = 2"), {}, 0, DATASET)
    assert config.program == decayed.program
    tiny = trial_config(spec_of("[trial]\nema_half_life = 1e-9"), {}, 0, DATASET)
    assert (tiny.program.ema, tiny.hyperparameters.ema_decay) == (True, 0.0)


def test_every_image_is_augmented_unless_a_probability_is_given() -> None:
    for trial, expected in (
        ("augment = 'color'", (False, 1.0)),
        ("augment = 'color'\naugment_probability = 0.3", (True, 0.3)),
        ("augment = ['none', 'color']\naugment_probability = 0.3", (False, 1.0)),
        (
            "augment = 'color'\naugment_probability_final = 0.3\nschedule = 'cosine'",
            (True, 1.0),
        ),
    ):
        program, numbers, *_ = trial_config(
            spec_of(f"[trial]\n{trial}"), {"augment": "none"} if "[" in trial else {}, 0, DATASET
        )
        assert (program.augment_some, numbers.augment_probability) == expected


@pytest.mark.parametrize(
    ("more", "adapts", "images"),
    [
        ("augment = 'color'", True, 500_000.0),
        ("augment = 'color'\naugment_images = 1e4", True, 10_000.0),
        ("augment = ['none', 'color']", False, 0.0),
        ("augment = 'color'\nloss = ['hinge', 'relativistic']", False, 0.0),
    ],
)
def test_augmentation_adapts_if_it_has_a_target_and_the_loss_allows_it(
    more: str, adapts: bool, images: float
) -> None:
    point = {"augment": "none"} if "'none'" in more else {}
    point |= {"loss": "relativistic"} if "loss" in more else {}
    spec = spec_of(f"[trial]\naugment_target = 0.6\n{more}")
    program, numbers, *_ = trial_config(spec, point, 0, DATASET)
    assert (program.augment_adapts, program.augment_some) == (adapts, adapts)
    assert numbers.augment_images == images
    assert numbers.augment_target == (0.6 if adapts else 0.0)
    assert numbers.augment_probability == 1.0  # which adaptation replaces


def test_seeds_are_stable() -> None:
    assert (derive_seed(0, 0), derive_seed(7, 123)) == (2_968_811_710, 682_066_301)


def test_seeds_of_studies_and_trials_differ() -> None:
    seeds = [derive_seed(s, n) for s, n in itertools.product(range(40), range(50))]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**32 for seed in seeds)


SEARCH = """
[trial]
width = [8, 16]
r1 = [0.0, 0.1, 1.0]
instance_noise = { low = 0.0, high = 0.1 }
learning_rate = { low = 1e-4, high = 1e-2, log = true }
optimizer = ["adam", "sgd"]
[trial.when.optimizer.sgd]
batch_size = { low = 16, high = 64, step = 16 }
"""


def test_programs_are_those_of_every_structural_choice() -> None:
    spec = spec_of(SEARCH)
    found = programs(spec, {}, DATASET, 20)
    assert len(found) == len(set(found)) == 2 * 2 * (1 + 4)
    assert all(program.instance_noise for program in found)
    assert {program.penalties for program in found} == {(), ("r1",)}
    assert {p.batch_size for p in found if p.generator_optimizer == "sgd"} == {16, 32, 48, 64}
    assert programs(spec, {}, DATASET, 19) == [], "a guess would mostly be wrong"


def test_programs_agree_with_what_is_known_of_a_trial() -> None:
    spec = spec_of(SEARCH)
    known = {"optimizer": "sgd", "batch_size[optimizer=sgd]": 48, "r1": 0.1, "learning_rate": 1e-3}
    found = programs(spec, known, DATASET, 2)
    assert {program.width for program in found} == {8, 16}
    assert {(p.batch_size, p.penalties, p.generator_optimizer) for p in found} == {
        (48, ("r1",), "sgd")
    }
    point = known | {"width": 8, "instance_noise": 0.05}
    assert programs(spec, point, DATASET, 1) == [trial_config(spec, point, 0, DATASET).program]
