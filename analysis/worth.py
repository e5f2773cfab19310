"""What a set-up is worth: fitted laws and an exchange rate together, at their best values and at their draws.

Separately fitted one-axis laws are added: metric = common level + sum over axes of what the axis gives. That is what
the additive laws say (Hoffmann et al. 2022 for size and data), and it is all that one-axis sweeps can show.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from analysis.fitted import Fit
from analysis.intervals import central
from analysis.rates import Rate
from analysis.table import TableError

DRAWS = 4000  # joint draws behind the intervals of a table or a ratio

Better = Literal["higher", "lower"]


@dataclass(frozen=True)
class Part:
    """A fit, which of the axes it reads, and whether its metric passes through the exchange rate."""

    fit: Fit
    axes: tuple[int, ...]
    through_rate: bool

    def metric(self, points: np.ndarray, params: np.ndarray) -> np.ndarray:
        """The fitted column itself (1 - error, where errors were fitted) at points (axes, n): shape (..., n)."""
        with np.errstate(all="ignore"):
            values = self.fit.form.values(points[list(self.axes)], params)
        return 1.0 - values if self.fit.transform == "error" else values

    @property
    def best(self) -> np.ndarray:
        """The fitted parameters (p,)."""
        return np.array(list(self.fit.params.values()))


@dataclass(frozen=True)
class Worth:
    """Parts that add up to one metric, `target`. `sign` is +1 where a higher target is better, else -1.

    `low`, `high` (axes,): the range of each axis that its law was fitted on.
    """

    axes: tuple[str, ...]
    parts: tuple[Part, ...]
    rate: Rate | None
    target: str
    sign: float
    low: np.ndarray
    high: np.ndarray

    @property
    def best(self) -> list[np.ndarray]:
        return [part.best for part in self.parts]

    @property
    def slope(self) -> float:
        return 1.0 if self.rate is None else self.rate.slope

    def total(self, points: np.ndarray, params: Sequence[np.ndarray], slope: float | np.ndarray) -> np.ndarray:
        """The target, up to a constant, at points (axes, n), for params (..., p) of each part: shape (..., n)."""
        weights = np.asarray(slope, float)[..., None]
        return sum(  # type: ignore[return-value]
            part.metric(points, one) * (weights if part.through_rate else 1.0)
            for part, one in zip(self.parts, params, strict=True)
        )

    def part_of(self, axis: int) -> int:
        """Which part reads the axis."""
        return next(k for k, part in enumerate(self.parts) if axis in part.axes)

    def draws(self, count: int, seed: int) -> tuple[list[np.ndarray], np.ndarray]:
        """Joint draws: params (count, p) of each part and slopes (count,). Fits and rate are independent."""
        rng = np.random.default_rng(seed)
        params = [fit_draws(part.fit, count, rng) for part in self.parts]
        return params, np.ones(count) if self.rate is None else rate_draws(self.rate, count, rng)

    def extrapolation(self, axis: int, x: float) -> float:
        """How many times x lies beyond the fitted range, on either side; 1 within it."""
        return float(max(x / self.high[axis], self.low[axis] / x, 1.0))

    def hashes(self) -> dict[str, str]:
        """What the numbers come from: hash of the data of each law and of the rate."""
        found = {", ".join(self.axes[k] for k in part.axes): part.fit.data_hash for part in self.parts}
        return found if self.rate is None else {**found, "rate": self.rate.data_hash}

    def warnings(self, points: np.ndarray) -> list[str]:
        """What the fits and the rate bring along, and whether the rate is used outside its versions."""
        found: list[str] = []
        for part in self.parts:
            names = ", ".join(self.axes[k] for k in part.axes)
            found += [f"law of {names}: {warning}" for warning in part.fit.warnings]
        if len(self.parts) > 1:
            found.append("the laws were fitted one axis at a time: their gains are added, interactions are not seen")
        if self.rate is None:
            return found
        if self.rate.constant_p_value < 0.05:
            found.append(
                f"the exchange rate is not constant (p = {self.rate.constant_p_value:.2g}): see its local rate"
            )
        if not self.rate.interval[0] * self.rate.interval[1] > 0:
            found.append("the interval of the exchange rate includes 0 or is not known")
        low, high = min(self.rate.points.x), max(self.rate.points.x)
        for part in self.parts:
            values = part.metric(points, part.best)
            if part.through_rate and not np.all((values >= low) & (values <= high)):
                found.append(
                    f"{part.fit.y} of {values.min():.3g} to {values.max():.3g} leaves the versions behind the exchange "
                    f"rate ({low:.3g} to {high:.3g})"
                )
        return list(dict.fromkeys(found))


def weigh(laws: Fit | Mapping[str, Fit], rate: Rate | None, better: Better | None) -> Worth:
    """Put laws and rate together.

    Raises:
        TableError: there is no law, a law in a mapping has several axes, the laws predict different metrics that the
            rate does not join, or it cannot be seen whether the metric is to rise or to fall.
    """
    if isinstance(laws, Fit):
        axes, given = laws.x, [(laws, tuple(range(len(laws.x))))]
    else:
        axes, given = tuple(laws), [(fit, (k,)) for k, fit in enumerate(laws.values())]
        for name, fit in laws.items():
            if len(fit.x) != 1:
                raise TableError(
                    f"law {name!r} has the axes {', '.join(fit.x)}: give a joint fit by itself, not among others"
                )
    if not given:
        raise TableError("no law: give a fit, or a mapping of axis to fit")
    if better not in (None, "higher", "lower"):
        raise TableError(f"no direction {better!r}; better: higher, lower")
    parts = tuple(Part(fit, which, _through(fit, rate)) for fit, which in given)
    if rate is None and len({part.fit.y for part in parts}) > 1:
        raise TableError(
            f"the laws predict different metrics ({', '.join(part.fit.y for part in parts)}): give the rate that joins them"
        )
    if rate is not None and not np.isfinite(rate.slope):
        raise TableError(f"the rate of {rate.of} into {rate.into} has no slope: it cannot carry a gain")
    target = parts[0].fit.y if rate is None else rate.into
    ranges = {axis: row for part in parts for axis, row in zip(part.axes, _used(part.fit), strict=True)}
    low, high = (np.array([pick(ranges[k]) for k in range(len(axes))]) for pick in (np.min, np.max))
    sign = _sign(axes, parts, rate, better, low, high)
    return Worth(axes, parts, rate, target, sign, low, high)


def _through(fit: Fit, rate: Rate | None) -> bool:
    if rate is None or fit.y == rate.into:
        return False
    if fit.y != rate.of:
        raise TableError(f"a law predicts {fit.y!r}, the rate leads from {rate.of!r} into {rate.into!r}")
    return True


def _used(fit: Fit) -> np.ndarray:
    used: np.ndarray = fit.points.x[:, fit.points.used]
    return used


def _sign(
    axes: tuple[str, ...], parts: Sequence[Part], rate: Rate | None, better: Better | None, low: np.ndarray,
    high: np.ndarray,
) -> float:  # fmt: skip
    """Metrics rise: what an error was made of, and what a rate leads into. Else: the way that more of the axes goes."""
    if better is not None:
        return 1.0 if better == "higher" else -1.0
    if rate is not None or any(part.fit.transform == "error" for part in parts):
        return 1.0
    middle = np.sqrt(low * high)
    signs = set()
    for part in parts:
        for k in part.axes:
            ends = np.stack([np.where(np.arange(len(axes)) == k, end, middle) for end in (low, high)], axis=1)
            before, after = part.metric(ends, part.best)
            signs.add(float(np.sign(after - before)))
    if len(signs) != 1 or signs == {0.0}:
        raise TableError(
            f"more of {', '.join(axes)} does not move {parts[0].fit.y!r} one way: say better='higher' or 'lower'"
        )
    return signs.pop()


def fit_draws(fit: Fit, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` of a fit's draws (count, p) in random order, so that fits drawn with one seed do not move together.

    NaN where the fit has none: what is computed from them is then not known.
    """
    if not len(fit.draws):
        return np.full((count, len(fit.params)), np.nan)
    rounds = -(-count // len(fit.draws))
    rows = np.concatenate([rng.permutation(len(fit.draws)) for _ in range(rounds)])[:count]
    drawn: np.ndarray = fit.draws[rows]
    return drawn


def rate_draws(rate: Rate, count: int, rng: np.random.Generator) -> np.ndarray:
    """Slopes (count,) from Student's t about the rate's slope with the standard error and df that its interval has."""
    from scipy.special import stdtrit

    freedom = rate.n - 2
    half = 0.5 * (rate.interval[1] - rate.interval[0])
    error = half / stdtrit(freedom, 0.5 + rate.level / 2)
    scores = stdtrit(freedom, (np.arange(count) + 0.5) / count)  # stratified: less noise than random draws
    return rate.slope + error * rng.permutation(scores)


def ends(draws: np.ndarray, level: float) -> tuple[float, float]:
    """The central `level` of draws (n,); infinite ones are kept, any NaN makes both ends NaN."""
    if not len(draws) or np.isnan(draws).any():
        return float("nan"), float("nan")
    if np.isfinite(draws).all():
        low, high = central(draws, level)
        return float(low), float(high)
    ordered = np.sort(draws)
    tail = (1.0 - level) / 2.0 * (len(draws) - 1)
    return float(ordered[int(np.floor(tail))]), float(ordered[int(np.ceil(len(draws) - 1 - tail))])


def check_level(level: float) -> float:
    """A share between 0 and 1.

    Raises:
        TableError: it is not.
    """
    if not 0 < level < 1:
        raise TableError(f"level must lie between 0 and 1, not {level}")
    return level


def place(worth: Worth, at: Mapping[str, float] | None, cost: object) -> dict[str, float] | None:
    """Where the set-up stands: `at`, over what the cost itself knows; None if neither tells all axes.

    Raises:
        TableError: a value is not finite and above 0, or `at` lacks an axis.
    """
    known = {} if at is None else {name: float(value) for name, value in at.items()}
    own = getattr(cost, "at", {})
    point = {**{name: own[name] for name in worth.axes if name in own}, **known}
    missing = [name for name in worth.axes if name not in point]
    if missing and at is None and not point:
        return None
    if missing:
        raise TableError(f"`at` must name each axis: {', '.join(missing)} missing")
    for name, value in point.items():
        if not (np.isfinite(value) and value > 0):
            raise TableError(f"`at`: {name} must be finite and above 0, not {value}")
    return point
