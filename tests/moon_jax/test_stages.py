"""Embed and floors: metrics are those of a count by hand, twins are twins, chance is chance."""

import shutil
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import polars as pl
import pytest
from flax import nnx
from tiny import silent

from moon_jax.data.contract import Dataset
from moon_jax.data.forms import parse_form
from moon_jax.data.loading import Prepared
from moon_jax.models.encoder import EncoderConfig
from moon_jax.stages.contrastive_step import graph_of, initial_parameters
from moon_jax.stages.embed import SHARES, EmbedConfig, Search, embed
from moon_jax.stages.floors import FloorsConfig, chance, floors
from moon_jax.stages.prepare import PrepareConfig, prepare, twins
from moon_jax.thumbnails import colour_histograms, thumbnails
from moon_jax.weights import save_encoder

ENCODER = EncoderConfig(height=16, width=16, patch=8, vocabulary=200, embedding=16)
SEARCHES = (parse_form("image", "image->image+text"), parse_form("text", "text->image+text"))
TEMPERATURE = 0.07


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> tuple[nnx.GraphDef, nnx.State, Path]:
    """An untrained encoder, as a post-training step leaves it."""
    folder = tmp_path_factory.mktemp("encoder")
    graph, params = graph_of(ENCODER), initial_parameters(ENCODER, 4)
    save_encoder(folder, ENCODER, params["encoder"], TEMPERATURE)
    return graph, params["encoder"], folder


@pytest.fixture(scope="module")
def own_photos(prepared_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same catalogue, where each photo that is searched by is an item's own: that item must not be found.

    The photo belongs to the first relevant item, which is so no longer to be found; another of its product is.
    """
    folder = tmp_path_factory.mktemp("own") / "prepared"
    shutil.copytree(prepared_folder, folder)
    was = Prepared(prepared_folder)
    own_Q, keep_P = np.array(was.query_item), np.ones(len(was.pairs), bool)
    for row, (query, item) in enumerate(was.pairs):
        if was.query_search[query] == 0 and own_Q[query] < 0:
            own_Q[query], keep_P[row] = item, False
    np.save(folder / "query_item.npy", own_Q)
    np.save(folder / "pairs.npy", was.pairs[keep_P])
    np.save(folder / "pair_split.npy", was.pair_split[keep_P])
    twin_Q = np.zeros(own_Q.size, bool)
    twin_Q[np.unique(was.pairs[was.pair_split == 2, 0])[::3]] = True
    np.save(folder / "query_twin.npy", twin_Q)
    return folder


def by_hand(
    prepared: Prepared, search: str, split: int, queries_QxD: np.ndarray, items_NxD: np.ndarray, without: np.ndarray
) -> dict[str, float]:
    """Recall and hit rate of one search, one query at a time, in float64; `without` marks queries left out."""
    kind = ("image", "text", "item").index(search)
    relevant: dict[int, set[int]] = {}
    for (query, item), of in zip(prepared.pairs, prepared.pair_split, strict=True):
        if of == split and prepared.query_search[query] == kind and not without[query]:
            relevant.setdefault(int(query), set()).add(int(item))
    out: dict[str, list[float]] = {}
    for query, wanted in relevant.items():
        scores = items_NxD.astype(np.float64) @ queries_QxD[query].astype(np.float64)
        ranked = [item for item in np.argsort(-scores, kind="stable") if item != prepared.query_item[query]]
        for k in (1, 10, 100):
            found = len(wanted & set(ranked[:k]))
            out.setdefault(f"recall@{k}", []).append(found / len(wanted))
            out.setdefault(f"hit@{k}", []).append(float(found > 0))
    return {name: float(np.mean(values)) for name, values in out.items()} | {"queries": len(relevant)}


@pytest.mark.parametrize("catalogue", ["prepared_folder", "own_photos"])
def test_search_metrics_equal_a_count_by_hand(
    encoder: tuple, catalogue: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    graph, params, folder = encoder
    home = request.getfixturevalue(catalogue)
    prepared = Prepared(home)
    config = EmbedConfig(SEARCHES, ("image", "text"), dims=(4, 16))
    measured = embed(config, files={}, inputs={"prepare": home, "posttrain": folder}, folder=tmp_path, report=silent)
    see = jax.jit(lambda pixels, text: nnx.merge(graph, params)(pixels, text))
    items = np.asarray(see(prepared.item_images, prepared.item_text))
    everyone, nobody = np.ones(len(prepared.query_item), bool), np.zeros(len(prepared.query_item), bool)
    for search in ("image", "text"):
        queries = np.zeros((everyone.size, 16))
        if search == "image":
            shown = prepared.query_image_row >= 0
            queries[shown] = see(prepared.query_images[prepared.query_image_row[shown]], None)
        else:
            queries[:] = see(None, prepared.query_text)
        for name, value in by_hand(prepared, search, 2, queries, items, nobody).items():
            assert measured[f"{search}_{name}"] == pytest.approx(value, abs=1e-12), (search, name)
        beginnings = (v[:, :4] / np.linalg.norm(v[:, :4], axis=1, keepdims=True) for v in (queries + 1e-30, items))
        for name, value in by_hand(prepared, search, 2, *beginnings, nobody).items():
            if name.startswith("recall"):
                assert measured[f"{search}_{name}_d4"] == pytest.approx(value, abs=1e-7), (search, name)
                assert measured[f"{search}_{name}_d16"] == pytest.approx(measured[f"{search}_{name}"], abs=1e-7)
        valid = by_hand(prepared, search, 1, queries, items, nobody)
        assert measured[f"valid_{search}_recall@10"] == pytest.approx(valid["recall@10"], abs=1e-12)
        if search == "image":
            recall_Q, hit_Q = np.load(tmp_path / SHARES)["recall@10"], np.load(tmp_path / "image_hits.npy")
            assert (recall_Q.dtype, hit_Q.dtype) == (np.float32, np.bool_)
            assert recall_Q.mean(dtype=np.float64) == pytest.approx(measured["image_recall@10"], abs=1e-7)
            assert hit_Q.mean() == pytest.approx(measured["image_hit@10"])
            alone = by_hand(prepared, search, 2, queries, items, prepared.query_twin)
            assert measured["image_recall@10_no_twins"] == pytest.approx(alone["recall@10"], abs=1e-12)
            assert measured["image_hit@10_no_twins"] == pytest.approx(alone["hit@10"], abs=1e-12)
            share = 1 - alone["queries"] / measured["image_queries"]
            assert measured["image_twin_share"] == pytest.approx(share)
    assert measured["gallery"] == 120
    saved = np.load(tmp_path / "items.npy")
    assert saved.dtype == np.float16
    np.testing.assert_allclose(saved, items, atol=1e-3)


def test_a_text_that_names_its_item_may_find_it(world: Dataset, prepared_folder: Path, tmp_path: Path) -> None:
    """Texts of searches with an item_id: the arrays are as without, and perfect vectors find all that is relevant."""
    first = world.read("pairs").group_by("query_id", maintain_order=True).agg(pl.col("item_id").first().alias("named"))
    queries = world.read("queries").join(first, on="query_id", how="left", maintain_order="left")
    text_only = pl.col("text").is_not_null() & pl.col("image").is_null()
    queries = queries.with_columns(item_id=pl.when(text_only).then("named").otherwise("item_id")).drop("named")
    assert queries.filter(text_only)["item_id"].null_count() == 0
    queries.write_parquet(tmp_path / "queries.parquet")
    files = {"items": world.path("items"), "queries": tmp_path / "queries.parquet", "pairs": world.path("pairs")}
    (tmp_path / "named").mkdir()
    prepare(PrepareConfig(16, 16, 8, 200), files=files, inputs={}, folder=tmp_path / "named", report=silent)
    for path in prepared_folder.glob("*.npy"):
        np.testing.assert_array_equal(np.load(tmp_path / "named" / path.name), np.load(path), path.name)
    search = Search.of(Prepared(tmp_path / "named"), SEARCHES[1], "test")
    items = np.eye(120)
    perfect = np.stack([items[rows].sum(axis=0) for rows in search.relevant])
    assert search.found(search.nearest(perfect, items))["recall@10"] == 1.0


def test_entropy_is_taken_over_fixed_candidates_that_are_all_wrong(own_photos: Path) -> None:
    prepared = Prepared(own_photos)
    search = Search.of(prepared, SEARCHES[0], "test")
    candidates = search.candidates(120, seed=0)
    assert candidates.shape == (12, 256)
    assert np.array_equal(candidates, search.candidates(120, seed=0))
    assert not np.array_equal(candidates, search.candidates(120, seed=1))
    for row, relevant, own in zip(candidates, search.relevant, search.own_Q, strict=True):
        assert not set(row) & {*relevant, own}
    rng = np.random.default_rng(0)
    queries, items = rng.normal(size=(12, 8)), rng.normal(size=(120, 8))
    losses = []
    for query, relevant, others in zip(queries, search.relevant, candidates, strict=True):
        logits = np.array([items[row] @ query / 0.5 for row in (relevant[0], *others)])
        losses.append(-np.log(np.exp(logits[0]) / np.exp(logits).sum()))
    assert search.closeness(queries, items, 0.5, 0)["entropy"] == pytest.approx(np.mean(losses), rel=1e-9)


def test_a_representation_shows_what_its_version_may_show(
    encoder: tuple, prepared_folder: Path, tmp_path: Path
) -> None:
    """Images alone: other titles change nothing. Text alone: other photos change nothing."""
    changed = tmp_path / "changed"
    shutil.copytree(prepared_folder, changed)
    for name in ("item_images", "item_text"):
        np.save(changed / f"{name}.npy", np.load(prepared_folder / f"{name}.npy")[::-1])
    vectors = {}
    for item in (("image",), ("text",)):
        for home in (prepared_folder, changed):
            folder = tmp_path / f"{item[0]}-{home.name}"
            folder.mkdir()
            inputs = {"prepare": home, "posttrain": encoder[2]}
            searches = (replace(SEARCHES[1], query=("text",), item=item),)
            embed(EmbedConfig(searches, item), files={}, inputs=inputs, folder=folder, report=silent)
            vectors[item[0], home] = np.load(folder / "items.npy")
    for kind in ("image", "text"):
        np.testing.assert_array_equal(vectors[kind, changed][::-1], vectors[kind, prepared_folder])
    assert np.abs(vectors["image", changed] - vectors["text", changed]).max() > 0.1


def test_a_search_without_pairs_is_told(prepared: Prepared, tmp_path: Path) -> None:
    shutil.copytree(prepared.folder, tmp_path / "none")
    np.save(tmp_path / "none" / "pair_split.npy", np.zeros_like(prepared.pair_split))
    with pytest.raises(ValueError, match="no test pairs for image search"):
        Search.of(Prepared(tmp_path / "none"), SEARCHES[0], "test")


def test_a_twin_is_another_item_with_the_same_photo(tmp_path: Path) -> None:
    """Queries: the own photo (0), another's (1), another's with noise (2), another's, only in training (3)."""
    rng = np.random.default_rng(0)
    items = rng.integers(0, 256, (6, 24, 18, 3), dtype=np.uint8)
    noisy = np.clip(items[2] + rng.normal(0, 25, items[2].shape), 0, 255).astype(np.uint8)
    photos = np.stack([items[0], items[1], noisy, items[3], items[4]])
    np.save(tmp_path / "item_images.npy", items)
    np.save(tmp_path / "query_images.npy", photos)
    # Query 4 has no photo; query 5 shows item 4, which nobody owns.
    image_row, owner = np.array([0, 1, 2, 3, -1, 4]), np.array([0, 5, 5, 5, -1, -1])
    found = twins(tmp_path, image_row, owner, held_P=np.array([0, 1, 2, 4, 5, 1]))
    assert found.tolist() == [False, True, False, False, False, True]


def test_chance_equals_a_simulation(own_photos: Path, prepared_folder: Path) -> None:
    """Random orders of the gallery, with and without an own item that is taken out; the standard error bounds it."""
    rng = np.random.default_rng(0)
    for home in (prepared_folder, own_photos):
        search = Search.of(Prepared(home), SEARCHES[0], "test")
        draws = [
            search.found(search.nearest(rng.normal(size=(len(search.queries_Q), 8)), rng.normal(size=(120, 8))))
            for _ in range(500)
        ]
        for name, expected in chance(search, 120).items():
            seen = np.array([draw[name.removeprefix("chance_image_")] for draw in draws])
            assert abs(seen.mean() - expected) < 4 * seen.std() / len(seen) ** 0.5 + 1e-12, (home.name, name)


def test_chance_is_exact_where_it_can_be_counted() -> None:
    """Five items, its own taken out, two relevant of the other four: recall@1 1/4, hit@1 1/2."""
    search = Search(np.array([0]), [np.array([1, 2])], np.array([0]))
    assert chance(search, 5) == {"chance_image_recall@1": 0.25, "chance_image_hit@1": 0.5}
    anywhere = Search(np.array([0]), [np.array([1, 2])], np.array([-1]))
    assert chance(anywhere, 11)["chance_image_hit@10"] == 1.0  # two relevant, only one place beyond the top ten
    assert chance(anywhere, 11)["chance_image_recall@10"] == pytest.approx(10 / 11)


def test_pixel_floors_equal_a_count_by_hand(own_photos: Path, tmp_path: Path) -> None:
    prepared = Prepared(own_photos)
    measured = floors(FloorsConfig(), files={}, inputs={"prepare": own_photos}, folder=tmp_path, report=silent)
    shown = prepared.query_image_row >= 0
    photos = np.asarray(prepared.query_images)[prepared.query_image_row[shown]]
    nobody = np.zeros(shown.size, bool)
    thumbs, colours = (np.zeros((shown.size, width), np.float32) for width in (16 * 12 * 3, 64))
    thumbs[shown], colours[shown] = thumbnails(photos), colour_histograms(photos)
    item_thumbs, item_colours = thumbnails(prepared.item_images), colour_histograms(prepared.item_images)
    both = [np.concatenate([t, 0.5**0.5 * c], axis=1) for t, c in ((thumbs, colours), (item_thumbs, item_colours))]
    for floor, (queries, items) in {"pixel": (thumbs, item_thumbs), "pixel_colour": both}.items():
        for name, value in by_hand(prepared, "image", 2, queries, items, nobody).items():
            if name != "queries":
                assert measured[f"{floor}_image_{name}"] == pytest.approx(value, abs=1e-12), (floor, name)
    assert measured["chance_image_hit@10"] == pytest.approx(10 / 119)


def test_thumbnails_average_areas_and_colours_count_pixels() -> None:
    image = np.zeros((1, 32, 24, 3), np.uint8)
    image[:, :, 12:] = 200
    thumb = thumbnails(image).reshape(16, 12, 3)
    assert np.linalg.norm(thumb) == pytest.approx(1)
    assert np.allclose(thumb[:, :6], -thumb[:, 6:])
    histogram = colour_histograms(image)[0]
    assert np.flatnonzero(histogram).tolist() == [0, 63]
    np.testing.assert_allclose(histogram[[0, 63]], 0.5**0.5, rtol=1e-6)
