"""Compilation: options that suit the device, a cache on disk, and a clock that excludes it."""

import functools
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
from jax import Array, lax

from tuner.errors import InputError
from tuner.jax_variables import NEEDED

COMPILING = (  # JAX's events for the stages of a compilation; the last includes cache reads
    "/jax/core/compile/jaxpr_trace_duration",
    "/jax/core/compile/jaxpr_to_mlir_module_duration",
    "/jax/core/compile/backend_compile_duration",
)

# Compiler options by backend. CPU: Eigen for convolutions, YNN for dot products and reductions,
# which saves a third or more of the time to generate images and extract features (jax 0.10).
# GPU: no atomic additions, whose order varies; and an epoch is one CUDA graph. XLA's own list lacks
# loops and convolutions, since not every driver and cuDNN algorithm allows them in a graph.
OPTIONS: dict[str, dict[str, str | bool]] = {
    "cpu": {
        "xla_cpu_experimental_ynn_fusion_type": (
            "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE"
        )
    },
    "gpu": {
        "xla_gpu_exclude_nondeterministic_ops": True,
        "xla_gpu_enable_command_buffer": (
            "FUSION,CUBLAS,CUBLASLT,CUSTOM_CALL,CUDNN,DYNAMIC_SLICE_FUSION,CONVOLUTION,WHILE"
        ),
    },
}
# Compiler options for programs that run once per trial or epoch: they compile in less than half the
# time, and compute the same numbers.
QUICK_COMPILATION = {"xla_backend_optimization_level": 1}

P = ParamSpec("P")
R = TypeVar("R")


@functools.cache
def compiler_options(backend: str) -> dict[str, str | bool] | None:
    """``OPTIONS`` of a backend that its compiler and device accept; None if there are none.

    Options that XLA_FLAGS sets are left out.
    """
    accepted: dict[str, str | bool] = {}
    for name, value in OPTIONS.get(backend, {}).items():
        left = name in os.environ.get("XLA_FLAGS", "")
        if not left and _works(backend, accepted | {name: value}):
            accepted[name] = value
    return accepted or None


def _works(backend: str, options: dict[str, str | bool]) -> bool:
    """Whether the compiler accepts the options and, on a GPU, a small epoch runs with them."""
    try:
        if backend == "gpu":
            epoch = jax.jit(_small_epoch, compiler_options=options)
            kernels, images = [jnp.zeros((3, 3, 8, 8))] * 3, jnp.zeros((8, 8, 8, 8))
            jax.device_get(epoch(kernels, images, jnp.zeros((2, 4), jnp.int32)))
        else:
            jax.jit(lambda x: x, compiler_options=options).lower(0.0).compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True


def _small_epoch(kernels: list[Array], images: Array, order: Array) -> list[Array]:
    """Train kernels (h, w, c, c) on images (n, height, width, c) in a rolled loop.

    ``order`` has the indices of each batch: int32 (iterations, batch). With fewer than five
    operations around the loop, XLA would make no graph of it.
    """

    def loss(kernels: list[Array], x: Array) -> Array:
        layout = ("NHWC", "HWIO", "NHWC")
        for kernel in kernels:
            x = lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=layout)
        return jnp.sum(jnp.square(x))

    def step(kernels: list[Array], indices: Array) -> tuple[list[Array], None]:
        slopes = jax.grad(loss)(kernels, images[indices])
        return jax.tree.map(jnp.subtract, kernels, slopes), None

    return lax.scan(step, kernels, order)[0]


class Jitted(Generic[P, R]):
    """``jax.jit`` with the device's compiler options, determined at the first call.

    Determining them at import would start the device. ``quick`` programs run rarely, and compile in
    less than half the time. Threads that need the same program at the same time compile it once.
    """

    def __init__(
        self,
        function: Callable[P, R],
        *,
        static_argnums: int | Sequence[int] = (),
        quick: bool = False,
        **options: Any,
    ) -> None:
        functools.update_wrapper(self, function)
        self._function, self._quick = function, quick
        self._static = (static_argnums,) if isinstance(static_argnums, int) else static_argnums
        self._options = options | {"static_argnums": static_argnums}
        self._locks: dict[Any, threading.Lock] = {}  # by static arguments
        self._called: set[Any] = set()  # static arguments

    @functools.cached_property
    def compiled(self) -> Any:
        """The function wrapped by ``jax.jit``."""
        chosen = QUICK_COMPILATION if self._quick else compiler_options(jax.default_backend())
        return jax.jit(self._function, compiler_options=chosen, **self._options)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        key = self._key(args)
        if key in self._called:
            result: R = self.compiled(*args, **kwargs)
            return result
        with self._compiling(key):
            result = self.compiled(*args, **kwargs)
        self._called.add(key)
        return result

    def compile(self, *args: Any) -> None:
        """Compile for arrays of these shapes and dtypes: a later call then compiles nothing.

        JAX caches traced, lowered and compiled programs by the types of the arguments.
        """
        with self._compiling(self._key(args)):
            self.compiled.lower(*args).compile()

    def _key(self, args: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(args[i] for i in self._static)

    @contextmanager
    def _compiling(self, key: Any) -> Iterator[None]:
        """Wait until no other thread compiles this program; the wait counts as compilation."""
        began, thread = time.perf_counter(), threading.get_ident()
        outermost = _began.setdefault(thread, began) == began
        try:
            with self._locks.setdefault(key, threading.Lock()):
                _compilations.add(time.perf_counter() - began)
                yield
        finally:
            if outermost:
                del _began[thread]


jit = Jitted  # as a decorator
_began: dict[int, float] = {}  # by thread that compiles: time.perf_counter()


def compiling_since(thread: int) -> float | None:
    """When the thread with this identifier began to compile, as ``time.perf_counter()``; None if it
    does not compile. The first call of a program counts as a whole. Thread-safe."""
    return _began.get(thread)


def abstract(shape: tuple[int, ...], dtype: Any) -> Any:
    """Shape and dtype of an array, without its values."""
    return jax.ShapeDtypeStruct(shape, dtype)


def flops_of(lowered: jax.stages.Lowered) -> float:
    """Floating-point operations of a lowered function, by the compiler's estimate."""
    costs: Any = lowered.cost_analysis()
    return float(costs["flops"])


def keep_compiled(folder: Path, announce: Callable[[str], None]) -> None:
    """Cache compiled programs in ``folder``, unless JAX is configured to use another one.

    Its files are executed, so other users get no access, and a folder of another user is not used.
    """
    config: Any = jax.config
    configured, problem = config.jax_compilation_cache_dir, "compiled programs are not cached"
    if configured is None and keep_private(folder):
        config.update("jax_compilation_cache_dir", str(folder.absolute()))
        config.update("jax_persistent_cache_min_compile_time_secs", 0)
    elif configured is None:
        announce(f"{problem}: {folder} is not writable or not yours")
    elif "://" not in configured and not _can_write(Path(configured)):
        config.update("jax_enable_compilation_cache", False)  # or JAX warns about every program
        announce(f"{problem}: JAX_COMPILATION_CACHE_DIR {configured} is read-only")


def _can_write(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def check_settings() -> None:
    """Raise InputError if JAX is configured to compute different results, or to abort."""
    for name, needed in NEEDED.items():
        found = getattr(jax.config, name, needed)
        if found != needed:
            raise InputError(
                f"JAX: found {name} = {found!r}, expected {needed!r}: unset {name.upper()}, or "
                f"call jax.config.update({name!r}, {needed!r})"
            )


def keep_private(folder: Path) -> bool:
    """Create the folder, closed to other users; False if that fails or another user owns it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        return folder.stat().st_uid == os.getuid()
    except OSError:
        return False


class _Compilations(threading.local):
    """When this thread compiled. JAX reports each stage at its end, in the thread that compiles."""

    def __init__(self) -> None:
        self.spans: list[tuple[float, float]] = []  # disjoint, since the last reading
        self.seconds = 0.0  # until the last reading
        self.read_at = time.perf_counter()

    def add(self, seconds: float) -> None:
        """Add a stage that has just ended; it may contain stages that were added before."""
        end = time.perf_counter()
        # JAX measures with the wall clock, which can be set.
        begin = min(end, max(end - seconds, self.read_at))
        while self.spans and self.spans[-1][1] > begin:
            begin = min(begin, self.spans.pop()[0])
        self.spans.append((begin, end))


_compilations = _Compilations()


def _add(event: str, duration_secs: float, **_: str | int) -> None:
    if event in COMPILING:
        _compilations.add(duration_secs)


jax.monitoring.register_event_duration_secs_listener(_add)


def compilation_seconds() -> float:
    """Seconds for which this thread has traced and compiled so far."""
    found = _compilations
    found.seconds += sum(end - begin for begin, end in found.spans)
    found.spans.clear()
    found.read_at = time.perf_counter()
    return found.seconds


def running_time() -> float:
    """Seconds on a clock that stops while this thread traces and compiles."""
    compiled = compilation_seconds()
    return _compilations.read_at - compiled
