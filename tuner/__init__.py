"""Hyperparameter search for GANs: Optuna trials, each a JIT-compiled JAX training loop."""

from typing import TYPE_CHECKING, Any

from tuner.spec import StudySpec
from tuner.specfile import load_spec
from tuner.version import __version__

if TYPE_CHECKING:
    from tuner.api import sweep
    from tuner.notebook import open_study

__all__ = ["StudySpec", "__version__", "load_spec", "open_study", "sweep"]


def __getattr__(name: str) -> Any:
    """``tuner.sweep`` and ``tuner.open_study``, imported when they are first asked for: they bring
    JAX, and the database, along."""
    if name == "sweep":
        from tuner.api import sweep

        return sweep
    if name == "open_study":
        from tuner.notebook import open_study

        return open_study
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
