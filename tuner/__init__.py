"""Hyperparameter search for GANs: Optuna trials, each a JIT-compiled JAX training loop."""

from typing import TYPE_CHECKING, Any

from tuner.spec import StudySpec
from tuner.specfile import load_spec
from tuner.version import __version__

if TYPE_CHECKING:
    from tuner.api import sweep

__all__ = ["StudySpec", "__version__", "load_spec", "sweep"]


def __getattr__(name: str) -> Any:
    """``tuner.sweep``, imported when it is first asked for: it brings JAX along."""
    if name == "sweep":
        from tuner.api import sweep

        return sweep
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
