"""The command that processes a dataset, and what the question reads: gains, intervals, null results."""

import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy import stats

from experiments.processing import BASELINE, HIT, RECALL, SEEDS, cells, gains_of, read
from moon_jax.data.contract import DataError, Dataset, check, open_dataset
from moon_jax.data.processing import TRANSFORMATIONS, MatchExposure, NearTitles
from moon_jax.data.processing.naming import parse_transformation
from sweeps import Step

Moon = Callable[..., subprocess.CompletedProcess[str]]


def table(gains: dict[str, list[float]], error: float = 0.01, queries: int = 400) -> pl.DataFrame:
    """Results as the question's cells give them, with these gains by seed."""
    shared = {"image_queries": queries, "gallery": 1000, "passes": 1.5, "tokens": 1e5, "image_entropy": 3.0}
    base = dict.fromkeys(
        ("gain_recall@10", "gain_recall@10_se", "gain_hit@10", "gain_hit@10_se", "train_pairs_in", "train_pairs_out")
    )
    base |= {"trained_items_in": None, "trained_items_out": None}
    rows = [
        {"transformation": BASELINE, "seed": seed, HIT: 0.4, RECALL: 0.3, **shared, **base}
        for seed in range(len(next(iter(gains.values()))))
    ]
    for name, values in gains.items():
        for seed, gain in enumerate(values):
            of = {
                "gain_recall@10": gain,
                "gain_recall@10_se": error,
                "gain_hit@10": 2 * gain,
                "gain_hit@10_se": 2 * error,
            }
            of |= {"train_pairs_in": 900, "train_pairs_out": 500}
            of |= {"trained_items_in": 70, "trained_items_out": 60}
            rows.append({"transformation": name, "seed": seed, HIT: 0.4 + 2 * gain, RECALL: 0.3 + gain, **shared, **of})
    return pl.DataFrame(rows, infer_schema_length=None)


def test_an_interval_holds_the_noise_of_queries_and_of_seeds() -> None:
    gains = [0.02, 0.03, 0.07]
    row = gains_of(table({"variants": gains})).row(0, named=True)
    of_queries, of_seeds = 0.01**2, np.var(gains, ddof=1) / 3
    freedom = (of_queries + of_seeds) ** 2 / (of_queries**2 / 399 + of_seeds**2 / 2)
    half = stats.t.ppf(0.975, freedom) * (of_queries + of_seeds) ** 0.5
    assert row["gain"] == pytest.approx(np.mean(gains))
    assert (row["low"], row["high"]) == pytest.approx((np.mean(gains) - half, np.mean(gains) + half))
    for name in ("gain", "low", "high"):  # hit@10 was given twice the gains and twice the noise
        assert row[f"hit {name}"] == pytest.approx(2 * row[name])


@pytest.mark.proof
def test_the_interval_covers_the_truth() -> None:
    """Simulated: 400 queries that share their difficulty, 3 seeds with noise of their own; 95 % must be 93 to 99.5 %."""
    rng = np.random.default_rng(0)
    covered, rounds = 0, 400
    for _ in range(rounds):
        easy_Q = rng.normal(0, 0.3, 400)
        hits = 0.05 + easy_Q + rng.normal(0, 0.4, (3, 400)) + rng.normal(0, 0.015, (3, 1))
        rows = table({"variants": hits.mean(axis=1).tolist()}).with_columns(
            **{"gain_recall@10_se": pl.Series([None] * 3 + (hits.std(axis=1, ddof=1) / 20).tolist())}
        )
        found = gains_of(rows).row(0, named=True)
        covered += found["low"] <= 0.05 <= found["high"]
    assert 0.93 <= covered / rounds <= 0.995


def test_the_reading_names_what_raises_what_lowers_and_what_is_not_seen() -> None:
    reading = read(table({"up": [0.1, 0.11, 0.1], "down": [-0.1, -0.11, -0.1], "null": [0.02, -0.03, 0.0]}))
    raised, lowered, unseen = reading.answer
    assert raised.startswith("image_recall@10 raised by up +0.103 [")
    assert lowered.startswith("image_recall@10 lowered by down -0.103 [")
    assert "not seen to change by null" in unseen
    assert any(note.startswith("image_hit@10, paired likewise: up +0.207 [") for note in reading.notes)
    assert reading.tables["transformations"]["transformation"].to_list() == ["up", "null", "down"]
    assert reading.tables["transformations"]["pairs out"].to_list() == [500] * 3
    assert "gains" in reading.figures
    alone = read(table({"up": [0.1]}))
    assert "only 1 of 3 seeds" in alone.weak[0]
    assert "not seen to change by up" in alone.answer[0]  # one seed gives no interval


def test_each_transformation_stands_beside_its_baseline_and_shares_it(smoke_world: Dataset) -> None:
    made = cells("smoke", smoke_world)
    names = [cell.coordinates["transformation"] for cell in made]
    hard = {f"hard_negatives:{kind}" for kind in ("category", "clicked", "mined")}
    expected = set(TRANSFORMATIONS) - {"hard_negatives"} | hard | {BASELINE}
    assert set(names) == expected
    assert all(names.count(name) == len(SEEDS) for name in expected)
    steps: dict[str, set[Step]] = {}
    for cell in made:
        for kind, step in cell.steps.items():
            steps.setdefault(kind, set()).add(step)
        if cell.coordinates["transformation"] != BASELINE:
            baseline = cell.steps["contrast"].needs["baseline"]
            config = cell.steps["posttrain"].config
            assert baseline.needs["posttrain"].config == replace(config, hard_negatives=0)
            assert (config.hard_negatives > 0) == (cell.coordinates["transformation"] in hard)
    assert len(steps["process"]) == len(expected) - 1
    assert len({step.needs["prepare"] for step in steps["posttrain"]}) == len(expected)


def test_the_command_reports_what_went_and_makes_a_sound_dataset(
    moon: Moon, smoke_world: Dataset, tmp_path: Path
) -> None:
    chosen = ("--with", "variants", "--with", "exposure:level=1,short=0.2")
    done = moon("data", "process", smoke_world.folder, "out", *chosen, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    processed = open_dataset(tmp_path / "out")
    left = (processed.read("pairs")["split"] == "train").sum()
    assert f"-> {left:,}" in done.stdout
    assert "e.g. item" in done.stdout
    assert check(tmp_path / "out") == []
    bad = moon("data", "process", smoke_world.folder, "bad", "--with", "similarity", cwd=tmp_path)
    assert bad.returncode == 2
    assert "representations are needed" in bad.stderr
    assert bad.stderr.count("\n") == 1
    assert not (tmp_path / "bad").exists()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("variant", "unknown transformation 'variant'; did you mean variants?"),
        ("variants:scopes=all", "'scopes=all' is no setting; there are scope=train"),
        ("near_titles:threshold=high", "threshold must be a number like 0.8, not 'high'"),
        ("near_titles:threshold=nan", "threshold nan must be a finite number"),
        ("near_titles:within=maybe", "within must be true or false, not 'maybe'"),
        ("hard_negatives:closest=nan", "closest nan must be a finite number"),
        ("entities:least=-3", "least -3 must not be negative"),
        ("exposure:exposure=no.csv", r"no\.csv: not a table"),
    ],
)
def test_a_name_or_setting_that_there_is_not_is_told(text: str, told: str) -> None:
    with pytest.raises(DataError, match=told):
        parse_transformation(text)


def test_settings_are_read_by_name(tmp_path: Path) -> None:
    (tmp_path / "shown.csv").write_text("category,share\ngoods > mugs,0.2\ngoods > hats,0.8\n")
    found = parse_transformation(f"exposure:short=0.25,scope=all,exposure={tmp_path / 'shown.csv'}")
    shares = (("goods > hats", 0.8), ("goods > mugs", 0.2))
    assert found == MatchExposure(short=0.25, scope="all", exposure=shares)
    assert parse_transformation("near_titles") == NearTitles()


@pytest.mark.parametrize(
    ("text", "said"), [("true", True), ("Yes", True), ("1", True), ("false", False), ("No", False), ("0", False)]
)
def test_what_is_true_or_false_is_read_as_a_word(text: str, said: bool) -> None:
    assert parse_transformation(f"near_titles:within={text}") == NearTitles(within=said)


def test_the_help_lists_every_transformation(moon: Moon, tmp_path: Path) -> None:
    said = " ".join(moon("data", "process", "--help", cwd=tmp_path).stdout.split())
    for name, kind in TRANSFORMATIONS.items():
        assert name in said
        assert kind.does.split(" (")[0].split(":")[0] in said
