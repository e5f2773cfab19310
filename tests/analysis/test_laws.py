"""Every registered law: its gradient, its rescaling, and that it finds itself again from its own starts."""

import numpy as np
import polars as pl
import pytest

import analysis
from analysis.laws import LAWS, Law

# Typical values of each law's parameters, and where it is looked at.
TYPICAL: dict[str, tuple[float, ...]] = {
    "log_line": (3.0, -0.2),
    "power": (5.0, 0.3),
    "power_floor": (0.5, 20.0, 0.35),
    "bounded_power": (0.02, 0.8, 3e5, 0.4),
    "peaked_power": (40.0, 0.9, 0.03),
    "m4": (0.1, 1.1, 60.0, 0.7, 0.35),
    "broken_power": (0.2, 30.0, 0.05, 0.4, 1e6, 0.4),
    "broken_power_2": (0.1, 30.0, 0.02, 0.4, 1e5, 0.3, -0.3, 3e7, 0.3),
    "broken_power_3": (0.1, 30.0, 0.02, 0.4, 3e4, 0.3, -0.3, 1e6, 0.3, 0.5, 3e7, 0.2),
    "chinchilla": (1.8, 480.0, 0.35, 2000.0, 0.37),
    "additive_3": (0.1, 8.0, 0.3, 0.5, 0.7, 0.4, 0.25),
    "over_training": (1.8, 160.0, 360.0, 0.27),
}
AXES = {1: [(1e3, 1e9)], 2: [(1e7, 1e10), (1e9, 1e12)], 3: [(1e5, 1e9), (1, 1e3), (1, 1e3)]}


def axes_of(law: Law, n: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    ends = [(1e7, 1e10), (5, 600)] if law.name == "over_training" else AXES[law.axes]
    if law.axes == 1:
        return np.geomspace(*ends[0], n)[None]
    return np.stack([np.exp(rng.uniform(np.log(low), np.log(high), n)) for low, high in ends])


def test_every_law_has_typical_values() -> None:
    assert set(TYPICAL) == set(LAWS)


@pytest.mark.parametrize("name", list(TYPICAL))
def test_gradient_is_the_derivative(name: str) -> None:
    law, params = LAWS[name], np.array(TYPICAL[name])
    axes = axes_of(law, 25)
    assert law.gradient is not None
    parts = law.gradient(*axes, *(params[None, k, None] for k in range(len(params))))
    for k, part in enumerate(parts):
        step = 1e-6 * max(abs(params[k]), 1e-3)
        up, down = params.copy(), params.copy()
        up[k] += step
        down[k] -= step
        expected = (law.values(axes, up) - law.values(axes, down)) / (2 * step)
        scale = np.abs(expected).max()
        np.testing.assert_allclose(np.broadcast_to(part, (1, 25))[0], expected, rtol=2e-5, atol=2e-6 * scale)


@pytest.mark.parametrize("name", list(TYPICAL))
def test_rescaling_gives_the_same_curve(name: str) -> None:
    law, params = LAWS[name], np.array(TYPICAL[name])
    assert law.rescale is not None
    axes = axes_of(law, 25)
    scales, y_scale = np.array([3.0, 7.0, 0.5])[: law.axes], 1.7 if law.y_scaled else 1.0
    natural = law.rescale(params[None], scales, y_scale)[0]
    np.testing.assert_allclose(
        law.values(axes, natural), y_scale * law.values(axes / scales[:, None], params), rtol=1e-9
    )


@pytest.mark.parametrize("name", list(TYPICAL))
def test_a_law_fits_its_own_exact_values(name: str) -> None:
    law, params = LAWS[name], np.array(TYPICAL[name])
    axes = axes_of(law, 60)
    columns = {f"x{k}": axis for k, axis in enumerate(axes)}
    table = pl.DataFrame({**columns, "y": law.values(axes, params)})
    fit = analysis.fit(table, x=list(columns), y="y", law=name, resamples=0)
    np.testing.assert_allclose(fit.predict(axes if law.axes > 1 else axes[0]), table["y"], rtol=2e-3)


def test_m4_stays_between_floor_and_chance() -> None:
    law = LAWS["m4"]
    y = law.values(np.geomspace(1e-6, 1e15, 400)[None], np.array(TYPICAL["m4"]))
    assert np.all(np.diff(y) <= 0)
    assert y[0] == pytest.approx(1.1, rel=1e-3)
    assert y[-1] == pytest.approx(0.1, rel=1e-2)
