"""An exchange rate, and a ranking of proxies: what they hold, how they are saved and read."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.fitted import nan_to_null, read_saved

if TYPE_CHECKING:
    import polars as pl
    from matplotlib.axes import Axes

FORMAT = "analysis.rate/1"
NAMED_AT = 0.9  # a proxy is named the best only at this P(best)


@dataclass(frozen=True)
class VersionPoints:
    """What a figure draws: per version the mean on both axes; one standard error an axis (NaN without replicates)."""

    names: tuple[str, ...]
    x: tuple[float, ...]
    y: tuple[float, ...]
    x_error: float
    y_error: float


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
class Rate:
    """Slope of a downstream metric on an intermediate one over embedding versions, noise on both axes corrected for.

    `interval`, `elasticity_interval` and `smallest_detectable` are NaN where the versions do not differ beyond their
    noise; `elasticity` is None where a metric has no ceiling at 1. `local`: the rate at the lowest, middle and highest
    x of the versions, each `x, slope, low, high` (see `analysis.constancy`); what to read where `constant_p_value` is
    under .05. Empty with under 5 versions.
    """

    of: str
    into: str
    slope: float
    interval: tuple[float, float]
    elasticity: float | None
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
        """The line passes through the mean of the versions."""
        return float(np.mean(self.points.y) - self.slope * np.mean(self.points.x))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Rate) and json.dumps(self.to_dict()) == json.dumps(other.to_dict())

    def summary(self) -> str:
        """The rate in words and numbers, a few lines of text."""
        from analysis.words import rate_summary

        return rate_summary(self)

    def plot(self, ax: Axes) -> None:
        """Draw the versions with their errors and the line onto matplotlib axes."""
        from analysis.figures import draw_rate

        draw_rate(ax, self)

    def to_dict(self) -> dict[str, Any]:
        """What `save` writes: plain JSON types, NaN as null."""
        document = {
            "format": FORMAT,
            "of": self.of,
            "into": self.into,
            "slope": self.slope,
            "level": self.level,
            "interval": list(self.interval),
            "elasticity": self.elasticity,
            "elasticity_interval": list(self.elasticity_interval),
            "smallest_detectable": self.smallest_detectable,
            "constant_p_value": self.constant_p_value,
            "local": list(self.local),
            "r2": self.r2,
            "reliability": self.reliability,
            "n": self.n,
            "ranking": asdict(self.ranking),
            "warnings": list(self.warnings),
            "checklist": self.checklist,
            "options": self.options,
            "data_hash": self.data_hash,
            "points": asdict(self.points),
        }
        plain: dict[str, Any] = nan_to_null(document)
        return plain

    def save(self, path: str | Path) -> Path:
        """Write the rate as JSON."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.to_dict(), allow_nan=False) + "\n")
        return path

    @classmethod
    def load(cls, path: str | Path) -> Rate:
        """Read a saved rate.

        Raises:
            TableError: the file is missing or is no saved rate.
        """
        data = read_saved(path, FORMAT)
        return cls(
            of=data["of"],
            into=data["into"],
            slope=_number(data["slope"]),
            interval=_pair(data["interval"]),
            elasticity=data["elasticity"],
            elasticity_interval=_pair(data["elasticity_interval"]),
            smallest_detectable=_number(data["smallest_detectable"]),
            constant_p_value=_number(data["constant_p_value"]),
            r2=_number(data["r2"]),
            reliability=_number(data["reliability"]),
            n=data["n"],
            points=_points(data["points"]),
            ranking=_ranking(data["ranking"]),
            warnings=tuple(data["warnings"]),
            checklist=data["checklist"],
            options=data["options"],
            data_hash=data["data_hash"],
            level=data["level"],
            local=tuple({key: _number(value) for key, value in one.items()} for one in data.get("local", ())),
        )


def _ranking(data: dict[str, Any]) -> Ranking:
    rows = tuple(
        {key: _number(value) if key != "proxy" else value for key, value in row.items()} for row in data["rows"]
    )
    correlations = tuple(tuple(_number(value) for value in row) for row in data["correlations"])
    points = tuple(map(_points, data["points"]))
    return Ranking(data["into"], data["n"], rows, correlations, points, data["winner"], tuple(data["warnings"]))


def _points(data: dict[str, Any]) -> VersionPoints:
    return VersionPoints(
        tuple(data["names"]), tuple(data["x"]), tuple(data["y"]), _number(data["x_error"]), _number(data["y_error"])
    )


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def _pair(values: list[float | None]) -> tuple[float, float]:
    return _number(values[0]), _number(values[1])
