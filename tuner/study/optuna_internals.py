"""Private names of Optuna's storages and studies, imported only here."""

from optuna.storages import _CachedStorage as CachedStorage
from optuna.storages._rdb import models
from optuna.study._frozen import FrozenStudy

__all__ = ["CachedStorage", "FrozenStudy", "models"]
