"""The private names of Optuna that tuner relies on, all in one place."""

from optuna.storages import _CachedStorage as CachedStorage
from optuna.storages._rdb import models
from optuna.study._frozen import FrozenStudy

__all__ = ["CachedStorage", "FrozenStudy", "models"]
