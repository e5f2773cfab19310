"""Laws: functional forms that can be fitted. A law is a small frozen record; adding one takes a few lines.

A law's function takes its axes first and then its parameters, as `scipy.optimize.curve_fit` has it, and must broadcast:

    >>> from analysis.laws import Law, Param, register
    >>> register(Law(
    ...     name="exponential", formula="y = A exp(-k x)", about="decay at a constant rate",
    ...     params=(Param("A", "positive"), Param("k", "positive")),
    ...     function=lambda x, A, k: A * np.exp(-k * x),
    ...     starts=lambda x, y: np.array([[y.max(), k] for k in (0.1, 1.0, 10.0)]),
    ... )).name
    'exponential'
    >>> del LAWS["exponential"]
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from analysis.table import TableError

Domain = Literal["real", "positive", "nonnegative"]


@dataclass(frozen=True)
class Param:
    """A parameter: its domain decides how the solver moves it (positive: in logs; nonnegative: stopped at 0)."""

    name: str
    domain: Domain = "real"
    low: float = -np.inf
    high: float = np.inf


@dataclass(frozen=True)
class Law:
    """A functional form.

    `starts(*axes, y)` gives natural parameters, shape (starts, params). `gradient(*axes, *params)` gives the partial
    derivatives by the natural parameters; without it they come from a complex step, exact but slower. `rescale(params,
    axis_scales, y_scale)` turns parameters fitted to x / axis_scale and y / y_scale into those of x and y; a law
    without it is fitted in the units of the table. `residuals` is the space in which errors are measured.
    """

    name: str
    formula: str
    about: str
    params: tuple[Param, ...]
    function: Callable[..., np.ndarray]
    starts: Callable[..., np.ndarray]
    axes: int = 1
    residuals: Literal["log", "linear"] = "log"
    gradient: Callable[..., tuple[np.ndarray, ...]] | None = None
    rescale: Callable[[np.ndarray, np.ndarray, float], np.ndarray] | None = None
    floor: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(param.name for param in self.params)

    def values(self, axes: np.ndarray, params: np.ndarray) -> np.ndarray:
        """The law at axes (axes, n) for params (..., p): shape (..., n)."""
        return self.function(*axes, *(params[..., k, None] for k in range(len(self.params))))


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


LAWS: dict[str, Law] = {}


def register(law: Law) -> Law:
    """Make a law known under its name.

    Raises:
        TableError: the name is taken.
    """
    if law.name in LAWS:
        raise TableError(f"law {law.name!r} is already registered")
    LAWS[law.name] = law
    return law


def get_law(law: str | Law) -> Law:
    """The law of that name.

    Raises:
        TableError: no law has that name; the message lists those that exist.
    """
    if isinstance(law, Law):
        return law
    if law not in LAWS:
        raise TableError(f"no law {law!r}; laws: {', '.join(sorted(LAWS))}")
    return LAWS[law]


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
