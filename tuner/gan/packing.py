"""The generator's weights as one vector, for training on an accelerator.

A GPU launches a kernel for each array that the optimizer updates; once packed, all of G's weights
are one array. D's weights are not packed: its convolutions would have to copy slices of the vector.
"""

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx
from jax import Array
from jax.flatten_util import ravel_pytree

from tuner.gan.state import GanState, Variables

Unpack = Callable[[Array], Variables]

_PACKED = ("generator", "generator_optimizer", "ema")  # fields of GanState


def packed(state: GanState) -> tuple[GanState, Unpack]:
    """The state with G's parameters, moments and average as vectors, and a function that unpacks
    such a vector."""
    vectors = {
        name: jax.tree.map(_vector, getattr(state, name), is_leaf=_is_variables) for name in _PACKED
    }
    return state._replace(**vectors), ravel_pytree(state.generator)[1]


def unpacked(state: GanState, like: GanState) -> GanState:
    """The inverse of ``packed``; ``like`` is any state of the same program."""

    def restored(template: Any, value: Any) -> Any:
        return ravel_pytree(template)[1](value) if _is_variables(template) else value

    arrays = {
        name: jax.tree.map(
            restored, getattr(like, name), getattr(state, name), is_leaf=_is_variables
        )
        for name in _PACKED
    }
    return state._replace(**arrays)


def _is_variables(tree: Any) -> bool:
    return isinstance(tree, nnx.State)


def _vector(tree: Any) -> Any:
    return ravel_pytree(tree)[0] if _is_variables(tree) else tree
