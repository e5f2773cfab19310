"""iterations and next_gpu_hour: what they plan, and what they say of planted results."""

import itertools
from dataclasses import dataclass

import numpy as np
import polars as pl
import pytest

import analysis
from experiments import exchange_rate, iterations, negatives, next_gpu_hour, sequence_length, training_tokens
from experiments.iterations import VERSIONS, steps_of
from experiments.paradigm import System
from experiments.reading import on_all_points
from moon_jax.data.contract import Dataset
from sweeps.step import in_order


@dataclass
class Rate:
    slope: float
    interval: tuple[float, float]


def ladder(gauc: list[float], recall: list[float | None], error: float = 0.001) -> pl.DataFrame:
    """Two seeds of each version, with these gains over the one before."""
    rows = []
    for place, name in enumerate(VERSIONS):
        for seed in (0, 1):
            row: dict[str, object] = {"version": name, "seed": seed, "gauc_users": 500, "image_queries": 500}
            if place:
                shift = (seed - 0.5) * error
                gained = recall[place - 1]
                row |= {"gauc_gain": gauc[place - 1] + shift, "gauc_gain_se": error}
                row |= {"gain_recall@10": None if gained is None else gained + shift, "gain_recall@10_se": error}
            rows.append(row)
    return pl.DataFrame(rows, infer_schema_length=None)


def test_a_change_that_follows_the_rate_is_foretold_and_another_is_not() -> None:
    table = steps_of(ladder([0.02, 0.02, -0.01, 0.03], [0.04, -0.05, -0.02, None]), Rate(0.5, (0.4, 0.6)))  # type: ignore[arg-type]
    assert table["verdict"].to_list() == ["as foretold", "not foretold", "as foretold", "no recall can foretell it"]
    first = table.row(0, named=True)
    assert first["foretold"] == pytest.approx(0.02)
    assert first["foretold low"] < 0.016 < 0.024 < first["foretold high"]  # the rate's own uncertainty is in it
    assert table["encoder"].to_list() == [True, True, True, False]


def test_without_an_interval_of_the_rate_nothing_is_foretold() -> None:
    table = steps_of(ladder([0.02] * 4, [0.04] * 3 + [None]), Rate(0.5, (float("nan"), float("nan"))))  # type: ignore[arg-type]
    assert table["verdict"].to_list()[:3] == ["the rate has no interval"] * 3


def test_each_version_adds_to_the_one_before(smoke_world: Dataset) -> None:
    planned = [cell for cell in iterations.cells("smoke", smoke_world) if cell.coordinates["part"] == "ladder"]
    first = [cell for cell in planned if cell.coordinates["seed"] == 0]
    assert [cell.coordinates["version"] for cell in first] == list(VERSIONS)
    assert [("contrast" in cell.steps, "compare" in cell.steps) for cell in first] == [
        (False, False), (True, True), (True, True), (True, True), (False, True),
    ]  # fmt: skip
    assert first[3].steps["embed"] == first[4].steps["embed"]
    for before, after in itertools.pairwise(first):
        assert after.steps["compare"].needs["baseline"] == before.steps["application"]


def test_hard_negatives_need_processing() -> None:
    with pytest.raises(ValueError, match="hard negatives come out of processing"):
        System(processed=False)


def test_the_next_gpu_hour_costs_no_step_beside_the_questions_behind_it(smoke_world: Dataset) -> None:
    asked = [training_tokens, negatives, sequence_length, exchange_rate]
    behind = {step.id for question in asked for step in in_order(question.cells("smoke", smoke_world))}
    assert {step.id for step in in_order(next_gpu_hour.cells("smoke", smoke_world))} == behind


def tokens_and_recall(beyond: float) -> pl.DataFrame:
    """Errors by a power law with little noise; those of the largest budget are off it by a factor."""
    rng = np.random.default_rng(0)
    tokens = np.repeat(np.geomspace(1e4, 1e6, 6), 2)
    error = 3 * tokens**-0.15 * np.exp(0.005 * rng.normal(size=12)) * np.where(tokens == tokens.max(), beyond, 1)
    return pl.DataFrame({"tokens": tokens, "recall": 1 - error, "run": [f"r{k}" for k in range(12)]})


@pytest.mark.parametrize(("beyond", "fails"), [(1.0, False), (1.3, True)])
def test_an_axis_whose_law_did_not_foretell_is_refused(beyond: float, fails: bool) -> None:
    options = {"x": "tokens", "y": "recall", "transform": "error", "law": "power", "cluster": "run"}
    fit = analysis.fit(tokens_and_recall(beyond), holdout="largest", **options)
    assert bool(next_gpu_hour.missed(fit)) == fails
    if fails:
        assert "did not foretell its largest scale (1 - recall predicted 0.3" in next_gpu_hour.missed(fit)


def test_a_judged_law_is_fitted_to_all_points() -> None:
    options = {"x": "tokens", "y": "recall", "transform": "error", "law": "power", "cluster": "run"}
    table = tokens_and_recall(1.0)
    again = on_all_points(analysis.fit(table, holdout="largest", **options))
    assert again.params == pytest.approx(analysis.fit(table, **options).params)
    assert again.holdout is None
    assert again.n == 12


def test_the_last_step_that_was_run_is_told_as_it_was() -> None:
    options = {"x": "tokens", "y": "recall", "transform": "error", "law": "power", "cluster": "run"}
    table = tokens_and_recall(1.3)
    before, last, gain = next_gpu_hour.last_step(analysis.fit(table, **options))
    means = table.group_by("tokens").agg(pl.col("recall").mean()).sort("tokens")
    assert (before, last) == tuple(means["tokens"][-2:])
    assert gain == pytest.approx(means["recall"][-1] - means["recall"][-2])
    assert gain < 0


@pytest.mark.parametrize(("last", "bent"), [(0.0, False), (-0.019, True)])
def test_a_curve_that_has_bent_is_refused(last: float, bent: bool) -> None:
    """GAUC rises by .02 with each step of length, and the last brings that, or hardly anything."""
    lengths = np.repeat([1.0, 4.0, 16.0, 64.0, 256.0], 3)
    noise = 0.002 * np.random.default_rng(0).normal(size=15)
    gauc = 0.55 + 0.02 * np.log(lengths) / np.log(4) + last * (lengths == 256) + noise
    table = pl.DataFrame({"L": lengths, "gauc": gauc, "run": [f"r{k}" for k in range(15)]})
    options = {"x": "L", "y": "gauc", "transform": "error", "law": "power_floor", "cluster": "run"}
    told = next_gpu_hour.promised(analysis.fit(table, holdout="largest", **options))
    assert bool(told) == bent
    assert ("the curve has bent" in told) == bent
