"""Each transformation finds what was planted and nothing else: against brute force, and against copies made on purpose."""

import io
import math
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import polars as pl
import pytest
from catalogues import encoded, picture, random_tables, written
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from moon_jax.data import processing
from moon_jax.data.contract import DataError, Dataset
from moon_jax.data.processing import (
    EntityFilter,
    ExactImages,
    HardNegatives,
    MatchExposure,
    MergeVariants,
    NearTitles,
    PerceptualImages,
    SimilarityDedup,
    Transformation,
    Vectors,
    process_dataset,
)
from moon_jax.data.processing.entities import lexicon, matches
from moon_jax.data.processing.exposure import quota
from moon_jax.data.processing.grouping import leaders, near_hashes
from moon_jax.data.processing.material import Material
from moon_jax.data.processing.nearest import Nearest


def greedy(alike: np.ndarray) -> np.ndarray:
    """Who stands for each row of a symmetric relation N x N, one row at a time."""
    out: list[int] = []
    for row in range(len(alike)):
        out.append(next((kept for kept in range(row) if out[kept] == kept and alike[row, kept]), row))
    return np.array(out, np.int64)


@given(seed=st.integers(0, 10**6), count=st.integers(0, 30), share=st.floats(0, 0.6))
@settings(max_examples=60, deadline=None)
def test_leaders_are_those_of_a_loop(seed: int, count: int, share: float) -> None:
    upper = np.triu(np.random.default_rng(seed).random((count, count)) < share, 1)
    low, high = np.nonzero(upper)
    assert leaders(count, low, high).tolist() == greedy(upper | upper.T).tolist()


@given(seed=st.integers(0, 10**6), distance=st.integers(0, 8))
@settings(max_examples=25, deadline=None)
def test_near_hashes_are_all_of_them_each_once(seed: int, distance: int) -> None:
    rng = np.random.default_rng(seed)
    base = rng.integers(0, 2**63, 8, dtype=np.uint64)
    flips = [sum(1 << int(bit) for bit in rng.choice(64, rng.integers(0, 10), replace=False)) for _ in range(60)]
    hash_N = base[rng.integers(0, 8, 60)] ^ np.array(flips, np.uint64)
    found = [
        pair for low, high in near_hashes(hash_N, distance) for pair in zip(low.tolist(), high.tolist(), strict=True)
    ]
    apart = np.bitwise_count(hash_N[:, None] ^ hash_N[None, :])
    wanted = {(a, b) for a, b in zip(*np.nonzero(apart <= distance), strict=True) if a < b}
    assert len(found) == len(set(found))
    assert set(found) == wanted


@given(
    titles=st.lists(st.lists(st.sampled_from("abcdefg"), min_size=1, max_size=7), min_size=1, max_size=25),
    threshold=st.sampled_from([0.3, 0.5, 0.8, 1.0]),
    shingle=st.integers(1, 3),
)
@settings(max_examples=60, deadline=None)
def test_near_titles_are_those_of_the_exact_jaccard(titles: list[list[str]], threshold: float, shingle: int) -> None:
    def runs(words: list[str]) -> set[tuple[str, ...]]:
        return {tuple(words[i : i + shingle]) for i in range(max(1, len(words) - shingle + 1))}

    sets = [runs(words) for words in titles]
    alike = np.array([[len(a & b) / len(a | b) >= threshold for b in sets] for a in sets])
    words = pl.Series([[ord(w) for w in words] for words in titles], dtype=pl.List(pl.UInt64))
    with mock.patch.object(processing.titles, "MISSED", 1e-12):
        found = NearTitles(threshold=threshold, shingle=shingle, bands=128).leaders(words)
    assert found.tolist() == greedy(alike).tolist()


@pytest.mark.parametrize("threshold", [0.5, 0.65, 0.8, 0.9])
def test_few_pairs_at_the_threshold_are_missed(threshold: float) -> None:
    """4,000 pairs of texts just at the threshold, each of its own words."""
    rng, size = np.random.default_rng(0), 40
    shared = math.ceil(threshold * 2 * size / (1 + threshold))
    texts = []
    for words in rng.integers(0, 2**62, (4000, 2 * size - shared)).astype(np.uint64).tolist():
        texts += [words[:size], words[size - shared :]]
    leader = NearTitles(threshold=threshold, shingle=1).leaders(pl.Series(texts, dtype=pl.List(pl.UInt64)))
    found = (leader[1::2] == np.arange(0, leader.size, 2)).mean()
    assert found >= 1 - 0.002 - 3 * (0.002 / 4000) ** 0.5
    assert (leader[::2] == np.arange(0, leader.size, 2)).all()


def catalogue(folder: Path, photos: list[bytes], titles: list[str] | None = None, **columns: Any) -> Dataset:
    """Items 0, 1, ... with these photos, one search a split among three items at the end, training text searches for all."""
    count = len(photos)
    texts = pl.List(pl.String)
    items = {
        "item_id": range(count + 3),
        "title": [*(titles or [f"title number {i}" for i in range(count)]), "x", "y", "z"],
        "image": [*photos, *(encoded(picture(10**6 + i)) for i in range(3))],
        "category": [["goods"]] * (count + 3),
        "attributes": [[]] * (count + 3),
        "product_id": range(count + 3),
    }
    asked = [*(("train", i) for i in range(count)), ("valid", count), ("test", count + 1)]
    return written(
        folder,
        {
            "items": pl.DataFrame({**items, **columns}, schema_overrides={"category": texts, "attributes": texts}),
            "queries": pl.DataFrame({"query_id": range(len(asked)), "text": [f"find {i}" for i in range(len(asked))]}),
            "pairs": pl.DataFrame(
                {
                    "query_id": range(len(asked)),
                    "item_id": [item for _, item in asked],
                    "action": ["click"] * len(asked),
                    "split": [split for split, _ in asked],
                }
            ),
        },
    )


def replaced(source: Dataset, to: Path, transformation: Transformation) -> dict[int, int]:
    """Which item stands for which, as the training pairs tell it (each item had one query)."""
    done = process_dataset(source.folder, to, [transformation])
    was = dict(source.read("pairs").select("query_id", "item_id").rows())
    now = dict(done.read("pairs").select("query_id", "item_id").rows())
    return {was[query]: item for query, item in now.items() if was[query] != item}


def test_the_same_pixels_are_found_however_they_are_encoded(tmp_path: Path) -> None:
    """Item k + 20 is a copy of item k for every third k; a picture that differs in one pixel is none."""
    photos = [encoded(picture(k)) for k in range(20)]
    photos += [encoded(picture(k if k % 3 == 0 else 100 + k), way=1 + k % 2) for k in range(20)]
    other = picture(5)
    other.putpixel((3, 3), (1, 2, 3))
    photos.append(encoded(other))
    source = catalogue(tmp_path / "source", photos)
    assert replaced(source, tmp_path / "to", ExactImages()) == {k + 20: k for k in range(0, 20, 3)}


def test_photos_alike_to_the_eye_are_found_and_others_are_not(tmp_path: Path) -> None:
    """Copies are resized and re-encoded; beside them the same silhouettes on white in other colours, which are others."""

    def again(image: Image.Image, size: int, quality: int) -> bytes:
        buffer = io.BytesIO()
        image.resize((size, size), Image.Resampling.LANCZOS).save(buffer, "JPEG", quality=quality, subsampling=0)
        return buffer.getvalue()

    def packshot(colour: tuple[int, int, int]) -> bytes:
        image = Image.new("RGB", (60, 60), "white")
        image.paste(colour, (20, 5, 40, 55))
        return encoded(image)

    originals = [picture(k, 60) for k in range(25)]
    photos = [encoded(image) for image in originals]
    photos += [again(image, 44, 92) for image in originals[::2]]
    wanted = {25 + at: 2 * at for at in range(13)}
    photos += [packshot(colour) for colour in ((200, 30, 30), (30, 30, 200), (30, 30, 30), (90, 90, 90))]
    source = catalogue(tmp_path / "source", photos)
    assert replaced(source, tmp_path / "to", PerceptualImages()) == wanted


def test_near_titles_stand_for_each_other_and_their_photos_do_not(tmp_path: Path) -> None:
    titles = [
        "acme mens running shoe light blue size nine wide",
        "ACME Mens running-shoe light blue, size nine, wide!",
        "acme mens running shoe light blue size ten narrow",
        "a mug",
    ]
    source = catalogue(tmp_path / "source", [encoded(picture(k)) for k in range(4)], titles)
    assert replaced(source, tmp_path / "to", NearTitles()) == {1: 0}
    assert replaced(source, tmp_path / "looser", NearTitles(threshold=0.5)) == {1: 0, 2: 0}


def test_variants_of_one_product_keep_their_common_title(tmp_path: Path) -> None:
    title = "acme mens running shoe light blue"
    source = catalogue(
        tmp_path / "source",
        [encoded(picture(k)) for k in range(4)],
        [title] * 3 + ["a mug"],
        product_id=[7, 7, 8, 9, 10, 11, 12],
    )
    assert replaced(source, tmp_path / "across", NearTitles()) == {2: 0}
    assert replaced(source, tmp_path / "within", NearTitles(within=True)) == {1: 0, 2: 0}


def test_a_pair_whose_query_shows_the_items_own_pixels_goes(tmp_path: Path) -> None:
    """Item 1 is a copy of item 0: searches by item 1's photo, its own or a user's, found item 0, and now do not."""
    tables = random_tables(2)
    queries = pl.DataFrame(
        {
            "query_id": [1, 2, 3, 4, 5],
            "text": ["hat", None, None, "hat", "hat"],
            "image": [None, encoded(picture(0), 1), encoded(picture(0), 2), None, None],
            "item_id": [None, 1, None, None, None],
        }
    )
    pairs = {"query_id": [1, 2, 3, 4, 5], "item_id": [1, 0, 1, 3, 4], "split": [*["train"] * 3, "valid", "test"]}
    items = tables["items"].head(6).with_columns(item_id=pl.Series(range(6)))
    items = items.with_columns(image=pl.Series([encoded(picture(0)), *(encoded(picture(i)) for i in (0, 2, 3, 4, 5))]))
    frame = pl.DataFrame(pairs).with_columns(action=pl.lit("click"))
    source = written(tmp_path / "source", {"items": items, "queries": queries, "pairs": frame})
    done = process_dataset(source.folder, tmp_path / "to", [ExactImages()])
    left = done.read("pairs").filter(pl.col("split") == "train")
    assert left.select("query_id", "item_id").rows() == [(1, 0)]
    report = done.facts["processing"]["transformations"][0]
    assert report["why"]["pairs whose query shows the item itself"] == 2
    assert report["rows"]["train pairs"] == [3, 1]


def test_a_text_that_names_its_item_keeps_its_pair(tmp_path: Path) -> None:
    """Only photos and products show an item: a filter that takes nothing leaves every pair, and so does a merger."""
    plain = catalogue(tmp_path / "plain", [encoded(picture(k)) for k in range(4)], product_id=[7, 7, 8, 9, 10, 11, 12])
    tables = {name: plain.read(name) for name in ("items", "queries", "pairs")}
    tables["queries"] = tables["queries"].with_columns(item_id=tables["pairs"]["item_id"])
    tables["items"] = tables["items"].with_columns(attributes=pl.Series([["colour:red"]] * 7))
    source = written(tmp_path / "source", tables)
    done = process_dataset(source.folder, tmp_path / "to", [EntityFilter(least=0)])
    assert done.read("pairs").equals(source.read("pairs"))
    merged = process_dataset(source.folder, tmp_path / "merged", [MergeVariants()])
    assert merged.read("pairs")["item_id"].to_list() == [0, 0, *range(2, 6)]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("Acme Men's Navy-Blue T-Shirt", ["navy  blue"]),
        ("Navy Blue shirts", ["navy  blue", "shirt"]),
        ("blue navy watch", ["watch"]),
        ("WATCHES & dresses, dresses", ["watch", "dress", "dress"]),
        ("undershirt", []),
        ("a red-hot mug", ["red"]),
        ("shirt shirt", ["shirt", "shirt"]),
        ("", []),
    ],
)
def test_entities_are_whole_words_of_the_catalogue(tmp_path: Path, text: str, named: list[str]) -> None:
    items = pl.DataFrame(
        {
            "category": [["Goods", "Shirts"], ["Goods", "Watches"], ["Goods", "Dress"]],
            "attributes": [["colour:Navy Blue", "size:XL"], ["colour:NA"], ["colour:Red"]],
        }
    )
    items.write_parquet(tmp_path / "items.parquet")
    entries = lexicon(Material({"items": tmp_path / "items.parquet"}, tmp_path))
    assert sorted(entry.strip() for entry in entries) == ["dress", "good", "navy  blue", "red", "shirt", "watch"]
    found = matches(pl.Series([text]), entries)[0].to_list()
    assert [entity.strip() for entity in found] == named


def shout(text: str) -> list[str]:
    """A recogniser for a test: words in capitals."""
    return [word for word in text.split() if word.isupper()]


def test_a_recogniser_of_ones_own_takes_the_lexicons_place(tmp_path: Path) -> None:
    titles = ["ACME HAT", "ACME ACME hat", "hat", "THE HAT of ACME"]
    source = catalogue(tmp_path / "source", [encoded(picture(k)) for k in range(4)], titles)
    texts = source.read("queries").with_columns(text=pl.lit("FIND IT"))
    tables = {"items": source.read("items"), "pairs": source.read("pairs"), "queries": texts}
    source = written(tmp_path / "asked", tables)
    done = process_dataset(source.folder, tmp_path / "to", [EntityFilter(recogniser=f"{__name__}:shout")])
    assert done.read("pairs").filter(pl.col("split") == "train")["item_id"].to_list() == [0, 3]
    with pytest.raises(DataError, match="write it as module:function"):
        process_dataset(source.folder, tmp_path / "no", [EntityFilter(recogniser="nowhere.at:all")])


@given(
    counts=st.lists(st.tuples(st.integers(1, 500), st.integers(1, 500)), min_size=1, max_size=12),
    short=st.floats(0, 0.9),
)
@settings(max_examples=200, deadline=None)
def test_the_quota_matches_all_but_the_least_served_and_a_second_time_nothing_goes(
    counts: list[tuple[int, int]], short: float
) -> None:
    pairs_C, share_C = (np.array(column, float) for column in zip(*counts, strict=True))
    share_C /= share_C.sum()
    kept_C = np.minimum(pairs_C, np.ceil(share_C * quota(pairs_C, share_C, short) - 1e-9))
    cut = kept_C < pairs_C
    assert (kept_C >= 1).all()
    if cut.any():  # what is cut is served alike, to a row, and better than what is not
        served_C = kept_C / share_C
        assert np.ptp(served_C[cut]) <= (1 / share_C[cut]).max() + 1e-6
        below = served_C < served_C[cut].min() - (1 / share_C[cut]).max()
        assert share_C[below].sum() <= short + 1e-9
    again_C = np.minimum(kept_C, np.ceil(share_C * quota(kept_C, share_C, short) - 1e-9))
    assert again_C.tolist() == kept_C.tolist()


def test_head_categories_are_cut_to_the_given_exposure(tmp_path: Path) -> None:
    photos = [encoded(picture(k % 5)) for k in range(60)]
    category = [["goods", "shirts" if k < 48 else "mugs"] for k in range(60)] + [["goods", "mugs"]] * 3
    series = pl.Series(category, dtype=pl.List(pl.String))
    source = catalogue(tmp_path / "source", photos, category=series)
    for seed in (0, 1):
        config = MatchExposure(short=0.0, exposure=(("goods > shirts", 2.0), ("goods > mugs", 1.0)), seed=seed)
        done = process_dataset(source.folder, tmp_path / f"to-{seed}", [config])
        left = done.read("pairs").filter(pl.col("split") == "train")["item_id"]
        assert (left < 48).sum() == 24
        assert (left >= 48).sum() == 12
    with pytest.raises(DataError, match="no category of the pairs has any exposure"):
        process_dataset(source.folder, tmp_path / "none", [MatchExposure(exposure=(("other", 1.0),))])
    with pytest.raises(DataError, match=r"impressions\.parquet"):
        process_dataset(source.folder, tmp_path / "none", [MatchExposure()])


def with_vectors(tmp_path: Path) -> tuple[Dataset, Vectors]:
    source = written(tmp_path / "source", random_tables(21))
    rng = np.random.default_rng(0)
    made = []
    for name, key in (("items", "item_id"), ("queries", "query_id")):
        ids = source.read(name, [key])[key].to_numpy()
        vectors = rng.normal(size=(ids.size, 8))
        made += [ids, vectors / np.linalg.norm(vectors, axis=1, keepdims=True)]
    return source, Vectors(*made)


def test_similarity_dedup_keeps_the_least_similar_query_of_each_item(tmp_path: Path) -> None:
    source, vectors = with_vectors(tmp_path)
    done = process_dataset(source.folder, tmp_path / "to", [SimilarityDedup()], vectors=vectors)
    kinds = dict(
        source.read("queries").select(
            "query_id",
            pl.when(pl.col("image").is_not_null()).then(1).when(pl.col("text").is_not_null()).then(2).otherwise(3),
        ).rows()
    )  # fmt: skip
    item_row = {int(i): r for r, i in enumerate(vectors.item_ids)}
    query_row = {int(i): r for r, i in enumerate(vectors.query_ids)}
    least: dict[tuple[int, int], tuple[float, int]] = {}
    for query, item in source.read("pairs").filter(pl.col("split") == "train").select("query_id", "item_id").rows():
        cosine = float(vectors.queries[query_row[query]] @ vectors.items[item_row[item]])
        key = (item, kinds[query])
        least[key] = min(least.get(key, (9.0, 0)), (cosine, query))
    left = done.read("pairs").filter(pl.col("split") == "train").select("query_id", "item_id").rows()
    assert sorted(left) == sorted((query, item) for (item, _), (_, query) in least.items())
    with pytest.raises(DataError, match="representations are needed"):
        process_dataset(source.folder, tmp_path / "no", [SimilarityDedup()])


def test_a_mixed_search_is_a_kind_of_its_own(tmp_path: Path) -> None:
    """Three searches for item 0, by photo, by text and by both: none is compared with another, so none goes."""
    plain = catalogue(tmp_path / "plain", [encoded(picture(0))] * 3)
    queries = plain.read("queries").with_columns(
        text=pl.Series([None, *["find it"] * 4]), image=pl.Series([b"a photo", None, b"a photo", None, None])
    )
    pairs = plain.read("pairs").with_columns(item_id=pl.Series([0, 0, 0, 3, 4]))
    source = written(tmp_path / "source", {"items": plain.read("items"), "queries": queries, "pairs": pairs})
    unit = np.eye(8)
    vectors = Vectors(np.arange(6), unit[:6], np.arange(5), unit[:5])
    done = process_dataset(source.folder, tmp_path / "to", [SimilarityDedup()], vectors=vectors)
    assert done.read("pairs")["query_id"].to_list() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("kind", ["category", "clicked", "mined"])
def test_hard_negatives_are_no_false_negatives(tmp_path: Path, kind: str) -> None:
    source, vectors = with_vectors(tmp_path)
    config = HardNegatives(kind=kind, per_query=3, closest=0.5)
    done = process_dataset(source.folder, tmp_path / "to", [config], vectors=vectors)
    found = done.read("hard_negatives")
    assert len(found)
    assert found["kind"].unique().to_list() == [kind]
    assert found.group_by("query_id").len()["len"].max() <= 3  # type: ignore[operator]
    product = dict(source.read("items").select("item_id", "product_id").rows())
    leaf = dict(source.read("items").select("item_id", pl.col("category").list.get(1)).rows())
    row = {int(i): r for r, i in enumerate(vectors.item_ids)}
    pairs = done.read("pairs")
    held = set(pairs.filter(pl.col("split") != "train")["item_id"].to_list())
    positives: dict[int, set[int]] = {}
    for query, item in pairs.select("query_id", "item_id").rows():
        positives.setdefault(query, set()).add(item)
    for query, item, _ in found.rows():
        wanted = positives.get(query, set())
        assert product[item] not in {product[other] for other in wanted}
        assert all(vectors.items[row[item]] @ vectors.items[row[other]] <= 0.5 + 1e-6 for other in wanted)
        if kind != "clicked":
            assert item not in held
        if kind == "category":
            assert leaf[item] in {leaf[other] for other in wanted}
    if kind == "clicked":  # they are no positives any more, and something was bought in their stead
        was = source.read("pairs").join(found, on=["query_id", "item_id"], how="semi")
        assert set(was["action"]) == {"click"}
        assert pairs.join(found, on=["query_id", "item_id"], how="semi").is_empty()


@pytest.mark.parametrize("index", ["exact", "hnsw"])
def test_mined_negatives_are_the_most_similar_that_the_guard_leaves(tmp_path: Path, index: str) -> None:
    source, vectors = with_vectors(tmp_path)
    config = HardNegatives(kind="mined", per_query=2, closest=1.0, index=index)  # so few that no index misses any
    done = process_dataset(source.folder, tmp_path / "to", [config], vectors=vectors)
    pairs, items, queries = (source.read(name) for name in ("pairs", "items", "queries"))
    own = dict(queries.select("query_id", "item_id").rows())
    product = dict(items.select("item_id", "product_id").rows())
    held = set(pairs.filter(pl.col("split") != "train")["item_id"].to_list())
    held |= {own[q] for q in pairs.filter(pl.col("split") != "train")["query_id"] if own[q] is not None}
    for (query,), part in done.read("hard_negatives").group_by("query_id", maintain_order=True):
        wanted = set(pairs.filter(pl.col("query_id") == query)["item_id"].to_list()) | {own[query]} - {None}
        taken = {product[item] for item in wanted}
        scores = vectors.items @ vectors.queries[list(vectors.query_ids).index(query)]
        ranked = [int(vectors.item_ids[r]) for r in np.argsort(-scores, kind="stable")]
        best = [item for item in ranked if item not in held and product[item] not in taken][:2]
        assert part["item_id"].to_list() == best


def test_an_approximate_index_tells_its_own_recall_and_is_the_same_every_time() -> None:
    rng = np.random.default_rng(0)
    made = rng.normal(size=(4000, 24)).astype(np.float32)
    made /= np.linalg.norm(made, axis=1, keepdims=True)
    nearest = Nearest(made, np.arange(1000, 4000), depth=10)
    queries = made[:600]
    search = nearest.hnsw()
    found, wanted = search(queries), nearest.exact(queries)
    scores = queries @ made[1000:].T
    np.testing.assert_array_equal(wanted, np.argsort(-scores, axis=1, kind="stable")[:, :10])
    share = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found, wanted, strict=True)])
    assert nearest.recall(search, queries) == pytest.approx(share, abs=0.02)
    assert share > 0.9
    np.testing.assert_array_equal(nearest.hnsw()(queries), found)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: ExactImages(scope="test"), "exact_images: scope 'test' must be one of train, all"),
        (lambda: PerceptualImages(distance=40), r"must lie in 0\.\.16"),
        (lambda: NearTitles(threshold=0.0), "threshold"),
        (lambda: MatchExposure(short=1.0), "short"),
        (lambda: MatchExposure(short=math.nan), "short nan must be a finite number"),
        (lambda: MatchExposure(exposure=(("goods", math.inf),)), "finite and not negative"),
        (lambda: MatchExposure(exposure=(("goods", math.nan),)), "finite and not negative"),
        (lambda: SimilarityDedup(keep=0), "at least 1"),
        (lambda: EntityFilter(least=-3), "least -3 must not be negative"),
        (lambda: HardNegatives(kind="mined", index="lsh"), "index 'lsh' must be one of exact, hnsw"),
        (lambda: HardNegatives(closest=math.nan), "closest nan must be a finite number"),
        (lambda: HardNegatives(closest=1.5), "must be a cosine"),
        (lambda: HardNegatives(kind="odd"), "category, clicked, mined"),
    ],
)
def test_a_config_that_makes_no_sense_is_told(make: Any, told: str) -> None:
    with pytest.raises(DataError, match=told):
        make()


@pytest.mark.proof
@pytest.mark.real_data
def test_the_same_pixels_on_real_photos_are_those_of_a_count_by_hand(real_data: Path, tmp_path: Path) -> None:
    from moon_jax.data.adapters.fashion import import_fashion

    source = import_fashion(real_data / "fashion-product-images-small", tmp_path / "fashion")
    done = process_dataset(source.folder, tmp_path / "to", [ExactImages()])
    pairs, queries = source.read("pairs"), source.read("queries", ["query_id", "item_id"])
    held = pairs.filter(pl.col("split") != "train")
    asked = queries.filter(pl.col("query_id").is_in(held["query_id"].implode()))["item_id"]
    evaluated = set(held["item_id"].to_list()) | set(asked.to_list())
    seen: dict[bytes, int] = {}
    copies = set()
    for item, photo in source.read("items", ["item_id", "image"]).sort("item_id").iter_rows():
        if item not in evaluated:
            pixels = np.asarray(Image.open(io.BytesIO(photo)).convert("RGB"))
            if seen.setdefault(repr(pixels.shape).encode() + pixels.tobytes(), item) != item:
                copies.add(item)
    assert set(done.read("items").filter(~pl.col("in_training"))["item_id"].to_list()) == copies
