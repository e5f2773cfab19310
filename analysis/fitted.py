"""A fitted law: parameters with intervals, predictions, the record of how it was made. Saved as JSON, whole."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import numpy as np

from analysis.evaluation import share_variance
from analysis.intervals import NOISE_REPEATS, central, normal_scores, shift
from analysis.laws import Law, get_law
from analysis.saved import damaged, plain, read_saved, write_saved
from analysis.table import TableError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMAT = "analysis.fit/1"
STEP = 1e-4  # of log x in central differences


class Prediction(NamedTuple):
    """Values of the law and the ends of their interval; each has the shape of the x asked for."""

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True)
class Points:
    """The rows behind a fit, in canonical order: x (axes, n), y (n,) after the transform, and what figures mark."""

    x: np.ndarray
    y: np.ndarray
    cluster: tuple[str, ...]
    held: np.ndarray
    passes: np.ndarray
    weights: np.ndarray

    @property
    def used(self) -> np.ndarray:
        return ~self.held


@dataclass(frozen=True, eq=False)
class Fit:
    """A law fitted to a table. Made by `analysis.fit` or `Fit.load`; two fits are equal if all that they save is.

    All values are those of y *after* the transform (errors, where transform is "error").
    `draws` (draws, p) are resampled parameters; their percentiles are the intervals. It is empty where no interval
    can be given, and then every interval is (nan, nan).
    """

    form: Law
    params: dict[str, float]
    x: tuple[str, ...]
    y: str
    transform: str
    n: int
    clusters: int
    objective: dict[str, Any]
    diagnostics: dict[str, Any]
    noise: dict[str, Any]
    warnings: tuple[str, ...]
    checklist: dict[str, Any]
    options: dict[str, Any]
    data_hash: str
    points: Points = field(repr=False)
    draws: np.ndarray = field(repr=False)
    noise_draws: np.ndarray = field(repr=False)
    holdout: dict[str, Any] | None = None
    level: float = 0.95

    @property
    def law(self) -> str:
        """The law's name."""
        return self.form.name

    @property
    def y_label(self) -> str:
        return f"1 - {self.y}" if self.transform == "error" else self.y

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Fit) and json.dumps(self.to_dict()) == json.dumps(other.to_dict())

    def intervals(self, level: float = 0.95) -> dict[str, tuple[float, float]]:
        """Interval of each parameter at `level`: {"alpha": (low, high), ...}; of a pinned one both ends are equal.

        NaN where there is none: too few runs, or a floor that these points do not tell from none, with all that depends
        on it (the mean and a new run keep theirs).
        """
        pinned, nothing = self.options["pin"], (float("nan"), float("nan"))
        found = self.quantiles(level) if len(self.draws) else dict.fromkeys(self.params, nothing)
        unknown = dict.fromkeys(self.diagnostics.get("no_interval", ()), nothing)
        return {**found, **unknown, **{name: (value, value) for name, value in pinned.items()}}

    def quantiles(self, level: float = 0.95) -> dict[str, tuple[float, float]]:
        """The central `level` of the draws of each parameter, whether or not it can be trusted as an interval."""
        low, high = central(self.draws, level)
        return {name: (float(low[k]), float(high[k])) for k, name in enumerate(self.params)}

    def slope(self, x: Any, level: float = 0.95) -> Prediction:
        """d log y / d log x of the first axis at x, shape as for `predict`, with the interval of the mean curve's slope.

        It is known where the parameters are not: a floor and an exponent can trade, the slope among the points cannot.
        """
        axes, shape = self._axes(x)
        ends = [axes * np.exp(step * np.eye(len(axes))[0])[:, None] for step in (STEP, -STEP)]

        def slopes(params: np.ndarray) -> np.ndarray:
            up, down = (self.form.values(end, params) for end in ends)
            with np.errstate(divide="ignore", invalid="ignore"):  # where y is 0 it has no logarithm
                return np.asarray((up - down) / (STEP * (up + down)))

        mean = slopes(np.array(list(self.params.values())))
        nothing = np.full_like(mean, np.nan)
        low, high = central(slopes(self.draws), level) if len(self.draws) else (nothing, nothing)
        return Prediction(mean.reshape(shape), low.reshape(shape), high.reshape(shape))

    def derived(self, level: float = 0.95) -> dict[str, tuple[float, float, float]]:
        """What follows from the parameters, for instance a turning point: {name: (value, low, high)}.

        low and high are quantiles of the draws; NaN without draws.
        """
        out = {}
        for name, function in self.form.derived.items():
            value = float(function(np.array(list(self.params.values()))))
            low, high = central(function(self.draws), level) if len(self.draws) else (np.nan, np.nan)
            out[name] = (value, float(low), float(high))
        return out

    def _axes(self, x: Any) -> tuple[np.ndarray, tuple[int, ...]]:
        values = np.asarray(x, float)
        count = len(self.x)
        if count > 1 and (values.ndim == 0 or values.shape[0] != count):
            raise TableError(f"predict: this law has the axes {', '.join(self.x)}; give x with {count} rows")
        shape = values.shape if count == 1 else values.shape[1:]
        axes = values.reshape(count, -1)
        if not np.all(np.isfinite(axes) & (axes > 0)):
            raise TableError("predict: x must be finite and above 0")
        return axes, shape

    @overload
    def predict(self, x: Any, interval: None = None) -> np.ndarray: ...
    @overload
    def predict(self, x: Any, interval: float) -> Prediction: ...
    def predict(self, x: Any, interval: float | None = None) -> np.ndarray | Prediction:
        """The law at x. With `interval`, also the prediction interval for *one new run* (its seed noise included).

        x: any shape; for laws with several axes, shape (axes, ...). Returns float64 of that shape, or a Prediction.
        """
        axes, shape = self._axes(x)
        mean = self.form.values(axes, np.array(list(self.params.values()))).reshape(shape)
        if interval is None:
            return mean
        if not len(self.draws):
            return Prediction(mean, np.full(shape, np.nan), np.full(shape, np.nan))
        curves = np.repeat(self.form.values(axes, self.draws), NOISE_REPEATS, axis=0)
        scores = normal_scores(len(curves), seed=self.options["seed"] + 1)
        noise = (np.repeat(self.noise_draws, NOISE_REPEATS) * scores)[:, None] * self.noise_scale(mean.reshape(-1))
        low, high = central(shift(self.form, curves, noise), interval)
        return Prediction(mean, low.reshape(shape), high.reshape(shape))

    def noise_scale(self, values: np.ndarray) -> np.ndarray:
        """Sd of a new run where the law has `values` (n,), over that of a run of weight 1: (n,).

        1 unless the number of trials is known: a recall near 0 or 1 then scatters less than one near 1/2.
        """
        if self.noise.get("trials") is None:
            return np.ones_like(values)
        logs, error = self.form.residuals == "log", self.transform == "error"
        variance = share_variance(values, self.noise["trials"], error=error, logs=logs) + self.noise["beyond"]
        return np.sqrt(variance / self.noise["known"])

    def band(self, x: Any, level: float = 0.95) -> Prediction:
        """The law at x with the interval of its *mean*: where the curve lies, not where a new run will."""
        axes, shape = self._axes(x)
        mean = self.predict(x)
        if not len(self.draws):
            return Prediction(mean, np.full(shape, np.nan), np.full(shape, np.nan))
        low, high = central(self.form.values(axes, self.draws), level)
        return Prediction(mean, low.reshape(shape), high.reshape(shape))

    def summary(self) -> str:
        """The fit in words and numbers, a few lines of text."""
        from analysis.words import fit_summary

        return fit_summary(self)

    def plot(self, ax: Axes) -> None:
        """Draw the runs, the curve, the band of the mean and the prediction interval onto matplotlib axes."""
        from analysis.figures import draw_fit

        draw_fit(ax, self)

    def to_dict(self) -> dict[str, Any]:
        """What `save` writes: plain JSON types only."""
        points = self.points
        return {
            "format": FORMAT,
            "law": self.law,
            "formula": self.form.formula,
            "params": self.params,
            "level": self.level,
            "intervals": {name: list(ends) for name, ends in self.intervals(self.level).items()},
            "objective": self.objective,
            "n": self.n,
            "clusters": self.clusters,
            "warnings": list(self.warnings),
            "checklist": self.checklist,
            "diagnostics": self.diagnostics,
            "noise": self.noise,
            "holdout": self.holdout,
            "x": list(self.x),
            "y": self.y,
            "transform": self.transform,
            "options": self.options,
            "data_hash": self.data_hash,
            "points": {
                "x": points.x.tolist(),
                "y": points.y.tolist(),
                "cluster": list(points.cluster),
                "held": points.held.tolist(),
                "passes": points.passes.tolist(),
                "weights": points.weights.tolist(),
            },
            "draws": self.draws.tolist(),
            "noise_draws": self.noise_draws.tolist(),
        }

    def save(self, path: str | Path) -> Path:
        """Write the fit as JSON; a NaN is written as null, so that any reader takes it."""
        return write_saved(path, plain(self.to_dict()))

    @classmethod
    def load(cls, path: str | Path) -> Fit:
        """Read a saved fit.

        Raises:
            TableError: the file is missing, is no saved fit, or its law is not registered here.
        """
        with damaged(path):
            return cls.from_dict(read_saved(path, FORMAT))

    @classmethod
    def from_dict(cls, data: dict[str, Any], laws: Mapping[str, Law] | None = None) -> Fit:
        """The fit behind what `to_dict` gave, as JSON has it; its law is one of `laws` or a registered one.

        Raises:
            TableError: its law is neither.
        """
        points = data["points"]
        return cls(
            form=(laws or {}).get(data["law"]) or get_law(data["law"]),
            params={name: _number(value) for name, value in data["params"].items()},
            x=tuple(data["x"]),
            y=data["y"],
            transform=data["transform"],
            n=data["n"],
            clusters=data["clusters"],
            objective=data["objective"],
            diagnostics=data["diagnostics"],
            noise=data["noise"],
            warnings=tuple(data["warnings"]),
            checklist=data["checklist"],
            options=data["options"],
            data_hash=data["data_hash"],
            points=Points(
                np.array(points["x"], float),
                np.array(points["y"], float),
                tuple(points["cluster"]),
                np.array(points["held"], bool),
                np.array(points["passes"], float),
                np.array(points["weights"], float),
            ),
            draws=np.array(data["draws"], float).reshape(-1, len(data["params"])),
            noise_draws=np.array(data["noise_draws"], float),
            holdout=data["holdout"],
            level=data["level"],
        )


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)
