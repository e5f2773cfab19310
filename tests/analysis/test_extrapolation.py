"""Rolling leave-largest-out: what it predicts, what it compares with, what it refuses."""

import numpy as np
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
    with pytest.raises(analysis.TableError, match="needs more points below the largest 'tokens'"):
        analysis.leave_largest_out(runs(budgets=2, seeds=2), **COLUMNS)
