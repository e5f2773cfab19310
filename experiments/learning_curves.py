"""The public learning curves of vision models (Alabdulmohsin et al. 2022): reading them, and judging methods on them.

A method is fitted on the points with `Training` = 1 and judged by its root mean square log error on the others. All 72
curves are of one domain, IC (image classification): its mean is the plain mean over the curves.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

import analysis
from analysis.solver import Loss

CURVES, OFFICIAL = "learning_curves_vision.csv", "learning_curves_vision_official.csv"
CURVE_COLUMNS = ("Domain", "Task", "Model", "Seen Examples", "Loss", "Training")
OFFICIAL_COLUMNS = ("domain", "task", "model", "method", "rmsle")
OFFICIAL_METHODS = ("M1", "M2", "M3", "M4")
OURS = "ours: analysis.extrapolate"

Method = Callable[[pl.DataFrame, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Curve:
    """One curve: `train` and `test` with `seen` (examples) and `error`, and the RMSLE of the official code by method."""

    name: str
    domain: str
    train: pl.DataFrame
    test: pl.DataFrame
    official: Mapping[str, float]

    @property
    def developed_on(self) -> bool:
        """Whether `analysis.extrapolate` was developed on it: the half of the names with an even SHA-256."""
        return int(hashlib.sha256(self.name.encode()).hexdigest(), 16) % 2 == 0

    @property
    def finished(self) -> bool:
        """Whether the official code has a result of M4 for it."""
        return "M4" in self.official


def read_curves(table: pl.DataFrame, official: pl.DataFrame) -> list[Curve]:
    """The curves in the order of the file, with `CURVE_COLUMNS` and `OFFICIAL_COLUMNS` of the two public files."""
    measured: dict[tuple[str, str, str], dict[str, float]] = {}
    for row in official.iter_rows(named=True):
        measured.setdefault((row["domain"], row["task"], row["model"]), {})[row["method"]] = row["rmsle"]
    curves = []
    for key, part in table.group_by("Domain", "Task", "Model", maintain_order=True):
        domain, task, model = map(str, key)
        points = part.select(seen="Seen Examples", error="Loss", training="Training")
        train, test = (points.filter(pl.col("training") == flag).drop("training") for flag in (1, 0))
        found = measured.get((domain, task, model), {})
        curves.append(Curve(f"{domain}/{task}/{model}", domain, train, test, found))
    return curves


def by_law(law: str, loss: Loss = "squares", delta: float | None = None) -> Method:
    """The method that fits one law to the training points."""

    def foretell(train: pl.DataFrame, x: np.ndarray) -> np.ndarray:
        fit = analysis.fit(train, x="seen", y="error", law=law, loss=loss, delta=delta, resamples=0)
        return fit.predict(x)

    return foretell


def ours(train: pl.DataFrame, x: np.ndarray) -> np.ndarray:
    """The automatic choice: it is handed the training points and where to foretell, and nothing else."""
    return analysis.extrapolate(train, x="seen", y="error").predict(x)


METHODS: Mapping[str, Method] = {
    "log-log line": by_law("power"),
    "offset, least squares": by_law("power_floor"),
    "offset, Huber 1e-3": by_law("power_floor", "huber", 1e-3),
    OURS: ours,
}


def judge(method: str, curve: Curve) -> float:
    """RMSLE of a method on the test points of a curve."""
    foretold = METHODS[method](curve.train, curve.test["seen"].to_numpy())
    return float(np.sqrt(np.mean((np.log(foretold) - np.log(curve.test["error"].to_numpy())) ** 2)))
