"""Versions out of a table: their means, the noise that their seeds show, and what speaks against them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from analysis.eiv import Versions, moments
from analysis.intervals import FEW_CLUSTERS
from analysis.rates import VersionPoints
from analysis.table import TableError, labels, numeric_column, require_columns

if TYPE_CHECKING:
    import polars as pl

LOW_RELIABILITY = 0.8
FARTHEST = 1e30  # versions that spread by more (or by less than its inverse) take squares of squares out of floats


def read_versions(
    table: pl.DataFrame,
    of: str,
    into: str,
    cluster: str,
    seed_column: str,
    noise_ratio: float | None,
    within: str | None = None,
) -> tuple[Versions, list[str], str]:
    """Means per version, what is known of the noise, and in words where that comes from.

    Versions stand in the order of their mean `into`, rows in an order of their own: neither the names nor the order of
    rows plays a part in what is resampled.
    """
    require_columns(table, [of, into, cluster])
    for column in (of, into):
        numeric_column(table, column)  # before sorting: an error names rows as the user's table has them
    labels(table, cluster)
    table = table.sort(into, of, cluster)
    x, y = numeric_column(table, of), numeric_column(table, into)
    names, group = np.unique(np.array([str(name) for name in table[cluster]]), return_inverse=True)
    height = np.bincount(group, y) / np.bincount(group)
    order = np.lexsort((names, height))
    names, group = names[order], np.argsort(order)[group]
    if len(names) < 3:
        raise TableError(f"{len(names)} versions in {cluster!r}: a rate needs at least 3, an honest interval about 12")
    groups = _groups(table, cluster, within, group, len(names))
    seeds = np.bincount(group).astype(float)
    mean_x, mean_y = np.bincount(group, x) / seeds, np.bincount(group, y) / seeds
    for name, means in ((of, mean_x), (into, mean_y)):
        if np.ptp(means) <= 1e-12 * np.abs(means).max():
            raise TableError(f"column {name!r} is the same in every version: no rate can be seen")
        if not 1 / FARTHEST < np.ptp(means) < FARTHEST:
            raise TableError(
                f"column {name!r} differs by {np.ptp(means):.3g} between versions: give it in another unit"
            )
    freedom = seeds - 1
    if freedom.sum() == 0:
        ratio = 1.0 if noise_ratio is None else float(noise_ratio)
        if not (np.isfinite(ratio) and ratio > 0):
            raise TableError(f"noise_ratio must be above 0, not {noise_ratio}")
        none = Versions(mean_x, mean_y, np.zeros((3, len(names))), freedom, seeds, groups, ratio)
        return none, list(names), f"no replicates: a noise ratio of {ratio:g} on standardised axes is assumed"
    rest_x, rest_y = x - mean_x[group], y - mean_y[group]
    source = "scatter of seeds within versions, pooled"
    crossing = _crossing(table, seed_column, group, len(names))
    if crossing is not None:
        per_seed = np.bincount(crossing)
        rest_x = rest_x - (np.bincount(crossing, rest_x) / per_seed)[crossing]
        rest_y = rest_y - (np.bincount(crossing, rest_y) / per_seed)[crossing]
        freedom = freedom * (len(names) - 1) / len(names)
        source += ", effects common to a seed taken out"
    squares = [np.bincount(group, part) for part in (rest_x * rest_x, rest_y * rest_y, rest_x * rest_y)]
    return Versions(mean_x, mean_y, np.stack(squares), freedom, seeds, groups), list(names), source


def version_points(versions: Versions, names: list[str]) -> VersionPoints:
    """What a figure draws of them."""
    x_error = y_error = float("nan")
    if versions.ratio is None:
        x_error, y_error = np.sqrt(versions.noise(np.ones((1, len(names))))[:2, 0]).tolist()
    groups = tuple(versions.groups.tolist()) if versions.groups.max() else ()
    return VersionPoints(
        tuple(map(str, names)), tuple(versions.x.tolist()), tuple(versions.y.tolist()), x_error, y_error, groups
    )


def _groups(table: pl.DataFrame, cluster: str, within: str | None, group: np.ndarray, versions: int) -> np.ndarray:
    """The group of each version as a number from 0; TableError where a version has two, or too few versions share theirs."""
    if within is None:
        return np.zeros(versions, int)
    require_columns(table, [within])
    labels(table, within)
    _, codes = np.unique(np.array([str(value) for value in table[within]]), return_inverse=True)
    pairs = np.unique(np.stack([group, codes]), axis=1)
    if pairs.shape[1] > versions:
        twice = pairs[0, np.flatnonzero(np.diff(pairs[0]) == 0)[0]]
        name = table[cluster].to_list()[int(np.flatnonzero(group == twice)[0])]
        raise TableError(f"version {name!r} has rows of several {within!r}: a version belongs to one")
    groups = np.zeros(versions, int)
    groups[pairs[0]] = pairs[1]
    if versions - len(np.unique(groups)) - 1 < 1:
        raise TableError(
            f"{versions} versions in {len(np.unique(groups))} groups of {within!r}: too few to see a slope within them"
        )
    return groups


def _crossing(table: pl.DataFrame, seed_column: str, group: np.ndarray, versions: int) -> np.ndarray | None:
    """Seed labels as integers if every version has every seed exactly once, and there are several of both."""
    if seed_column not in table.columns or table[seed_column].null_count():
        return None
    _, codes = np.unique(np.array([str(value) for value in table[seed_column]]), return_inverse=True)
    full = np.bincount(group * (codes.max() + 1) + codes, minlength=versions * (codes.max() + 1))
    return codes if np.all(full == 1) and codes.max() > 0 else None


def beyond_noise(versions: Versions) -> bool:
    """Whether the versions differ in x by more than their noise (F test, 5 %); taken for granted without replicates."""
    if versions.ratio is not None:
        return True
    from scipy.special import fdtri

    one = np.ones((1, len(versions.x)))
    noise = float(versions.noise(one)[0, 0])
    between = float(moments(versions, one)[0][0])
    if noise <= 0:
        return True
    return bool(between / noise > fdtri(versions.df + 1, max(versions.freedom.sum(), 1), 0.95))


def reliability(versions: Versions) -> float:
    """Share of the variance of x between versions that is not noise; NaN without replicates."""
    if versions.ratio is not None:
        return float("nan")
    one = np.ones((1, len(versions.x)))
    return float(1 - versions.noise(one)[0, 0] / moments(versions, one)[0][0])


def about_versions(versions: Versions, of: str, into: str, noise_ratio: float | None) -> list[str]:
    """Warnings on the number of versions and on what is known of their noise."""
    found = []
    n = len(versions.x)
    if n < FEW_CLUSTERS:
        found.append(f"few versions: {n} (under {FEW_CLUSTERS}); a small-sample interval is used")
    if versions.ratio is not None:
        given = "given" if noise_ratio is not None else "assumed"
        found.append(
            f"no version has replicates: the noise of neither axis is known, a ratio of {versions.ratio:g} is {given}"
        )
        return found
    if noise_ratio is not None:
        found.append("noise_ratio is not used: the replicates give the noise")
    noise = versions.noise(np.ones((1, n)))[:, 0]
    for name, value in ((of, noise[0]), (into, noise[1])):
        if value <= 0:
            found.append(f"{name} has no noise over seeds: its values are taken as exact")
    if not beyond_noise(versions):
        found.append(f"the versions do not differ in {of} beyond seed noise: the slope means nothing, no interval")
    elif reliability(versions) < LOW_RELIABILITY:
        found.append(
            f"reliability of {of} is {reliability(versions):.2f} (under {LOW_RELIABILITY}): add seeds or versions"
        )
    return found
