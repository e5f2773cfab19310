"""Statistics of each query over its negatives, and of each key over its: dense, tiled over gathered keys, or in a ring.

All three compute the same. Dense keeps the whole matrix. Tiled gathers the keys of all devices and goes over tiles. Ring
never holds more keys than two devices' own: they travel from device to device, with their statistics and their gradients.
"""

import dataclasses
import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from moon_jax.losses.pairs import Rule, Scalars, Side, logits
from moon_jax.losses.tiles import Statistic, backward_tiles, finish, forward_tiles, nothing

Array = jax.Array


@dataclass(frozen=True)
class Spread:
    """How it is computed: the form, the side of a tile, and the mesh over all of whose axes rows and columns are split."""

    form: str
    tile: int
    mesh: Mesh | None

    @property
    def devices(self) -> int:
        return 1 if self.mesh is None else self.mesh.size

    @property
    def axes(self) -> tuple[str, ...]:
        return () if self.mesh is None or self.mesh.size == 1 else self.mesh.axis_names

    @property
    def split(self) -> P:
        return P(self.axes or None)


def over_negatives(rule: Rule, spread: Spread, rows: Side, columns: Side, scalars: Scalars) -> tuple[Array, Array]:
    """(statistic of each row, statistic of each column), float32; the latter says nothing where the rule asks for none.

    The number of rows and of columns may be anything: both are filled up to a multiple of the devices.
    """
    if spread.form == "dense":
        return dense(rule, spread, rows, columns, scalars)
    full_rows, full_columns = fill_up(rows, spread.devices), fill_up(columns, spread.devices)
    padded = full_rows.size > rows.size or full_columns.size > columns.size
    of_rows, of_columns = in_tiles(dataclasses.replace(rule, padded=padded), spread, full_rows, full_columns, scalars)
    return of_rows[: rows.size], of_columns[: columns.size]


def dense(rule: Rule, spread: Spread, rows: Side, columns: Side, scalars: Scalars) -> tuple[Array, Array]:
    """From the whole matrix, whose rows are split over the devices; differentiated as it stands."""
    vectors = columns.vectors if rule.key_gradient else jax.lax.stop_gradient(columns.vectors)
    if spread.mesh is not None:  # left alone, each device of a `model` group would compute the same rows
        split = NamedSharding(spread.mesh, spread.split)
        rows = rows._replace(vectors=jax.lax.with_sharding_constraint(rows.vectors, split))
    _, logits_RxC = logits(rule, rows, columns._replace(vectors=vectors), scalars)
    of_columns = reduce(rule, logits_RxC, axis=0) if rule.columns else jnp.zeros(columns.size, jnp.float32)
    return reduce(rule, logits_RxC, axis=1), of_columns


def reduce(rule: Rule, logits_RxC: Array, axis: int) -> Array:
    """The statistic over an axis; of nothing -inf (log-sum-exp) with a gradient of zero, or 0. A nan stays one."""
    if rule.statistic == "softplus":
        return jnp.sum(jax.nn.softplus(logits_RxC), axis=axis)
    most = jax.lax.stop_gradient(jnp.max(logits_RxC, axis=axis))
    most = jnp.where(jnp.isfinite(most), most, 0.0)
    total = jnp.sum(jnp.exp(logits_RxC - jnp.expand_dims(most, axis)), axis=axis)
    none = total == 0
    return jnp.where(none, -jnp.inf, most + jnp.log(jnp.where(none, 1.0, total)))


def fill_up(side: Side, devices: int) -> Side:
    """The side with as many rows of padding as make it a multiple of the devices."""
    missing = -side.size % devices
    if not missing:
        return side
    vectors = jnp.pad(side.vectors, ((0, missing), (0, 0)))
    return Side(vectors, jnp.pad(side.place, (0, missing), constant_values=-1), jnp.pad(side.ids, (0, missing)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def in_tiles(rule: Rule, spread: Spread, rows: Side, columns: Side, scalars: Scalars) -> tuple[Array, Array]:
    """`over_negatives` without the whole matrix, for sides that the devices divide."""
    split, whole = spread.split, P()
    forward = _on_each_device(spread, functools.partial(_forward, rule, spread), (split, split, whole), (split, split))
    return forward(rows, columns, scalars)


def _in_tiles_forward(rule: Rule, spread: Spread, rows: Side, columns: Side, scalars: Scalars) -> tuple[Any, Any]:
    statistics = in_tiles(rule, spread, rows, columns, scalars)
    return statistics, (rows, columns, scalars, statistics)


def _in_tiles_backward(rule: Rule, spread: Spread, kept: Any, pulls: tuple[Array, Array]) -> tuple[Any, ...]:
    rows, columns, scalars, _ = kept
    split, whole = spread.split, P()
    specs = (split, split, whole, split, split)
    backward = _on_each_device(spread, functools.partial(_backward, rule, spread), specs, (split, split, whole))
    of_rows, of_columns, of_shift = backward(*kept, pulls)
    of_scale = jnp.zeros_like(scalars.scale)
    if rule.logit == "cosine":  # sum of pull * s: each row's gradient is scale * sum of pull * column
        of_scale = jnp.sum(of_rows * rows.vectors.astype(jnp.float32)) / scalars.scale
    of_columns = of_columns if rule.key_gradient else jnp.zeros_like(columns.vectors)
    none: Any = None  # whole numbers have no gradients
    return (
        Side(of_rows.astype(rows.vectors.dtype), none, none),
        Side(of_columns.astype(columns.vectors.dtype), none, none),
        Scalars(of_scale, of_shift, none),
    )


in_tiles.defvjp(_in_tiles_forward, _in_tiles_backward)


def _on_each_device(spread: Spread, function: Any, in_specs: Any, out_specs: Any) -> Any:
    """The function on every device's own part; itself where there is one device."""
    if not spread.axes:
        return function
    return jax.shard_map(function, mesh=spread.mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)


def _forward(rule: Rule, spread: Spread, rows: Side, columns: Side, scalars: Scalars) -> tuple[Array, Array]:
    """On one device: the finished statistics of its own rows and its own columns."""
    mine = columns.size
    of_rows = nothing(rows.size)
    if spread.form == "ring":

        def meet(carried: Any, _: None) -> tuple[Any, None]:
            of_rows, columns, of_columns = carried
            of_rows, of_columns = forward_tiles(rule, rows, columns, scalars, of_rows, of_columns, spread.tile)
            return (of_rows, *_pass_on(spread, (columns, of_columns))), None

        start = (of_rows, columns, nothing(mine))
        (of_rows, _, of_columns), _ = jax.lax.scan(meet, start, length=spread.devices)
        return finish(rule, of_rows), finish(rule, of_columns)
    columns = _gather(spread, columns)
    of_columns = nothing(columns.size)
    of_rows, of_columns = forward_tiles(rule, rows, columns, scalars, of_rows, of_columns, spread.tile)
    return finish(rule, of_rows), _own(spread, finish(rule, _merge(spread, of_columns)), mine)


def _backward(
    rule: Rule,
    spread: Spread,
    rows: Side,
    columns: Side,
    scalars: Scalars,
    statistics: tuple[Array, Array],
    pulls: tuple[Array, Array],
) -> tuple[Array, Array, Array]:
    """On one device: gradients of its own rows and its own columns, float32, and of the shift, summed over devices.

    Args:
        statistics, pulls: finished statistics of its rows and its columns, and their cotangents.
    """
    row_pulls, column_pulls = zip(statistics, pulls, strict=True)
    width = columns.vectors.shape[1] if rule.key_gradient else 0
    of_rows = jnp.zeros(rows.vectors.shape, jnp.float32)
    total = jnp.zeros((), jnp.float32)
    if spread.form == "ring":

        def meet(carried: Any, _: None) -> tuple[Any, None]:
            of_rows, total, columns, column_pulls, of_columns = carried
            of_rows, of_columns, more = backward_tiles(
                rule, rows, columns, scalars, row_pulls, column_pulls, of_rows, of_columns, spread.tile
            )
            return (of_rows, total + more, *_pass_on(spread, (columns, column_pulls, of_columns))), None

        start = (of_rows, total, columns, column_pulls, jnp.zeros((columns.size, width), jnp.float32))
        (of_rows, total, _, _, of_columns), _ = jax.lax.scan(meet, start, length=spread.devices)
        return of_rows, of_columns, _sum(spread, total)
    columns, column_pulls = _gather(spread, (columns, column_pulls))
    of_columns = jnp.zeros((columns.size, width), jnp.float32)
    of_rows, of_columns, total = backward_tiles(
        rule, rows, columns, scalars, row_pulls, column_pulls, of_rows, of_columns, spread.tile
    )
    if spread.axes:
        of_columns = jax.lax.psum_scatter(of_columns, spread.axes, tiled=True)
    return of_rows, of_columns, _sum(spread, total)


def _gather(spread: Spread, tree: Any) -> Any:
    if not spread.axes:
        return tree
    return jax.tree.map(lambda x: jax.lax.all_gather(x, spread.axes, tiled=True), tree)


def _pass_on(spread: Spread, tree: Any) -> Any:
    """To the next device of the ring; after as many times as there are devices all is home."""
    if not spread.axes:
        return tree
    ring = [(place, (place + 1) % spread.devices) for place in range(spread.devices)]
    return jax.tree.map(lambda x: jax.lax.ppermute(x, spread.axes, ring), tree)


def _merge(spread: Spread, statistic: Statistic) -> Statistic:
    """Statistics of the same columns over the rows of all devices."""
    if not spread.axes:
        return statistic
    most, total = statistic
    highest = jax.lax.pmax(most, spread.axes)
    return highest, jax.lax.psum(total * jnp.exp(most - highest), spread.axes)


def _own(spread: Spread, all_C: Array, mine: int) -> Array:
    if not spread.axes:
        return all_C
    return jax.lax.dynamic_slice_in_dim(all_C, jax.lax.axis_index(spread.axes) * mine, mine)


def _sum(spread: Spread, value: Array) -> Array:
    return jax.lax.psum(value, spread.axes) if spread.axes else value
