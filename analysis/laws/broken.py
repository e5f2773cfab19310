"""Laws that bend: M4 (Alabdulmohsin et al. 2022) and smoothly broken power laws (Caballero et al. 2023)."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np

from analysis.laws.law import Law, Param, register

NEWTON_STEPS = 40
FAR = 700.0  # beyond it e^z leaves the range of floats


def _log_sigmoid(z: np.ndarray) -> np.ndarray:
    return -np.logaddexp(0.0, -z)


def _m4_place(
    x: np.ndarray, E: np.ndarray, Y0: np.ndarray, A: np.ndarray, alpha: np.ndarray, c: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """z with y = E + (Y0 - E) sigmoid(z), and log(Y0 - E).

    In z the law reads z - (1 - alpha) log(1 + e^z) = log A - c log x - (1 - alpha) log(Y0 - E): increasing, and curved one
    way only, so that Newton's iteration moves from the better of its two asymptotes to the root without overshooting.
    """
    span = np.log(np.maximum(Y0 - E, 1e-300))
    target = np.log(A) - c * np.log(x) - (1 - alpha) * span
    ends = target, target / np.maximum(alpha, 1e-3)
    z = np.clip(np.where(alpha <= 1, np.maximum(*ends), np.minimum(*ends)), -FAR, FAR)
    for _ in range(NEWTON_STEPS):
        grown = np.exp(z)
        slope = 1 - (1 - alpha) * (grown / (1 + grown))
        step = (z - (1 - alpha) * np.log1p(grown) - target) / (slope + 1e-12)
        z = np.clip(z - step, -FAR, FAR)
        if np.nanmax(np.abs(step) / (1 + np.abs(z)), initial=0.0) < 1e-13:
            break
    return z, span


def _m4(x: np.ndarray, E: np.ndarray, Y0: np.ndarray, A: np.ndarray, alpha: np.ndarray, c: np.ndarray) -> np.ndarray:
    z, _ = _m4_place(x, E, Y0, A, alpha, c)
    return E + (Y0 - E) * np.exp(_log_sigmoid(z))


def _m4_gradient(
    x: np.ndarray, E: np.ndarray, Y0: np.ndarray, A: np.ndarray, alpha: np.ndarray, c: np.ndarray
) -> tuple[np.ndarray, ...]:
    z, span = _m4_place(x, E, Y0, A, alpha, c)
    s = np.exp(_log_sigmoid(z))
    moves = (Y0 - E) * s * (1 - s) / ((1 - s) + alpha * s + 1e-12)  # dy / dtarget
    per_span = (1 - alpha) / np.maximum(Y0 - E, 1e-300)
    return (
        1 - s + moves * per_span,
        s - moves * per_span,
        moves / A,
        moves * (span + _log_sigmoid(-z)),
        -moves * np.log(x),
    )


def _m4_starts(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    rows = []
    for share, above, alpha in itertools.product((0.0, 0.5, 0.9), (1.02, 1.3, 3.0), (0.1, 0.6, 1.0)):
        E, Y0 = share * y.min(), above * y.max()
        v = np.log(y - E) - alpha * np.log(Y0 - y)
        slope = np.polyfit(np.log(x), v, 1)[0] if len(np.unique(x)) > 1 else -0.3
        c = float(np.clip(-slope, 0.02, 5.0))
        rows.append([E, Y0, np.exp(np.mean(v + c * np.log(x))), alpha, c])
    return np.array(rows)


def _m4_rescale(params: np.ndarray, axis_scales: np.ndarray, y_scale: float) -> np.ndarray:
    E, Y0, A, alpha, c = (params[..., k] for k in range(5))
    # (y - E) / (Y0 - y)^alpha = A x^-c has the unit of y^(1 - alpha).
    return np.stack([E * y_scale, Y0 * y_scale, A * y_scale ** (1 - alpha) * axis_scales[0] ** c, alpha, c], axis=-1)


def _broken(x: np.ndarray, E: np.ndarray, A: np.ndarray, c0: np.ndarray, *breaks: np.ndarray) -> np.ndarray:
    u = np.log(x)
    power = -c0 * u
    for c, d, f in zip(breaks[::3], breaks[1::3], breaks[2::3], strict=True):
        power = power - c * f * np.logaddexp(0.0, (u - np.log(d)) / f)
    return E + A * np.exp(power)


def _broken_gradient(
    x: np.ndarray, E: np.ndarray, A: np.ndarray, c0: np.ndarray, *breaks: np.ndarray
) -> tuple[np.ndarray, ...]:
    u = np.log(x)
    power, parts = -c0 * u, []
    for c, d, f in zip(breaks[::3], breaks[1::3], breaks[2::3], strict=True):
        w = (u - np.log(d)) / f
        soft = np.logaddexp(0.0, w)
        turned = np.exp(w - soft)  # sigmoid(w)
        power = power - c * f * soft
        parts += [-f * soft, c * turned / d, -c * (soft - w * turned)]
    shape = np.exp(power)
    return np.ones_like(shape), shape, -A * shape * u, *(A * shape * part for part in parts)


def _broken_starts(count: int):  # type: ignore[no-untyped-def]
    def starts(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        u = np.log(x)
        inner = np.linspace(u.min(), u.max(), 6)[1:-1]
        rows = []
        for share, at in itertools.product((0.0, 0.7), itertools.combinations(inner, count)):
            E = share * y.min()
            v = np.log(y - E)
            knots = np.maximum(u[:, None] - np.array(at)[None], 0.0)
            design = np.column_stack([np.ones_like(u), u, knots])  # the broken line that the law smooths
            found = np.linalg.lstsq(design, v, rcond=None)[0]
            for f in (0.1, 0.5):
                breaks = [part for c, d in zip(-found[2:], at, strict=True) for part in (c, np.exp(d), f)]
                rows.append([E, np.exp(np.clip(found[0], -600, 600)), -found[1], *breaks])
        return np.array(rows)

    return starts


def _broken_rescale(params: np.ndarray, axis_scales: np.ndarray, y_scale: float) -> np.ndarray:
    scaled = params.copy()
    scaled[..., 0] *= y_scale
    scaled[..., 1] *= y_scale * axis_scales[0] ** params[..., 2]
    scaled[..., 4::3] *= axis_scales[0]
    return scaled


register(
    Law(
        name="m4",
        formula="(y - E) / (Y0 - y)^alpha = A x^-c",
        about="an error that leaves the level of chance Y0 in a bend, falls as a power, and nears a floor E",
        params=(
            Param("E", "nonnegative"),
            Param("Y0", "positive"),
            Param("A", "positive"),
            Param("alpha", "nonnegative", high=20.0),
            Param("c", "positive", low=1e-3, high=10.0),
        ),
        function=_m4,
        starts=_m4_starts,
        gradient=_m4_gradient,
        rescale=_m4_rescale,
        floor="E",
    )
)
_BREAK = (
    Param("c", "real", -20.0, 20.0),
    Param("d", "positive"),
    Param("f", "positive", 5e-2, 10.0),
)
for _count in (1, 2, 3):
    _breaks = [replace(param, name=f"{param.name}{k}") for k in range(1, _count + 1) for param in _BREAK]
    register(
        Law(
            name="broken_power" if _count == 1 else f"broken_power_{_count}",
            formula="y = E + A x^-c0 " + " ".join(
                f"(1 + (x / d{k})^(1 / f{k}))^(-c{k} f{k})" for k in range(1, _count + 1)
            ),
            about=f"a power law whose exponent changes smoothly at {_count} break{'s' if _count > 1 else ''}",
            params=(Param("E", "nonnegative"), Param("A", "positive"), Param("c0", low=-20.0, high=20.0), *_breaks),
            function=_broken,
            starts=_broken_starts(_count),
            gradient=_broken_gradient,
            rescale=_broken_rescale,
            floor="E",
        )
    )  # fmt: skip
