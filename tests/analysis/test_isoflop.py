"""Planted valleys: the exponent is found, units and order do not matter, edges and lopsided valleys are said."""

import numpy as np
import polars as pl
import pytest

import analysis
from analysis.isoflop import IsoFlop, isoflop, optimum_exponent

EXPONENT, COEFFICIENT = 0.55, 0.08


def valleys(noise=0.0, seed=0, budgets=6, sizes=11, cubic=0.0, reach=20.0, off=1.0):
    """y = 2 + .05 v^2 + cubic v^3 + noise with v = log(N / N*), N* = off COEFFICIENT C^EXPONENT."""
    rng = np.random.default_rng(seed)
    frames = []
    for budget in np.geomspace(1e17, 1e21, budgets):
        best = COEFFICIENT * budget**EXPONENT
        N = best * np.geomspace(1 / reach, reach, sizes) * np.exp(rng.uniform(-0.1, 0.1, sizes))
        v = np.log(N / (off * best))
        loss = 2 + 0.05 * v**2 + cubic * v**3 + noise * rng.normal(size=sizes)
        frames.append(pl.DataFrame({"C": np.full(sizes, budget), "N": N, "loss": loss}))
    return pl.concat(frames)


def asked(table, **options):
    return isoflop(table, x="N", y="loss", budget="C", **options)


@pytest.mark.parametrize("method", ["parabola", "interpolation"])
def test_planted_optima_and_their_power_law_are_found(method):
    found = asked(valleys(), method=method)
    tolerance = 1e-9 if method == "parabola" else 0.01
    assert found.exponent == pytest.approx(EXPONENT, abs=tolerance)
    truth = COEFFICIENT * found.table()["budget"].to_numpy() ** EXPONENT
    np.testing.assert_allclose(found.table()["x"], truth, rtol=1e-6 if method == "parabola" else 0.15)
    assert found.optimum(1e19) == pytest.approx(COEFFICIENT * 1e19**EXPONENT, rel=0.1)
    assert not found.warnings
    assert found.table()["y"].to_numpy() == pytest.approx(2.0, abs=1e-2)


@pytest.mark.parametrize("method", ["parabola", "interpolation"])
def test_intervals_from_injected_noise_hold_the_truth(method):
    hits = []
    for seed in range(60):
        found = asked(valleys(noise=0.01, seed=seed), method=method, noise=0.01, draws=200, seed=seed)
        hits.append(found.interval[0] <= EXPONENT <= found.interval[1])
    assert np.mean(hits) >= 0.85


def test_a_parabola_measures_its_own_noise_and_an_interpolation_cannot():
    table = valleys(noise=0.02, seed=3)
    found = asked(table)
    assert found.noise == pytest.approx(0.02, rel=0.3)
    assert found.interval[0] < EXPONENT < found.interval[1]
    without = asked(table, method="interpolation")
    assert np.isnan(without.interval).all()
    assert np.isnan(without.noise)


def test_noise_may_be_a_column_and_widens_the_interval():
    table = valleys(noise=0.01, seed=1).with_columns(sd=pl.lit(0.01))
    one, two = asked(table, noise=0.01), asked(table, noise="sd")
    assert (one.exponent, one.interval, one.rows) == (two.exponent, two.interval, two.rows)
    wide = asked(table, noise=0.04)
    assert np.ptp(wide.interval) > 2 * np.ptp(one.interval)


@pytest.mark.parametrize("method", ["parabola", "interpolation"])
def test_units_and_the_order_of_rows_do_not_matter(method):
    table = valleys(noise=0.01, seed=2)
    other = table.sample(fraction=1, shuffle=True, seed=1).with_columns(
        pl.col("N") * 1e-6, pl.col("C") * 3.0, pl.col("loss") * 7.0
    )
    one = asked(table, method=method, noise=0.01, draws=100)
    two = asked(other, method=method, noise=0.07, draws=100)
    assert two.exponent == pytest.approx(one.exponent, rel=1e-9)
    assert two.interval == pytest.approx(one.interval, rel=1e-6)
    np.testing.assert_allclose(two.table()["x"] * 1e6, one.table()["x"], rtol=1e-9)


def test_of_several_seeds_the_lowest_counts():
    table = valleys()
    worse = table.with_columns(pl.col("loss") + 0.3)
    assert asked(pl.concat([worse, table])) == asked(table)


@pytest.mark.parametrize("method", ["parabola", "interpolation"])
def test_an_optimum_beyond_the_grid_is_flagged_and_left_out(method):
    inside = valleys()
    first = inside["C"].min()
    cut = inside.filter((pl.col("C") > first) | (pl.col("N") < 0.5 * COEFFICIENT * first**EXPONENT))
    found = asked(cut, method=method)
    assert found.rows[0]["edge"] == "outside"
    assert any("no optimum inside the grid" in warning for warning in found.warnings)
    assert found.exponent == pytest.approx(EXPONENT, abs=0.02)
    with pytest.raises(analysis.TableError, match="three are needed"):
        asked(valleys(off=1e3), method=method)


def test_a_lopsided_valley_is_said_and_a_round_one_is_not():
    told = [asked(valleys(noise=0.005, seed=seed, cubic=0.01)).warnings for seed in range(5)]
    assert all(any("lopsided" in warning for warning in warnings) for warnings in told)
    told = [asked(valleys(noise=0.005, seed=seed)).warnings for seed in range(20)]
    assert sum(any("lopsided" in warning for warning in warnings) for warnings in told) <= 4


def test_scatter_beyond_the_noise_is_said():
    frames = [
        part.with_columns(pl.col("N") * (1.6 if k % 2 else 1 / 1.6))
        for k, (_, part) in enumerate(valleys(budgets=8).group_by("C", maintain_order=True))
    ]
    found = asked(pl.concat(frames), noise=0.001)
    assert any("interval is too narrow" in warning for warning in found.warnings)


def test_budgets_with_few_sizes_are_left_out_with_a_warning():
    table = valleys()
    extra = pl.DataFrame({"C": [1e22, 1e22], "N": [1e10, 1e11], "loss": [2.0, 2.1]})
    found = asked(pl.concat([table, extra]))
    assert found.exponent == asked(table).exponent
    assert any("1e+22: fewer than 4" in warning for warning in found.warnings)


def test_what_cannot_be_answered_is_refused():
    table = valleys()
    for column in ("C", "N", "loss"):
        with pytest.raises(analysis.TableError, match=f"'{column}' must be above 0"):
            asked(table.with_columns((pl.col(column) - pl.col(column).max()).alias(column)))
    with pytest.raises(analysis.TableError, match="no column"):
        asked(table.drop("N"))
    with pytest.raises(analysis.TableError, match="no method"):
        asked(table, method="spline")
    with pytest.raises(analysis.TableError, match="cannot be below 0"):
        asked(table, noise=-0.1)
    with pytest.raises(analysis.TableError, match="must share its exact value"):
        asked(table.with_columns(C=pl.int_range(pl.len()).cast(float) + 1e9))


def test_a_saved_answer_is_read_back_equal(tmp_path):
    found = asked(valleys(noise=0.01), noise=0.01)
    assert IsoFlop.load(found.save(tmp_path / "deep" / "isoflop.json")) == found
    assert "best N =" in found.summary()


def test_the_parametric_law_gives_the_exponent_to_compare_with():
    N, D = (grid.ravel() for grid in np.meshgrid(np.geomspace(1e7, 1e9, 6), np.geomspace(1e9, 1e11, 6)))
    noise = np.exp(0.002 * np.random.default_rng(0).normal(size=36))
    table = pl.DataFrame({"N": N, "D": D, "loss": (1.8 + 480 * N**-0.35 + 2000 * D**-0.37) * noise})
    law = analysis.fit(table, x=["N", "D"], y="loss", law="chinchilla", resamples=200)
    value, low, high = optimum_exponent(law)
    assert low < 0.37 / 0.72 < high
    assert low < value < high
    line = analysis.fit(table, x="N", y="loss", law="power", resamples=0)
    with pytest.raises(analysis.TableError, match="not from power"):
        optimum_exponent(line)


def test_the_examples_run():
    import doctest
    import importlib

    for name in ("isoflop", "two_step"):
        result = doctest.testmod(importlib.import_module(f"analysis.{name}"))
        assert result.attempted
        assert not result.failed
