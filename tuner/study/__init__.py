"""Studies in a database. Whatever is imported from here, Optuna is imported quietly."""

import importlib
import warnings

with warnings.catch_warnings():
    # In a notebook tqdm asks for ipywidgets, for Optuna's bars of progress, which are never shown.
    warnings.filterwarnings("ignore", "IProgress not found")
    importlib.import_module("optuna")
