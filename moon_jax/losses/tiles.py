"""Statistics of all logits of rows and columns, and their gradients, a tile at a time: the matrix is never there as a whole.

The forward pass keeps a running maximum and sum for each row and column; the backward pass computes each tile anew
(8 R C D FLOPs in all beside 6 of the dense form). Outer loop over columns, inner over rows: the gradient of many
gathered keys is then written once.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from moon_jax.losses.pairs import Rule, Scalars, Side, circle_slope, logits, product

Array = jax.Array
Statistic = tuple[Array, Array]
LEAST = -1e30  # a maximum of nothing that can still be subtracted from itself


def nothing(size: int) -> Statistic:
    """The statistic of no logits: (maximum, sum of exp(logit - maximum)); a sum of softplus uses the second alone."""
    return jnp.full((size,), LEAST, jnp.float32), jnp.zeros((size,), jnp.float32)


def absorb(rule: Rule, statistic: Statistic, logits_RxC: Array, axis: int) -> Statistic:
    """The statistic with these logits in it; `axis` is summed over."""
    most, total = statistic
    if rule.statistic == "softplus":
        return most, total + jnp.sum(jax.nn.softplus(logits_RxC), axis=axis)
    higher = jnp.maximum(most, jnp.max(logits_RxC, axis=axis))
    shifted = jnp.exp(logits_RxC - jnp.expand_dims(higher, axis))
    return higher, total * jnp.exp(most - higher) + jnp.sum(shifted, axis=axis)


def finish(rule: Rule, statistic: Statistic) -> Array:
    """log-sum-exp (-inf of nothing), or the sum of softplus."""
    most, total = statistic
    return total if rule.statistic == "softplus" else most + jnp.log(total)


def forward_tiles(
    rule: Rule, rows: Side, columns: Side, scalars: Scalars, of_rows: Statistic, of_columns: Statistic, tile: int
) -> tuple[Statistic, Statistic]:
    """Statistics of rows and columns with all their logits in them, beside what they held before."""
    row_tiles, column_tiles = _tiles((rows, of_rows), tile), _tiles((columns, of_columns), tile)
    rule = _padding(rule, rows, columns, tile)

    def column(carried: Statistic, given: tuple[Side, Statistic]) -> tuple[Statistic, Statistic]:
        some_columns, of_these = given

        def row(of_these: Statistic, given: tuple[Side, Statistic]) -> tuple[Statistic, Statistic]:
            some_rows, of_some = given
            _, tile_RxC = logits(rule, some_rows, some_columns, scalars)
            if rule.columns:
                of_these = absorb(rule, of_these, tile_RxC, axis=0)
            return of_these, absorb(rule, of_some, tile_RxC, axis=1)

        of_these, carried = jax.lax.scan(row, of_these, (row_tiles[0], carried))
        return carried, of_these

    of_row_tiles, of_column_tiles = jax.lax.scan(column, row_tiles[1], column_tiles)
    return _whole(of_row_tiles, rows.size), _whole(of_column_tiles, columns.size)


def backward_tiles(
    rule: Rule,
    rows: Side,
    columns: Side,
    scalars: Scalars,
    of_rows: tuple[Array, Array],
    of_columns: tuple[Array, Array],
    row_gradient_RxD: Array,
    column_gradient_CxD: Array,
    tile: int,
) -> tuple[Array, Array, Array]:
    """Gradients added to those given: float32 R x D of rows, C x D of columns, and the sum of d loss / d logit.

    Args:
        of_rows, of_columns: (finished statistic, its cotangent).
    """
    row_tiles = _tiles((rows, *_pull(of_rows)), tile)
    column_tiles = _tiles((columns, *_pull(of_columns), column_gradient_CxD), tile)
    gradient_tiles = _tiles(row_gradient_RxD, tile)
    rule = _padding(rule, rows, columns, tile)

    def column(carried: tuple[Array, Array], given: Any) -> tuple[tuple[Array, Array], Array]:
        some_columns, statistic_C, pull_C, gradient_CxD = given

        def row(carried: tuple[Array, Array], given: Any) -> tuple[tuple[Array, Array], Array]:
            gradient_CxD, total = carried
            (some_rows, statistic_R, pull_R), gradient_RxD = given
            similarity_RxC, logits_RxC = logits(rule, some_rows, some_columns, scalars)
            if rule.statistic == "softplus":
                pull_RxC = pull_R[:, None] * jax.nn.sigmoid(logits_RxC)
                total += jnp.sum(pull_RxC)
            else:
                pull_RxC = pull_R[:, None] * jnp.exp(logits_RxC - statistic_R[:, None])
                if rule.columns:
                    pull_RxC += pull_C[None, :] * jnp.exp(logits_RxC - statistic_C[None, :])
            slope = circle_slope(similarity_RxC, scalars) if rule.logit == "circle" else scalars.scale
            pull_RxC = (pull_RxC * slope).astype(some_rows.vectors.dtype)  # bfloat16 vectors: both products in bfloat16
            gradient_RxD += product(pull_RxC, some_columns.vectors, ((1,), (0,)))
            if rule.key_gradient:
                gradient_CxD += product(pull_RxC, some_rows.vectors, ((0,), (0,)))
            return (gradient_CxD, total), gradient_RxD

        gradients_RxD, total = carried
        (gradient_CxD, total), gradients_RxD = jax.lax.scan(row, (gradient_CxD, total), (row_tiles, gradients_RxD))
        return (gradients_RxD, total), gradient_CxD

    start = (gradient_tiles, jnp.zeros((), jnp.float32))
    (gradient_tiles, total), column_gradients = jax.lax.scan(column, start, column_tiles)
    return _whole(gradient_tiles, rows.size), _whole(column_gradients, columns.size), total


def _pull(of: tuple[Array, Array]) -> tuple[Array, Array]:
    """A statistic of nothing is -inf; exp(-inf - 0) = 0, where exp(-inf + inf) would be nan."""
    statistic, cotangent = of
    return jnp.where(jnp.isfinite(statistic), statistic, 0.0), cotangent


def _even(size: int, tile: int) -> tuple[int, int]:
    """(number of tiles, rows of each): as even as can be, so that padding is short."""
    count = max(1, math.ceil(size / tile))
    return count, math.ceil(size / count)


def _padding(rule: Rule, rows: Side, columns: Side, tile: int) -> Rule:
    """The rule where tiles must be filled up."""
    sizes = (rows.size, columns.size)
    return dataclasses.replace(rule, padded=rule.padded or any(math.prod(_even(size, tile)) != size for size in sizes))


def _tiles(tree: Any, tile: int) -> Any:
    """Each array n x ... as tiles t x n / t x ..., filled up with zeros; places with -1."""

    def cut(path: tuple[Any, ...], array: Array) -> Array:
        count, rows = _even(array.shape[0], tile)
        missing = count * rows - array.shape[0]
        if missing:
            is_place = bool(path) and getattr(path[-1], "name", "") == "place"
            widths = [(0, missing)] + [(0, 0)] * (array.ndim - 1)
            array = jnp.pad(array, widths, constant_values=-1 if is_place else 0)
        return array.reshape(count, rows, *array.shape[1:])

    return jax.tree_util.tree_map_with_path(cut, tree)


def _whole(tree: Any, size: int) -> Any:
    return jax.tree.map(lambda x: x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])[:size], tree)
