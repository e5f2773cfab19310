"""Where the next GPU-hour pays: a little more compute on one axis at a time, and what it brings in the end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from analysis.costs import CostFunction, afford, price
from analysis.fitted import Fit
from analysis.rates import Rate
from analysis.saved import Saved
from analysis.table import TableError
from analysis.worth import DRAWS, Better, Worth, check_level, ends, place, weigh

if TYPE_CHECKING:
    import polars as pl
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class MarginalTable(Saved):
    """What `share` more compute brings on each axis alone, best first. Made by `marginal_table` or `MarginalTable.load`.

    rows: per axis `axis, x, x_after, factor` (x_after / x), `bounded` (a bound stops it before the compute is spent), `spent`
    (how much more the whole set-up costs then, as a share: `share` where nothing stops it),
    `metric` (the column its law predicts), `gain, gain_low, gain_high` (its change), `worth, worth_low, worth_high` (the
    change of `target`: the gain times the exchange rate, or the gain itself), `p_best` (share of joint draws in which
    no other axis brings more; NaN if a law or the rate has no interval), `extrapolation` (of x_after: times beyond the
    fitted range, 1 within it). Changes are those of the columns themselves: of recall, also where its error was fitted.
    """

    FORMAT: ClassVar[str] = "analysis.marginal/1"

    target: str
    better: str
    share: float
    cost: float
    at: dict[str, float]
    rows: tuple[dict[str, Any], ...]
    warnings: tuple[str, ...]
    method: str
    data_hashes: dict[str, str]
    level: float

    @property
    def best(self) -> str:
        """The axis that brings most."""
        name: str = self.rows[0]["axis"]
        return name

    def table(self) -> pl.DataFrame:
        """The rows as a table."""
        import polars as pl

        return pl.DataFrame(list(self.rows))

    def figure(self, title: str | None = None) -> Figure:
        """What each axis brings, with intervals: in its own metric and in the one that counts."""
        from analysis.compute_figures import marginal_figure

        return marginal_figure(self, title)

    def summary(self) -> str:
        """The table as text."""
        from analysis.words import marginal_summary

        return marginal_summary(self)


def marginal_table(
    laws: Fit | Mapping[str, Fit],
    *,
    cost: CostFunction,
    at: Mapping[str, float] | None = None,
    rate: Rate | None = None,
    share: float = 0.10,
    bounds: Mapping[str, tuple[float, float]] | None = None,
    better: Better | None = None,
    level: float = 0.95,
    seed: int = 0,
) -> MarginalTable:
    """Spend `share` more compute on one axis at a time; see what it brings in the metric and, by the rate, downstream.

    An axis moves until the whole set-up costs (1 + share) times as much: 10 % more compute is 10 % more tokens, but
    many times more negatives where the loss is a small part of the cost. The interval carries the draws of the laws and
    the rate's uncertainty (Student's t about its slope, n - 2 df); laws and rate are taken as independent.

    Args:
        laws: a joint fit over several axes (named as its columns), or one-axis fits by axis: {"tokens": fit, ...}.
        cost: an `analysis.Cost` (FLOPs), or a function of {axis: x} in any unit above 0.
        at: where the set-up stands now; an `analysis.Cost` knows it itself.
        rate: the exchange rate from the laws' metric into the one that counts. A law may predict the latter itself.
        bounds: {axis: (low, high)}: an axis goes no farther.
        better: "higher" or "lower" target, as in `allocate`.

    Raises:
        TableError: as `allocate`; or the cost does not depend on an axis.

    Example:
        >>> import analysis, polars
        >>> x = [1e5, 3e5, 1e6, 3e6, 1e7, 3e7]
        >>> table = polars.DataFrame({"tokens": x, "recall": [0.7 - 5 * t**-0.25 for t in x]})
        >>> law = analysis.fit(table, x="tokens", y="recall", transform="error", resamples=0)
        >>> cost = analysis.Cost(tokens=1e7, params=1e6, tokens_per_pair=40, embedding=64)
        >>> row = analysis.marginal_table({"tokens": law}, cost=cost).rows[0]
        >>> f"{row['factor']:.2f} x tokens: recall {row['gain']:+.4f}"
        '1.10 x tokens: recall +0.0021'
    """
    worth = weigh(laws, rate, better)
    check_level(level)
    if not (np.isfinite(share) and share > 0):
        raise TableError(f"share must be finite and above 0, not {share}")
    now = place(worth, at, cost)
    if now is None:
        raise TableError("say where the set-up stands now: at={axis: x, ...}")
    for name in bounds or {}:
        if name not in worth.axes:
            raise TableError(f"bounds: no axis {name!r}; axes: {', '.join(worth.axes)}")
    before = price(cost, now)
    start = np.array([now[name] for name in worth.axes])
    after = np.repeat(start[:, None], len(start), axis=1)  # column k: axis k moved
    moved = [afford(cost, now, name, (1 + share) * before) for name in worth.axes]
    bounded = []
    for k, name in enumerate(worth.axes):
        limit = (bounds or {}).get(name, (0.0, np.inf))[1]
        after[k, k] = max(min(moved[k], limit), start[k])
        bounded.append(bool(after[k, k] < moved[k]))
    costs = [price(cost, now | {name: float(after[k, k])}) / before - 1 for k, name in enumerate(worth.axes)]
    rows = _rows(worth, start, after, bounded, costs, level, seed)
    points = np.concatenate([start[:, None], after], axis=1)
    return MarginalTable(
        target=worth.target,
        better="higher" if worth.sign > 0 else "lower",
        share=float(share),
        cost=before,
        at=now,
        rows=tuple(rows),
        warnings=(*_about(rows, worth, start), *worth.warnings(points)),
        method=f"central {level:.0%} of {DRAWS} joint draws of laws and rate",
        data_hashes=worth.hashes(),
        level=level,
    )


def _rows(
    worth: Worth,
    start: np.ndarray,
    after: np.ndarray,
    bounded: list[bool],
    costs: list[float],
    level: float,
    seed: int,
) -> list[dict[str, Any]]:
    """One row an axis, best first."""
    params, slopes = worth.draws(DRAWS, seed)
    rows, drawn_worths = [], []
    for k, name in enumerate(worth.axes):
        which = worth.part_of(k)
        part = worth.parts[which]
        pair = np.stack([start, after[:, k]], axis=1)
        gain = float(np.diff(part.metric(pair, part.best))[0])
        gains = np.diff(part.metric(pair, params[which]), axis=-1)[:, 0]
        worths = gains * slopes if part.through_rate else gains
        low, high = ends(gains, level)
        worth_low, worth_high = ends(worths, level)
        drawn_worths.append(worth.sign * worths)
        rows.append({
            "axis": name, "x": float(start[k]), "x_after": float(after[k, k]),
            "factor": float(after[k, k] / start[k]), "bounded": bounded[k], "spent": costs[k], "metric": part.fit.y,
            "gain": gain, "gain_low": low, "gain_high": high,
            "worth": gain * worth.slope if part.through_rate else gain,
            "worth_low": worth_low, "worth_high": worth_high,
            "p_best": float("nan"), "extrapolation": worth.extrapolation(k, float(after[k, k])),
        })  # fmt: skip
    drawn = np.stack(drawn_worths)
    if np.isfinite(drawn).all():
        best = drawn >= drawn.max(axis=0)
        for row, share in zip(rows, np.mean(best / best.sum(axis=0), axis=1), strict=True):
            row["p_best"] = float(share)
    return sorted(rows, key=lambda row: -worth.sign * row["worth"])


def _about(rows: list[dict[str, Any]], worth: Worth, start: np.ndarray) -> list[str]:
    found = []
    for row in rows:
        now = worth.extrapolation(worth.axes.index(row["axis"]), row["x"])
        if row["extrapolation"] > 1:
            found.append(
                f"{row['axis']} goes to {row['x_after']:.4g}, {row['extrapolation']:.3g} x beyond its fitted range"
            )
        elif now > 1:
            found.append(f"{row['axis']} stands {now:.3g} x beyond its fitted range")
        if row["bounded"]:
            found.append(f"{row['axis']} stops at its bound {row['x_after']:.4g} before the compute is spent")
    return found
