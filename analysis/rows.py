"""The rows behind a fit: read from a table, checked, and put into an order that the table's own does not decide."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from analysis.evaluation import share_variance
from analysis.laws import Law
from analysis.table import (
    LARGEST,
    TableError,
    labels,
    name_rows,
    numeric_column,
    optional_column,
    require_columns,
)

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True)
class Rows:
    """The columns that a fit reads, in an order that does not depend on the table's: x (axes, n), y (n,).

    `weights` (n,) have the mean 1. `variance` (n,) is what the finite number of trials alone gives each row, in the
    residual space; None where no trials are known.
    """

    x: np.ndarray
    y: np.ndarray
    cluster: tuple[str, ...]
    passes: np.ndarray
    weights: np.ndarray
    variance: np.ndarray | None = None

    def pick(self, mask: np.ndarray) -> Rows:
        kept = tuple(name for name, keep in zip(self.cluster, mask, strict=True) if keep)
        variance = None if self.variance is None else self.variance[mask]
        return Rows(self.x[:, mask], self.y[mask], kept, self.passes[mask], self.weights[mask], variance)

    def weighed(self, beyond: float) -> Rows:
        """With weights 1 / (variance + beyond), mean 1."""
        assert self.variance is not None
        inverse = 1 / (self.variance + beyond)
        return replace(self, weights=inverse / inverse.mean())

    @property
    def codes(self) -> list[int]:
        """Clusters numbered by first appearance: the hash depends on the grouping, not on what a group is called."""
        seen: dict[str, int] = {}
        return [seen.setdefault(name, len(seen)) for name in self.cluster]


def read_rows(
    table: pl.DataFrame, names: tuple[str, ...], y: str, cluster: str | None, transform: str, form: Law,
    weights: str | None, trials: str | None,
) -> Rows:  # fmt: skip
    """What a fit reads of a table whose rows are all done; arguments as for `analysis.fit`.

    Raises:
        TableError: a column is missing, not finite, or not in the range that the law or the option wants.
    """
    require_columns(table, [*names, y, *([cluster] if cluster else [])])
    if table.height == 0:
        raise TableError("the table has no row with a finished measurement")
    axes = np.stack([numeric_column(table, name) for name in names])
    for name, axis in zip(names, axes, strict=True):
        if np.any(axis <= 0):
            raise TableError(
                f"column {name!r} must be above 0, it is not in {name_rows(table, np.flatnonzero(axis <= 0))}"
            )
        _not_tiny(table, name, axis)
    measured = numeric_column(table, y)
    values = 1.0 - measured if transform == "error" else measured
    if form.residuals == "log" and np.any(values <= 0):
        what = f"1 - {y}" if transform == "error" else y
        percent = transform == "error" and np.any(measured > 1)
        raise TableError(
            f"{form.name} is fitted in logs and needs {what} above 0, it is not in "
            f"{name_rows(table, np.flatnonzero(values <= 0))}; "
            + ("is it in per cent?" if percent else "drop these rows or take the law log_line")
        )
    if form.residuals == "log":
        _not_tiny(table, y, values)
    if not form.y_scaled and np.any(values > 1):
        raise TableError(
            f"{form.name} is for shares, and {y!r} is above 1 in {name_rows(table, np.flatnonzero(values > 1))}; "
            f"is it in per cent?"
        )
    names_of = [str(label) for label in labels(table, cluster)] if cluster else [str(k) for k in range(table.height)]
    passes = optional_column(table, "passes")
    counts = _above_zero(table, weights or trials or "") if weights or trials else np.ones(table.height)
    places = [(*axes[:, k], values[k], counts[k]) for k in range(table.height)]
    # Equal rows of several clusters stand in the order of what these clusters hold: their names must not count.
    members: dict[str, list[tuple[float, ...]]] = {}
    for name, place in sorted(zip(names_of, places, strict=True), key=lambda pair: pair[1]):
        members.setdefault(name, []).append(place)
    order = sorted(range(table.height), key=lambda k: (places[k], members[names_of[k]], names_of[k]))
    if not cluster:
        names_of = [str(k) for k in np.argsort(order)]
    ordered = tuple(names_of[k] for k in order)
    kept = Rows(axes[:, order], values[order], ordered, passes[order], np.ones(len(order)))
    if weights:
        return replace(kept, weights=counts[order] / counts[order].mean())
    if not trials:
        return kept
    outside = np.flatnonzero((measured < 0) | (measured > 1))
    if len(outside):
        raise TableError(f"trials: y must be a share of them, in 0..1; it is not in {name_rows(table, outside)}")
    error = transform == "error"
    variance = share_variance(values, counts, error=error, logs=form.residuals == "log")[order]
    return replace(kept, variance=variance).weighed(0.0)


def _not_tiny(table: pl.DataFrame, column: str, values: np.ndarray) -> None:
    if np.any(values < 1 / LARGEST):
        rows = name_rows(table, np.flatnonzero(values < 1 / LARGEST))
        raise TableError(f"column {column!r} is under {1 / LARGEST:g} in {rows}; give it in another unit")


def _above_zero(table: pl.DataFrame, column: str) -> np.ndarray:
    given = numeric_column(table, column)
    if np.any(given <= 0):
        raise TableError(
            f"column {column!r} must be above 0, it is not in {name_rows(table, np.flatnonzero(given <= 0))}"
        )
    return given
