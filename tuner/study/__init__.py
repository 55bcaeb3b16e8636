"""Studies in a database. Importing from here imports Optuna with its log messages turned off."""

import importlib
import warnings

with warnings.catch_warnings():
    # In notebooks tqdm warns about missing ipywidgets, for progress bars that are never shown.
    warnings.filterwarnings("ignore", "IProgress not found")
    _logging = importlib.import_module("optuna").logging

_logging.set_verbosity(_logging.WARNING)
# Optuna's storage logs failed SQL; the retrier already announces database failures.
_logging.get_logger("optuna.storages._rdb.storage").setLevel(_logging.ERROR)
