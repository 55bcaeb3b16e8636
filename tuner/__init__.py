"""Hyperparameter search for GANs: Optuna trials, each a JIT-compiled JAX training loop."""

from tuner.interrupts import exit_on_ctrl_c, is_program

if is_program():
    exit_on_ctrl_c()  # before the imports below

import importlib
from typing import TYPE_CHECKING, Any

from tuner.version import __version__

if TYPE_CHECKING:
    from tuner.api import sweep
    from tuner.notebook import open_study
    from tuner.spec.loading import load_spec
    from tuner.spec.study import StudySpec

# The public names, imported when they are first used: their modules import JAX and the database,
# and the command line must handle signals before that.
_MODULES = {
    "StudySpec": "tuner.spec.study",
    "load_spec": "tuner.spec.loading",
    "open_study": "tuner.notebook",
    "sweep": "tuner.api",
}
__all__ = ["StudySpec", "__version__", "load_spec", "open_study", "sweep"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
