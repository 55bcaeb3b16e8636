"""How functions are compiled: the options that suit the device, and a cache on disk."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, ParamSpec, TypeVar

import jax
import jax.numpy as jnp

P = ParamSpec("P")
R = TypeVar("R")


@functools.cache
def compiler_options(backend: str) -> dict[str, str] | None:
    """On the CPU: Eigen for convolutions, XLA's newer library for products and sums.

    With jax 0.10 that takes a third or more off generating images and extracting their features;
    a jaxlib that does not know the option does without it.
    """
    if backend != "cpu":
        return None
    options = {
        "xla_cpu_experimental_ynn_fusion_type": (
            "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE"
        )
    }
    try:
        jax.jit(lambda x: x, compiler_options=options).lower(0.0).compile()
    except jax.errors.JaxRuntimeError:
        return None
    return options


def jit(function: Callable[P, R], **options: Any) -> "Jitted[P, R]":
    """``jax.jit`` with the device's compiler options, which are asked for at the first call: asking
    at import would start the device."""
    return Jitted(function, **options)


class Jitted(Generic[P, R]):
    """What ``jit`` makes of a function."""

    def __init__(self, function: Callable[P, R], **options: Any) -> None:
        functools.update_wrapper(self, function)
        self._function, self._options = function, options

    @functools.cached_property
    def compiled(self) -> Any:
        """The function as jax.jit made it."""
        chosen = compiler_options(jax.default_backend())
        return jax.jit(self._function, compiler_options=chosen, **self._options)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        result: R = self.compiled(*args, **kwargs)
        return result


def abstract(shape: tuple[int, ...], kind: Any) -> Any:
    """An array's shape and type, without the array."""
    return jax.eval_shape(lambda: jnp.zeros(shape, kind))


def flops_of(lowered: jax.stages.Lowered) -> float:
    """Floating-point operations of a lowered function, as the compiler counts them."""
    costs: Any = lowered.cost_analysis()
    return float(costs["flops"])


def keep_compiled(folder: Path) -> None:
    """Keep compiled code in ``folder``, unless JAX was told of another place, so that a second
    run need not compile the same programs again."""
    config: Any = jax.config
    if config.jax_compilation_cache_dir is None:
        config.update("jax_compilation_cache_dir", str(folder.absolute()))
        config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
