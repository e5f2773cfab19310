"""Row-wise updates of the ID table: a step reads and writes the rows that its batch names, however many there are.

A dense step of Adam reads and writes the whole table and its two moments. Here a row that no impression of the batch names
stands still, its moments, too (the "lazy" Adam of large embedding tables: rare rows keep their momentum until they are named
again, and do not decay in between). What a step costs then depends on the batch and not on the catalogue.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array


class Named(NamedTuple):
    """The P places of a batch that name rows of a table of R rows.

    row_P int32: the row at each place, R where there is none (padding). stands_P int32: the one place that stands for all
    places of the same row. whole: the table has no more rows than the batch has places, so it is worked on as it stands.
    """

    row_P: Array
    stands_P: Array
    whole: bool

    def lookup(self) -> Array:
        """Where each place finds its row in the table of `take`, int32 P."""
        return jnp.minimum(self.row_P, self.stands_P) if self.whole else self.stands_P


def named(row_P: Array, rows: int) -> Named:
    """Which rows of a table of `rows` rows a batch names; `row_P` is `rows` at places that name none."""
    at_P = jnp.arange(row_P.size, dtype=jnp.int32)
    if rows <= row_P.size:
        return Named(row_P, jnp.full_like(row_P, rows - 1), whole=True)
    stands_R = jnp.zeros(rows, jnp.int32).at[row_P].max(at_P, mode="drop")  # of equal rows always the same one
    return Named(row_P, jnp.where(row_P < rows, stands_R[jnp.minimum(row_P, rows - 1)], at_P), whole=False)


def take(state: Any, of: Named) -> Any:
    """The state with the ID table and its moments cut to a row a place, P x W; as it is where it is worked on whole."""
    if of.whole:
        return state
    return jax.tree_util.tree_map_with_path(
        lambda path, x: x.at[of.row_P].get(mode="clip") if is_ids(path) else x, state
    )


def put(state: Any, moved: Any, of: Named) -> Any:
    """`moved` (of what `take` gave) with the ID table and its moments whole again: named rows as they moved, others as in
    `state`."""

    def whole(path: tuple[Any, ...], before: Array, after: Array) -> Array:
        if not is_ids(path):
            return after
        rows = before.shape[0]
        if of.whole:
            is_named_R = jnp.zeros(rows, bool).at[of.row_P].set(True, mode="drop")
            return jnp.where(is_named_R[:, None], after, before)
        own_P = of.stands_P == jnp.arange(of.row_P.size)
        return before.at[jnp.where(own_P, of.row_P, rows)].set(after, mode="drop")

    return jax.tree_util.tree_map_with_path(whole, state, moved)


def is_ids(path: tuple[Any, ...]) -> bool:
    """Whether a leaf of a state is the table of IDs, or one of its moments."""
    names = [key.key for key in path if isinstance(key, jax.tree_util.DictKey)]
    return names[-2:] == ["ids", "embedding"]
