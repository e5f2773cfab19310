"""Compute-equivalent speed-up: how many times more of an axis would reach what a better model, or a gain, reaches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from analysis.costs import FARTHEST
from analysis.fitted import Fit
from analysis.rates import Rate
from analysis.saved import Saved
from analysis.table import TableError
from analysis.worth import DRAWS, Part, Worth, check_level, ends, weigh

GRID = 113  # values of log x in which a crossing is sought: 9 a decade
HALVINGS = 60
SOUGHT = f"x sought up to {FARTHEST:.0e} times"


@dataclass(frozen=True, eq=False)
class Equivalent(Saved):
    """How many times more of `axis` the base law needs. Made by `compute_equivalent` or `Equivalent.load`.

    multiplier: at `at`; infinite where the law never gets there (its floor lies above), under 1 where less does.
    interval: its ends may be infinite; NaN where a law has no interval. `never`: share of joint draws in which no amount
    of the axis gets there. `matched`: what is to be reached, in words. `extrapolation`: how far the x that is needed
    lies beyond the base law's fitted range.
    """

    FORMAT: ClassVar[str] = "analysis.equivalent/1"

    axis: str
    at: dict[str, float]
    matched: str
    multiplier: float
    interval: tuple[float, float]
    never: float
    extrapolation: float
    warnings: tuple[str, ...]
    method: str
    data_hashes: dict[str, str]
    level: float

    def summary(self) -> str:
        """The equivalent as text."""
        from analysis.words import equivalent_summary

        return equivalent_summary(self)


def compute_equivalent(
    better: Fit | float,
    base: Fit,
    *,
    at: float | Mapping[str, float] | None = None,
    axis: str | None = None,
    rate: Rate | None = None,
    level: float = 0.95,
    seed: int = 0,
) -> Equivalent:
    """How many times more of an axis the base law needs to reach what `better` reaches.

    At a fixed model size compute grows as tokens do, so for a law over tokens or over FLOPs this is the compute
    multiplier. The interval carries the draws of both laws (and of the rate), taken as independent.

    Args:
        better: a fit of the same metric on the same axes: what it reaches at `at` is to be matched. Or a change of the
            metric: 0.01 of recall (fitted itself or as error), -0.05 of a loss; with `rate`, a change of `rate.into`.
        base: the law whose axis is to grow.
        at: where the base stands: a number, for several axes {axis: x}; without it the largest x that it was fitted on.
        axis: which axis grows, where the law has several.
        rate: from `base.y` into the metric in which `better`, then a number, is given.

    Raises:
        TableError: the fits do not predict the same metric on the same axes, or `at`, `axis` or the change is unclear.

    Example:
        >>> import analysis, polars
        >>> x = [1e5, 3e5, 1e6, 3e6, 1e7, 3e7]
        >>> def law(A):
        ...     table = polars.DataFrame({"tokens": x, "recall": [0.7 - A * t**-0.25 for t in x]})
        ...     return analysis.fit(table, x="tokens", y="recall", transform="error", resamples=0)
        >>> f"{analysis.compute_equivalent(law(4.0), law(5.0), at=1e7).multiplier:.3f}"  # (5 / 4)^(1 / .25)
        '2.441'
        >>> analysis.compute_equivalent(0.2, law(5.0), at=1e7).multiplier  # beyond the floor
        inf
    """
    check_level(level)
    worth = weigh(base, rate, "higher")  # which way is better plays no part: a target is met or not
    place = _place(base, at)
    grows = _axis(base, axis)
    start = np.array([place[name] for name in base.x])
    part = worth.parts[0]
    (drawn_params,), slopes = worth.draws(DRAWS, seed)
    params = [part.best[None], drawn_params]
    if isinstance(better, Fit):
        targets = _reached(part, better, rate, start, seed + 1)
        matched = f"{base.y} of {float(targets[0][0]):.4g}, as the better law has it there"
    else:
        targets = _changed(worth, float(better), start, params, slopes)
        matched = f"{better:+g} {worth.target}"
    best, drawn = (_times(part, one, start, grows, target) for one, target in zip(params, targets, strict=True))
    multiplier = float(best[0])
    name = base.x[grows]
    need = float(start[grows] * multiplier)
    warnings = [*worth.warnings(start[:, None]), *_about(worth, grows, start, multiplier, float(targets[0][0]))]
    return Equivalent(
        axis=name,
        at=place,
        matched=matched,
        multiplier=multiplier,
        interval=ends(drawn, level),
        never=float("nan") if np.isnan(drawn).any() else float(np.mean(np.isinf(drawn))),
        extrapolation=worth.extrapolation(grows, need),
        warnings=tuple(dict.fromkeys(warnings)),
        method=f"central {level:.0%} of {DRAWS} joint draws; {SOUGHT}",
        data_hashes={**worth.hashes(), **({"better": better.data_hash} if isinstance(better, Fit) else {})},
        level=level,
    )


def _place(base: Fit, at: float | Mapping[str, float] | None) -> dict[str, float]:
    if at is None:
        used = base.points.x[:, base.points.used]
        values: Any = dict(zip(base.x, used.max(axis=1).tolist(), strict=True))
    elif isinstance(at, Mapping):
        values = at
    elif len(base.x) == 1:
        values = {base.x[0]: at}
    else:
        raise TableError(f"the law has the axes {', '.join(base.x)}: give at={{axis: x, ...}}")
    if set(values) != set(base.x):
        raise TableError(f"`at` must name the axes {', '.join(base.x)}, not {', '.join(values)}")
    place = {name: float(values[name]) for name in base.x}
    for name, value in place.items():
        if not (np.isfinite(value) and value > 0):
            raise TableError(f"`at`: {name} must be finite and above 0, not {value}")
    return place


def _axis(base: Fit, axis: str | None) -> int:
    if axis is None and len(base.x) == 1:
        return 0
    if axis not in base.x:
        raise TableError(f"say which axis grows: axis = {' or '.join(map(repr, base.x))}")
    return base.x.index(axis)


def _reached(part: Part, better: Fit, rate: Rate | None, start: np.ndarray, seed: int) -> list[np.ndarray]:
    """What the better law reaches at `start`: of its best parameters (1,), of its draws (draws,)."""
    base = part.fit
    if rate is not None:
        raise TableError("a rate is for a change given as a number; two laws are compared in their own metric")
    if better.y != base.y or better.x != base.x:
        raise TableError(
            f"the laws must share metric and axes: {better.y!r} on {', '.join(better.x)}, {base.y!r} on {', '.join(base.x)}"
        )
    other = weigh(better, None, "higher")
    own, (drawn,) = other.parts[0], other.draws(DRAWS, seed)[0]
    return [own.metric(start[:, None], one)[:, 0] for one in (own.best[None], drawn)]


def _changed(
    worth: Worth, change: float, start: np.ndarray, params: list[np.ndarray], slopes: np.ndarray
) -> list[np.ndarray]:
    """The base's own metric plus the change: of its best parameters (1,), of its draws (draws,)."""
    if not (np.isfinite(change) and change != 0):
        raise TableError(f"the change to be matched must be finite and not 0, not {change}")
    part = worth.parts[0]
    best = change / worth.slope if part.through_rate else change
    drawn = np.full(len(slopes), best)
    if part.through_rate:  # by a rate of the other sign the axis never yields the change: an infinite target
        same = slopes * worth.slope > 0
        drawn = np.where(same, change / np.where(same, slopes, 1.0), np.sign(best) * np.inf)
        drawn[np.isnan(slopes)] = np.nan
    return [part.metric(start[:, None], one)[:, 0] + move for one, move in zip(params, (best, drawn), strict=True)]


def _times(part: Part, params: np.ndarray, start: np.ndarray, grows: int, targets: np.ndarray) -> np.ndarray:
    """The factor of one axis nearest to 1 at which the metric meets its target: (draws,), infinite where none does.

    More of the axis is tried first, then less.
    """

    def gap(logs: np.ndarray, rows: slice | np.ndarray = slice(None)) -> np.ndarray:
        """Metric minus target at factors exp(logs), (n,) or (draws, n)."""
        points = [np.full_like(logs, x) for x in start]
        points[grows] = start[grows] * np.exp(logs)
        # Not stacked when logs differ by draw: a law broadcasts over any shape of its axes.
        return part.metric(np.stack(points), params[rows]) - targets[rows, None]

    reach = np.log(FARTHEST)
    up = gap(np.linspace(0.0, reach, GRID))
    down = gap(np.linspace(0.0, -reach, GRID))
    found = np.full(len(targets), np.nan)
    known = ~np.isnan(up).any(axis=1) & ~np.isnan(down).any(axis=1)
    for sign, gaps in ((1.0, up), (-1.0, down)):
        crossed = np.diff(np.sign(gaps), axis=1) != 0
        rows = np.flatnonzero(crossed.any(axis=1) & np.isnan(found) & known)
        if not len(rows):
            continue
        first = np.argmax(crossed[rows], axis=1)
        near = sign * reach * first / (GRID - 1)
        far = sign * reach * (first + 1) / (GRID - 1)
        side = np.sign(gaps[rows, first])
        for _ in range(HALVINGS):
            middle = 0.5 * (near + far)
            here = np.sign(gap(middle[:, None], rows)[:, 0]) == side
            near, far = np.where(here, middle, near), np.where(here, far, middle)
        found[rows] = np.exp(0.5 * (near + far))
    return np.where(known & np.isnan(found), np.inf, found)


def _about(worth: Worth, grows: int, start: np.ndarray, multiplier: float, target: float) -> list[str]:
    base, found = worth.parts[0].fit, []
    name, need = base.x[grows], float(start[grows]) * multiplier
    now = worth.extrapolation(grows, start[grows])
    if now > 1:
        found.append(f"{name} = {start[grows]:.4g} lies {now:.3g} x beyond the fitted range")
    if np.isinf(multiplier):
        fitted = 1.0 - target if base.transform == "error" else target
        floor = base.params[base.form.floor] if base.form.floor else -np.inf
        limit = f"its floor {base.form.floor} = {floor:.4g} is not under {fitted:.4g}" if floor >= fitted else SOUGHT
        found.append(f"no amount of {name} reaches it by the law of the base: {limit}")
    elif (beyond := worth.extrapolation(grows, need)) > 1:
        found.append(f"{name} = {need:.4g} would be needed, {beyond:.3g} x beyond the fitted range")
    return found
