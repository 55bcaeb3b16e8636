"""Heavy libraries are imported only when needed."""

import subprocess
import sys

import pytest

JAX = ("jax", "jaxlib", "flax", "optax")
DATABASE = ("optuna", "sqlalchemy")


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import tuner, tuner.cli", JAX),
        ("import tuner", (*JAX, *DATABASE)),
        # A notebook that only reads must not occupy the device.
        ("from tuner import open_study", (*JAX, "pandas", "plotly", "IPython")),
        ("import tuner.data", (*JAX, *DATABASE)),
        # A process that starts workers must leave the devices to them.
        ("import tuner.run.fleet, tuner.files.study_files, tuner.study.steering", JAX),
        # Needed only with --metrics-port.
        ("import tuner.cli, tuner.run.startup, tuner.run.fleet, tuner.api", ("prometheus_client",)),
        ("import tuner.run.monitoring", JAX),
        # Needed only by studies that name them.
        (
            "import tuner.cli, tuner.cli.run, tuner.api",
            ("tensorboardX", "mlflow", "wandb", "trackio", "apprise"),
        ),
        # Of the plots, only that of importances needs them.
        ("import tuner.api, tuner.views.parameters, tuner.cli", ("sklearn", "pandas")),
        # Needed only by the sampler cmaes, and to replay a study.
        ("import tuner.cli, tuner.run.startup, tuner.run.worker, tuner.api", ("scipy",)),
        ("import tuner.files.stores", (*JAX, *DATABASE, "s3fs", "gcsfs")),
    ],
)
def test_import_loads_only_what_it_needs(statement: str, absent: tuple[str, ...]) -> None:
    code = f"{statement}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert not set(absent) & set(done.stdout.split())
