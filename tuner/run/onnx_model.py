"""Translate a traced JAX function into an ONNX model: the operations that generators use.

Operations on weights alone are computed here and stored as constants.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax import Array, export
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, checker, helper, numpy_helper

OPSET, IR_VERSION = 17, 8  # of 2022, which older runtimes can read, too
_CAPITALISED = (
    *("add", "sub", "mul", "div", "max", "min", "pow", "neg", "abs", "sign"),
    *("exp", "log", "sqrt", "tanh", "sin", "cos", "erf", "floor", "ceil"),
)
_SAME = {name: name.capitalize() for name in _CAPITALISED} | {
    "logistic": "Sigmoid",
    "eq": "Equal",
    "gt": "Greater",
    "lt": "Less",
    "stop_gradient": "Identity",
    "copy": "Identity",
}
_CALLS = ("jit", "pjit", "closed_call", "custom_jvp_call", "custom_vjp_call", "remat", "checkpoint")
_TYPES = {"float32": TensorProto.FLOAT, "int32": TensorProto.INT32, "bool": TensorProto.BOOL}


def onnx_model(
    function: Callable[..., Array], inputs: Mapping[str, tuple[tuple[Any, ...], Any]], output: str
) -> ModelProto:
    """A model with these named ``inputs`` (shape, dtype), whose first axis may have any length.

    ValueError names an operation that can't be translated.
    """
    (count,) = export.symbolic_shape("n")
    like = [jax.ShapeDtypeStruct((count, *shape[1:]), dtype) for shape, dtype in inputs.values()]
    traced = jax.jit(function).trace(*like)
    graph = _Graph(count)
    found = graph.run(traced.jaxpr, list(inputs))
    graph.node("Identity", [found[0]], name=output)
    values = [
        helper.make_tensor_value_info(name, _type(dtype), ["n", *shape[1:]])
        for name, (shape, dtype) in inputs.items()
    ]
    (aval,) = traced.jaxpr.out_avals
    images = helper.make_tensor_value_info(output, _type(aval.dtype), ["n", *aval.shape[1:]])
    made = helper.make_graph(graph.nodes, "generator", values, [images], graph.constants)
    opset = helper.make_opsetid("", OPSET)
    model = helper.make_model(made, opset_imports=[opset], ir_version=IR_VERSION)
    checker.check_model(model, full_check=True)
    return model


def _type(dtype: Any) -> int:
    if (name := np.dtype(dtype).name) not in _TYPES:
        raise ValueError(f"values of type {name}")
    return _TYPES[name]


class _Graph:
    """The nodes of a model; a value is the name of a tensor, or a constant array."""

    def __init__(self, count: Any) -> None:
        self._count = count
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def node(self, kind: str, values: Sequence[Any], name: str = "", **attributes: Any) -> str:
        """Add an operation; return the name of its result."""
        names = [self._name(value) for value in values]
        result = name or f"x{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, names, [result], **attributes))
        return result

    def _name(self, value: Any) -> str:
        if isinstance(value, str):
            return value
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.array(value), name))
        return name

    def run(self, closed: ClosedJaxpr, values: Sequence[Any]) -> list[Any]:
        """Translate a traced function; return its results."""
        jaxpr: Jaxpr = closed.jaxpr
        known: dict[Any, Any] = dict(zip(jaxpr.invars, values, strict=True))
        known |= zip(jaxpr.constvars, map(np.asarray, closed.consts), strict=True)

        def read(atom: Any) -> Any:
            if not isinstance(atom, Literal):
                return known[atom]
            aval: Any = atom.aval
            return np.asarray(atom.val, aval.dtype)

        for equation in jaxpr.eqns:
            given = [read(atom) for atom in equation.invars]
            known |= zip(equation.outvars, self._equation(equation, given), strict=True)
        return [read(atom) for atom in jaxpr.outvars]

    def _equation(self, equation: Any, given: list[Any]) -> list[Any]:
        name, params = equation.primitive.name, equation.params
        if name in _CALLS:
            inner = params.get("jaxpr", params.get("call_jaxpr"))
            closed = inner if isinstance(inner, ClosedJaxpr) else ClosedJaxpr(inner, [])
            return self.run(closed, given)
        if params.get("branches_platforms"):  # lax.platform_dependent; the last one suits any
            return self.run(params["branches"][-1], given[1:])
        shapes = [out.aval.shape for out in equation.outvars]
        if not any(isinstance(x, str) for x in given) and all(map(_is_fixed, shapes)):
            found = equation.primitive.bind(*given, **params)
            return [
                np.asarray(x) for x in (found if equation.primitive.multiple_results else [found])
            ]
        if name in _SAME:
            return [self.node(_SAME[name], given)]
        translate = getattr(self, f"_{name}", None)
        if translate is None:
            raise ValueError(f"the operation {name}")
        return [translate(equation, *given)]

    def _to_shape(self, x: Any, shape: Sequence[Any]) -> str:
        """Reshape; the number of images, which is not known yet, may occur once."""
        sizes = [size if isinstance(size, int) else -1 for size in shape]
        return self.node("Reshape", [x, np.array(sizes, np.int64)])

    def _reshape(self, equation: Any, x: Any) -> str:
        return self._to_shape(x, equation.outvars[0].aval.shape)

    _squeeze = _reshape

    def _broadcast_in_dim(self, equation: Any, x: Any) -> str:
        shape, axes = equation.params["shape"], equation.params["broadcast_dimensions"]
        old = equation.invars[0].aval.shape
        aligned = [1] * len(shape)
        for axis, size in zip(axes, old, strict=True):
            aligned[axis] = size
        found = self._to_shape(x, aligned)
        # Not to the number of images, which is unknown: the next operation broadcasts to it.
        sizes = [size if isinstance(size, int) else 1 for size in shape]
        if all(size in (1, old) for size, old in zip(sizes, aligned, strict=True)):
            return found
        return self.node("Expand", [found, np.array(sizes, np.int64)])

    def _transpose(self, equation: Any, x: Any) -> str:
        return self.node("Transpose", [x], perm=list(equation.params["permutation"]))

    def _convert_element_type(self, equation: Any, x: Any) -> str:
        return self.node("Cast", [x], to=_type(equation.params["new_dtype"]))

    def _rsqrt(self, equation: Any, x: Any) -> str:
        return self.node("Reciprocal", [self.node("Sqrt", [x])])

    def _integer_pow(self, equation: Any, x: Any) -> str:
        return self.node("Pow", [x, np.float32(equation.params["y"])])

    def _square(self, equation: Any, x: Any) -> str:
        return self.node("Mul", [x, x])

    def _select_n(self, equation: Any, which: Any, false: Any, true: Any) -> str:
        return self.node("Where", [which, true, false])

    def _concatenate(self, equation: Any, *parts: Any) -> str:
        return self.node("Concat", parts, axis=equation.params["dimension"])

    def _stack(self, equation: Any, *parts: Any) -> str:
        axis = equation.params["axis"]
        wide = [self.node("Unsqueeze", [x, np.array([axis], np.int64)]) for x in parts]
        return self.node("Concat", wide, axis=axis)

    def _pad(self, equation: Any, x: Any, value: Any) -> str:
        config = equation.params["padding_config"]
        if any(inner or low < 0 or high < 0 for low, high, inner in config):
            raise ValueError("the operation pad with negative or interior padding")
        sizes = [low for low, _, _ in config] + [high for _, high, _ in config]
        return self.node("Pad", [x, np.array(sizes, np.int64), value])

    def _slice(self, equation: Any, x: Any) -> str:
        p, old = equation.params, equation.invars[0].aval.shape
        steps = p["strides"] or [1] * len(old)
        axes = [i for i, size in enumerate(old) if isinstance(size, int)]
        parts = [[values[i] for i in axes] for values in (p["start_indices"], p["limit_indices"])]
        rest = [*parts, axes, [steps[i] for i in axes]]
        return self.node("Slice", [x, *(np.array(values, np.int64) for values in rest)])

    def _dot_general(self, equation: Any, x: Any, y: Any) -> str:
        ranks = [len(atom.aval.shape) for atom in equation.invars]
        if ranks != [2, 2] or equation.params["dimension_numbers"] != (((1,), (0,)), ((), ())):
            raise ValueError("the operation dot_general, except products of matrices")
        return self.node("MatMul", [x, y])

    def _conv_general_dilated(self, equation: Any, x: Any, kernel: Any) -> str:
        p = equation.params
        layout = p["dimension_numbers"]
        if isinstance(kernel, str) or set(p["lhs_dilation"]) != {1} or p["batch_group_count"] != 1:
            raise ValueError("this form of the operation conv_general_dilated")
        found = self.node(
            "Conv",
            [
                self.node("Transpose", [x], perm=list(layout.lhs_spec)),  # to NCHW
                np.ascontiguousarray(np.transpose(kernel, layout.rhs_spec)),
            ],
            strides=list(p["window_strides"]),
            pads=[low for low, _ in p["padding"]] + [high for _, high in p["padding"]],
            dilations=list(p["rhs_dilation"]),
            group=p["feature_group_count"],
        )
        back: NDArray[np.int64] = np.argsort(layout.out_spec)
        return self.node("Transpose", [found], perm=back.tolist())


def _is_fixed(shape: Sequence[Any]) -> bool:
    return all(isinstance(size, int) for size in shape)
