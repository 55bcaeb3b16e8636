"""Studies in a database. Whatever is imported from here, Optuna is imported quietly."""

import warnings

with warnings.catch_warnings():
    # In a notebook tqdm asks for ipywidgets, for Optuna's bars of progress, which are never shown.
    warnings.filterwarnings("ignore", "IProgress not found")
    import optuna  # noqa: F401
