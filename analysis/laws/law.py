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

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
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
    without it is fitted in the units of the table. `residuals` is the space in which errors are measured. `y_scaled`
    False: y is a share, at most 1, and keeps its unit. `derived`: quantities with an interval of their own, as functions
    of natural parameters (..., p), for instance where a curve turns.
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
    y_scaled: bool = True
    derived: Mapping[str, Callable[[np.ndarray], np.ndarray]] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(param.name for param in self.params)

    def values(self, axes: np.ndarray, params: np.ndarray) -> np.ndarray:
        """The law at axes (axes, n) for params (..., p): shape (..., n); infinite where wild params take it beyond floats."""
        with np.errstate(all="ignore"):
            return self.function(*axes, *(params[..., k, None] for k in range(len(self.params))))


LAWS: dict[str, Law] = {}


def register(law: Law) -> Law:
    """Make a law known under its name.

    Raises:
        TableError: the name is taken.

    Example:
        >>> register(LAWS["power"])
        Traceback (most recent call last):
        analysis.table.TableError: law 'power' is already registered
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
