"""Objectives, evaluation intervals and fingerprints through the command line.

The Inception network has random weights here.
"""

from pathlib import Path

import inception_weights
import numpy as np
import pytest
from processes import run, run_json
from real_digits import write_digits

from tuner.files.serialization import encode
from tuner.metrics.inception import weight_shapes

STUDY = """
[study]
trials = {trials}
epochs = 5
seed = {seed}
[data]
source = "idx"
path = "{digits}"
[trial]
width = 2
latent_dim = 8
learning_rate = {{ low = 1e-4, high = 1e-3, log = true }}
[sampler]
name = "random"
[pruner]
name = "none"
[guard]
loss_ratio = {{ enabled = false }}
variance_ratio = {{ enabled = false }}
[metrics]
{metrics}
"""
RANDOM = 'features = "random"\nsamples = {samples}\nevery = 2\nobjective = "kid"\nkid = "every"'
HASH = "ab" * 32
GOLDEN = Path(__file__).parents[1] / "golden" / "inception.npz"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, digits: Path) -> Path:
    """A folder with study files."""
    folder = tmp_path_factory.mktemp("metrics")

    few = folder / "few"  # for the Inception network, which is slow
    few.mkdir()
    write_digits(few, 64)

    def write(name: str, metrics: str, trials: int = 2, seed: int = 0, data: Path = digits) -> None:
        text = STUDY.format(digits=data, trials=trials, seed=seed, metrics=metrics)
        (folder / f"{name}.toml").write_text(text)

    write("one", RANDOM.format(samples=60))
    write("two", RANDOM.format(samples=60), trials=1)
    write("less", RANDOM.format(samples=50), trials=1)
    write("last", RANDOM.format(samples=60), trials=1)
    text = (folder / "last.toml").read_text()
    (folder / "last.toml").write_text(text.replace("[data]", 'value = "last"\n[data]'))
    metrics = f'features = "inception"\nsamples = 10\nweights_sha256 = "{HASH}"'
    write("inception", metrics, trials=1, data=few)
    return folder


@pytest.fixture(scope="module")
def swept(folder: Path, environment: dict[str, str]) -> dict[str, str]:
    """The output of each study's sweep."""
    outputs = {}
    for name in ("one", "two", "less", "last"):
        done = run(folder, environment, "sweep", f"{name}.toml")
        assert done.returncode == 0, done.stderr
        outputs[name] = done.stdout
    return outputs


def test_every_other_epoch_and_the_last_is_evaluated(
    folder: Path, environment: dict[str, str], swept: dict[str, str]
) -> None:
    for trial in run_json(folder, environment, "trials", "one"):
        reports = trial["reports"]
        assert [r["epoch"] for r in reports if r["kid"] is not None] == [2, 4, 5]
        assert [r["epoch"] for r in reports if r["fid"] is not None] == [2, 4, 5]
        assert [r["epoch"] for r in reports if r["recall"] is not None] == [5]
        assert all(r["finite"] and r["d_loss"] is not None for r in reports)
        assert trial["value"] == min(r["kid"] for r in reports if r["kid"] is not None)
        for r in reports:
            parts = r["generate_seconds"] + r["extract_seconds"] + r["score_seconds"]
            assert (parts > 0) == (r["epoch"] != 1 and r["epoch"] != 3)
            assert parts <= r["evaluate_seconds"]
    assert "KID" in swept["one"]
    assert "Evaluating took " in swept["one"]


def test_the_time_of_trials_is_counted_by_phase(
    folder: Path, environment: dict[str, str], swept: dict[str, str]
) -> None:
    sums: dict[str, float] = {}
    for trial in run_json(folder, environment, "trials", "one"):
        seconds, reports = trial["phase_seconds"], trial["reports"]
        assert seconds["training"] >= sum(r["train_seconds"] for r in reports)
        evaluating = sum(r["evaluate_seconds"] for r in reports)
        # The generator of a complete trial is measured once more, on fresh latents.
        longest = max(r["evaluate_seconds"] for r in reports)
        again = seconds["evaluation"] - evaluating
        assert -0.01 * evaluating <= again <= 2 * longest
        assert again > 0.01 * evaluating or trial["state"] != "COMPLETE"
        assert min(seconds["database"], seconds["files"]) > 0
        assert seconds["waiting"] == 0
        sums = {phase: sums.get(phase, 0.0) + s for phase, s in seconds.items()}
    assert sums["compilation"] > 0  # only in the first trial
    assert run_json(folder, environment, "status", "one")["phase_seconds"] == pytest.approx(sums)
    status = run(folder, environment, "status", "one").stdout
    [line] = [line for line in status.splitlines() if line.startswith("Time: training ")]
    assert len(line.rstrip()) <= 80


def test_the_metric_settings_are_shown(
    folder: Path, environment: dict[str, str], swept: dict[str, str]
) -> None:
    found = {s["name"]: s for s in run_json(folder, environment, "list")}
    assert found["one"]["fingerprint"] == found["two"]["fingerprint"]
    assert found["one"]["fingerprint"] != found["less"]["fingerprint"]
    assert found["one"]["objective"] == "KID"
    status = run(folder, environment, "status", "one").stdout
    assert f"Measured as {found['one']['fingerprint']}: data " in status
    assert "samples 60" in status
    assert "Evaluating took" in status
    parts = run_json(folder, environment, "status", "one")["measured_as"]
    assert set(parts) == {
        *("data", "features", "input", "samples", "latents", "precision", "version", "weights")
    }


def test_only_studies_measured_alike_are_compared(
    folder: Path, environment: dict[str, str], swept: dict[str, str]
) -> None:
    found = run_json(folder, environment, "compare", "two", "one")
    assert {row["study"] for row in found} == {"one", "two"}
    assert found[0]["value"] <= found[1]["value"]
    shown = run(folder, environment, "compare", "two", "one").stdout.splitlines()
    assert shown[0].split()[:3] == ["study", "trial", "KID"]
    refused = run(folder, environment, "compare", "one", "less")
    assert refused.returncode == 2
    line = "these studies can't be compared: samples is 60 in study 'one' and 50 in 'less'"
    assert refused.stderr == f"tuner: {line}\n"
    refused = run(folder, environment, "compare", "one", "last")
    assert "value is best in study 'one' and last in 'last'" in refused.stderr
    assert "at least two studies" in run(folder, environment, "compare", "one", "one").stderr


def test_an_inception_study_needs_its_own_weights(
    folder: Path, environment: dict[str, str]
) -> None:
    weights = folder / "weights.safetensors"
    missing = run(folder, environment, "check", "inception.toml")
    assert missing.returncode == 2
    assert "metrics.weights: not set, and neither is TUNER_WEIGHTS" in missing.stderr
    weights.write_bytes(weights_file(HASH))
    done = run(folder, environment, "sweep", "inception.toml", "--weights", str(weights))
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    [trial] = run_json(folder, environment, "trials", "inception")
    assert [r["epoch"] for r in trial["reports"] if r["fid"] is not None] == [5]
    assert trial["value"] == trial["reports"][4]["fid"] > 0
    parts = run_json(folder, environment, "status", "inception")["measured_as"]
    assert (parts["features"], parts["input"]) == ("inception", "clean")
    other = folder / "other.safetensors"
    other.write_bytes(weights_file(HASH, scale=1.01))
    for path, problem in (
        (other, "study 'inception': found weights "),
        (
            folder / "none",
            f"{folder}/none: can't be read: No such file or directory; give the Inception weights",
        ),
        (folder / "one.toml", f"SHA-256 {HASH}"),
    ):
        elsewhere = environment | {"TUNER_WEIGHTS": str(path)}
        refused = run(folder, elsewhere, "best", "inception")
        assert refused.returncode == 2, refused.stdout
        assert problem in refused.stderr
        lines = refused.stderr.splitlines()
        assert [line for line in lines if line.startswith("tuner: ")] == lines[-1:]


def weights_file(source: str, scale: float = 1.0) -> bytes:
    """Random weights in the file format of ``tuner convert-inception``."""
    with np.load(GOLDEN) as golden:
        statistics = inception_weights.recorded_statistics(weight_shapes(), dict(golden))
    weights = inception_weights.draw_weights(weight_shapes()) | statistics
    weights["Conv2d_1a_3x3.conv.weight"] *= np.float32(scale)
    return encode(dict(weights), {"kind": "inception", "source_sha256": source})
