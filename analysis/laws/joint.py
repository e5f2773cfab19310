"""Laws on several axes: sums of powers over a floor. Their coefficients are linear once the exponents are chosen."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from analysis.laws.law import Law, Param, register

EXPONENTS = (0.05, 0.15, 0.3, 0.5, 0.9)


def project(columns_SxNxK: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Variable projection: for each member, the coefficients (S, K) > 0 that fit y best in relative squares."""
    scaled = columns_SxNxK / y[None, :, None]
    gram = np.swapaxes(scaled, 1, 2) @ scaled
    gram = gram + 1e-10 * np.trace(gram, axis1=1, axis2=2)[:, None, None] * np.eye(gram.shape[-1])
    found = np.linalg.solve(gram, scaled.sum(axis=1)[..., None])[..., 0]
    least = 1e-3 / np.maximum(scaled.mean(axis=1), 1e-300)  # a coefficient that the sign forbids starts small
    return np.maximum(found, least)


def _sum_starts(count: int):  # type: ignore[no-untyped-def]
    def starts(*axes_and_y: np.ndarray) -> np.ndarray:
        *axes, y = axes_and_y
        exponents = np.array(list(itertools.product(EXPONENTS, repeat=count)))
        powers = [np.exp(-exponents[:, k, None] * np.log(axis)) for k, axis in enumerate(axes)]
        columns = np.stack([np.ones_like(powers[0]), *powers], axis=-1)
        found = project(columns, y)
        pairs = [part for k in range(count) for part in (found[:, k + 1], exponents[:, k])]
        return np.stack([np.minimum(found[:, 0], 0.98 * y.min()), *pairs], axis=-1)

    return starts


def _sum(*args: np.ndarray) -> np.ndarray:
    axes, (E, *pairs) = _split(args)
    total = E
    for axis, A, alpha in zip(axes, pairs[::2], pairs[1::2], strict=True):
        total = total + A * np.exp(-alpha * np.log(axis))
    return total


def _split(args: Sequence[np.ndarray]) -> tuple[Sequence[np.ndarray], Sequence[np.ndarray]]:
    """k axes and 1 + 2 k parameters."""
    count = (len(args) - 1) // 3
    return args[:count], args[count:]


def _sum_gradient(*args: np.ndarray) -> tuple[np.ndarray, ...]:
    axes, (_, *pairs) = _split(args)
    parts: list[np.ndarray] = []
    for axis, A, alpha in zip(axes, pairs[::2], pairs[1::2], strict=True):
        u = np.log(axis)
        shape = np.exp(-alpha * u)
        parts += [shape, -A * shape * u]
    return np.ones_like(parts[0]), *parts


def _sum_rescale(params: np.ndarray, axis_scales: np.ndarray, y_scale: float) -> np.ndarray:
    scaled = params * 1.0
    scaled[..., 0] *= y_scale
    for k, scale in enumerate(axis_scales):
        scaled[..., 1 + 2 * k] *= y_scale * scale ** params[..., 2 + 2 * k]
    return scaled


def _over(N: np.ndarray, M: np.ndarray, E: np.ndarray, a: np.ndarray, b: np.ndarray, eta: np.ndarray) -> np.ndarray:
    return E + a * np.exp(-eta * np.log(N)) + b * np.exp(-eta * (np.log(N * M) + 0.5 * np.log(6.0)))


def _over_gradient(
    N: np.ndarray, M: np.ndarray, E: np.ndarray, a: np.ndarray, b: np.ndarray, eta: np.ndarray
) -> tuple[np.ndarray, ...]:
    u, v = np.log(N), np.log(N * M) + 0.5 * np.log(6.0)
    by_N, by_D = np.exp(-eta * u), np.exp(-eta * v)
    return np.ones_like(by_N), by_N, by_D, -a * by_N * u - b * by_D * v


def _over_starts(N: np.ndarray, M: np.ndarray, y: np.ndarray) -> np.ndarray:
    eta = np.array([0.03, 0.08, 0.15, 0.25, 0.35, 0.5, 0.8])[:, None]
    columns = np.stack(
        [np.ones((len(eta), len(y))), np.exp(-eta * np.log(N)), np.exp(-eta * (np.log(N * M) + 0.5 * np.log(6.0)))],
        axis=-1,
    )
    found = project(columns, y)
    return np.column_stack([np.minimum(found[:, 0], 0.98 * y.min()), found[:, 1], found[:, 2], eta])


def _over_rescale(params: np.ndarray, axis_scales: np.ndarray, y_scale: float) -> np.ndarray:
    N, M = axis_scales
    E, a, b, eta = (params[..., k] for k in range(4))
    return np.stack([E * y_scale, a * y_scale * N**eta, b * y_scale * (N * M) ** eta, eta], axis=-1)


def _register_sum(name: str, formula: str, about: str, pairs: Sequence[tuple[str, str]]) -> None:
    params = [Param("E", "nonnegative")]
    for coefficient, exponent in pairs:
        params += [Param(coefficient, "positive"), Param(exponent, "positive", 1e-3, 10.0)]
    register(
        Law(
            name=name,
            formula=formula,
            about=about,
            params=tuple(params),
            function=_sum,
            starts=_sum_starts(len(pairs)),
            axes=len(pairs),
            gradient=_sum_gradient,
            rescale=_sum_rescale,
            floor="E",
        )
    )


_register_sum(
    "chinchilla",
    "y = E + A N^-alpha + B D^-beta",
    "loss over model size N and data D (Hoffmann et al. 2022, approach 3); --x N D",
    (("A", "alpha"), ("B", "beta")),
)
_register_sum(
    "additive_3",
    "y = E + A x1^-alpha + B x2^-beta + C x3^-gamma",
    "an error over three axes at once: training tokens, negatives, history length",
    (("A", "alpha"), ("B", "beta"), ("C", "gamma")),
)
register(
    Law(
        name="over_training",
        formula="y = E + a N^-eta + b 6^(-eta/2) (M N)^-eta",
        about="loss over model size N and over-training M = D / N (Gadre et al. 2024); --x N M",
        params=(
            Param("E", "nonnegative"),
            Param("a", "positive"),
            Param("b", "positive"),
            Param("eta", "positive", 1e-3, 10.0),
        ),
        function=_over,
        starts=_over_starts,
        axes=2,
        gradient=_over_gradient,
        rescale=_over_rescale,
        floor="E",
    )
)
