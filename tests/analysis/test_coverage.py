"""Intervals hold the planted truth as often as they say. The grid is small here; `proof` runs the larger one."""

import numpy as np
import pytest
from planted import TRUTH, law, runs, versions

import analysis

COLUMNS = {"x": "tokens", "y": "error", "cluster": "run"}
QUANTITIES = ("E", "A", "alpha", "mean", "new run")


def fit_coverage(budgets: int, seeds: int, noise: float, trials: int, resamples: int, span=(1e4, 3e7)) -> np.ndarray:
    """Share of trials in which each of QUANTITIES lies in its 95 % interval; mean and new run at 3x the largest x."""
    hits = np.zeros(len(QUANTITIES))
    for trial in range(trials):
        fit = analysis.fit(runs(budgets, seeds, noise, seed=trial, span=span), resamples=resamples, **COLUMNS)
        intervals = fit.intervals(0.95)
        far = 3 * span[1]
        truth = law(np.array(far))
        new = truth * np.exp(noise * np.random.default_rng(10_000 + trial).normal())
        ends = [intervals[name] for name in TRUTH] + [fit.band(far)[1:], fit.predict(far, interval=0.95)[1:]]
        values = [*TRUTH.values(), truth, new]
        hits += [low <= value <= high for (low, high), value in zip(ends, values, strict=True)]
    return hits / trials


def rate_coverage(trials: int, resamples: int, **planted) -> tuple[float, float]:
    """Share of trials whose 95 % interval holds the slope 0.1, and the median bias of the slope."""
    rates = [
        analysis.exchange_rate(versions(seed=trial, **planted), of="image_recall", into="gauc", resamples=resamples)
        for trial in range(trials)
    ]
    hits = [rate.interval[0] <= 0.1 <= rate.interval[1] for rate in rates]
    return float(np.mean(hits)), float(np.median([rate.slope for rate in rates])) / 0.1 - 1


def test_intervals_of_a_law_cover_their_truth():
    for budgets, seeds in ((6, 2), (4, 2)):
        covered = fit_coverage(budgets, seeds, 0.02, trials=60, resamples=200)
        assert covered.min() >= 0.85, dict(zip(QUANTITIES, covered, strict=True))  # 60 trials: 3.5 SE under .95


def test_intervals_of_a_rate_cover_their_truth():
    for count in (12, 6):
        covered, _ = rate_coverage(80, 0, count=count, reliability=0.9, scatter=0.3)
        assert covered >= 0.86


@pytest.mark.proof
@pytest.mark.parametrize(("budgets", "seeds"), [(6, 2), (5, 3), (8, 3)])
@pytest.mark.parametrize("noise", [0.01, 0.03])
def test_proof_of_coverage_with_twelve_runs_and_more(budgets, seeds, noise):
    covered = fit_coverage(budgets, seeds, noise, trials=800, resamples=500)
    print(budgets, seeds, noise, dict(zip(QUANTITIES, covered, strict=True)))
    assert covered.min() >= 0.92
    assert covered.max() <= 0.98


@pytest.mark.proof
@pytest.mark.parametrize(("budgets", "seeds"), [(4, 2), (5, 2), (8, 1)])
def test_proof_of_coverage_with_eight_to_ten_runs(budgets, seeds):
    covered = fit_coverage(budgets, seeds, 0.02, trials=800, resamples=500)
    print(budgets, seeds, dict(zip(QUANTITIES, covered, strict=True)))
    assert covered.min() >= 0.925


@pytest.mark.proof
@pytest.mark.parametrize("count", [12, 24])
@pytest.mark.parametrize(("reliability", "scatter"), [(0.95, 0.0), (0.8, 0.0), (0.9, 0.3), (0.9, 1.0), (0.98, 0.5)])
def test_proof_of_coverage_of_the_exchange_rate(count, reliability, scatter):
    covered, bias = rate_coverage(800, 0, count=count, reliability=reliability, scatter=scatter)
    print(count, reliability, scatter, covered, bias)
    assert 0.92 <= covered <= 0.985
    assert abs(bias) < 0.025  # the median of 800 has a standard error of 1.3 % at reliability .8
