"""A tiny study of real digits, and the command line as processes."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

Tuner = Callable[..., subprocess.CompletedProcess[str]]

STUDY = """
[study]
trials = 4
epochs = 3

[data]
source = "idx"
path = "{digits}"

[trial]
width = 2
latent_dim = 8
learning_rate = {{ low = 1e-4, high = 1e-2, log = true }}
batch_size = [32, 64]

[[baseline]]
learning_rate = 2e-4
batch_size = 64

[sampler]
name = "tpe"
n_startup_trials = 2

[pruner]
name = "successive_halving"
reduction_factor = 2

[guard]
variance_ratio = {{ enabled = false }}

[metrics]
samples = 300
"""


def run(folder: Path, environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*words),
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "tuner.cli", *words]
