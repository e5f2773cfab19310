"""Ablations: each system differs by one choice, what can be shared is shared, and the table says what the numbers say."""

from dataclasses import fields, replace

import numpy as np
import polars as pl
import pytest

from experiments import ablations
from experiments.ablations import METRICS, SEEDS, SEVERAL, SYSTEMS, cells, differences_of, read
from experiments.recipes import recipe_for
from experiments.tuning import Known
from experiments.worlds import world_for
from moon_jax.data.contract import Dataset
from moon_jax.data.world import make_world
from moon_jax.stages.posttrain import PosttrainConfig
from sweeps import Step


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return make_world(tmp_path_factory.mktemp("world") / "set", world_for("smoke"))


@pytest.fixture
def around_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on photos: rendered images vary the plain system."""
    monkeypatch.setattr(
        ablations, "recipe_for", lambda preset, data: replace(recipe_for(preset, data), ablated="whole")
    )


def closure(step: Step) -> dict[str, Step]:
    found = {step.name: step}
    for needed in step.needs.values():
        found |= closure(needed)
    return found


def apart(base: str, name: str) -> set[str]:
    """Choices in which a system differs from its opponent."""
    system, opponent = SYSTEMS[base][name]
    other = SYSTEMS[base][opponent][0]
    return {f.name for f in fields(system) if getattr(system, f.name) != getattr(other, f.name)}


@pytest.mark.parametrize("base", SYSTEMS)
def test_each_system_differs_from_its_opponent_by_one_choice(base: str) -> None:
    assert [name for name, (_, opponent) in SYSTEMS[base].items() if not opponent] == [base]
    varied = {name: apart(base, name) for name, (_, opponent) in SYSTEMS[base].items() if opponent}
    for name, choices in varied.items():
        assert (len(choices) > 1) == (name in SEVERAL), (name, choices)
    # Processing has questions of its own (`processing`, `iterations`).
    assert set().union(*varied.values()) == {f.name for f in fields(SYSTEMS[base][base][0])} - {"processed"}


@pytest.mark.usefixtures("around_the_whole")
def test_pretraining_and_first_stages_are_shared(data: Dataset) -> None:
    planned = [cell for cell in cells("demo", data) if not cell.coordinates["trial"]]
    assert len(planned) == len(SYSTEMS["whole"]) * len(SEEDS)
    steps: dict[str, Step] = {}
    for cell in planned:
        for step in cell.steps.values():
            steps |= closure(step)
    kinds = [step.function.rpartition(":")[2] for step in steps.values()]
    assert kinds.count("pretrain") == len(SEEDS)
    runs = [s for s in steps.values() if isinstance(s.config, PosttrainConfig)]
    # whole, no queue, no hard negatives and circle loss share a first stage; "second stage alone" and "plain" have none
    second = [s for s in runs if s.config.ema]
    assert len(runs) - len(second) == (len(SYSTEMS["whole"]) - 5) * len(SEEDS)
    assert {s.config.tokens for s in runs if "begin" in s.needs and s.config.hard_negatives} == {90_000, 180_000}
    assert all(s.config.actions == ("purchase",) for s in second)
    assert all(
        s.config.peak_lr < first.config.peak_lr
        for s in second
        for first in runs
        if s.config.tokens == 90_000 == first.config.tokens and not first.config.ema
    )


def table_of(gains: dict[str, float], base: str = "whole") -> pl.DataFrame:
    rows = []
    for name, gain in gains.items():
        opponent = SYSTEMS[base][name][1]
        for seed in SEEDS:
            row = {"system": name, "opponent": opponent, "budget": 6_000, "seed": seed, "status": "done"}
            row |= {"image_queries": 1200, "gallery": 44_000, "posttrain_flops": 1e12, "tokens": 6_000.0}
            for k, metric in enumerate(METRICS):
                row[f"image_{metric}"] = 0.1 * (k + 1) + gain + 0.001 * seed
                row[f"gain_{metric}"] = gain + 0.001 * (seed - 1) if opponent else None
                row[f"gain_{metric}_se"] = 0.005 if opponent else None
            for width in (8, 64):
                row[f"image_recall@10_d{width}"] = 0.2 + gain - 1 / width
                row[f"gain_recall@10_d{width}"] = gain - 0.02 if opponent else None
                row[f"gain_recall@10_d{width}_se"] = 0.005 if opponent else None
            rows.append(row)
    return pl.DataFrame(rows, infer_schema_length=None)


def test_the_reading_says_what_the_intervals_say() -> None:
    gains = {"whole": 0.0, "no queue": -0.05, "circle loss": 0.04, "last-token pool": 0.002, "no nested widths": 0.0}
    reading = read(table_of(gains))
    verdicts = dict(reading.tables["ablations"].select("system", "verdict").rows())
    assert verdicts == {
        "no queue": "worse",
        "circle loss": "better",
        "last-token pool": "no difference seen",
        "no nested widths": "no difference seen",
    }
    told = " ".join(reading.answer)
    assert "Worse, recall@10 against the whole system: no queue -0.050 [" in told
    assert "Better, recall@10 against the whole system: circle loss +0.040 [" in told
    assert "first 8 dimensions, training without nested widths changes recall@10 by -0.020 [" in told
    assert set(reading.figures) == {"ablations", "nested"}


def test_what_is_put_into_the_plain_system_is_read_against_it() -> None:
    reading = read(table_of({"plain": 0.0, "queue": 0.05, "no nested widths": 0.0}, base="plain"))
    told = " ".join(reading.answer)
    assert "Better, recall@10 against the plain system: queue +0.050 [" in told
    assert "first 8 dimensions, training without nested widths changes recall@10 by -0.020 [" in told
    assert reading.notes[0].startswith("The plain system: recall@1 0.101")
    assert any("is put into the plain system" in note for note in reading.notes)
    assert set(reading.tables["nested widths"]["system"]) == {"plain", "no nested widths"}


@pytest.mark.parametrize(("whole", "told"), [(0.0006, True), (0.0008, False)])
def test_a_whole_that_finds_hardly_more_than_chance_is_said_first(whole: float, told: bool) -> None:
    table = table_of({"whole": 0.0, "no queue": -0.03})  # chance is 10 of 44,000
    table = table.with_columns(
        pl.when(pl.col("system") == "whole").then(whole).otherwise(0.05).alias("image_recall@10")
    )
    assert ("hardly more than chance" in read(table).answer[0]) == told


@pytest.mark.usefixtures("around_the_whole")
def test_a_rate_of_its_own_is_tried_for_each_system_before_anything_is_compared(data: Dataset) -> None:
    first = cells("demo", data, Known())
    assert {cell.coordinates["trial"] for cell in first} == set(SYSTEMS["whole"])
    assert {(cell.coordinates["seed"], len(cell.steps)) for cell in first} == {(0, 2)}

    def result_of(step: Step) -> dict[str, object] | None:
        # The second stage's rate: three times the recipe's is best for one stage, the recipe's own for two.
        return {"status": "done", "valid_image_entropy": abs(np.log(step.needs["posttrain"].config.peak_lr / 2e-3))} if (
            "posttrain" in step.needs
        ) else {"status": "done"}  # fmt: skip

    grid = [cell for cell in cells("demo", data, Known(result_of)) if not cell.coordinates["trial"]]
    rates = {cell.coordinates["system"]: cell.coordinates["lr"] for cell in grid}
    assert rates["whole"] == 3.0  # its second stage has a third of the rate
    assert rates["plain, one stage"] == rates["first stage alone"] == 1.0
    for cell in grid:
        if cell.coordinates["opponent"]:
            assert cell.steps["contrast"].needs["embed"] == cell.steps["embed"]


def test_intervals_cover_a_planted_gain_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        table = table_of({"whole": 0.0, "no queue": -0.05})
        noise = rng.normal(0, 0.01, len(SEEDS)) + rng.normal(0, 0.005)
        gain = pl.Series("gain_recall@10", [None] * len(SEEDS) + (-0.05 + noise).tolist())
        row = differences_of(table.with_columns(gain)).row(0, named=True)
        covered += row["recall@10 low"] <= -0.05 <= row["recall@10 high"]
    assert 180 <= covered <= 199
