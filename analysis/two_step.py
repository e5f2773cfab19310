"""Two-step prediction: scale -> intermediate metric by a law, intermediate -> downstream metric by a link.

Gadre et al. (2024) foretell the loss by an over-training law and the mean error of 17 tasks from the loss by
Err = eps - k exp(-gamma L); the OLMo ladder (Bhagia et al. 2024) takes a sigmoid. What step 1 does not know is carried
through step 2: each draw of the intermediate meets a draw of the link.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from analysis.fitted import Fit, Prediction
from analysis.fitting import fit
from analysis.intervals import NOISE_REPEATS, central, normal_scores, shift
from analysis.laws import Law, Param
from analysis.saved import Saved, damaged, plain, read_saved, unplain
from analysis.table import TableError, numeric_column

if TYPE_CHECKING:
    import polars as pl
    from matplotlib.figure import Figure

TINY = 1e-12  # an intermediate that noise takes below 0 is held here: links are fitted above 0


@dataclass(frozen=True, eq=False)
class TwoStep(Saved):
    """A chain of two fits, and a one-step fit beside it. Made by `two_step` or `TwoStep.load`.

    rows, one a test run: `intermediate` and `y` as measured (after the transform), what each step foretold
    (`step1_hat`, `step2_hat` from the *measured* intermediate, `chained_hat` with `low, high`, `one_step_hat`), and the
    relative errors `step1, step2, chained, one_step` (foretold / measured - 1). Without a one-step fit its values are NaN.
    """

    FORMAT: ClassVar[str] = "analysis.two_step/1"

    first: Fit
    second: Fit
    one: Fit | None
    limits: tuple[float, float]
    rows: tuple[dict[str, float], ...]
    warnings: tuple[str, ...]
    level: float

    def predict(self, x: Any, interval: float | None = None) -> Prediction:
        """The downstream metric at x, shape as for `Fit.predict`; the interval, at `interval` or else the chain's own
        level, is that of *one new run*: its intermediate is drawn with noise, and its downstream metric about the link.
        """
        mean = self.second.predict(np.maximum(self.first.predict(x), TINY))
        low, high = self._ends(x, mean, self.level if interval is None else interval)
        return Prediction(*(np.clip(part, *self.limits) for part in (mean, low, high)))

    def _ends(self, x: Any, at: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
        shape, mean = at.shape, at.reshape(-1)
        if not (len(self.first.draws) and len(self.second.draws)):
            return np.full(shape, np.nan), np.full(shape, np.nan)
        axes, _ = self.first._axes(x)
        steps = [_draws(step, self.first.options["seed"] + k) for k, step in enumerate((self.first, self.second))]
        count = min(len(params) for params, _ in steps)
        (params, noise), (link, link_noise) = ((p[:count], n[:count, None]) for p, n in steps)
        noise = noise * self.first.noise_scale(np.ravel(self.first.predict(x)))
        middle = np.maximum(shift(self.first.form, self.first.form.values(axes, params), noise), TINY)
        ends = self.second.form.function(middle, *(link[:, k, None] for k in range(link.shape[1])))
        low, high = central(shift(self.second.form, ends, link_noise * self.second.noise_scale(mean)), level)
        return low.reshape(shape), high.reshape(shape)

    def to_dict(self) -> dict[str, Any]:
        """What `save` writes: plain JSON types, the fits whole."""
        fits = {name: None if fit is None else fit.to_dict() for name, fit in self._fits().items()}
        document: dict[str, Any] = plain({
            "format": self.FORMAT, **fits, "limits": self.limits, "rows": self.rows, "warnings": self.warnings,
            "level": self.level,
        })  # fmt: skip
        return document

    def _fits(self) -> dict[str, Fit | None]:
        return {"first": self.first, "second": self.second, "one": self.one}

    @classmethod
    def load(cls, path: str | Path) -> TwoStep:
        """Read a saved chain.

        Raises:
            TableError: the file is missing or holds something else, or a law is not registered here.
        """
        data = read_saved(path, cls.FORMAT)
        with damaged(path):
            links = {law.name: law for law in LINKS.values()}
            first, second, one = (
                None if data[name] is None else Fit.from_dict(data[name], links) for name in ("first", "second", "one")
            )
            assert first is not None
            assert second is not None
            rest: dict[str, Any] = {name: unplain(data[name]) for name in ("limits", "rows", "warnings", "level")}
            return cls(first, second, one, **rest)

    def figure(self, title: str | None = None) -> Figure:
        """Both steps with their curves, and what was foretold against what was measured."""
        from analysis.compute_figures import two_step_figure

        return two_step_figure(self, title)

    def table(self) -> pl.DataFrame:
        """The rows as a table."""
        import polars as pl

        return pl.DataFrame(list(self.rows))

    def summary(self) -> str:
        """Both steps, the errors on the test runs and what speaks against the chain, as text."""
        lines = [f"{', '.join(self.first.x)} -> {self.first.y}: {self.first.form.formula}"]
        lines.append(f"{self.second.x[0]} -> {self.second.y_label}: {self.second.form.formula}")
        for row in self.rows:
            ends = f"[{row['low']:.4g}, {row['high']:.4g}]"
            steps = ("step1", "step2", "chained", *(["one_step"] if self.one is not None else []))
            errors = ", ".join(f"{name} {row[name]:+.2%}" for name in steps)
            lines.append(f"  {row['y']:.4g} foretold {row['chained_hat']:.4g} {ends}: {errors}")
        return "\n".join([*lines, *(f"  warning: {warning}" for warning in self.warnings)])


def two_step(
    table: pl.DataFrame,
    *,
    x: str | Sequence[str],
    intermediate: str,
    y: str,
    first: str | Law = "chinchilla",
    second: Literal["exponential", "sigmoid", "line"] | Law = "exponential",
    one_step: str | Law | None = None,
    transform: Literal["identity", "error"] = "identity",
    second_table: pl.DataFrame | None = None,
    test: pl.DataFrame | None = None,
    pin: Mapping[str, float] | None = None,
    limits: tuple[float, float] = (-np.inf, np.inf),
    cluster: str | None = None,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> TwoStep:
    """Foretell a downstream metric from scale by way of an intermediate one.

    Args:
        table: the runs of step 1, one row each, with the columns of `x` and `intermediate`.
        first: the law of the intermediate over x; second: the link, a name in `LINKS` or a Law on one axis.
        one_step: the law of y over x directly, fitted to the rows of step 2; none if not given.
        transform: of y: "error" foretells 1 - y.
        second_table: the runs of step 2 (they may be more, for instance checkpoints); without it those of step 1.
        test: runs that neither step has seen; their errors are reported.
        pin: parameters of the link that are known: its chance level (`eps`, or `low`) or what lies between chance and
            ceiling (`span`).
        limits: chance level and ceiling of y (after the transform): no prediction leaves them.

    Returns:
        A TwoStep.

    Raises:
        TableError: as `analysis.fit`, for either step; or the limits are not low < high.

    Example:
        >>> import analysis, numpy as np, polars
        >>> from analysis.two_step import two_step
        >>> C = np.geomspace(1e18, 1e22, 9)
        >>> loss = 2 + 4e3 * C**-0.2
        >>> runs = polars.DataFrame({"C": C, "loss": loss, "error": 0.8 - 2 * np.exp(-0.9 * loss)})
        >>> chain = two_step(runs, x="C", intermediate="loss", y="error", first="power_floor", test=runs.tail(1))
        >>> round(abs(chain.rows[0]["chained"]), 6)
        0.0
    """
    if not limits[0] < limits[1]:
        raise TableError(f"limits: give low < high, not {limits[0]} and {limits[1]}")
    later = table if second_table is None else second_table
    shared: dict[str, Any] = {"cluster": cluster, "resamples": resamples, "seed": seed}
    step1 = fit(table, x=x, y=intermediate, law=first, **shared)
    step2 = fit(later, x=intermediate, y=y, law=_link(second), transform=transform, pin=pin, **shared)
    direct = None if one_step is None else fit(later, x=x, y=y, law=one_step, transform=transform, **shared)
    warnings = [f"step {k}: {warning}" for k, step in ((1, step1), (2, step2)) for warning in step.warnings]
    chain = TwoStep(step1, step2, direct, limits, (), tuple(warnings), level)
    if test is None:
        return chain
    rows, outside = _tested(chain, test)
    return TwoStep(step1, step2, direct, limits, tuple(rows), (*warnings, *outside), level)


def _link(second: str | Law) -> Law:
    if isinstance(second, Law):
        return second
    if second not in LINKS:
        raise TableError(f"no link {second!r}; links: {', '.join(LINKS)}")
    return LINKS[second]


def _draws(step: Fit, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Parameters (draws, p) and the noise of a new run (draws,), in an order of their own: two steps pair at random."""
    count = len(step.draws) * NOISE_REPEATS
    order = np.random.default_rng(seed).permutation(count)
    noise = np.repeat(step.noise_draws, NOISE_REPEATS) * normal_scores(count, seed + 2)
    return np.repeat(step.draws, NOISE_REPEATS, axis=0)[order], noise[order]


def _tested(chain: TwoStep, test: pl.DataFrame) -> tuple[list[dict[str, float]], list[str]]:
    axes = np.stack([numeric_column(test, name, "test") for name in chain.first.x])
    at = axes if len(axes) > 1 else axes[0]
    middle, measured = (numeric_column(test, name, "test") for name in (chain.first.y, chain.second.y))
    y = 1 - measured if chain.second.transform == "error" else measured
    hat = {
        "step1": chain.first.predict(at),
        "step2": np.clip(chain.second.predict(middle), *chain.limits),
        "chained": chain.predict(at).mean,
        "one_step": np.full_like(y, np.nan) if chain.one is None else np.clip(chain.one.predict(at), *chain.limits),
    }
    truth = {"step1": middle, "step2": y, "chained": y, "one_step": y}
    _, low, high = chain.predict(at)
    columns = {name: axes[k] for k, name in enumerate(chain.first.x)} | {"intermediate": middle, "y": y}
    columns |= {f"{name}_hat": values for name, values in hat.items()} | {"low": low, "high": high}
    columns |= {name: values / truth[name] - 1 for name, values in hat.items()}
    rows = [{name: float(values[k]) for name, values in columns.items()} for k in range(len(y))]
    seen = chain.second.points.x[0]
    beyond = int(np.sum((hat["step1"] < seen.min()) | (hat["step1"] > seen.max())))
    told = f"{beyond} of {len(y)} test runs need the link beyond the {chain.first.y} that it was fitted on"
    return rows, [told] if beyond else []


def _projected(L: np.ndarray, y: np.ndarray, shapes: np.ndarray, rest: np.ndarray) -> np.ndarray:
    """Starts from shapes (starts, n): y = level + size * shape by least squares, then the parameters in `rest`."""
    rows = []
    for shape, others in zip(shapes, rest, strict=True):
        design = np.column_stack([np.ones_like(shape), shape])
        rows.append([*np.linalg.lstsq(design, y, rcond=None)[0], *others])
    return np.array(rows)


def _exponential_starts(L: np.ndarray, y: np.ndarray) -> np.ndarray:
    gamma = np.array([0.1, 0.5, 1.0, 2.0, 5.0]) / max(np.ptp(L), 1e-12)
    return _projected(L, y, -np.exp(-gamma[:, None] * L), gamma[:, None])


def _sigmoid_starts(L: np.ndarray, y: np.ndarray) -> np.ndarray:
    rest = np.array(
        [[k, at] for k in np.array([2.0, 5.0, 12.0]) / np.ptp(L) for at in np.quantile(L, [0, 0.3, 0.7, 1])]
    )
    found = _projected(L, y, 0.5 * (1 + np.tanh(0.5 * rest[:, :1] * (L - rest[:, 1:]))), rest)
    flip = found[:, 1] < 0  # the span is above 0, so a falling curve has k below 0
    found[flip, 0] += found[flip, 1]
    found[flip, 1:3] *= -1
    found[:, 1] = np.maximum(found[:, 1], 1e-6 * np.ptp(y) + 1e-12)
    return found


EXPONENTIAL = Law(
    name="link_exponential",
    formula="y = eps - k exp(-gamma L)",
    about="a downstream error that leaves its level at chance (eps) as the loss L falls (Gadre et al. 2024)",
    params=(Param("eps"), Param("k"), Param("gamma", "positive")),
    function=lambda L, eps, k, gamma: eps - k * np.exp(-gamma * L),
    starts=_exponential_starts,
    residuals="linear",
    rescale=lambda p, xs, ys: np.stack([p[..., 0] * ys, p[..., 1] * ys, p[..., 2] / xs[0]], axis=-1),
)
SIGMOID = Law(
    name="link_sigmoid",
    formula="y = low + span / (1 + exp(-k (L - middle)))",
    about="a downstream metric between chance and ceiling (Bhagia et al. 2024)",
    params=(Param("low"), Param("span", "positive"), Param("k"), Param("middle")),
    function=lambda L, low, span, k, middle: low + span * 0.5 * (1 + np.tanh(0.5 * k * (L - middle))),
    starts=_sigmoid_starts,
    residuals="linear",
    rescale=lambda p, xs, ys: np.stack([p[..., 0] * ys, p[..., 1] * ys, p[..., 2] / xs[0], p[..., 3] * xs[0]], axis=-1),
)
LINE = Law(
    name="link_line",
    formula="y = a + b L",
    about="a downstream metric in proportion to the intermediate one",
    params=(Param("a"), Param("b")),
    function=lambda L, a, b: a + b * L,
    starts=lambda L, y: np.array([np.polyfit(L, y, 1)[::-1], [y.mean(), 0.0]]),
    residuals="linear",
    rescale=lambda p, xs, ys: np.stack([p[..., 0] * ys, p[..., 1] * ys / xs[0]], axis=-1),
)
LINKS = {"exponential": EXPONENTIAL, "sigmoid": SIGMOID, "line": LINE}
