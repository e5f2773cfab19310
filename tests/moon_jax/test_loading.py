"""From a dataset to batches: nothing leaks, nothing is lost, and a position can be saved."""

import io
import math
import os
import socket
import struct
import subprocess
import sys
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import grain
import hypothesis.strategies as st
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from PIL import Image
from tiny import silent

from moon_jax.data.contract import DataError, Dataset
from moon_jax.data.forms import Form, parse_form
from moon_jax.data.loading import Mixture, Prepared, ShuffledBatches, training_batches
from moon_jax.stages.prepare import PrepareConfig, prepare

IMAGE = parse_form("image", "image->image+text")
TEXT = parse_form("text", "text->image", weight=0.5)
ITEM = parse_form("item", "image+text->image+text", weight=0.25)
OWN = parse_form("own", "image->text", weight=0.25)
MIXTURE = (IMAGE, TEXT, ITEM, OWN)


def take(batches: grain.DatasetIterator, count: int) -> list[dict[str, np.ndarray]]:
    return [next(batches) for _ in range(count)]


def equal(some: list[dict[str, np.ndarray]], others: list[dict[str, np.ndarray]]) -> bool:
    return all(
        a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)
        for a, b in zip(some, others, strict=True)
    )


def test_a_seed_gives_the_same_batches_and_another_seed_others(prepared: Prepared) -> None:
    first, second = (take(training_batches(prepared, MIXTURE, 8, seed=5), 40) for _ in range(2))
    assert equal(first, second)
    assert not equal(first, take(training_batches(prepared, MIXTURE, 8, seed=6), 40))


@pytest.mark.parametrize("done", [0, 1, 9, 50])
def test_a_saved_position_gives_the_same_rest(prepared: Prepared, done: int) -> None:
    """Also past the end of a pass (50 batches of 8 are more than one)."""
    batches = training_batches(prepared, MIXTURE, 8, seed=1)
    take(batches, done)
    state = batches.get_state()
    rest = take(batches, 12)
    fresh = training_batches(prepared, MIXTURE, 8, seed=1)
    fresh.set_state(state)
    assert equal(take(fresh, 12), rest)


def test_a_batch_has_one_form_and_forms_come_by_weight(prepared: Prepared) -> None:
    """What a batch shows tells its form, as each of these four shows something else."""
    shown = Counter(frozenset(batch) - {"product_ids"} for batch in take(training_batches(prepared, MIXTURE, 8, 0), 80))
    assert shown == {
        frozenset({"query_images", "item_images", "item_text"}): 40,
        frozenset({"query_text", "item_images"}): 20,
        frozenset({"query_images", "query_text", "item_images", "item_text"}): 10,
        frozenset({"query_images", "item_text"}): 10,
    }


class Listed:
    """Stands for prepared data whose batches are the pairs themselves."""

    def __init__(self, pairs: np.ndarray):
        self.pairs = pairs

    def pairs_of(self, search: str, split: str, actions: tuple[str, ...] = ()) -> np.ndarray:
        assert split == "train"
        return self.pairs

    def gather(self, form: Form, pairs_Bx2: np.ndarray) -> dict[str, np.ndarray]:
        return {"pairs": np.asarray(pairs_Bx2)}


def test_every_pass_shows_every_pair_once_in_another_order() -> None:
    pairs = np.stack([np.arange(48), np.arange(48) + 100], axis=1)
    batches = training_batches(Listed(pairs), (IMAGE,), 16, seed=0)  # type: ignore[arg-type]
    passes = [np.concatenate([batch["pairs"] for batch in take(batches, 3)]) for _ in range(3)]
    for shown in passes:
        np.testing.assert_array_equal(shown[np.argsort(shown[:, 0])], pairs)
    assert not np.array_equal(passes[0], passes[1])
    assert not np.array_equal(passes[1], passes[2])


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**20), batch=st.integers(1, 20), more=st.integers(0, 50), start=st.integers(0, 10**9))
def test_shuffled_batches_are_permutations_one_after_another(seed: int, batch: int, more: int, start: int) -> None:
    """Whatever is asked for first; a batch may begin in one pass and end in the next."""
    rows = 100 + np.arange(batch + more)
    places = range(start * rows.size, start * rows.size + rows.size)  # whole passes: `batch` of them
    asked = {place: ShuffledBatches(rows, batch, seed)[place] for place in reversed(places)}
    source = ShuffledBatches(rows, batch, seed)
    shown = np.concatenate([source[place] for place in places])
    np.testing.assert_array_equal(shown, np.concatenate([asked[place] for place in places]))
    passes = shown.reshape(batch, rows.size)
    np.testing.assert_array_equal(np.sort(passes, axis=1), np.tile(rows, (batch, 1)))
    if rows.size > 12 and batch > 1:
        assert not np.array_equal(passes[0], passes[1])


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 2**20), batch=st.sampled_from([8, 16]), pairs=st.integers(16, 70), skip=st.integers(0, 12))
def test_processes_share_each_batch_of_one_process(seed: int, batch: int, pairs: int, skip: int) -> None:
    """One, two or four: their parts, in order, are the batch; and a run goes on with another number of processes."""
    data = Listed(np.stack([np.arange(pairs), np.arange(pairs)], axis=1))
    forms = (IMAGE, TEXT)
    alone = training_batches(data, forms, batch, seed, process=(0, 1))  # type: ignore[arg-type]
    take(alone, skip)
    state = alone.get_state()
    expected = [shown["pairs"] for shown in take(alone, 6)]
    for count in (1, 2, 4):
        shared = [training_batches(data, forms, batch, seed, process=(index, count)) for index in range(count)]  # type: ignore[arg-type]
        for batches in shared:
            batches.set_state(state)
        for whole in expected:
            parts = [next(batches)["pairs"] for batches in shared]
            assert {len(part) for part in parts} == {batch // count}
            np.testing.assert_array_equal(np.concatenate(parts), whole)
        for batches in shared:
            batches.close()


@pytest.mark.proof
def test_two_jax_processes_make_one_global_batch(prepared_folder: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    script = Path(__file__).parent / "two_processes.py"
    commands = [[sys.executable, str(script), str(port), str(index), str(prepared_folder)] for index in (0, 1)]
    environment = {**os.environ, "XLA_FLAGS": ""}  # one device a process
    started = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for command in commands
    ]
    said = [process.communicate(timeout=120)[0] for process in started]
    for index, process in enumerate(started):
        assert process.returncode == 0, said[index]
        assert f"process {index} of 2" in said[index]


def test_a_batch_that_processes_cannot_share_equally_is_told(prepared: Prepared) -> None:
    with pytest.raises(DataError, match="a batch of 10 cannot be shared equally by 4 processes"):
        training_batches(prepared, (IMAGE,), 10, seed=0, process=(1, 4))


@given(shares=st.lists(st.integers(1, 50), min_size=1, max_size=6), scale=st.sampled_from([0.1, 1 / 3, 0.01, 1.0, 2.5]))
def test_a_mixture_is_exactly_its_weights_over_a_pass(shares: list[int], scale: float) -> None:
    """In every pass each form gets its share, one after another of its own batches; in between it is never far off."""
    mixture = Mixture(tuple(share * scale for share in shares))
    divisor = math.gcd(*shares)
    length = sum(shares) // divisor
    seen = [0] * len(shares)
    for place in range(2 * length):
        form, own = mixture[place]
        assert own == seen[form]
        seen[form] += 1
        for share, count in zip(shares, seen, strict=True):
            assert abs(count - (place + 1) * share / sum(shares)) < len(shares)
        if (place + 1) % length == 0:
            assert seen == [share // divisor * ((place + 1) // length) for share in shares]


@pytest.mark.parametrize(
    "weights", [(1.0,), (1.0, 1.0), (1.0, 0.5), (1.0, 1.0, 1.0), (1.0, 0.5, 0.25, 0.25), (0.5, 2.0)]
)
def test_the_order_of_a_mixture_is_grains_where_grain_is_exact(weights: tuple[float, ...]) -> None:
    """So runs of before give what they gave."""
    parts = [grain.MapDataset.range(1000).map(lambda own, form=form: (form, own)) for form in range(len(weights))]
    theirs = grain.MapDataset.mix(parts, weights=list(weights))
    mixture = Mixture(weights)
    assert [mixture[place] for place in range(200)] == [theirs[place] for place in range(200)]


@pytest.mark.parametrize("weight", [0.0, -1.0, math.nan, math.inf, 1e-9])
def test_a_weight_that_is_none_is_told(prepared: Prepared, weight: float) -> None:
    with pytest.raises(DataError, match="a form of weight"):
        training_batches(prepared, (IMAGE, replace(TEXT, weight=weight)), 8, seed=0)


def test_too_few_pairs_for_a_batch_are_told() -> None:
    with pytest.raises(ValueError, match="3 training pairs for image search are fewer than a batch of 16"):
        training_batches(Listed(np.zeros((3, 2), int)), (IMAGE,), 16, seed=0)  # type: ignore[arg-type]


def test_a_batch_shows_what_its_pairs_are(prepared: Prepared, world: Dataset) -> None:
    """Titles and photos of the rows that the tables name, for each kind of query."""
    items, queries, pairs = (world.read(file) for file in ("items", "queries", "pairs"))
    row_of = {item: row for row, item in enumerate(items["item_id"])}
    for form in (IMAGE, TEXT, ITEM):
        chosen = prepared.pairs_of(form.search, "train")[:20]
        batch = prepared.gather(form, chosen)
        for place, (query, item) in enumerate(chosen):
            asked = queries.row(int(query), named=True)
            known = pairs.filter((pl.col("query_id") == asked["query_id"]) & (pl.col("split") == "train"))
            assert items["item_id"][int(item)] in known["item_id"].to_list()
            assert batch["product_ids"][place] == prepared.product_ids[item]
            if form.search == "item":
                own = row_of[asked["item_id"]]
                assert np.array_equal(batch["query_images"][place], prepared.item_images[own])
                assert np.array_equal(batch["query_text"][place], prepared.item_text[own])
            if form.search == "image":
                with Image.open(io.BytesIO(asked["image"])) as photo:
                    pixels = np.asarray(photo.convert("RGB").resize((16, 16), Image.Resampling.BILINEAR))
                assert np.array_equal(batch["query_images"][place], pixels)
            with Image.open(io.BytesIO(items["image"][int(item)])) as photo:
                pixels = np.asarray(photo.convert("RGB").resize((16, 16), Image.Resampling.BILINEAR))
            assert np.array_equal(batch["item_images"][place], pixels)


def test_training_pairs_know_no_product_of_an_evaluation(prepared: Prepared) -> None:
    """Neither side of a training pair, nor an item's own photo, is of a product that valid or test ask for."""
    held_pairs = prepared.pairs[prepared.pair_split != 0]
    held = set(prepared.product_ids[held_pairs[:, 1]])
    asked = prepared.query_item[held_pairs[:, 0]]
    held |= set(prepared.product_ids[asked[asked >= 0]])
    assert len(held) == 18  # 30 % of sixty products
    for search in ("image", "text", "item", "own"):
        pairs = prepared.pairs_of(search, "train")
        assert len(pairs)
        assert not held & set(prepared.product_ids[pairs[:, 1]])
        if search == "own":
            assert np.array_equal(pairs[:, 0], pairs[:, 1])
            continue
        assert not set(pairs[:, 0]) & set(held_pairs[:, 0])
        queried = prepared.query_item[pairs[:, 0]]
        assert not held & set(prepared.product_ids[queried[queried >= 0]])


@pytest.mark.real_data
def test_fashion_titles_of_an_evaluation_are_never_trained_on(real_data: Path, tmp_path: Path) -> None:
    """From the real titles, without decoding a photo: training pairs and own photos stay clear of held-out titles."""
    from moon_jax.data.adapters.fashion import read_styles
    from moon_jax.data.adapters.groups import group_queries, split_titles

    products, _ = read_styles(real_data / "fashion-product-images-small")
    groups: dict[str, list[int]] = {}
    for product in products:
        groups.setdefault(product.title, []).append(product.item_id)
    splits = split_titles([title for title, ids in groups.items() if title and len(ids) > 1])
    row = {product.item_id: place for place, product in enumerate(products)}
    pairs, split_P = [], []
    for title, split in splits.items():
        for query, relevant in group_queries(title, groups[title], split):
            pairs += [(row[query], row[item]) for item in relevant]
            split_P += [("train", "valid", "test").index(split)] * len(relevant)
    count = len(products)
    arrays = {"item_ids": np.arange(count), "query_item": np.arange(count), "pairs": np.array(pairs)}
    arrays |= {"pair_split": np.array(split_P, np.int8), "query_search": np.zeros(count, np.int8)}
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array)
    prepared = Prepared(tmp_path)
    titles = np.array([product.title for product in products])
    held = {title for title, split in splits.items() if split != "train"}
    trained = prepared.pairs_of("image", "train")
    assert len(held) == 1_800
    assert len(trained) > 20_000
    assert not held & set(titles[trained.ravel()])
    own = prepared.pairs_of("own", "train")[:, 0]
    assert not held & set(titles[own])
    assert len(own) == sum(title not in held for title in titles)  # nothing else is lost


def copied(world: Dataset, folder: Path, **changed: Callable[[pl.DataFrame], pl.DataFrame]) -> dict[str, Path]:
    """The files that prepare reads, some of them changed."""
    files = {}
    for name in ("items", "queries", "pairs"):
        files[name] = folder / f"{name}.parquet"
        changed.get(name, lambda frame: frame)(world.read(name)).write_parquet(files[name])
    return files


def prepare_in(folder: Path, files: dict[str, Path], vocabulary: int = 200) -> Prepared:
    (folder / "out").mkdir()
    prepare(PrepareConfig(16, 16, 8, vocabulary), files=files, inputs={}, folder=folder / "out", report=silent)
    return Prepared(folder / "out")


@pytest.mark.parametrize(("split", "known"), [("train", True), ("valid", False), ("test", False)])
def test_the_tokenizer_never_reads_an_evaluation(world: Dataset, tmp_path: Path, split: str, known: bool) -> None:
    """A word that fills the titles and queries of one split is a token only where that split is training's."""
    of_split = world.read("pairs").filter(pl.col("split") == split)

    def branded(column: str, text: str) -> Callable[[pl.DataFrame], pl.DataFrame]:
        chosen = pl.col(column).is_in(of_split[column].unique().to_list()) & pl.col(text).is_not_null()
        return lambda frame: frame.with_columns(
            pl.when(chosen).then(pl.lit("qqzzqq")).otherwise(pl.col(text)).alias(text)
        )

    files = copied(world, tmp_path, items=branded("item_id", "title"), queries=branded("query_id", "text"))
    prepare_in(tmp_path, files)
    from tokenizers import Tokenizer

    vocabulary = Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json")).get_vocab()
    assert ("qqzzqq" in vocabulary) == known
    assert any("zz" in token for token in vocabulary) == known


def test_a_vocabulary_is_never_larger_than_asked_and_padding_stands_at_the_end(prepared: Prepared) -> None:
    for text in (prepared.item_text, prepared.query_text):
        assert 0 <= text.min() <= text.max() < 200
        padding = text == 0
        assert (np.diff(padding.astype(int), axis=1) >= 0).all()
    assert (prepared.item_text[:, 0] > 0).all()


def oversized(width: int, height: int) -> bytes:
    """A PNG whose header promises more pixels than anyone should decode."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        pytest.param(b"not an image", "does not decode", id="text"),
        pytest.param(b"", "does not decode", id="empty"),
        pytest.param(b"\xff\xd8\xff\xe0 cut short", "does not decode", id="cut"),
        pytest.param(oversized(9_000, 9_000), "oversized", id="large"),
        pytest.param(oversized(12_000, 12_000), "oversized", id="larger"),
        pytest.param(oversized(40_000, 40_000), "oversized", id="bomb"),
    ],
)
@pytest.mark.parametrize(("file", "row"), [("items", 7), ("queries", 4)])
def test_an_image_that_cannot_be_used_is_named(
    world: Dataset, tmp_path: Path, file: str, row: int, content: bytes, told: str
) -> None:
    def spoil(frame: pl.DataFrame) -> pl.DataFrame:
        images = frame["image"].to_list()
        assert images[row] is not None
        images[row] = content
        return frame.with_columns(pl.Series("image", images, pl.Binary))

    with pytest.raises(DataError, match=rf"{file}\.parquet, row {row}: image .*{told}") as caught:
        prepare_in(tmp_path, copied(world, tmp_path, **{file: spoil}))
    assert "\n" not in str(caught.value)


def test_columns_that_the_contract_does_not_ask_for_may_be_missing(world: Dataset, tmp_path: Path) -> None:
    """Queries of a text search alone: no image, no item_id."""
    texts = world.read("queries").filter(pl.col("text").is_not_null()).select("query_id", "text")
    files = copied(
        world,
        tmp_path,
        queries=lambda _: texts,
        pairs=lambda frame: frame.filter(pl.col("query_id").is_in(texts["query_id"].to_list())),
    )
    prepared = prepare_in(tmp_path, files)
    assert len(prepared.query_images) == 0
    assert (prepared.query_item == -1).all()
    assert len(prepared.pairs_of("text", "train")) > 0
    assert len(prepared.pairs_of("image", "train")) == 0


def test_an_item_without_a_photo_is_grey(world: Dataset, tmp_path: Path) -> None:
    blank = lambda frame: frame.with_columns(  # noqa: E731
        pl.when(pl.col("item_id") == 3).then(None).otherwise(pl.col("image")).alias("image")
    )
    prepared = prepare_in(tmp_path, copied(world, tmp_path, items=blank))
    assert (prepared.item_images[3] == 127).all()
    assert not (prepared.item_images[2] == 127).all()
