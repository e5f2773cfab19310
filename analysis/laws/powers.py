"""Laws on one axis: the line in log x, powers with and without a floor, bounded, and turning."""

from __future__ import annotations

import numpy as np

from analysis.laws.law import Law, Param, register


def _line_starts(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    u = np.log(x)
    slope = np.cov(u, y)[0, 1] / max(np.var(u, ddof=1), 1e-300)
    return np.array([[y.mean() - slope * u.mean(), slope], [y.mean(), 0.0]])


def _line_rescale(params: np.ndarray, axis_scales: np.ndarray, y_scale: float) -> np.ndarray:
    a, b = params[..., 0] * y_scale, params[..., 1] * y_scale
    return np.stack([a - b * np.log(axis_scales[0]), b], axis=-1)


def _power_starts(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    alphas = np.array([-0.5, 0.0, 0.1, 0.3, 1.0])
    return np.array([[np.exp(np.mean(np.log(y) + alpha * np.log(x))), alpha] for alpha in alphas])


def _power_rescale(params: np.ndarray, axis_scales: np.ndarray, y_scale: float) -> np.ndarray:
    alpha = params[..., 1]
    return np.stack([params[..., 0] * y_scale * axis_scales[0] ** alpha, alpha], axis=-1)


def _power_gradient(x: np.ndarray, A: np.ndarray, alpha: np.ndarray) -> tuple[np.ndarray, ...]:
    shape = x**-alpha
    return shape, -A * shape * np.log(x)


def _floor_starts(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A grid over the floor (as a share of the least y) and the exponent; A follows from the two."""
    rows = []
    for share in (0.0, 0.2, 0.5, 0.8, 0.95):
        E = share * y.min()
        for alpha in (0.05, 0.15, 0.3, 0.5, 0.8, 1.3):
            rows.append([E, np.exp(np.mean(np.log(y - E) + alpha * np.log(x))), alpha])
    return np.array(rows)


def _floor_rescale(params: np.ndarray, axis_scales: np.ndarray, y_scale: float) -> np.ndarray:
    return np.concatenate([params[..., :1] * y_scale, _power_rescale(params[..., 1:], axis_scales, y_scale)], axis=-1)


def _floor_gradient(x: np.ndarray, E: np.ndarray, A: np.ndarray, alpha: np.ndarray) -> tuple[np.ndarray, ...]:
    shape = x**-alpha
    return np.ones_like(shape), shape, -A * shape * np.log(x)


def _bounded(x: np.ndarray, low: np.ndarray, high: np.ndarray, x0: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    return high - (high - low) * np.exp(-alpha * np.log1p(x / x0))


def _bounded_gradient(
    x: np.ndarray, low: np.ndarray, high: np.ndarray, x0: np.ndarray, alpha: np.ndarray
) -> tuple[np.ndarray, ...]:
    grown = np.log1p(x / x0)
    left = np.exp(-alpha * grown)
    return left, 1 - left, -(high - low) * left * alpha * (x / x0) / (x0 + x), (high - low) * left * grown


def _bounded_starts(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    rows = []
    for low in (0.0, 0.9 * y.min()):
        for high in (min(1.0, 1.05 * y.max()), min(1.0, 1.5 * y.max()), 1.0):
            for x0 in np.quantile(x, [0.0, 0.5, 1.0]):
                rows += [[low, high, x0, alpha] for alpha in (0.1, 0.3, 1.0)]
    return np.array(rows)


def _bounded_rescale(params: np.ndarray, axis_scales: np.ndarray, y_scale: float) -> np.ndarray:
    scaled = params.copy()
    scaled[..., 2] = np.minimum(scaled[..., 2], 1e290) * axis_scales[0]  # a wild draw's x0 may be as large as floats go
    return scaled


def _peaked_starts(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    u, v = np.log(x), np.log(y)
    c, b, a = np.polyfit(u, v, 2) if len(np.unique(u)) > 2 else (0.0, *np.polyfit(u, v, 1))
    return np.array([[np.exp(a), -b, c], [np.exp(v.mean()), 0.0, 0.0]])


def _peaked_rescale(params: np.ndarray, axis_scales: np.ndarray, y_scale: float) -> np.ndarray:
    s = np.log(axis_scales[0])
    A, alpha, c = params[..., 0], params[..., 1], params[..., 2]
    return np.stack([A * y_scale * np.exp(alpha * s + c * s * s), alpha + 2 * c * s, c], axis=-1)


def _peaked(x: np.ndarray, A: np.ndarray, alpha: np.ndarray, c: np.ndarray) -> np.ndarray:
    u = np.log(x)
    return A * np.exp(u * (c * u - alpha))


def _peaked_gradient(x: np.ndarray, A: np.ndarray, alpha: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, ...]:
    u = np.log(x)
    shape = np.exp(u * (c * u - alpha))
    return shape, -A * shape * u, A * shape * u * u


def _turning_point(params: np.ndarray) -> np.ndarray:
    """Where the log-parabola turns; as far away as floats go where it hardly bends."""
    with np.errstate(all="ignore"):
        return np.exp(np.clip(np.nan_to_num(params[..., 1] / (2 * params[..., 2])), -600.0, 600.0))


register(
    Law(
        name="log_line",
        formula="y = a + b log x",
        about="a straight line in log x: the baseline that a law must beat",
        params=(Param("a"), Param("b")),
        function=lambda x, a, b: a + b * np.log(x),
        starts=_line_starts,
        residuals="linear",
        gradient=lambda x, a, b: (np.ones_like(np.log(x) * b), np.log(x) * np.ones_like(b)),
        rescale=_line_rescale,
    )
)
register(
    Law(
        name="power",
        formula="y = A x^-alpha",
        about="a power law that goes to zero",
        params=(Param("A", "positive"), Param("alpha", low=-10.0, high=10.0)),
        function=lambda x, A, alpha: A * x**-alpha,
        starts=_power_starts,
        gradient=_power_gradient,
        rescale=_power_rescale,
    )
)
register(
    Law(
        name="power_floor",
        formula="y = E + A x^-alpha",
        about="a power law down to an irreducible floor E >= 0",
        params=(Param("E", "nonnegative"), Param("A", "positive"), Param("alpha", "positive", low=1e-3, high=10.0)),
        function=lambda x, E, A, alpha: E + A * x**-alpha,
        starts=_floor_starts,
        gradient=_floor_gradient,
        rescale=_floor_rescale,
        floor="E",
    )
)
register(
    Law(
        name="bounded_power",
        formula="y = high - (high - low) (1 + x / x0)^-alpha",
        about="a metric that leaves chance level (low) and nears a ceiling (high <= 1): recall, AUC, accuracy",
        params=(
            Param("low", "nonnegative", high=1.0),
            Param("high", "positive", high=1.0),
            Param("x0", "positive"),
            Param("alpha", "positive", low=1e-3, high=10.0),
        ),
        function=_bounded,
        starts=_bounded_starts,
        residuals="linear",
        gradient=_bounded_gradient,
        rescale=_bounded_rescale,
        y_scaled=False,
    )
)
register(
    Law(
        name="peaked_power",
        formula="y = A x^(-alpha + c log x)",
        about="a power law that turns: better up to a point, worse beyond it",
        params=(Param("A", "positive"), Param("alpha"), Param("c")),
        function=_peaked,
        starts=_peaked_starts,
        gradient=_peaked_gradient,
        rescale=_peaked_rescale,
        derived={"turning point": _turning_point},
    )
)
