"""Additions to the Optuna Dashboard: notes, plots, pictures, and rules for its actions."""
