"""Retrieval and relevance: by hand on few items, against brute force on more."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from posttraining import Interrupts
from tiny import silent

from moon_jax.data.contract import DataError, Dataset
from moon_jax.data.forms import parse_form
from moon_jax.data.representations import embeddings_table
from moon_jax.models.encoder import EncoderConfig
from moon_jax.stages.embed import EmbedConfig, embed
from moon_jax.stages.posttrain import PosttrainConfig, posttrain
from moon_jax.stages.relevance import RelevanceConfig, relevance
from moon_jax.stages.retrieval import RetrievalConfig, error_over_users, retrieval

ITEMS, USERS = 150, 30


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Items in five groups of thirty; users who stay within a group; two have no history at all."""
    folder, rng = tmp_path_factory.mktemp("log"), np.random.default_rng(0)
    group = np.arange(USERS) % 5
    events = [
        (user, int(5 * rng.integers(0, 30) + group[user]), "view", time)
        for user in range(2, USERS)
        for time in range(6)
    ]
    shown = [
        (
            user * 10 + at,
            user,
            int(5 * rng.integers(0, 30) + group[user]),
            10 + at,
            at % 2 == 0,
            "test" if at < 4 else "train",
        )
        for user in range(USERS)
        for at in range(6)
    ]
    tables = {
        "items": pl.DataFrame({"item_id": np.arange(ITEMS)}),
        "events": pl.DataFrame(events, ["user_id", "item_id", "action", "timestamp"], orient="row"),
        "impressions": pl.DataFrame(
            shown, ["impression_id", "user_id", "item_id", "timestamp", "clicked", "split"], orient="row"
        ),
    }
    vectors = np.eye(5)[np.arange(ITEMS) % 5] + 0.01 * rng.normal(size=(ITEMS, 5))
    tables["embeddings"] = embeddings_table(np.arange(ITEMS), vectors)
    for name, table in tables.items():
        table.write_parquet(folder / f"{name}.parquet")
    return {name: folder / f"{name}.parquet" for name in tables}


def test_who_stays_with_a_group_is_found_in_it(log: dict[str, Path], tmp_path: Path) -> None:
    found = retrieval(RetrievalConfig(), files=log, inputs={}, folder=tmp_path, report=silent)
    assert (found["retrieval_impressions"], found["retrieval_left_out"]) == (2 * (USERS - 2), 4)
    assert found["retrieval_recall@100"] == 1.0  # thirty items of the group stand before all others
    assert found["retrieval_popularity@100"] < 1
    assert found["retrieval_chance@10"] == pytest.approx(10 / ITEMS)
    saved = np.load(tmp_path / "retrieval_hits.npz")
    assert found["retrieval_recall@10"] == saved["recall@10"].mean()
    assert found["retrieval_recall@10_se"] == error_over_users(saved["recall@10"], saved["user"])
    # brute force for one impression
    events, shown = (pl.read_parquet(log[name]) for name in ("events", "impressions"))
    ids, vectors = np.arange(ITEMS), np.array(pl.read_parquet(log["embeddings"])["embedding"].to_list(), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    for impression, hit in zip(saved["impression_id"], saved["recall@10"], strict=True):
        row = shown.row(by_predicate=pl.col("impression_id") == impression, named=True)
        history = events.filter(pl.col("user_id") == row["user_id"])["item_id"].to_numpy()
        scores = vectors @ vectors[history].mean(axis=0)
        assert hit == (row["item_id"] in ids[np.argsort(-scores)[:10]])


def test_an_approximate_index_says_what_it_misses(log: dict[str, Path], tmp_path: Path) -> None:
    pytest.importorskip("usearch")
    found = retrieval(RetrievalConfig(ann=True), files=log, inputs={}, folder=tmp_path, report=silent)
    assert 0.9 < found["retrieval_ann_found"] <= 1
    assert found["retrieval_ann_recall@100"] == pytest.approx(found["retrieval_recall@100"], abs=0.05)


def test_retrieval_without_representations_is_refused(log: dict[str, Path], tmp_path: Path) -> None:
    files = {name: path for name, path in log.items() if name != "embeddings"}
    with pytest.raises(DataError, match="retrieval needs representations"):
        retrieval(RetrievalConfig(), files=files, inputs={}, folder=tmp_path, report=silent)


def test_judged_pairs_are_ordered_by_cosine(
    world: Dataset, prepared_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """What a perfect judge would say of the model's own cosines gets 1; the reverse gets no more than chance."""
    trained, embedded, out = (tmp_path_factory.mktemp(name) for name in ("trained", "embedded", "judged"))
    form = parse_form("text", world.forms["text"])
    encoder = EncoderConfig(height=16, width=16, patch=8, vocabulary=200, embedding=16)
    config = PosttrainConfig(encoder, (form,), tokens=0, batch=8)
    inputs = {"prepare": prepared_folder}
    posttrain(config, files={}, inputs=inputs, folder=trained, report=Interrupts())
    inputs |= {"posttrain": trained}
    embed(EmbedConfig((form,), form.item), files={}, inputs=inputs, folder=embedded, report=silent)
    inputs |= {"embed": embedded}
    queries = world.read("queries").filter(pl.col("text").is_not_null())["query_id"].to_list()[:6]
    items = world.read("items")["item_id"].to_list()[:8]
    pairs = [(query, item) for query in queries for item in items]
    files = {"queries": world.path("queries"), "relevance": out / "relevance.parquet"}

    def judged(grades: list[float]) -> dict[str, float]:
        table = pl.DataFrame(pairs, ["query_id", "item_id"], orient="row")
        table.with_columns(pl.Series("grade", grades), split=pl.lit("test")).write_parquet(files["relevance"])
        return relevance(RelevanceConfig(form), files=files, inputs=inputs, folder=out, report=silent)

    judged([1.0, 0.0] * (len(pairs) // 2))
    scores = np.load(out / "relevance.npz")["score"].astype(np.float64)
    ranks = np.argsort(np.argsort(scores.reshape(6, 8), axis=1), axis=1)
    perfect = judged((ranks.reshape(-1) / 7).tolist())
    assert (perfect["relevance_ndcg@10"], perfect["relevance_auc"]) == (pytest.approx(1.0), 1.0)
    assert (perfect["relevance_pairs"], perfect["relevance_queries"]) == (48, 6)
    assert judged(((7 - ranks.reshape(-1)) / 7).tolist())["relevance_auc"] == 0.0
    pairs[3] = (10**9, items[0])
    with pytest.raises(DataError, match=r"relevance\.parquet: unknown query_id 1000000000"):
        judged([1.0] * len(pairs))
