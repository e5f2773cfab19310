"""Exact FLOP counts: every matrix product of a traced function, loss included.

Counted on the jaxpr, so what is counted is what runs: multiply-adds of `dot_general` and convolutions at 2 FLOPs each,
the body of a `scan` times its length. Element-wise work is left out, as is the field's custom (Kaplan et al. 2020).
"""

from collections.abc import Callable, Iterator
from math import prod
from typing import Any

import jax


def count_flops(function: Callable[..., Any], *args: Any) -> int:
    """Matrix FLOPs of one call; args may be arrays or `jax.ShapeDtypeStruct`s (nothing is run or compiled)."""
    return _count(jax.make_jaxpr(function)(*args).jaxpr)


def _count(jaxpr: Any) -> int:
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            total += _dot(equation)
        elif equation.primitive.name == "conv_general_dilated":
            total += _convolution(equation)
        repeats = equation.params["length"] if equation.primitive.name == "scan" else 1
        total += repeats * sum(_count(inner) for inner in _inner(equation))
    return total


def _dot(equation: Any) -> int:
    (contract, _), _ = equation.params["dimension_numbers"]
    return 2 * prod(equation.outvars[0].aval.shape) * prod(equation.invars[0].aval.shape[i] for i in contract)


def _convolution(equation: Any) -> int:
    kernel, numbers = equation.invars[1].aval.shape, equation.params["dimension_numbers"]
    out_features = kernel[numbers.rhs_spec[0]]
    return 2 * prod(equation.outvars[0].aval.shape) * prod(kernel) // out_features


def _inner(equation: Any) -> Iterator[Any]:
    for value in equation.params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if hasattr(item, "jaxpr"):
                yield item.jaxpr
            elif hasattr(item, "eqns"):
                yield item
