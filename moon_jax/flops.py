"""Exact FLOP counts: every matrix product of a traced function, loss included.

Counted on the jaxpr, so what is counted is what runs, on all devices together: multiply-adds of `dot_general` and
convolutions at 2 FLOPs each, the body of a `scan` times its length, that of a `shard_map` times its devices, of a `cond`
its most expensive branch, and what `jax.checkpoint` computes twice, twice. Products that nothing reads are left out, as
the compiler does (a gradient towards pixels); element-wise work is left out, as is the field's custom (Kaplan et al. 2020).
"""

from collections.abc import Callable, Iterator
from math import prod
from typing import Any

import jax
from jax.interpreters.partial_eval import dce_jaxpr


def count_flops(function: Callable[..., Any], *args: Any) -> int:
    """Matrix FLOPs of one call; args may be arrays or `jax.ShapeDtypeStruct`s (nothing is run or compiled).

    Raises:
        ValueError: there is a product within a `while_loop`, whose length no trace knows.
    """
    jaxpr = jax.make_jaxpr(function)(*args).jaxpr
    return _count(dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))[0])


def _count(jaxpr: Any) -> int:
    return sum(_of(equation) for equation in jaxpr.eqns)


def _of(equation: Any) -> int:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        return _dot(equation)
    if name == "conv_general_dilated":
        return _convolution(equation)
    if name == "cond":
        return max(_count(branch.jaxpr) for branch in params["branches"])
    inner = sum(_count(jaxpr) for jaxpr in _inner(params))
    if name == "while" and inner:
        raise ValueError("a product within a while_loop cannot be counted: use scan, or a fori_loop of fixed length")
    if name == "scan":
        return params["length"] * inner
    if name == "shard_map":
        manual = params["newly_manual_axes"] if "newly_manual_axes" in params else params["manual_axes"]
        return prod(params["mesh"].shape[axis] for axis in manual) * inner
    return inner


def _dot(equation: Any) -> int:
    (contract, _), _ = equation.params["dimension_numbers"]
    return 2 * prod(equation.outvars[0].aval.shape) * prod(equation.invars[0].aval.shape[i] for i in contract)


def _convolution(equation: Any) -> int:
    kernel, numbers = equation.invars[1].aval.shape, equation.params["dimension_numbers"]
    out_features = kernel[numbers.rhs_spec[0]]
    return 2 * prod(equation.outvars[0].aval.shape) * prod(kernel) // out_features


def _inner(params: dict[str, Any]) -> Iterator[Any]:
    """The jaxprs that an equation calls: of jit, checkpoint, custom derivatives and loops.

    Rules of custom derivatives are callables here, no jaxprs; once differentiated, what they do stands in the trace.
    """
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if hasattr(item, "jaxpr"):
                yield item.jaxpr
            elif hasattr(item, "eqns"):
                yield item
