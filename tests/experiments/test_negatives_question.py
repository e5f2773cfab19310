"""The question of negatives: one source is varied at a time, and the others are read as paired gains over the whole batch."""

import math
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from experiments.negatives import MOMENTUM, cells, gains_of, read
from experiments.recipes import recipe_for
from experiments.training_tokens import cells as token_cells
from experiments.tuning import Known
from moon_jax.data.contract import Dataset
from moon_jax.stages.posttrain import PosttrainConfig, TrunkConfig
from sweeps import Step


def test_one_source_is_varied_at_a_time(smoke_world: Dataset) -> None:
    recipe = recipe_for("smoke", smoke_world)
    configs: dict[str, list[PosttrainConfig]] = {}
    for cell in cells("smoke", smoke_world):
        configs.setdefault(str(cell.coordinates["source"]), []).append(cell.steps["posttrain"].config)
        if cell.coordinates["source"] != "batch":
            baseline = cell.steps["contrast"].needs["baseline"].needs["posttrain"].config
            config = cell.steps["posttrain"].config
            assert baseline == replace(config, queue=0, hard_negatives=0, ema=0.0, queue_from="online")
            assert baseline.num_negatives is None  # the whole batch
    assert {config.num_negatives or config.batch - 1 for config in configs["batch"]} == set(recipe.negatives)
    assert not any(config.queue or config.hard_negatives for config in configs["batch"])
    assert {config.queue for config in configs["queue"]} == {recipe.batch * times for times in recipe.queues}
    assert {(config.queue_from, config.ema) for config in configs["queue"]} == {("ema", MOMENTUM)}
    assert {(config.queue_from, config.ema) for config in configs["queue, own past"]} == {("online", 0.0)}
    assert {config.hard_negatives for config in configs["hard"]} == set(recipe.hard)
    assert len({config.tokens for each in configs.values() for config in each}) == 1


def test_each_source_has_a_learning_rate_of_its_own(smoke_world: Dataset) -> None:
    recipe = recipe_for("demo", smoke_world)

    def result_of(step: Step) -> dict[str, object]:
        if "posttrain" not in step.needs:
            return {"status": "done"}
        config = step.needs["posttrain"].config
        best = 3 * recipe.lr if config.queue else recipe.lr
        return {"status": "done", "valid_image_entropy": abs(math.log(config.peak_lr / best))}

    planned = cells("demo", smoke_world, Known(result_of))
    beside = [cell for cell in planned if cell.coordinates["source"] != "batch"]
    tried = {
        (cell.coordinates["trial"], round(cell.coordinates["lr"], 2)) for cell in beside if cell.coordinates["trial"]
    }
    assert {lr for name, lr in tried if name == "hard of 4"} == {0.33, 1.0, 3.0}
    assert {lr for name, lr in tried if name == "queue of 256"} == {0.33, 1.0, 3.0, 9.0}  # its best lay at an end
    compared = [cell for cell in beside if not cell.coordinates["trial"]]
    assert len(compared) == (len(recipe.queues) + 1 + len(recipe.hard)) * len(recipe.seeds)
    for cell in compared:
        assert cell.coordinates["lr"] == (1.0 if cell.coordinates["source"] == "hard" else 3.0)
        assert cell.steps["contrast"].needs["baseline"].needs["posttrain"].config.peak_lr == recipe.lr
    asked_first = [cell for cell in cells("demo", smoke_world, Known()) if cell.coordinates["source"] != "batch"]
    assert all(cell.coordinates["trial"] for cell in asked_first)  # nothing is compared before the rates are known


def test_trials_choose_and_take_no_part_in_what_is_compared() -> None:
    kept = pl.read_parquet(Path(__file__).parents[2] / "results" / "planted" / "negatives" / "results.parquet")
    is_trial = pl.col("trial").fill_null("") != ""
    reading = read(kept)
    assert reading.tables["other sources, beside the whole batch"].height == 5
    assert reading.tables["runs"].height == kept.filter(~is_trial).height < kept.height
    assert reading.tables["learning rates tried beside the whole batch"].height == kept.filter(is_trial).height
    failed = kept.filter(is_trial | (pl.col("source") == "batch"))
    failed = failed.with_columns(status=pl.when(is_trial).then(pl.lit("crashed")).otherwise("status"))
    assert any("not all that were tried have finished" in weak for weak in read(failed).weak)


def test_gains_are_means_over_seeds_with_intervals() -> None:
    rows = [
        ("batch", 63, None, 60.0),
        ("queue", 256, -0.05, 300.0),
        ("queue", 256, -0.07, 302.0),
        ("hard", 1, 0.01, 61.0),
    ]
    table = pl.DataFrame(rows, schema=["source", "negatives", "gain_recall@10", "realised_negatives"], orient="row")
    table = table.with_columns(**{"gain_recall@10_se": pl.lit(0.01)}, image_queries=pl.lit(300))
    gains = {row["source"]: row for row in gains_of(table).iter_rows(named=True)}
    assert set(gains) == {"queue", "hard"}
    assert gains["queue"]["gain"] == pytest.approx(-0.06)
    assert gains["queue"]["low"] < -0.06 < gains["queue"]["high"] < 0
    assert gains["queue"]["candidates"] == pytest.approx(301)
    assert (gains["queue"]["seeds"], gains["hard"]["seeds"]) == (2, 1)


def test_budgets_branch_off_one_trunk_a_seed_and_rate(smoke_world: Dataset) -> None:
    recipe = recipe_for("smoke", smoke_world)
    trained = [cell for cell in token_cells("smoke", smoke_world, trunk=True) if cell.coordinates["budget"]]
    trunks = {cell.steps["posttrain"].needs["trunk"] for cell in trained}
    assert len(trunks) == len({(cell.coordinates["seed"], cell.coordinates["lr"]) for cell in trained})
    for cell in trained:
        shared = cell.steps["posttrain"].needs["trunk"]
        assert cell.coordinates["run"] == shared.name  # what is resampled
        assert isinstance(shared.config, TrunkConfig)
        assert shared.config.budgets == recipe.budgets
        config = cell.steps["posttrain"].config
        assert replace(config, tokens=max(recipe.budgets)) == shared.config.run
    assert not any("trunk" in cell.steps["posttrain"].needs for cell in token_cells("smoke", smoke_world))
