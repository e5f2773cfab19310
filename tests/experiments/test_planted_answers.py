"""The questions find what was planted: at preset demo, on worlds whose answer is known (slow: `make evidence`)."""

import json
import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

pytestmark = pytest.mark.evidence


def moon(*arguments: str) -> str:
    """Run the command line with the environment of a user, not of these tests."""
    env = {
        k: v
        for k, v in os.environ.items()
        if k not in ("XLA_FLAGS", "JAX_NUMPY_RANK_PROMOTION", "JAX_COMPILATION_CACHE_DIR")
    }
    done = subprocess.run(
        [sys.executable, "-m", "experiments.cli", *arguments], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def ranking(runs: Path) -> list[dict]:
    """Over all versions alike, for which modality drives the clicks is what these worlds differ in."""
    return json.loads((runs / "exchange_rate" / "fits" / "rate-all-alike.json").read_text())["ranking"]["rows"]


@pytest.fixture(scope="module")
def visual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clicks follow what only images show, and follow it closely: a rate of few versions is told from others by that."""
    folder = tmp_path_factory.mktemp("visual")
    moon("data", "world", str(folder / "world"), "--auc", "0.9")
    for question in ("exchange_rate", "sequence_length"):
        moon("run", question, "--preset", "demo", "--data", str(folder / "world"), "--out", str(folder / "runs"))
    return folder / "runs"


def grid(runs: Path) -> pl.DataFrame:
    """The rows of `sequence_length` without trials of learning rates."""
    return pl.read_parquet(runs / "sequence_length" / "results.parquet").filter(pl.col("trial") == "")


@pytest.mark.timeout(1500)
def test_where_only_images_tell_image_search_recall_ranks_first(visual: Path) -> None:
    first = ranking(visual)[0]
    assert first["proxy"] == "image_recall@10"
    assert first["p_best"] >= 0.9
    assert first["low"] > 0


@pytest.mark.timeout(1500)
def test_where_only_titles_tell_searches_by_title_rank_first(tmp_path: Path) -> None:
    """A product that asks for another shows its title, too: those two searches are not told from each other."""
    moon("data", "world", str(tmp_path / "world"), "--drives", "text", "--auc", "0.9")
    moon("run", "exchange_rate", "--preset", "demo", "--data", str(tmp_path / "world"), "--out", str(tmp_path / "runs"))
    rows = {row["proxy"]: row for row in ranking(tmp_path / "runs")}
    by_title = [rows["text_recall@10"], rows["item_recall@10"]]
    assert sum(row["p_best"] for row in by_title) >= 0.9
    assert all(row["low"] > 0 for row in by_title)
    assert not rows["image_recall@10"]["low"] > 0


@pytest.mark.timeout(1500)
def test_representations_beat_ids_and_never_the_bayes_optimum(visual: Path) -> None:
    table = grid(visual)
    ours = table.filter(pl.col("model") == "CUBE")
    longest = ours.filter(pl.col("L") == 64)
    assert (longest["gauc_gain"] - 1.96 * longest["gauc_gain_se"] > 0).all()  # paired over users, for every seed
    assert (table["gauc_minus_bayes"] < 2 * table["gauc_minus_bayes_se"]).all()


@pytest.mark.timeout(1500)
def test_gauc_rises_with_length_until_the_generator_stops(visual: Path) -> None:
    table = grid(visual)
    ours = table.filter(pl.col("model") == "CUBE").group_by("L").agg(pl.col("gauc", "bayes_gauc").mean()).sort("L")
    rising = ours.filter(pl.col("L") <= 64)  # the world's `stop`
    assert rising["gauc"].is_sorted()
    assert rising["gauc"][-1] - rising["gauc"][0] > 0.01
    bayes = dict(zip(ours["L"], ours["bayes_gauc"], strict=True))
    assert bayes[128] == pytest.approx(bayes[64], abs=1e-9)  # older events tell nothing
