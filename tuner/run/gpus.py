"""The GPUs of this machine, and the share of them that each of several worker processes gets.

Does not import JAX, which would allocate the GPUs' memory.
"""

import importlib.util
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from tuner import hints

VISIBLE = "CUDA_VISIBLE_DEVICES"
# The share of a GPU's memory that a JAX process takes when it starts. The second variable is the
# first one's older name; jaxlib refuses both together.
FRACTION, OLDER_FRACTION = "XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION"
DEFAULT_FRACTION = 0.75
PREALLOCATE = "XLA_PYTHON_CLIENT_PREALLOCATE"
# Threads of XLA's pools, and of OpenMP, OpenBLAS and MKL, which have variables of their own, too.
THREADS = ("PJRT_NPROC", "OMP_NUM_THREADS")


def accelerators() -> list[str]:
    """List the GPUs that JAX could use, as in CUDA_VISIBLE_DEVICES."""
    plugins = ("jax_cuda12_plugin", "jax_cuda13_plugin")
    if not any(importlib.util.find_spec(name) for name in plugins):
        return []
    platforms = os.environ.get("JAX_PLATFORMS")
    if platforms and not {"cuda", "gpu"} & set(platforms.split(",")):
        return []
    visible = os.environ.get(VISIBLE)
    if visible is not None:
        return [name for name in visible.split(",") if name.strip()]
    folder = Path("/proc/driver/nvidia/gpus")
    return [str(i) for i in range(len(list(folder.iterdir())))] if folder.is_dir() else []


def unused_gpu(drivers: Path = Path("/")) -> str | None:
    """A GPU of this machine by its driver's description; None if there is none.

    For a process whose JAX does not use a GPU. ``drivers`` is the folder with /proc and /dev.
    """
    models = sorted((drivers / "proc/driver/nvidia/gpus").glob("*/information"))
    for path in models:
        with suppress(OSError):
            for line in path.read_text(errors="replace").splitlines():
                if line.startswith("Model:"):
                    return line.partition(":")[2].strip()
    if models or (drivers / "dev/nvidia0").exists():
        return "NVIDIA"
    return "AMD" if (drivers / "dev/kfd").exists() else None


def warning_of_unused(device: str) -> str | None:
    """A warning if this machine has a GPU but JAX uses ``device``, which is not one."""
    gpu, platforms = unused_gpu(), os.environ.get("JAX_PLATFORMS")
    if gpu is None:
        return None
    if platforms and "cpu" in platforms:
        how = f"unset JAX_PLATFORMS={platforms}"
    elif os.environ.get(VISIBLE) == "":
        how = f"unset {VISIBLE}, which hides it"
    elif gpu == "AMD":
        how = "install JAX for ROCm"
    else:
        how = f"install JAX for it: {hints.install('cuda12')}"
    return f"warning: JAX uses {device}, not this machine's GPU ({gpu}); to use it, {how}"


def memory_share(environment: Mapping[str, str], workers: int) -> float | None:
    """The fraction of a GPU's memory for each of ``workers`` processes that share it.

    None if the user has set the fraction, or has turned off JAX's preallocation of memory.
    """
    chosen = environment.get(FRACTION) or environment.get(OLDER_FRACTION)
    if chosen or environment.get(PREALLOCATE) in ("false", "False", "0"):
        return None
    return DEFAULT_FRACTION / workers


def share(environment: Mapping[str, str], workers: int, threads: int) -> dict[str, str]:
    """Variables for one of ``workers`` processes that share a GPU, with ``threads`` CPU threads.

    Variables that the user has set keep their values.
    """
    found = {name: str(threads) for name in THREADS if not environment.get(name)}
    memory = memory_share(environment, workers)
    return found if memory is None else found | {FRACTION: f"{memory:.4f}"}
