"""JAX's environment variables: keep those that choose a device, drop those that change results.

This module does not import JAX, which reads the variables at import.
"""

import os
import subprocess
import sys
from collections.abc import MutableMapping

from tuner.errors import InputError

# Devices, caches and logs. All other variables change results, or abort the program.
KEPT = (
    *("JAX_PLATFORMS", "JAX_PLATFORM_NAME", "JAX_CUDA_VISIBLE_DEVICES", "JAX_ROCM_VISIBLE_DEVICES"),
    *("JAX_COMPILATION_CACHE_DIR", "JAX_COMPILATION_CACHE_MAX_SIZE"),
    *("JAX_ENABLE_COMPILATION_CACHE", "JAX_RAISE_PERSISTENT_CACHE_ERRORS"),
    *("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"),
    *("JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES", "JAX_EXPLAIN_CACHE_MISSES"),
    *("JAX_LOGGING_LEVEL", "JAX_LOG_COMPILES", "JAX_DEBUG_LOG_MODULES", "JAX_DUMP_IR_TO"),
    *("JAX_TRACEBACK_FILTERING", "JAX_NUM_CPU_DEVICES"),
)
# Required values of JAX's settings, which the caller may have changed before importing tuner.
NEEDED = {
    "jax_enable_x64": False,
    "jax_disable_jit": False,
    "jax_debug_nans": False,
    "jax_debug_infs": False,
    "jax_check_tracer_leaks": False,
    "jax_numpy_rank_promotion": "allow",
    "jax_numpy_dtype_promotion": "standard",
    "jax_default_matmul_precision": None,
    "jax_default_prng_impl": "threefry2x32",
    "jax_threefry_partitionable": True,
}
START_TIMEOUT = 120.0  # seconds to wait for a device to start


def drop_settings(environment: MutableMapping[str, str]) -> None:
    """Remove JAX variables that are empty or would change results."""
    for name in [name for name in environment if name.startswith("JAX_")]:
        if name not in KEPT or not environment[name]:
            del environment[name]


def check_start() -> None:
    """Raise InputError if JAX can't start with the variables as set.

    An unknown XLA flag aborts the process, so a child process tries first. No child is started
    unless one of the variables may be wrong.
    """
    harmless = {"JAX_PLATFORMS": "cpu", "JAX_PLATFORM_NAME": "cpu"}
    values = {name: os.environ.get(name) for name in (*KEPT, "XLA_FLAGS")}
    doubtful = [
        name
        for name, value in values.items()
        if value
        and value != harmless.get(name)
        and name != "JAX_COMPILATION_CACHE_DIR"
        and not (name.startswith("JAX_PERSISTENT") and value.replace(".", "", 1).isdecimal())
    ]
    if not doubtful:
        return
    command = [sys.executable, "-P", "-c", "import jax; jax.devices()"]
    try:
        tried = subprocess.run(command, capture_output=True, timeout=START_TIMEOUT)
    except subprocess.TimeoutExpired:
        why = f"no device started within {START_TIMEOUT:g} s"
    else:
        if tried.returncode == 0:
            return
        lines = [line for line in tried.stderr.decode(errors="replace").splitlines() if line]
        why = next((line for line in lines if "XLA_FLAGS" in line), lines[-1] if lines else "")
        why = why.partition("] ")[2] or why  # without the log line's time and source
    raise InputError(f"JAX can't start with {', '.join(doubtful)} as set: {why}")
