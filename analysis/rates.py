"""An exchange rate, and a ranking of proxies: what they hold, how they are saved and read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from analysis.saved import Saved, damaged

if TYPE_CHECKING:
    import polars as pl
    from matplotlib.axes import Axes

NAMED_AT = 0.9  # a proxy is named the best only at this P(best)


@dataclass(frozen=True)
class VersionPoints:
    """What a figure draws: per version the mean on both axes; one standard error an axis (NaN without replicates).

    groups: per version the number of the group that the slope is taken within; empty for the plain line.
    """

    names: tuple[str, ...]
    x: tuple[float, ...]
    y: tuple[float, ...]
    x_error: float
    y_error: float
    groups: tuple[int, ...] = ()


@dataclass(frozen=True)
class Ranking:
    """Proxies of one downstream metric, best first.

    rows: per proxy `proxy, slope, low, high, r2, spearman, loo_error, p_best, reliability`. `loo_error` is the root
    mean square error, in units of `into`, of predicting a version from the others. `p_best` is the share of version
    resamples in which the proxy has the highest R2. correlations (proxies, proxies): of the version means. `points`,
    per proxy, are what a figure draws.
    """

    into: str
    n: int
    rows: tuple[dict[str, Any], ...]
    correlations: tuple[tuple[float, ...], ...]
    points: tuple[VersionPoints, ...]
    winner: str | None
    warnings: tuple[str, ...]

    @property
    def proxies(self) -> tuple[str, ...]:
        return tuple(row["proxy"] for row in self.rows)

    def table(self) -> pl.DataFrame:
        """The rows as a table."""
        import polars as pl

        return pl.DataFrame(list(self.rows))

    def summary(self) -> str:
        """The ranking as text."""
        from analysis.words import ranking_summary

        return ranking_summary(self)


@dataclass(frozen=True, eq=False)
class Rate(Saved):
    """Slope of a downstream metric on an intermediate one over embedding versions, noise on both axes corrected for.

    `interval`, `elasticity_interval` and `smallest_detectable` are NaN where the versions do not differ beyond their
    noise; `elasticity` is NaN where a metric has no ceiling at 1, too. `local`: the rate at the lowest, middle and highest
    x of the versions, each `x, slope, low, high` (see `analysis.constancy`); what to read where `constant_p_value` is
    under .05. Empty with under 5 versions.
    """

    FORMAT: ClassVar[str] = "analysis.rate/1"

    of: str
    into: str
    slope: float
    interval: tuple[float, float]
    elasticity: float
    elasticity_interval: tuple[float, float]
    smallest_detectable: float
    constant_p_value: float
    r2: float
    reliability: float
    n: int
    points: VersionPoints
    ranking: Ranking
    warnings: tuple[str, ...]
    checklist: dict[str, Any]
    options: dict[str, Any]
    data_hash: str
    level: float = 0.95
    local: tuple[dict[str, float], ...] = ()

    @property
    def intercept(self) -> float:
        """The line passes through the mean of the versions (of a rate within groups: the mean of their parallel lines)."""
        return float(np.mean(self.points.y) - self.slope * np.mean(self.points.x))

    def summary(self) -> str:
        """The rate in words and numbers, a few lines of text."""
        from analysis.words import rate_summary

        return rate_summary(self)

    def plot(self, ax: Axes) -> None:
        """Draw the versions with their errors and the line onto matplotlib axes."""
        from analysis.figures import draw_rate

        draw_rate(ax, self)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a saved rate.

        Raises:
            TableError: the file is missing or is no saved rate.
        """
        data: Any = super().load(path)  # what is nested in it is still a dict
        with damaged(path):
            points = tuple(VersionPoints(**one) for one in data.ranking["points"])
            ranking = Ranking(**{**data.ranking, "points": points})
            return replace(data, points=VersionPoints(**data.points), ranking=ranking)
