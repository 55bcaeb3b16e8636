"""Study files: what is right loads, what is wrong is said, one line a problem."""

import tomllib
from pathlib import Path
from typing import Any

import pytest
from builders import RANGES, setting_tables, spec_of
from hypothesis import given, settings
from hypothesis import strategies as st

from tuner.coherence import data_problems, first_rung, program_count, warnings
from tuner.errors import InputError
from tuner.policies import SuccessiveHalvingPruner, TpeSampler
from tuner.settings import Choices, Range
from tuner.spec import StudySpec
from tuner.specfile import differences, load_spec, parse_spec

STUDIES = Path(__file__).parents[2] / "studies"


def problems(toml: str) -> list[str]:
    """The lines of what is wrong with ``toml``; none where it is right."""
    try:
        parse_spec(tomllib.loads(toml), "study.toml")
    except InputError as error:
        return str(error).splitlines()
    return []


def assert_one(toml: str, key: str, *parts: str) -> None:
    lines = problems(toml)
    assert len(lines) == 1, lines
    assert lines[0].startswith(f"study.toml: {key}: found "), lines[0]
    for part in parts:
        assert part in lines[0], lines[0]


@pytest.mark.parametrize(
    ("toml", "key", "meant"),
    [
        ("[studdy]", "studdy", "study"),
        ("[study]\nepoch = 3", "study.epoch", "epochs"),
        ("[data]\nsorce = 'idx'", "data.sorce", "source"),
        ("[trial]\nlearning_rat = 0.1", "trial.learning_rat", "learning_rate"),
        (
            "[sampler]\nname = 'tpe'\nn_startup_trial = 3",
            "sampler.n_startup_trial",
            "n_startup_trials",
        ),
        ("[sampler]\nname = 'qmc'\nqmctype = 'halton'", "sampler.qmctype", "qmc_type"),
        ("[sampler]\nname = 'cmaes'\npopsiz = 6\n" + RANGES, "sampler.popsiz", "popsize"),
        ("[pruner]\nname = 'median'\nn_warmup = 3", "pruner.n_warmup", "n_warmup_steps"),
        ("[pruner]\nname = 'hyperband'\nmin_resources = 2", "pruner.min_resources", "min_resource"),
        ("[pruner]\nname = 'patient'\npatince = 2", "pruner.patince", "patience"),
        (
            "[pruner]\nname = 'patient'\nwrapped = { name = 'median', n_warmup_step = 1 }",
            "pruner.wrapped.n_warmup_step",
            "n_warmup_steps",
        ),
        ("[guard]\nloss_ration = {}", "guard.loss_ration", "loss_ratio"),
        ("[guard.d_auc]\nenable = true", "guard.d_auc.enable", "enabled"),
        ("[metrics]\nsample = 10", "metrics.sample", "samples"),
    ],
)
def test_unknown_key_and_the_nearest_one(toml: str, key: str, meant: str) -> None:
    assert_one(toml, key, "found an unknown key", f"did you mean '{meant}'?")


@pytest.mark.parametrize(
    ("toml", "key", "expected"),
    [
        ("[metrics]\nzzz = 1", "metrics.zzz", "expected one of features, weights"),
        ("[sampler]\nname = 'random'\nzzz = 1", "sampler.zzz", "expected one of name"),
        ("[guard]\nzzz = 1", "guard.zzz", "expected one of loss_ratio, variance_ratio, d_auc"),
    ],
)
def test_unknown_key_far_from_all_names_them(toml: str, key: str, expected: str) -> None:
    assert_one(toml, key, "found an unknown key", expected)


@pytest.mark.parametrize(
    ("toml", "key", "found", "expected"),
    [
        ("study = 3", "study", "3", "a table"),
        ("sampler = 'tpe'", "sampler", "'tpe'", "a table"),
        ("baseline = 3", "baseline", "3", "tables [[baseline]]"),
        ("[baseline]\nbeta1 = 1", "baseline", "{'beta1': 1}", "tables [[baseline]]"),
        ("baseline = [3]", "baseline.1", "3", "a table"),
        ("[study]\nname = 'a b'", "study.name", "'a b'", "letters, digits, '.', '_' and '-'"),
        (f"[study]\nname = '{'a' * 247}'", "study.name", "247 characters", "at most 246"),
        ("[study]\ntrials = '9'", "study.trials", "'9'", "a valid integer"),
        ("[study]\ntrials = 0", "study.trials", "0", "greater than or equal to 1"),
        ("[study]\nepochs = 9.0", "study.epochs", "9.0", "a valid integer"),
        ("[study]\nepochs = true", "study.epochs", "True", "a valid integer"),
        ("[study]\nseed = -1", "study.seed", "-1", "greater than or equal to 0"),
        ("[study]\nseed = 2147483648", "study.seed", "2147483648", "less than 2147483648"),
        ("[study]\nvalue = 'bst'", "study.value", "'bst'", "'best' or 'last' (did you mean 'best'"),
        ("[data]\nsource = 'mnist'", "data.source", "'mnist'", "'mnist5k', 'digits',"),
        ("[data]\nsize = 48", "data.size", "48", "32, 64 or 128"),
        ("[data]\nfit = 'cut'", "data.fit", "'cut'", "'pad', 'crop' or 'stretch'"),
        ("[data]\nunreadable = 1.5", "data.unreadable", "1.5", "less than or equal to 1"),
        ("[data]\nchannels = 2", "data.channels", "2", "1 or 3"),
        ("[data]\npath = 3", "data.path", "3", "a valid string"),
        ("[metrics]\nsamples = 1", "metrics.samples", "1", "greater than or equal to 10"),
        ("[metrics]\nfeatures = 'clasifier'", "metrics.features", "'clasifier'", "'classifier'"),
        ("[guard.loss_ratio]\nenabled = 1", "guard.loss_ratio.enabled", "1", "a valid boolean"),
        ("[guard.d_auc]\npatience = 0", "guard.d_auc.patience", "0", "greater than or equal to 1"),
        ("[trial]\nwidth = 8.0", "trial.width", "8.0", "a whole number of at least 1 and at most"),
        (
            "[trial]\nwidth = 2000",
            "trial.width",
            "2000",
            "a whole number of at least 1 and at most",
        ),
        ("[trial]\nbatch_size = 1", "trial.batch_size", "1", "a whole number of at least 2"),
        ("[trial]\nbatch_size = true", "trial.batch_size", "True", "a whole number of at least 2"),
        ("[trial]\nbeta1 = 1.0", "trial.beta1", "1.0", "a number at least 0 and below 1"),
        ("[trial]\nbeta1 = 'x'", "trial.beta1", "'x'", "a number at least 0 and below 1"),
        ("[trial]\nbeta1 = false", "trial.beta1", "False", "a number at least 0 and below 1"),
        ("[trial]\nlearning_rate = 0", "trial.learning_rate", "0", "a number above 0 and at most"),
        (
            "[trial]\nclip_norm = inf",
            "trial.clip_norm",
            "inf",
            "a number at least 0 and below 1e+3",
        ),
        ("[trial]\nr1 = 1e308", "trial.r1", "1e+308", "a number at least 0 and below 1e+300"),
        ("[trial]\nr1 = nan", "trial.r1", "nan", "a number at least 0"),
        ("[trial]\ndropout = nan", "trial.dropout", "nan", "a number at least 0 and below 1"),
        ("[trial]\noptimizer = 3", "trial.optimizer", "3", "one of adam, adamw, sgd"),
        (
            "[trial]\nloss = 'minmax'",
            "trial.loss",
            "'minmax'",
            "one of minimax, non_saturating, least_squares",
        ),
        (
            "[trial]\noptimizer = ['adam', 'sdg']",
            "trial.optimizer",
            "'sdg'",
            "one of adam, adamw, sgd",
        ),
        ("[trial]\nwidth = [8, 'x']", "trial.width", "'x'", "a whole number"),
        ("[trial]\nwidth = []", "trial.width", "an empty list", "choices, each a whole number"),
        ("[trial]\nwidth = [8, 8]", "trial.width", "[8, 8]", "choices that differ"),
        ("[trial]\nbeta1 = [0, 0.0]", "trial.beta1", "[0, 0.0]", "choices that differ"),
    ],
)
def test_wrong_value(toml: str, key: str, found: str, expected: str) -> None:
    assert_one(toml, key, f"found {found}, ", f"expected {expected}")


@pytest.mark.parametrize(
    ("setting", "found", "expected"),
    [
        ("{ low = 0.5, high = 0.1 }", "low = 0.5, high = 0.1", "low below high"),
        ("{ low = 0.5, high = 0.5 }", "low = 0.5, high = 0.5", "low below high"),
        ("{ low = 0, high = 0.5, log = true }", "log = true with low = 0", "low above 0"),
        ("{ low = 0.1 }", "a range without 'high'", "both low and high"),
        ("{ high = 0.1 }", "a range without 'low'", "both low and high"),
        ("{ low = 0.1, high = 1.5 }", "1.5", "a number at least 0 and below 1"),
        ("{ low = 'x', high = 0.5 }", "'x'", "a number at least 0 and below 1"),
        ("{ low = 0.1, high = 0.5, log = 1 }", "log = 1", "true or false"),
        ("{ low = 0.1, high = 0.5, step = 0 }", "0", "a number above 0"),
        ("{ low = 0.1, high = 0.5, log = true, step = 0.1 }", "both log and step", "one of them"),
        ("{ low = 0.1, high = 0.5, stp = 0.1 }", "key 'stp'", "(did you mean 'step'?)"),
        ("[{ low = 0.1, high = 0.5 }]", "{'low': 0.1, 'high': 0.5}", "a number"),
    ],
)
def test_wrong_range(setting: str, found: str, expected: str) -> None:
    assert_one(f"[trial]\ndropout = {setting}", "trial.dropout", f"found {found}", expected)


def test_whole_number_has_a_whole_step() -> None:
    toml = "[trial]\nwidth = { low = 8, high = 64, step = 1.5 }"
    assert_one(toml, "trial.width", "found 1.5", "expected a whole number of at least 1")


def test_name_has_no_range() -> None:
    toml = "[trial]\nloss = { low = 1, high = 2 }"
    assert_one(toml, "trial.loss", "found a table", "expected one of minimax, non_saturating")


@pytest.mark.parametrize(
    ("toml", "key", "found", "expected"),
    [
        ("[sampler]\nname = 'tpee'", "sampler.name", "'tpee'", "(did you mean 'tpe'?)"),
        ("[sampler]\nname = 'zzz'", "sampler.name", "'zzz'", "random, grid, qmc, tpe, cmaes, gp"),
        ("[sampler]\nn_startup_trials = 3", "sampler", "no key 'name'", "what the other keys mean"),
        ("[pruner]\nname = 'medain'", "pruner.name", "'medain'", "(did you mean 'median'?)"),
        (
            "[pruner]\nname = 'patient'\nwrapped = { name = 'treshold' }",
            "pruner.wrapped.name",
            "'treshold'",
            "(did you mean 'threshold'?)",
        ),
        (
            "[pruner]\nname = 'patient'\nwrapped = { name = 'hyperband' }",
            "pruner.wrapped.name",
            "'hyperband'",
            "median, percentile, successive_halving, threshold",
        ),
        ("[pruner]\nname = 'patient'\nwrapped = 'x'", "pruner.wrapped", "'x'", "a table"),
        (
            "[pruner]\nname = 'percentile'\npercentile = 100",
            "pruner.percentile",
            "100",
            "less than 100",
        ),
        (
            "[sampler]\nname = 'qmc'\nqmc_type = 'sobel'",
            "sampler.qmc_type",
            "'sobel'",
            "(did you mean 'sobol'?)",
        ),
        (
            "[sampler]\nname = 'tpe'\nn_ei_candidates = 0",
            "sampler.n_ei_candidates",
            "0",
            "greater than or equal to 1",
        ),
    ],
)
def test_wrong_sampler_or_pruner(toml: str, key: str, found: str, expected: str) -> None:
    assert_one(toml, key, f"found {found}", expected)


LATE = "one before the last epoch, 10: it could never prune"


@pytest.mark.parametrize(
    ("pruner", "key", "found", "expected"),
    [
        (
            "name = 'successive_halving'\nmin_resource = 10",
            "min_resource",
            "a first rung at epoch 10",
            LATE,
        ),
        (
            "name = 'successive_halving'\nreduction_factor = 4\nmin_early_stopping_rate = 2",
            "min_resource",
            "a first rung at epoch 16",
            LATE,
        ),
        (
            "name = 'hyperband'\nmin_resource = 4",
            "min_resource",
            "4 with reduction_factor = 3",
            "room for two rungs in 10 epochs",
        ),
        ("name = 'patient'\npatience = 8", "patience", "patience until epoch 10", LATE),
        (
            "name = 'patient'\nwrapped = { name = 'successive_halving', min_resource = 12 }",
            "wrapped.min_resource",
            "a first rung at epoch 12",
            LATE,
        ),
        (
            "name = 'patient'\nwrapped = { name = 'threshold' }",
            "wrapped.upper",
            "neither lower nor upper",
            "at least one",
        ),
        ("name = 'threshold'", "upper", "neither lower nor upper", "at least one"),
        (
            "name = 'threshold'\nupper = 9\nn_warmup_steps = 10",
            "n_warmup_steps",
            "a warm-up until epoch 10",
            LATE,
        ),
        (
            "name = 'median'\nn_warmup_steps = 10",
            "n_warmup_steps",
            "a warm-up until epoch 10",
            LATE,
        ),
        (
            "name = 'median'\nn_startup_trials = 6",
            "n_startup_trials",
            "6",
            "fewer than the study's 6 trials",
        ),
        (
            "name = 'percentile'\nn_startup_trials = 7",
            "n_startup_trials",
            "7",
            "fewer than the study's 6 trials",
        ),
    ],
)
def test_pruner_that_can_never_prune(pruner: str, key: str, found: str, expected: str) -> None:
    toml = f"[study]\nepochs = 10\ntrials = 6\nvalue = 'last'\n[pruner]\n{pruner}"
    assert_one(toml, f"pruner.{key}", f"found {found}", f"expected {expected}")


def test_that_the_pruner_is_the_default_one_is_said() -> None:
    remedy = '; successive_halving is the default: give more epochs, or [pruner] name = "none"'
    [line] = problems("[study]\nepochs = 1")
    assert line.startswith("study.toml: pruner.min_resource: found a first rung at epoch 1")
    assert line.endswith(remedy)
    [line] = problems("[study]\nepochs = 1\n[pruner]\nname = 'successive_halving'")
    assert not line.endswith(remedy)
    assert problems("[study]\nepochs = 1\n[pruner]\nname = 'none'") == []
    [line] = problems("[study]\nepochs = 2\n[pruner]\nname = 'hyperband'")
    assert line.endswith("room for two rungs in 2 epochs: it takes 3, or another pruner")


@pytest.mark.parametrize(
    "pruner",
    [
        "name = 'successive_halving'\nmin_resource = 9",
        "name = 'hyperband'\nmin_resource = 3",
        "name = 'patient'\npatience = 7",
        "name = 'median'\nn_warmup_steps = 9\nn_startup_trials = 5",
        "name = 'threshold'\nlower = 1",
        "name = 'none'",
    ],
)
def test_pruner_that_can_just_prune(pruner: str) -> None:
    assert problems(f"[study]\nepochs = 10\ntrials = 6\nvalue = 'last'\n[pruner]\n{pruner}") == []


@pytest.mark.parametrize(
    ("toml", "key", "found", "expected"),
    [
        (
            "[trial]\nbeta1 = { low = 0.1, high = 0.9 }\n[sampler]\nname = 'grid'",
            "trial.beta1",
            "a range",
            "the grid sampler needs choices, or a range with a step",
        ),
        (
            RANGES + "[pruner]\nname = 'patient'",
            "pruner.name",
            "'patient' with study.value = 'best'",
            "'last'",
        ),
        (
            "[pruner]\nname = 'threshold'\nlower = 3\nupper = 1",
            "pruner.upper",
            "1 with lower = 3",
            "upper above lower",
        ),
        (
            RANGES + "[sampler]\nname = 'tpe'\ngroup = true\nmultivariate = false",
            "sampler.group",
            "true",
            "only with multivariate = true",
        ),
        (
            RANGES + "[sampler]\nname = 'cmaes'\nwith_margin = true\nlr_adapt = true",
            "sampler.lr_adapt",
            "true with with_margin = true",
            "only one",
        ),
        (
            "[trial]\nbeta1 = [0.1, 0.2]\nwidth = [8, 16]\n"
            "[sampler]\nname = 'grid'\n[[baseline]]\nwidth = 8",
            "baseline.1",
            "no beta1",
            "",
        ),
        ("[data]\nchannels = true", "data.channels", "True", "a whole number"),
        ("[data]\nchannels = 1.0", "data.channels", "1.0", "a whole number"),
        (
            "[trial]\nbatch_size = [32, 64]\n[[baseline]]\nbatch_size = 64.0",
            "baseline.1.batch_size",
            "64.0",
            "a whole number",
        ),
        (
            "[trial]\nbatch_size = { low = 32, high = 64, step = 16 }\n"
            "[[baseline]]\nbatch_size = 40",
            "baseline.1.batch_size",
            "40",
            "32 plus a multiple of 16",
        ),
        ("[pruner]\nname = 'threshold'\nupper = inf", "pruner.upper", "inf", "a finite number"),
        ("[trial]\nclip_norm = 1" + "0" * 400, "trial.clip_norm", "1000", "a number"),
        ("[sampler]\nname = 'grid'", "sampler.name", "'grid'", "something to search"),
        ("[sampler]\nname = 'cmaes'", "sampler.name", "'cmaes' with ranges: none", "at least two"),
        (
            "[sampler]\nname = 'cmaes'\n[trial]\nbeta1 = { low = 0, high = 0.9 }\nwidth = [8, 16]",
            "sampler.name",
            "'cmaes' with ranges: beta1;",
            "expected at least two",
        ),
        (
            "[guard.loss_ratio]\nlow = 3\nhigh = 3",
            "guard.loss_ratio",
            "low = 3, high = 3",
            "low below high",
        ),
        ("[data]\npath = '/x'", "data.path", "a path", "expected none with source = 'mnist5k'"),
        *(
            (
                f"[data]\nsource = '{source}'\n{key} = {value}",
                f"data.{key}",
                value,
                "only with " + with_,
            )
            for source, key, value, with_ in [
                ("gaussians", "fit", "'pad'", "mnist5k, digits, idx, npz, folder, parquet, hug"),
                ("folder", "modes", "'grid'", "gaussians"),
                ("npz", "split", "'test'", "parquet, huggingface"),
                ("parquet", "subset", "'a'", "huggingface"),
                ("idx", "labels", "'y'", "npz, parquet, huggingface"),
                ("folder", "images", "'x'", "npz, parquet, huggingface"),
                ("npz", "unreadable", "0.5", "folder, parquet, huggingface"),
            ]
        ),
        (
            "[trial]\noptimizer = 'sgd'\nbeta1 = [0.1, 0.2]",
            "trial.beta1",
            "a search that optimizer = sgd leaves idle",
            "",
        ),
        (
            "[trial]\noptimizer = ['adam', 'sgd']\nrms_decay = [0.1, 0.2]",
            "trial.rms_decay",
            "a search that optimizer = adam, sgd leaves idle",
            "",
        ),
        (
            "[trial]\nlearning_rate = [0.1, 0.2]\ngenerator_learning_rate = 0.1\n"
            "discriminator_learning_rate = [0.1, 0.3]",
            "trial.learning_rate",
            "a search that a separate learning_rate for each network leaves idle",
            "",
        ),
    ],
)
def test_contradiction_between_keys(toml: str, key: str, found: str, expected: str) -> None:
    assert_one(toml, key, f"found {found}", expected)


@pytest.mark.parametrize(
    "toml",
    [
        "[trial]\noptimizer = ['adam', 'sgd']\nbeta1 = [0.1, 0.2]\nmomentum = [0.1, 0.2]",
        "[trial]\noptimizer = 'sgd'\nbeta1 = 0.1",
        "[trial]\nlearning_rate = [0.1, 0.2]\ngenerator_learning_rate = 0.1",
        "[guard.loss_ratio]\nenabled = false\nlow = 3\nhigh = 2",
        "[trial]\nbeta1 = { low = 0.1, high = 0.9, step = 0.4 }\n[sampler]\nname = 'grid'",
        "[trial]\nwidth = { low = 8, high = 16 }\n[sampler]\nname = 'grid'",
        "[sampler]\nname = 'cmaes'\n" + RANGES,
        "[data]\nsource = 'idx'\npath = '/x'",
    ],
)
def test_no_contradiction(toml: str) -> None:
    assert problems(toml) == []


@pytest.mark.parametrize(
    ("baseline", "key", "found", "expected"),
    [
        ("learning_rat = 0.1", "learning_rat", "an unknown key", "a key of [trial]"),
        ("width = 8", "width", "8, but trial.width is fixed", "only what is searched"),
        ("batch_size = 48", "batch_size", "48", "one of 32, 64"),
        ("beta1 = 0.95", "beta1", "0.95", "0 to 0.9"),
        ("beta1 = 'x'", "beta1", "'x'", "a number at least 0 and below 1"),
    ],
)
def test_wrong_baseline(baseline: str, key: str, found: str, expected: str) -> None:
    trial = RANGES + "batch_size = [32, 64]\n"
    toml = f"{trial}[[baseline]]\nbeta1 = 0.5\n[[baseline]]\n{baseline}"
    assert_one(toml, f"baseline.2.{key}", f"found {found}", f"expected {expected}")


def test_every_problem_at_once_and_once_only() -> None:
    lines = problems("""
        bogus = 1
        [study]
        epoch = 3
        trials = 'x'
        value = 'last'
        [trial]
        learning_rat = 1
        width = []
        optimizer = 'sgd'
        beta1 = [0.1, 0.2]
        [sampler]
        name = 'grid'
        [pruner]
        name = 'patient'
        patience = 3
        wrapped = { name = 'threshold' }
        [guard.loss_ratio]
        low = 3
        high = 2
        [guard.d_auc]
        low = -1
        [metrics]
        feature = 'x'
        [[baseline]]
        beta1 = 0.3
        width = 8
    """)
    keys = [line.split(": ")[1] for line in lines]
    assert sorted(keys) == sorted(
        [
            *("bogus", "study.epoch", "study.trials", "trial.learning_rat", "trial.width"),
            *("trial.beta1", "pruner.wrapped.upper", "guard.loss_ratio", "guard.d_auc.low"),
            *("metrics.feature", "baseline.1.beta1"),
        ]
    )
    assert all(line.startswith("study.toml: ") for line in lines)


def test_a_wrong_key_is_not_judged_again_by_its_default() -> None:
    assert_one("[study]\nepochs = 10\n[pruner]\nname = 'threshold'\nupper = 'x'", "pruner.upper")
    assert_one("[trial]\nbeta1 = [2.0]\noptimizer = 'sgd'", "trial.beta1")


@pytest.mark.parametrize(
    ("toml", "key"),
    [
        ("[study]\nepochs = 1\n[pruner]\nname = 'medain'", "pruner.name"),
        ("[study]\nepochs = '100'\n[pruner]\nname = 'patient'\nmin_resource = 30", None),
        ("[trial]\noptimizer = 'sgdd'\nmomentum = [0.1, 0.2]", "trial.optimizer"),
        (
            "[trial]\nlearning_rate = { low = 2, high = 1 }\n[[baseline]]\nlearning_rate = 1",
            "trial.learning_rate",
        ),
        (
            "[trial]\nlearning_rate = { low = 2, high = 1 }\nbeta1 = { low = 0.1, high = 0.9 }\n"
            "[sampler]\nname = 'cmaes'",
            "trial.learning_rate",
        ),
        ("[guard.loss_ratio]\nlow = 200\nhigh = 'x'", "guard.loss_ratio.high"),
        ("[trial]\nbeta1 = [0.1, 0.2]\n[[baseline]]\nbeta1 = [0.1]", "baseline.1.beta1"),
    ],
)
def test_what_depends_on_a_wrong_key_is_not_judged(toml: str, key: str | None) -> None:
    lines = [line.split(": ")[1] for line in problems(toml)]
    assert lines == [key] if key else "pruner.min_resource" in lines


def test_one_wrong_baseline_does_not_hide_the_others() -> None:
    toml = "[trial]\nbeta1 = [0.1, 0.2]\n[[baseline]]\nbeta1 = [0.1]\n[[baseline]]\nbeta1 = 0.5"
    assert len(problems(toml)) == 2


def test_a_huge_space_is_checked_at_once() -> None:
    wide = "width = { low = 1, high = 1024 }\nlatent_dim = { low = 1, high = 4096 }\n"
    spec = spec_of("[trial]\n" + wide + "batch_size = { low = 2, high = 64000, log = true }")
    assert list(warnings(spec)) == []
    assert program_count(spec) == 1024 * 4096 * 63999
    assert len(data_problems(spec, 1000)) == 2


def test_differences_name_the_key_that_differs() -> None:
    other = spec_of("[guard.d_auc]\nenabled = true")
    [line] = differences(spec_of(""), other)
    assert line == "guard.d_auc.enabled: False in the database, True in the file"


def test_missing_file(tmp_path: Path) -> None:
    path = tmp_path / "none.toml"
    with pytest.raises(InputError) as caught:
        load_spec(path)
    assert str(caught.value) == f"{path}: found no such file, expected a study file"
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[study\ntrials = 1", "found invalid TOML"),
        (b"[study]\ntrials = 1\ntrials = 2", "found invalid TOML"),
        (b"[study]\nname = '\xff\xfe'", "can't be read"),
    ],
)
def test_unreadable_file(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_bytes(content)
    with pytest.raises(InputError, match=said) as caught:
        load_spec(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_folder_is_not_a_study_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="can't be read"):
        load_spec(tmp_path)


def test_errors_of_a_file_name_it(tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text("[study]\nepoch = 1\n[metrics]\nsamples = 1\n")
    with pytest.raises(InputError) as caught:
        load_spec(str(path))
    lines = str(caught.value).splitlines()
    assert [line.split(": ")[:2] for line in lines] == [
        [str(path), "study.epoch"],
        [str(path), "metrics.samples"],
    ]


@pytest.mark.parametrize(
    ("content", "name"),
    [("", "my-study_1"), ("[study]\ntrials = 9", "my-study_1"), ("[study]\nname = 'x'", "x")],
)
def test_name_is_the_files_unless_given(tmp_path: Path, content: str, name: str) -> None:
    path = tmp_path / "my-study_1.toml"
    path.write_text(content)
    assert load_spec(path).study.name == name
    assert load_spec(path, "another").study.name == "another"
    with pytest.raises(InputError, match=r"study.name: found 600 characters, expected at most 246"):
        load_spec(path, "a" * 600)


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_bytes(b"\xef\xbb\xbf[study]\r\ntrials = 9\r\n")
    assert load_spec(path).study.trials == 9


@pytest.mark.parametrize("path", sorted(STUDIES.glob("*.toml")), ids=lambda path: path.stem)
def test_shipped_study_loads(path: Path) -> None:
    spec = load_spec(path)
    assert spec.study.name == path.stem
    assert spec.trial.searched()
    assert spec.baseline


def test_defaults_are_the_tutorials_recipe() -> None:
    spec = spec_of("")
    trial = spec.trial
    assert (trial.generator, trial.discriminator, trial.loss) == (
        "dcgan",
        "dcgan",
        "non_saturating",
    )
    assert (trial.optimizer, trial.learning_rate, trial.beta1) == ("adam", 2e-4, 0.5)
    assert (trial.generator_learning_rate, trial.discriminator_learning_rate) == (None, None)
    assert (trial.batch_size, trial.width, trial.latent_dim) == (64, 64, 100)
    assert (trial.dropout, trial.d_steps, trial.clip_norm, trial.ema_decay) == (0.3, 1, 0.0, 0.0)
    assert trial.searched() == {}
    assert (spec.sampler, spec.pruner) == (TpeSampler(), SuccessiveHalvingPruner())


def test_settings_are_parsed_to_their_kind() -> None:
    trial = spec_of("""
        [trial]
        learning_rate = { low = 1, high = 2 }
        width = { low = 8, high = 64, step = 8 }
        beta1 = [0, 0.5]
        batch_size = [32, 64]
        dropout = 0
    """).trial
    assert trial.learning_rate == Range(1.0, 2.0)
    assert trial.width == Range(8, 64, step=8)
    assert trial.beta1 == Choices((0.0, 0.5))
    assert isinstance(trial.dropout, float)
    assert set(trial.searched()) == {"learning_rate", "width", "beta1", "batch_size"}


@pytest.mark.parametrize(
    ("trial", "images", "said"),
    [
        ("batch_size = 64", 5000, []),
        ("batch_size = 64", 64, []),
        (
            "batch_size = 64",
            63,
            ["trial.batch_size: found 64, expected at most 63, the number of images"],
        ),
        ("batch_size = 100", 91, ["expected at most 91"]),
        ("batch_size = [32, 64]", 40, ["found 32 with d_steps = 1", "found 64, expected at most"]),
        (
            "batch_size = 64\nd_steps = [1, 20]",
            5000,
            [],
        ),
        (
            "batch_size = 64\nd_steps = 50",
            5000,
            ["found 64 with d_steps = 50: an epoch would see 6400 images, expected within 10%"],
        ),
        ("batch_size = 100\nd_steps = 1", 111, []),
        ("batch_size = 100", 112, ["an epoch would see 100 images, expected within 10% of 112"]),
        ("batch_size = { low = 10, high = 30, step = 10 }", 20, ["found 30, expected at most 20"]),
    ],
)
def test_data_problems(trial: str, images: int, said: list[str]) -> None:
    found = data_problems(spec_of(f"[trial]\n{trial}"), images)
    assert len(found) == len(said), found
    for line, part in zip(found, said, strict=True):
        assert line.startswith("trial.batch_size: found ")
        assert part in line


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        (RANGES, []),
        ("", ["nothing is searched"]),
        (RANGES + "[sampler]\nname = 'gp'", ["gp does not learn from pruned trials"]),
        (RANGES + "[sampler]\nname = 'gp'\n[pruner]\nname = 'none'", []),
        (RANGES + "[sampler]\nname = 'random'", ["random does not learn from earlier trials"]),
        (
            RANGES + "width = [8, 16]\n[sampler]\nname = 'cmaes'",
            ["cmaes works on ranges; width: picked at random"],
        ),
        (
            "[trial]\nwidth = [8, 16]\n[sampler]\nname = 'grid'\n[study]\ntrials = 3\n",
            ["grid does not learn", "the grid has 2 points, fewer than the trials"],
        ),
    ],
)
def test_warnings(toml: str, said: list[str]) -> None:
    found = list(warnings(spec_of(toml)))
    assert len(found) == len(said), found
    for line, part in zip(found, said, strict=True):
        assert part in line


def policies() -> st.SearchStrategy[dict[str, Any]]:
    """Parts of a study file apart from ``[trial]``."""
    samplers: list[dict[str, Any]] = [
        {"name": "random"},
        {"name": "qmc", "qmc_type": "halton", "scramble": False},
        {"name": "tpe", "n_startup_trials": 3, "group": True},
        {"name": "cmaes", "lr_adapt": True, "popsize": 6},
        {"name": "gp", "deterministic_objective": True},
    ]
    pruners: list[dict[str, Any]] = [
        {"name": "none"},
        {"name": "hyperband", "reduction_factor": 4},
        {"name": "threshold", "upper": 300, "lower": 0.5},
        {"name": "patient", "min_delta": 0.1, "wrapped": {"name": "percentile", "percentile": 30}},
    ]
    return st.fixed_dictionaries(
        {},
        optional={
            "study": st.fixed_dictionaries(
                {"seed": st.integers(0, 2**31 - 1), "value": st.sampled_from(["best", "last"])}
            ),
            "sampler": st.sampled_from(samplers),
            "pruner": st.sampled_from(pruners),
            "guard": st.just({"loss_ratio": {"high": 7}, "d_auc": {"enabled": True}}),
            "baseline": st.lists(
                st.dictionaries(
                    st.sampled_from(["width", "beta1", "loss"]),
                    st.one_of(st.integers(-9, 9), st.floats(allow_nan=False, allow_infinity=False)),
                ),
                max_size=2,
            ),
        },
    )


@settings(deadline=None)
@given(setting_tables(), policies())
def test_a_spec_survives_the_database(trial: dict[str, Any], rest: dict[str, Any]) -> None:
    spec = StudySpec.model_validate({"trial": trial, **rest})
    again = StudySpec.model_validate_json(spec.model_dump_json())
    assert again == spec
    assert differences(spec, again) == []
    assert [type(getattr(again.trial, name)) for name in trial] == [
        type(getattr(spec.trial, name)) for name in trial
    ]


@pytest.mark.parametrize(
    ("changed", "keys"),
    [
        ("[study]\ntrials = 99\n" + RANGES, []),
        ("[study]\nepochs = 99\n" + RANGES, ["study.epochs: 20 in the database, 99 in the file"]),
        (
            RANGES + "width = [8, 16]",
            ["trial.width: 64 in the database, [8, 16] in the file"],
        ),
        (
            RANGES.replace("high = 0.9", "high = 0.8"),
            [
                "trial.beta1: {'low': 0.0, 'high': 0.9} in the database, "
                "{'low': 0.0, 'high': 0.8} in the file"
            ],
        ),
        (
            RANGES + "[sampler]\nname = 'gp'\ndeterministic_objective = true",
            [
                "sampler.name: tpe in the database, gp in the file",
                "sampler.deterministic_objective: nothing in the database, True in the file",
            ],
        ),
        (
            RANGES + "[[baseline]]\nbeta1 = 0.5",
            ["baseline: [] in the database, [{'beta1': 0.5}] in the file"],
        ),
    ],
)
def test_differences(changed: str, keys: list[str]) -> None:
    found = differences(spec_of(RANGES), spec_of(changed))
    assert set(keys) <= set(found), found
    if not changed.endswith("objective = true"):
        assert found == keys


@pytest.mark.parametrize(
    ("pruner", "every", "epochs", "rung"),
    [
        ("name = 'successive_halving'\nmin_resource = 1", 2, 20, 1),
        ("name = 'successive_halving'\nmin_resource = 3\nreduction_factor = 2", 2, 20, 3),
        ("name = 'successive_halving'\nmin_resource = 10\nreduction_factor = 3", 4, 20, 10),
        ("name = 'hyperband'\nmin_resource = 1\nreduction_factor = 2", 2, 20, 1),
        ("name = 'hyperband'\nmin_resource = 5", 4, 50, 5),
        (
            "name = 'patient'\npatience = 0\n"
            "wrapped = { name = 'successive_halving', min_resource = 3 }",
            *(2, 20, 3),
        ),
    ],
)
def test_a_rung_between_evaluations_is_refused(
    pruner: str, every: int, epochs: int, rung: int
) -> None:
    study = f"[study]\nepochs = {epochs}\nvalue = 'last'\n"
    toml = f"{study}[pruner]\n{pruner}\n[metrics]\nevery = {every}"
    key = "pruner.wrapped.min_resource" if "wrapped" in pruner else "pruner.min_resource"
    assert_one(toml, key, f"found a rung at epoch {rung}", f"every {every} epochs (metrics.every)")
    spec_of(toml.replace(f"every = {every}", "every = 1"))


def test_by_default_the_first_rung_is_the_first_evaluation() -> None:
    spec = spec_of("[study]\nepochs = 20\n[metrics]\nevery = 5\n")
    assert spec.pruner.name == "successive_halving"
    assert first_rung(spec.pruner, spec.metrics.every) == 5
    assert_one("[study]\nepochs = 5\n[metrics]\nevery = 5\n", "pruner.min_resource", "epoch 5", "5")
    toml = "[study]\nepochs = 9\n[pruner]\nname = 'median'\n[metrics]\nevery = 9\n"
    assert_one(toml, "metrics.every", "found 9 with 9 epochs", "evaluations before the last")


def test_inception_is_evaluated_seldom_unless_told_otherwise() -> None:
    inception = "[metrics]\nfeatures = 'inception'\n"
    assert spec_of(inception).metrics.every == 5
    assert spec_of(inception + "every = 2").metrics.every == 2
    assert spec_of("").metrics.every == 1
    stored = spec_of(inception).model_dump_json()
    assert StudySpec.model_validate_json(stored) == spec_of(inception)


@pytest.mark.parametrize("line", ["weights = 'x'", "input = 'pytorch-fid'"])
def test_what_only_inception_uses_is_refused_without_it(line: str) -> None:
    key = f"metrics.{line.split()[0]}"
    assert_one(f"[metrics]\n{line}", key, "features = 'classifier' leaves idle", "'inception' only")
    spec_of(f"[metrics]\nfeatures = 'inception'\n{line}")


def test_what_is_measured_when() -> None:
    metrics = spec_of(
        "[metrics]\nevery = 3\nkid = 'every'\nneighbours = 'end'\nobjective = 'fid_infinity'"
        "\n[pruner]\nname = 'none'"
    ).metrics
    assert [e for e in range(1, 9) if metrics.evaluated(e, 8)] == [3, 6, 8]
    assert metrics.extras(3, 8) == {"kid", "fid_infinity"}
    assert metrics.extras(8, 8) == {"kid", "fid_infinity", "neighbours"}
    assert spec_of("").metrics.extras(1, 8) == set()


def test_few_samples_are_worth_a_warning() -> None:
    few = "[metrics]\nobjective = 'fid_infinity'\nsamples = 1000"
    assert any("1,024 on its straight line holds" in text for text in warnings(spec_of(few)))
    enough = spec_of(few.replace("1000", "1024"))
    assert not any("samples" in text for text in warnings(enough))
    biased = "[metrics]\nfeatures = 'inception'\nsamples = 4000"
    assert any("biased far upwards" in text for text in warnings(spec_of(biased)))


def test_a_guard_of_classes_needs_a_classifier() -> None:
    guard = "[guard.class_coverage]\nlow = 0.5\n"
    spec_of(guard)
    assert_one(guard + "[metrics]\nfeatures = 'random'", "guard.class_coverage", "leaves idle")
    spec_of("[metrics]\nfeatures = 'random'")
    assert_one("[guard.class_coverage]\nlow = 5.0", "guard.class_coverage.low", "5.0", "1")


def test_a_warm_up_beyond_the_last_evaluation_that_counts() -> None:
    pruner = "[study]\nepochs = 12\n[metrics]\nevery = 5\n[pruner]\nname = 'median'\n"
    spec_of(pruner + "n_warmup_steps = 10")
    assert_one(pruner + "n_warmup_steps = 11", "pruner.n_warmup_steps", "could never prune")


@pytest.mark.parametrize("value", ["abc", "AB" * 31, "g" * 64])
def test_a_hash_is_64_hexadecimal_digits(value: str) -> None:
    metrics = f"[metrics]\nfeatures = 'inception'\nweights_sha256 = '{value}'"
    assert_one(metrics, "metrics.weights_sha256", repr(value), "64 hexadecimal digits")
    upper = spec_of(metrics.replace(value, "AB" * 32))
    assert upper.metrics.weights_sha256 == "ab" * 32
