"""model_size and compute_optimal: equal compute is planned and spent; a planted law gives its own optimum back."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from experiments import compute_optimal, model_size, steps
from experiments.answering import reading_of, shortfall
from experiments.model_size import loss_flops, pair_price
from experiments.question import Question, QuestionError
from experiments.recipes import measured_search, recipe_for
from moon_jax.data.contract import Dataset

E, A, ALPHA, B, BETA = 1.2, 60.0, 0.35, 120.0, 0.30
SIZES = {"16x1": 1.5e4, "32x1": 6e4, "48x1": 2.4e5, "64x2": 9.6e5, "96x2": 3.84e6}
BATCH, WIDTH = 64, 64


def planted(noise: float = 0.0, budgets: tuple[float, ...] = (3e11, 1.2e12, 4.8e12, 1.92e13)) -> pl.DataFrame:
    """Runs of equal compute under a known law, as the question's rows; the loss is paid for."""
    rng, rows = np.random.default_rng(0), []
    for size, params in SIZES.items():
        for compute in budgets:
            for seed in (0, 1):
                tokens = compute / (6 * params + loss_flops(BATCH, WIDTH) / 8)  # eight tokens a pair
                entropy = (E + A * params**-ALPHA + B * tokens**-BETA) * np.exp(noise * rng.normal())
                rows.append({
                    "size": size, "compute": compute, "seed": seed, "lr": 1.0, "run": f"{size}-{compute}-{seed}",
                    "batch": BATCH, "encoder_share": 6 * params * tokens / compute, "tokens": tokens, "status": "done",
                    "loss_share": 1 - 6 * params * tokens / compute,
                    "posttrain_flops": compute, "image_entropy": entropy, "valid_image_entropy": entropy,
                    "image_recall@10": 1 - entropy / 6, "posttrain_tokens_per_second": 1.0, "data_wait_share": 0.0,
                    "posttrain_share_of_matmul_peak": 0.2, "posttrain_peak": "measured", "peak_memory": 2**30,
                    "lr_checked": True,
                })  # fmt: skip
    return pl.DataFrame(rows)


def test_the_planted_optimum_comes_back_in_both_ways() -> None:
    reading = compute_optimal.read(planted(noise=0.002))
    table = reading.tables["the best size of each compute"]
    exponent = BETA / (ALPHA + BETA)
    assert reading.fits["isoflop"].exponent == pytest.approx(exponent, abs=0.1)
    for row in table.iter_rows(named=True):
        costs = row["compute"]
        grid = np.geomspace(1e3, 1e8, 20_001)
        tokens = costs / (6 * grid + loss_flops(BATCH, WIDTH) / 8)
        best = grid[np.argmin(A * grid**-ALPHA + B * tokens**-BETA)]
        assert row["law"] == pytest.approx(best, rel=0.35)
        if row["run"] and not np.isnan(row["valley"]):
            assert row["valley"] == pytest.approx(best, rel=0.6)
    assert table.filter(~pl.col("run")).height == 1
    assert "the two agree within their intervals" in reading.answer[0]
    assert set(reading.figures) == {"valleys", "optima"}


def test_counting_the_loss_moves_the_optimum_up() -> None:
    """A token costs the loss besides whatever the size: larger encoders pay then."""
    table = compute_optimal.read(planted()).tables["the best size of each compute"]
    assert (table["law"] > table["law, loss for nothing"]).all()


def test_valleys_without_a_floor_are_said_to_have_none() -> None:
    rows = planted(budgets=(3e8, 6e8, 1.2e9))  # so little compute that the smallest size is always best
    reading = compute_optimal.read(rows)
    assert "isoFLOP gives no power law" in reading.weak[0]
    assert "no best size inside the grid" in " ".join(reading.answer)
    assert "isoflop" not in reading.fits


def test_the_joint_law_foretells_the_largest_compute() -> None:
    reading = model_size.read(planted(noise=0.002))
    held = reading.tables["image_entropy: largest compute, held out"]
    assert held.height == 2 * len(SIZES)
    assert held.filter("within").height >= 8
    assert held["foretold"].to_numpy() == pytest.approx(held["observed"].to_numpy(), rel=0.02)
    assert shortfall(reading.held) is None


def test_a_law_that_does_not_hold_is_told_first(tmp_path: Path) -> None:
    rows = planted(noise=0.002)
    rows = rows.with_columns(  # the largest budget stops short of what the law promises
        pl.when(pl.col("compute") == rows["compute"].max()).then(pl.col("image_entropy") * 1.3).otherwise("image_entropy")
        .alias("image_entropy")
    )  # fmt: skip
    reading = reading_of(Question("model_size", "", model_size.cells, model_size.read), rows, tmp_path)
    assert reading.answer[0].startswith("NOT foretold as stated")


@pytest.mark.parametrize("question", [model_size, compute_optimal])
def test_too_few_sizes_are_refused(question: Any) -> None:
    rows = planted().filter(pl.col("size").is_in(["16x1", "32x1"]))
    with pytest.raises(QuestionError, match="fewer than three sizes"):
        question.read(rows)


def test_every_size_of_a_budget_is_planned_to_cost_the_same(smoke_world: Dataset) -> None:
    recipe, search = recipe_for("smoke", smoke_world), measured_search(smoke_world)
    planned = model_size.cells("smoke", smoke_world)
    assert {cell.coordinates["compute"] for cell in planned} == set(recipe.compute)
    for cell in planned:
        run = cell.steps["posttrain"].config
        price = pair_price(run.encoder, search, recipe)
        assert run.tokens / price.tokens * price.flops == pytest.approx(cell.coordinates["compute"], rel=0.01)
    rates = {cell.coordinates["lr"] for cell in planned if cell.coordinates["compute"] == recipe.compute[1]}
    assert rates == {1.0}


def test_a_larger_batch_makes_the_loss_dearer_and_nothing_else(smoke_world: Dataset) -> None:
    recipe, search = recipe_for("smoke", smoke_world), measured_search(smoke_world)
    encoder = steps.encoder(replace(recipe, size="16x1"))
    small, large = (pair_price(encoder, search, replace(recipe, batch=batch)) for batch in (16, 1024))
    assert large.loss == 64 * small.loss
    assert (large.encoder, large.photos, large.tokens) == (small.encoder, small.photos, small.tokens)


@pytest.mark.proof
@pytest.mark.timeout(900)
def test_both_run_on_one_grid_and_spend_what_was_asked(
    moon: Callable[..., Any], smoke_world: Dataset, tmp_path: Path
) -> None:
    for question in ("model_size", "compute_optimal"):
        done = moon(
            "run",
            question,
            "--preset",
            "smoke",
            "--data",
            smoke_world.folder,
            "--workers",
            1,
            cwd=tmp_path,
            timeout=800,
        )
        assert done.returncode == 0, done.stderr + done.stdout
    tables = [
        pl.read_parquet(tmp_path / "runs" / name / "results.parquet") for name in ("model_size", "compute_optimal")
    ]
    assert tables[0]["run"].sort().equals(tables[1]["run"].sort())
    for row in tables[0].iter_rows(named=True):  # whole steps: a small budget is met to within one
        one_step = row["posttrain_flops"] / row["steps"]
        assert abs(row["posttrain_flops"] - row["compute"]) <= 0.02 * row["compute"] + one_step
