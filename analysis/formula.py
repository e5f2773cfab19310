"""Costs as a user types them: `6 * N * D` becomes a function of {axis: x}. Arithmetic only: nothing is executed."""

from __future__ import annotations

import ast
import operator
from collections.abc import Mapping

from analysis.costs import CostFunction
from analysis.table import TableError

BINARY = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv, ast.Pow: operator.pow
}  # fmt: skip


def cost_of(text: str) -> CostFunction:
    """A cost from arithmetic over axes: numbers, names, + - * / ** and brackets.

    Raises:
        TableError: the text is something else.

    Example:
        >>> cost_of("6 * N * D")({"N": 1e9, "D": 2e10})
        1.2e+20
    """
    try:
        tree = ast.parse(text, mode="eval").body
    except SyntaxError as error:
        raise TableError(f"cost {text!r}: not arithmetic ({error.msg})") from error
    _check(tree, text)
    return lambda values: _value(tree, values)


def _check(node: ast.expr, text: str) -> None:
    if isinstance(node, ast.BinOp) and type(node.op) in BINARY:
        _check(node.left, text)
        _check(node.right, text)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        _check(node.operand, text)
    elif not (isinstance(node, ast.Name) or (isinstance(node, ast.Constant) and type(node.value) in (int, float))):
        raise TableError(
            f"cost {text!r}: only numbers, names of axes, + - * / ** and brackets, not {ast.unparse(node)!r}"
        )


def _value(node: ast.expr, values: Mapping[str, float]) -> float:
    if isinstance(node, ast.BinOp):
        try:
            return float(BINARY[type(node.op)](_value(node.left, values), _value(node.right, values)))
        except (ArithmeticError, TypeError) as error:
            raise TableError(f"cost {ast.unparse(node)!r} cannot be computed: {error}") from error
    if isinstance(node, ast.UnaryOp):
        return -_value(node.operand, values)
    if isinstance(node, ast.Name):
        return float(values[node.id])
    assert isinstance(node, ast.Constant)
    return float(node.value)  # type: ignore[arg-type]
