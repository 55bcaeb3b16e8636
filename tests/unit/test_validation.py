"""Contradictions between keys of a study file."""

import pytest
from builders import RANGES, assert_problem, problems, spec_of


def keys_of(lines: list[str]) -> list[str]:
    return [line.split(": ")[1] for line in lines]


@pytest.mark.parametrize(
    ("toml", "key", "problem", "remedy"),
    [
        (
            "[trial]\nbeta1 = { low = 0.1, high = 0.9 }\n[sampler]\nname = 'grid'",
            "trial.beta1",
            "the grid sampler needs choices",
            "or a range with a step",
        ),
        (
            "[trial]\nwidth = [8, 16]\nbeta1 = { low = 0.1, high = 0.9 }\n[sampler]\nname = 'grid'",
            "trial.beta1",
            "the grid sampler needs choices",
            "or a range with a step",
        ),
        (
            RANGES + "[pruner]\nname = 'patient'",
            "pruner.name",
            "the best value so far never gets worse, so patient would never prune; ",
            'set study.value = "last"',
        ),
        (
            "[pruner]\nname = 'threshold'\nlower = 3\nupper = 1",
            "pruner.upper",
            "found 1",
            "expected a number above lower = 3",
        ),
        (
            RANGES + "[sampler]\nname = 'tpe'\ngroup = true\nmultivariate = false",
            "sampler.group",
            "group = true needs multivariate = true",
            "",
        ),
        (
            RANGES + "[sampler]\nname = 'cmaes'\nwith_margin = true\nlr_adapt = true",
            "sampler.lr_adapt",
            "lr_adapt and with_margin are both true",
            "only one",
        ),
        (
            "[trial]\nbeta1 = [0.1, 0.2]\nwidth = [8, 16]\n"
            "[sampler]\nname = 'grid'\n[[baseline]]\nwidth = 8",
            "baseline.1",
            "beta1 is missing",
            "the grid sampler needs every setting that is searched",
        ),
        (
            "[trial]\nbatch_size = { low = 32, high = 64, step = 16 }\n"
            "[[baseline]]\nbatch_size = 40",
            "baseline.1.batch_size",
            "found 40",
            "expected 32 plus a multiple of 16",
        ),
        ("[trial]\nclip_norm = 1" + "0" * 400, "trial.clip_norm", "found 1000", "a number"),
        ("[sampler]\nname = 'grid'", "sampler.name", "the grid sampler needs something", "[trial]"),
        ("[sampler]\nname = 'cmaes'", "sampler.name", "cmaes needs at least two ranges", ": none"),
        (
            "[sampler]\nname = 'cmaes'\n[trial]\nbeta1 = { low = 0, high = 0.9 }\nwidth = [8, 16]",
            "sampler.name",
            "cmaes needs at least two ranges",
            "found: beta1",
        ),
        (
            "[guard.loss_ratio]\nlow = 3\nhigh = 3",
            "guard.loss_ratio",
            "found low = 3, high = 3",
            "expected low below high",
        ),
        ("[data]\npath = '/x'", "data.path", "path is set", 'but source = "mnist5k" ignores it'),
        *(
            (
                f"[data]\nsource = '{source}'\n{key} = {value}",
                f"data.{key}",
                f'{key} is set, but source = "{source}" ignores it',
                "it applies to " + with_,
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
    ],
)
def test_contradictions_are_refused(toml: str, key: str, problem: str, remedy: str) -> None:
    assert_problem(toml, key, f"{key}: {problem}", remedy)


@pytest.mark.parametrize(
    "toml",
    [
        "[guard.loss_ratio]\nenabled = false\nlow = 3\nhigh = 2",
        "[trial]\nbeta1 = { low = 0.1, high = 0.9, step = 0.4 }\n[sampler]\nname = 'grid'",
        "[trial]\nwidth = { low = 8, high = 16 }\n[sampler]\nname = 'grid'",
        "[sampler]\nname = 'cmaes'\n" + RANGES,
        "[data]\nsource = 'idx'\npath = '/x'",
    ],
)
def test_consistent_keys_are_accepted(toml: str) -> None:
    assert problems(toml) == []


@pytest.mark.parametrize(
    ("baseline", "key", "text"),
    [
        ("learning_rat = 0.1", "learning_rat", "unknown key, expected a key of [trial]"),
        ("width = 8", "width", "trial.width is fixed, not searched; leave it out"),
        ("batch_size = 48", "batch_size", "found 48, expected one of 32, 64"),
        ("beta1 = 0.95", "beta1", "found 0.95, expected 0 to 0.9"),
        ("beta1 = 'x'", "beta1", "'x' is not a number"),
    ],
)
def test_a_wrong_baseline_is_refused(baseline: str, key: str, text: str) -> None:
    trial = RANGES + "batch_size = [32, 64]\n"
    toml = f"{trial}[[baseline]]\nbeta1 = 0.5\n[[baseline]]\n{baseline}"
    assert_problem(toml, f"baseline.2.{key}", f"baseline.2.{key}: {text}")


def test_baselines_may_lie_at_the_ends_of_a_range() -> None:
    ends = [(low, high) for low in ("1e-4", "1e-2") for high in ("0.0", "0.9")]
    text = "".join(f"[[baseline]]\nlearning_rate = {a}\nbeta1 = {b}\n" for a, b in ends)
    assert problems(RANGES + text) == []


def test_all_problems_are_reported_once() -> None:
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
    assert sorted(keys_of(lines)) == sorted(
        [
            *("bogus", "study.epoch", "study.trials", "trial.learning_rat", "trial.width"),
            *("trial.beta1", "pruner.wrapped.upper", "guard.loss_ratio", "guard.d_auc.low"),
            *("metrics.feature", "baseline.1.beta1"),
        ]
    )
    assert all(line.startswith("study.toml: ") for line in lines)


def test_an_invalid_key_is_not_checked_with_its_default() -> None:
    assert_problem(
        "[study]\nepochs = 10\n[pruner]\nname = 'threshold'\nupper = 'x'", "pruner.upper"
    )
    assert_problem("[trial]\nbeta1 = [2.0]\noptimizer = 'sgd'", "trial.beta1")


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
        ("[study]\nepochs = 'x'\n[pruner]\nname = 'hyperband'\nmin_resource = 9", "study.epochs"),
        ("[metrics]\nevery = 'x'\n[pruner]\nname = 'hyperband'\nmin_resource = 9", "metrics.every"),
        ("[study]\ntrials = 'x'\n[pruner]\nname = 'median'\nn_startup_trials = 99", "study.trials"),
        ("[study]\nvalue = 'x'\n[pruner]\nname = 'patient'", "study.value"),
        ("[pruner]\nname = 'hyperband'\nmin_resource = 9\nbogus = 1", "pruner.bogus"),
        ("[pruner]\nname = 'median'\nbogus = 1\n[metrics]\nevery = 99", "pruner.bogus"),
        ("[study]\nepochs = 'x'\n[pruner]\nname = 'median'\n[metrics]\nevery = 99", "study.epochs"),
        ("[metrics]\nfeatures = 'x'\nweights = 'w'", "metrics.features"),
        (
            "[metrics]\nfeatures = 'random'\nbogus = 1\n[guard.class_coverage]\nlow = 0.5",
            "metrics.bogus",
        ),
        ("[data]\nsource = 'x'\nmodes = 'grid'", "data.source"),
        (
            "[trial]\nbeta1 = { low = 0, high = 0.9 }\n[sampler]\nname = 'grid'\nbogus = 1",
            "sampler.bogus",
        ),
        (
            "[trial]\nbeta1 = [0.1, 0.2]\nwidth = [8, 16]\n[sampler]\nname = 'grid'\nbogus = 1\n"
            "[[baseline]]\nwidth = 8",
            "sampler.bogus",
        ),
        (
            "[trial]\noptimizer = ['adam', 'sgdd']\n[trial.when.optimizer.sgd]\nmomentum = 0.5",
            "trial.optimizer",
        ),
    ],
)
def test_checks_that_depend_on_an_invalid_key_are_skipped(toml: str, key: str | None) -> None:
    keys = keys_of(problems(toml))
    assert keys == [key] if key else "pruner.min_resource" in keys


def test_checks_of_the_valid_keys_are_made() -> None:
    lines = problems("[study]\nepochs = 'x'\nvalue = 'x'\n[pruner]\nname = 'threshold'")
    assert sorted(keys_of(lines)) == ["pruner.upper", "study.epochs", "study.value"]
    lines = problems("""
        [trial]
        width = "x"
        optimizer = ["adam", "sgd"]
        [trial.when.optimizer.sdg]
        momentum = 0.5
    """)
    assert keys_of(lines) == ["trial.width", "trial.when.optimizer.sdg"]


def test_an_invalid_condition_does_not_hide_other_problems() -> None:
    lines = problems("""
        [trial]
        optimizer = ["adam", "sgd"]
        discriminator = "resnet"
        dropout = [0.1, 0.3]
        [trial.when.optimizer.sdg]
        momentum = [0.5, 0.9]
        [sampler]
        name = "gp"
        [[baseline]]
        momentum = 0.5
    """)
    assert keys_of(lines) == ["trial.when.optimizer.sdg", "trial.dropout"]


def test_one_wrong_baseline_does_not_hide_the_others() -> None:
    toml = "[trial]\nbeta1 = [0.1, 0.2]\n[[baseline]]\nbeta1 = [0.1]\n[[baseline]]\nbeta1 = 0.5"
    assert len(problems(toml)) == 2


@pytest.mark.parametrize(
    "line", ["weights = 'x'", "input = 'pytorch-fid'", f"weights_sha256 = '{'0' * 64}'"]
)
def test_inception_keys_are_refused_with_other_features(line: str) -> None:
    key = f"metrics.{line.split()[0]}"
    ignored = 'is set, but features = "classifier" ignores it'
    assert_problem(f"[metrics]\n{line}", key, ignored, '"inception"')
    spec_of(f"[metrics]\nfeatures = 'inception'\n{line}")
    spec_of("[metrics]\nweights = ''\ninput = 'clean'")  # the defaults


def test_a_guard_of_classes_needs_a_classifier() -> None:
    guard = "[guard.class_coverage]\nlow = 0.5\n"
    spec_of(guard)
    assert_problem(
        guard + "[metrics]\nfeatures = 'random'", "guard.class_coverage", '"random" ignores it'
    )
    spec_of("[metrics]\nfeatures = 'random'")
    spec_of(guard + "enabled = false\n[metrics]\nfeatures = 'random'")
    assert_problem("[guard.class_coverage]\nlow = 5.0", "guard.class_coverage.low", "5.0", "1")


@pytest.mark.parametrize(
    ("epochs", "every", "pruner", "wrong"),
    [
        *((10, 10, "median", True), (10, 9, "median", False), (10, 10, "none", False)),
        *((2, 2, "median", True), (1, 1, "median", False), (1, 9, "median", False)),
    ],
)
def test_most_pruners_need_an_evaluation_before_the_last_epoch(
    epochs: int, every: int, pruner: str, wrong: bool
) -> None:
    toml = f"[study]\nepochs = {epochs}\n[metrics]\nevery = {every}\n[pruner]\nname = '{pruner}'"
    if wrong:
        text = f"metrics.every: found {every} with {epochs} epochs; the pruner needs an evaluation"
        assert_problem(toml, "metrics.every", text)
    else:
        assert problems(toml) == []
