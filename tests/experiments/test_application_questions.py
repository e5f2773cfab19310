"""sequence_length and funnel: what they plan for a dataset, and what they say of planted results."""

import math
import sys
from pathlib import Path

import polars as pl
import pytest

from experiments import ctr_model, funnel, recipes, sequence_length
from experiments.question import QuestionError
from experiments.sequence_length import CONTENT, LONG_MODELS, MODELS, gains_of
from experiments.tuning import Known
from moon_jax.data.adapters.taobao_mm import import_taobao_mm
from moon_jax.data.contract import Dataset
from sweeps import Step
from sweeps.step import in_order

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "moon_jax"))

from sources import taobao_mm_source

LENGTHS, SEEDS = (1, 4, 16, 64), (0, 1)


@pytest.fixture(scope="module")
def own_vectors(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """A public log with vectors of its own, histories in its rows, and neither photos nor searches."""
    folder = tmp_path_factory.mktemp("own")
    return import_taobao_mm(taobao_mm_source(folder / "source"), folder / "set")


def kinds(cells: list) -> set[str]:
    return {step.function.rpartition(":")[2] for step in in_order(cells)}


def test_each_choice_of_the_ctr_model_has_a_learning_rate_of_its_own(own_vectors: Dataset) -> None:
    first = ctr_model.cells("demo", own_vectors, Known())
    assert all(cell.coordinates["trial"] == cell.coordinates["choice"] for cell in first)
    assert "compare" not in {name for cell in first for name in cell.steps}

    def result_of(step: Step) -> dict[str, object]:
        rates = sorted({cell.steps["application"].config.peak_lr for cell in first})
        best = (
            rates[0]
            if step.config.examples > min(cell.steps["application"].config.examples for cell in first)
            else rates[1]
        )
        return {"status": "done", "valid_log_loss": abs(math.log(step.config.peak_lr / best))}

    grid = [cell for cell in ctr_model.cells("demo", own_vectors, Known(result_of)) if not cell.coordinates["trial"]]
    rates = {cell.coordinates["choice"]: round(cell.coordinates["lr"], 2) for cell in grid}
    assert rates[ctr_model.BASE] == rates["IDs alone"] == 1.0
    assert rates["4 passes"] == rates["IDs alone, 4 passes"] == 0.33
    compared = [cell for cell in grid if cell.coordinates["against"]]
    assert all(cell.steps["compare"].needs["application"] == cell.steps["application"] for cell in compared)


def test_vectors_of_ones_own_need_the_application_alone(own_vectors: Dataset) -> None:
    planned = sequence_length.cells("demo", own_vectors)
    assert kinds(planned) == {"application", "compare"}
    assert {cell.coordinates["model"] for cell in planned} == set(MODELS)
    for cell in planned:
        reads = cell.coordinates["model"] in CONTENT
        assert ("embeddings" in cell.steps["application"].files) == reads
    assert kinds(funnel.cells("demo", own_vectors)) == {"application", "compare", "retrieval"}


def test_long_histories_get_lengths_that_they_fill(own_vectors: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipes, "usual_history", lambda dataset: 5_000)
    planned = sequence_length.cells("demo", own_vectors)
    assert {cell.coordinates["L"] for cell in planned} == {64, 256, 1024, 4096}
    assert {cell.coordinates["model"] for cell in planned} == set(LONG_MODELS)


def answered(losses: dict[float, float]) -> Known:
    """CTR runs have finished with these valid losses by learning rate, whatever they read."""

    def result_of(step: Step) -> dict[str, object] | None:
        if not step.function.endswith(":application"):
            return None
        return {"status": "done", "valid_log_loss": losses[round(step.config.peak_lr / 1e-2, 3)]}

    return Known(result_of)


def test_every_model_is_compared_at_its_best_rate(own_vectors: Dataset) -> None:
    first = sequence_length.cells("demo", own_vectors, Known())
    assert {cell.coordinates["trial"] for cell in first} == set(MODELS)
    assert kinds(first) == {"application"}  # nothing is compared before the rates are known
    later = sequence_length.cells("demo", own_vectors, answered({0.333: 0.5, 1.0: 0.4, 3.0: 0.3, 9.0: 0.6}))
    grid = [cell for cell in later if not cell.coordinates["trial"]]
    assert {cell.coordinates["lr"] for cell in grid} == {3.0}
    assert {cell.coordinates["model"] for cell in grid} == set(MODELS)
    for cell in grid:
        assert cell.steps["application"].config.peak_lr == pytest.approx(3e-2)
    (told,) = {cell.coordinates["L"] for cell in later if cell.coordinates["trial"]}
    assert told == recipes.recipe_for("demo", own_vectors).ctr_length
    assert len({step.id for step in in_order(funnel.cells("demo", own_vectors, Known()))}) == 6


def test_the_usual_history_is_events_by_users(smoke_world: Dataset) -> None:
    events = smoke_world.read("events")
    assert recipes.usual_history(smoke_world) == events.height // events["user_id"].n_unique()


def planted(gain: dict[str, float]) -> pl.DataFrame:
    """Results in which each model stands so far above DIN, at every length, with an error of .005 over users."""
    rows = []
    for name in MODELS:
        for length in LENGTHS:
            for seed in SEEDS:
                value = 0.6 + 0.01 * LENGTHS.index(length) + gain.get(name, 0.0) + 1e-4 * seed
                row = {
                    "model": name,
                    "L": length,
                    "seed": seed,
                    "gauc": value,
                    "auc": value,
                    "run": f"{name}{length}{seed}",
                }
                row |= {"status": "done", "log_loss": 0.5, "ece": 0.01, "gauc_users": 500, "gauc_left_out": 7}
                row |= {"new_items_gauc": value, "new_items_impressions": 30, "gauc_gain": None, "gauc_gain_se": None}
                if name != "DIN":
                    row |= {"gauc_gain": gain.get(name, 0.0) + 1e-4 * seed, "gauc_gain_se": 0.005}
                rows.append(row)
    return pl.DataFrame(rows, infer_schema_length=None)


def test_a_planted_gain_is_found_and_a_planted_loss() -> None:
    reading = sequence_length.read(planted({"CUBE": 0.03, "TWIN": -0.03}))
    assert reading.answer[0].startswith("Better than DIN at L = 64, GAUC: CUBE +0.030")
    assert reading.answer[1].startswith("Worse than DIN at L = 64, GAUC: TWIN -0.0299")
    assert "No difference seen from DIN at L = 64" in reading.answer[2]
    assert set(reading.figures) == {"gauc", "gauc-ids", "gains"}
    assert set(reading.fits) == {"gauc-cube", "gauc-cube-power_floor", "gauc-din"}
    assert reading.tables["GAUC by slice at L = 64"]["new_items (30)"].len() == len(MODELS)
    verdicts = gains_of(planted({"CUBE": 0.03, "TWIN": -0.03}))
    assert set(verdicts.filter(pl.col("verdict") == "better")["model"]) == {"CUBE"}
    assert verdicts.height == (len(MODELS) - 1) * len(LENGTHS)


def test_near_chance_is_a_weak_point() -> None:
    assert not any("far from chance" in weak for weak in sequence_length.read(planted({"CUBE": 0.03})).weak)
    low = planted({"CUBE": 0.0}).with_columns(pl.col("gauc") - 0.12)
    assert any("no model is far from chance" in weak for weak in sequence_length.read(low).weak)


def test_without_the_control_there_is_no_answer() -> None:
    with pytest.raises(QuestionError, match="no run of CUBE and of DIN has finished"):
        sequence_length.read(planted({}).filter(pl.col("model") != "DIN"))


def test_the_funnel_names_who_is_first_at_each_stage() -> None:
    rows = []
    for kind, (search, history, ranking) in {
        "untrained": (0.01, 0.02, 0.0),
        "images only": (0.20, 0.03, 0.05),
        "both": (0.10, 0.06, 0.02),
    }.items():
        for seed in SEEDS:
            row = {"kind": kind, "seed": seed, "status": "done", "image_recall@10": search, "gauc_gain": ranking}
            row |= {"gauc_gain_se": 0.001, "retrieval_recall@100": history, "retrieval_recall@100_se": 0.001}
            row |= {"retrieval_left_out": 3, "retrieval_impressions": 99, "retrieval_gallery": 1000, "gauc_users": 500}
            rows.append(row | {"retrieval_popularity@100": 0.3, "retrieval_chance@100": 0.1})
    reading = funnel.read(pl.DataFrame(rows))
    assert reading.answer[0] == (
        "Not one representation is first at every stage: retrieval by image search, recall@10: images only; "
        "retrieval by history, recall@100: both; ranking, GAUC over IDs alone: images only."
    )
    assert "The most popular items alone reach 0.3000" in reading.answer[-1]
    assert "every representation stays below it" in reading.answer[-1]
    table = reading.tables["representations"]
    assert table.filter(pl.col("metric") == "gauc_gain")["half"].to_list() == pytest.approx(
        [1.9647e-3] * 3, rel=1e-3
    )  # t with 499 degrees of freedom
