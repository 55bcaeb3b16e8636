"""The study file: typed, checked values. No JAX, no database."""
