"""Rolling leave-largest-out: what it predicts, what it compares with, what it refuses."""

import numpy as np
import polars as pl
import pytest
from planted import runs

import analysis

COLUMNS = {"x": "tokens", "y": "recall", "transform": "error", "cluster": "run"}


def test_the_right_law_beats_the_last_value_and_the_log_line():
    table = analysis.leave_largest_out(runs(budgets=8, noise=0.002), resamples=100, **COLUMNS)
    assert table["held_x"][0] == pytest.approx(3e7)
    assert table["held_x"].is_sorted(descending=True)
    first = table.row(0, named=True)
    assert abs(first["error"]) < abs(first["error_last_value"])
    assert abs(first["error"]) < abs(first["error_log_line"])
    assert first["of"] == 3
    assert np.all(table["factor"].to_numpy() > 1)
    assert {"E", "A", "alpha"} <= set(table.columns)


def test_a_held_point_never_enters_its_own_fit():
    table = runs()
    step = analysis.leave_largest_out(table, resamples=0, **COLUMNS).row(0, named=True)
    alone = analysis.fit(table.filter(table["tokens"] < 2e7), resamples=0, **COLUMNS)
    assert step["alpha"] == pytest.approx(alone.params["alpha"], rel=1e-9)
    assert step["points"] == 18
    assert step["within"] is None


def test_too_few_points_are_refused():
    with pytest.raises(
        analysis.TableError, match="leave-largest-out needs at least three different 'tokens', there are 2"
    ):
        analysis.leave_largest_out(runs(budgets=2, seeds=2), **COLUMNS)
    with pytest.raises(analysis.TableError, match=r"leave-largest-out, tokens under .*: power_floor"):
        analysis.leave_largest_out(runs(budgets=3, seeds=2), **COLUMNS)


def test_every_larger_scale_is_foretold_and_errors_grow_with_the_factor():
    table = analysis.leave_largest_out(runs(budgets=8, noise=0.001), ahead="all", resamples=0, **COLUMNS)
    cuts = table["fitted_to"].n_unique()
    assert table.height == sum(range(1, cuts + 1))
    assert np.allclose(table["factor"], table["held_x"] / table["fitted_to"])
    line = table.filter(table["fitted_to"] == table["fitted_to"].min()).sort("factor")
    assert np.all(np.diff(np.abs(line["error_log_line"].to_numpy())) > 0)  # a line leaves a curve ever farther behind
    following = analysis.leave_largest_out(runs(budgets=8, noise=0.001), resamples=0, **COLUMNS)
    again = table.filter(table["factor"] < 1.01 * table["factor"].min())
    np.testing.assert_array_equal(following["error"], again["error"])


def test_a_law_over_several_axes_is_cut_along_the_first():
    rng = np.random.default_rng(0)
    N, D = (grid.ravel() for grid in np.meshgrid(np.geomspace(1e6, 1e9, 6), np.geomspace(1e8, 1e10, 5)))
    loss = (1.8 + 480 * N**-0.35 + 2000 * D**-0.37) * np.exp(0.001 * rng.normal(size=N.size))
    table = pl.DataFrame({"N": N, "D": D, "loss": loss})
    left = analysis.leave_largest_out(table, x=["N", "D"], y="loss", law="chinchilla", resamples=0)
    assert left["held_x"][0] == pytest.approx(1e9)
    assert left["of"][0] == 5
    assert abs(left["error"][0]) < 0.01 < abs(left["error_log_line"][0])


def test_an_automatic_choice_is_made_anew_at_each_cut():
    x = np.geomspace(1e2, 1e9, 10)
    noise = np.exp(0.01 * np.random.default_rng(0).normal(size=len(x)))
    table = pl.DataFrame({"x": x, "y": (0.3 + 3 * x**-0.3) * noise})
    left = analysis.leave_largest_out(table, x="x", y="y", law="auto", resamples=0)
    assert left["law"][0] == "power_floor"
    assert set(left["law"]) <= set(analysis.LAWS)
    assert "alpha" not in left.columns


def test_of_many_scales_a_few_are_cut_at():
    x = np.geomspace(1e2, 1e9, 300)
    table = pl.DataFrame({"x": x, "y": 3 * x**-0.2})
    left = analysis.leave_largest_out(table, x="x", y="y", law="power", resamples=0, most=6)
    assert left.height == 4  # the smallest two of six cannot be foretold
    assert left["held_x"][0] == x[-1]
    ratios = left["held_x"].to_numpy()[:-1] / left["held_x"].to_numpy()[1:]
    assert ratios == pytest.approx([10**1.4] * 3, rel=0.1)
