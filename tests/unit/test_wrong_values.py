"""Unknown keys and invalid values of a study file, one line each."""

import pytest
from builders import RANGES, assert_problem, problems, spec_of


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
def test_an_unknown_key_suggests_the_nearest(toml: str, key: str, meant: str) -> None:
    assert_problem(toml, key, "unknown key", f"did you mean '{meant}'?")


@pytest.mark.parametrize(
    ("toml", "key", "expected"),
    [
        ("[metrics]\nzzz = 1", "metrics.zzz", "expected one of features, weights"),
        ("[sampler]\nname = 'random'\nzzz = 1", "sampler.zzz", "expected one of name"),
        ("[guard]\nzzz = 1", "guard.zzz", "expected one of loss_ratio, variance_ratio, d_auc"),
    ],
)
def test_an_unknown_key_lists_the_allowed_ones(toml: str, key: str, expected: str) -> None:
    assert_problem(toml, key, "unknown key", expected)


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
        ("[study]\ntrials = 0", "study.trials", "0", "at least 1"),
        ("[study]\nseed = -1", "study.seed", "-1", "at least 0"),
        ("[study]\nseed = 2147483648", "study.seed", "2147483648", "below 2.14748e+09"),
        ("[study]\nvalue = 'bst'", "study.value", "'bst'", "'best' or 'last' (did you mean 'best'"),
        ("[data]\nsource = 'mnist'", "data.source", "'mnist'", "'mnist5k', 'digits',"),
        ("[data]\nsize = 48", "data.size", "48", "32, 64, 128 or 256"),
        ("[data]\nfit = 'cut'", "data.fit", "'cut'", "'pad', 'crop' or 'stretch'"),
        ("[data]\nunreadable = 1.5", "data.unreadable", "1.5", "at most 1"),
        ("[data]\nchannels = 2", "data.channels", "2", "1 or 3"),
        ("[metrics]\nsamples = 1", "metrics.samples", "1", "at least 10"),
        ("[metrics]\nfeatures = 'clasifier'", "metrics.features", "'clasifier'", "'classifier'"),
        ("[guard.d_auc]\npatience = 0", "guard.d_auc.patience", "0", "at least 1"),
        ("[trial]\nwidth = 2000", "trial.width", "2000", "a whole number from 1 to 1024"),
        ("[trial]\nbatch_size = 1", "trial.batch_size", "1", "a whole number from 2 to 65536"),
        ("[trial]\nbeta1 = 1.0", "trial.beta1", "1.0", "a number of at least 0 and below 1"),
        ("[trial]\nlearning_rate = 0", "trial.learning_rate", "0", "a number above 0 and at most"),
        (
            "[trial]\nclip_norm = inf",
            "trial.clip_norm",
            "inf",
            "a number of at least 0 and below 1e+3",
        ),
        ("[trial]\nr1 = 1e308", "trial.r1", "1e+308", "a number of at least 0 and below 1e+300"),
        ("[trial]\nr1 = nan", "trial.r1", "nan", "a number of at least 0"),
        ("[trial]\ndropout = nan", "trial.dropout", "nan", "a number of at least 0 and below 1"),
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
        ("[trial]\nwidth = []", "trial.width", "an empty list", "choices, each a whole number"),
        ("[trial]\nwidth = [8, 8]", "trial.width", "[8, 8]", "distinct choices"),
        ("[trial]\nbeta1 = [0, 0.0]", "trial.beta1", "[0, 0.0]", "distinct choices"),
    ],
)
def test_a_wrong_value_is_refused(toml: str, key: str, found: str, expected: str) -> None:
    assert_problem(toml, key, f"{key}: found {found}, expected {expected}")


@pytest.mark.parametrize(
    ("toml", "key", "text"),
    [
        ("[study]\ntrials = '9'", "study.trials", "'9' is not a whole number"),
        ("[study]\nepochs = 9.0", "study.epochs", "9.0 is not a whole number"),
        ("[study]\nepochs = true", "study.epochs", "true is not a whole number"),
        ("[study]\nlease_seconds = 'x'", "study.lease_seconds", "'x' is not a number"),
        ("[data]\npath = 3", "data.path", "3 is not a string"),
        ("[data]\nchannels = true", "data.channels", "true is not a whole number"),
        ("[data]\nchannels = 1.0", "data.channels", "1.0 is not a whole number"),
        ("[guard.loss_ratio]\nenabled = 1", "guard.loss_ratio.enabled", "1 is not true or false"),
        ("[pruner]\nname = 'threshold'\nupper = inf", "pruner.upper", "inf is not a finite number"),
        ("[trial]\nwidth = 8.0", "trial.width", "8.0 is not a whole number"),
        ("[trial]\nwidth = [8, 'x']", "trial.width", "'x' is not a whole number"),
        ("[trial]\nbatch_size = true", "trial.batch_size", "true is not a whole number"),
        (
            "[trial]\nwidth = { low = 8, high = 64, step = 1.5 }",
            "trial.width",
            "1.5 is not a whole number",
        ),
        ("[trial]\nbeta1 = 'x'", "trial.beta1", "'x' is not a number"),
        ("[trial]\nbeta1 = false", "trial.beta1", "false is not a number"),
        (
            "[trial]\nbatch_size = [32, 64]\n[[baseline]]\nbatch_size = 64.0",
            "baseline.1.batch_size",
            "64.0 is not a whole number",
        ),
        (
            "[trial]\nbeta1 = [0.1, 0.2]\n[[baseline]]\nbeta1 = 'x'",
            "baseline.1.beta1",
            "'x' is not a number",
        ),
    ],
)
def test_a_wrong_type_is_refused(toml: str, key: str, text: str) -> None:
    assert problems(toml) == [f"study.toml: {key}: {text}"]


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ("{ low = 0.5, high = 0.1 }", "found low = 0.5, high = 0.1, expected low below high"),
        ("{ low = 0.5, high = 0.5 }", "found low = 0.5, high = 0.5, expected low below high"),
        (
            "{ low = 0, high = 0.5, log = true }",
            "found log = true with low = 0, expected low above 0",
        ),
        ("{ low = 0.1 }", "the range has no 'high'; it needs both low and high"),
        ("{ high = 0.1 }", "the range has no 'low'; it needs both low and high"),
        ("{ low = 0.1, high = 1.5 }", "found 1.5, expected a number of at least 0 and below 1"),
        ("{ low = 'x', high = 0.5 }", "'x' is not a number"),
        ("{ low = 0.1, high = 0.5, log = 1 }", "found log = 1, expected true or false"),
        ("{ low = 0.1, high = 0.5, step = 0 }", "found 0, expected a number above 0"),
        (
            "{ low = 0.1, high = 0.5, log = true, step = 0.1 }",
            "the range has both log and step; it can have only one of them",
        ),
        (
            "{ low = 0.1, high = 0.5, stp = 0.1 }",
            "found key 'stp', expected low, high, log or step (did you mean 'step'?)",
        ),
        ("[{ low = 0.1, high = 0.5 }]", "{'low': 0.1, 'high': 0.5} is not a number"),
    ],
)
def test_a_wrong_range_is_refused(setting: str, text: str) -> None:
    assert problems(f"[trial]\ndropout = {setting}") == [f"study.toml: trial.dropout: {text}"]


def test_a_name_has_no_range() -> None:
    toml = "[trial]\nloss = { low = 1, high = 2 }"
    assert_problem(toml, "trial.loss", "found a table", "expected one of minimax, non_saturating")


@pytest.mark.parametrize(
    ("toml", "key", "found", "expected"),
    [
        ("[sampler]\nname = 'tpee'", "sampler.name", "'tpee'", "(did you mean 'tpe'?)"),
        (
            "[sampler]\nname = 'zzz'",
            "sampler.name",
            "'zzz'",
            "tpe, nsga2, cmaes, gp",
        ),
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
            "below 100",
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
            "at least 1",
        ),
    ],
)
def test_a_wrong_sampler_or_pruner_is_refused(
    toml: str, key: str, found: str, expected: str
) -> None:
    assert_problem(toml, key, f"found {found}", expected)


def test_sampler_options_need_a_name() -> None:
    assert_problem("[sampler]\nn_startup_trials = 3", "sampler", "the key 'name' is missing")


@pytest.mark.parametrize("value", ["abc", "AB" * 31, "g" * 64])
def test_a_hash_is_64_hexadecimal_digits(value: str) -> None:
    metrics = f"[metrics]\nfeatures = 'inception'\nweights_sha256 = '{value}'"
    assert_problem(metrics, "metrics.weights_sha256", repr(value), "64 hexadecimal digits")
    upper = spec_of(metrics.replace(value, "AB" * 32))
    assert upper.metrics.weights_sha256 == "ab" * 32
