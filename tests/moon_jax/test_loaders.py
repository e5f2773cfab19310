"""Worker processes that decode give the batches of threads, from any place; hard negatives are drawn by seed and place."""

import shutil
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from moon_jax.data.contract import DataError
from moon_jax.data.forms import parse_form
from moon_jax.data.loading import Batches, Prepared, scattered, training_batches

IMAGE = parse_form("image", "image->image+text")
TEXT = parse_form("text", "text->text", weight=0.5)
OWN = parse_form("own", "image->image", weight=0.5)
FORMS = (IMAGE, TEXT, OWN)


@pytest.fixture(scope="module")
def hard_folder(prepared_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The prepared world with none to nine hard negatives for each query, all of them different rows."""
    folder = tmp_path_factory.mktemp("hard") / "prepared"
    shutil.copytree(prepared_folder, folder)
    prepared, rng = Prepared(folder), np.random.default_rng(0)
    items = len(prepared.item_ids)
    chosen = [rng.choice(items, size, replace=False) for size in rng.integers(0, 10, len(prepared.query_item))]
    np.save(folder / "hard_items.npy", np.concatenate(chosen).astype(np.int64))
    np.save(folder / "hard_offsets.npy", np.cumsum([0, *map(len, chosen)]).astype(np.int64))
    return folder


def take(batches: Batches, count: int) -> list[dict[str, np.ndarray]]:
    return [next(batches) for _ in range(count)]


def equal(some: list[dict[str, np.ndarray]], others: list[dict[str, np.ndarray]]) -> bool:
    return all(
        a.keys() == b.keys() and all(a[name].dtype == b[name].dtype and np.array_equal(a[name], b[name]) for name in a)
        for a, b in zip(some, others, strict=True)
    )


def test_worker_processes_give_the_batches_of_threads_and_go_on_from_any_place(hard_folder: Path) -> None:
    """Their place is that of threads: a run may change the number of its loaders when it is resumed."""
    made: list[Any] = [training_batches(Prepared(hard_folder), FORMS, 8, seed=3, hard=2, loaders=n) for n in (0, 2)]
    threads, loaders = made
    expected = take(threads, 14)
    assert equal(take(loaders, 7), expected[:7])
    assert loaders.get_state() == {"next_index": 7}
    threads.set_state(loaders.get_state())
    assert equal(take(threads, 4), expected[7:11])
    loaders.set_state(threads.get_state())  # others are started there
    assert equal(take(loaders, 3), expected[11:])
    for batches in made:
        batches.close()


def test_loaders_are_started_by_the_first_batch_alone(prepared: Prepared) -> None:
    batches = training_batches(prepared, FORMS, 8, seed=3, loaders=3)
    batches.set_state({"next_index": 5})
    assert batches.get_state() == {"next_index": 5}
    batches.close()


@pytest.mark.parametrize("form", ["image->image", "image->text", "image->image+text"])
def test_hard_negatives_are_shown_as_items_are(hard_folder: Path, form: str) -> None:
    prepared, parsed = Prepared(hard_folder), parse_form("image", form)
    batches = training_batches(prepared, (parsed,), 8, seed=1, hard=3)
    batch = next(batches)
    batches.close()
    plain = training_batches(prepared, (parsed,), 8, seed=1)
    assert equal([{name: batch[name] for name in batch if not name.startswith("hard_")}], [next(plain)])
    plain.close()
    assert batch["hard_product_ids"].shape == (8, 3)
    assert batch["hard_product_ids"].dtype == np.int32
    items = prepared.hard_of("image", shuffled_pairs(prepared, parsed, 8), 3, 1000, np.arange(8))
    shown = {"hard_product_ids": prepared.product_ids[items]}
    for modality, name in (("image", "images"), ("text", "text")):
        if modality in parsed.item:
            arrays = getattr(prepared, f"item_{name}")
            shown[f"hard_{name}"] = np.stack([[arrays[item] for item in row] for row in items])
    assert {name for name in batch if name.startswith("hard_")} == set(shown)
    for name, array in shown.items():
        np.testing.assert_array_equal(batch[name], array)


def shuffled_pairs(prepared: Prepared, form: Any, batch: int) -> np.ndarray:
    """The pairs of the first batch of seed 1, as grain shuffles them."""
    import grain

    pairs = grain.MapDataset.source(prepared.pairs_of(form.search, "train")).seed(1000).shuffle()
    return np.stack([pairs[place] for place in range(batch)])


@settings(max_examples=40, deadline=None)
@given(count=st.integers(1, 12), seed=st.integers(0, 2**31), first=st.integers(0, 2**40))
def test_hard_negatives_are_the_querys_own_without_replacement_and_then_its_positive(
    hard_folder: Path, count: int, seed: int, first: int
) -> None:
    prepared = Prepared(hard_folder)
    pairs = prepared.pairs_of("image", "train")
    places = first + np.arange(len(pairs))
    drawn = prepared.hard_of("image", pairs, count, seed, places)
    assert drawn.shape == (len(pairs), count)
    assert np.array_equal(drawn, prepared.hard_of("image", pairs, count, seed, places))
    half = len(pairs) // 2  # a pair's draw is its own, whoever else is in the batch
    assert np.array_equal(drawn[half:], prepared.hard_of("image", pairs[half:], count, seed, places[half:]))
    for (query, item), row in zip(pairs, drawn, strict=True):
        own = prepared.hard_items[prepared.hard_offsets[query] : prepared.hard_offsets[query + 1]]
        real = min(count, len(own))
        assert len(set(row[:real])) == real
        assert set(row[:real]) <= set(own)
        assert (row[real:] == item).all()


def test_an_items_own_photo_has_its_positive_alone(hard_folder: Path) -> None:
    prepared = Prepared(hard_folder)
    batches = training_batches(prepared, (OWN,), 8, seed=1, hard=2)
    batch = next(batches)
    batches.close()
    np.testing.assert_array_equal(batch["hard_product_ids"], np.repeat(batch["product_ids"][:, None], 2, axis=1))
    np.testing.assert_array_equal(batch["hard_images"][:, 1], batch["item_images"])


def test_where_no_query_has_any_all_have_their_positive(prepared_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(prepared_folder, tmp_path / "prepared")
    prepared = Prepared(folder)
    np.save(folder / "hard_items.npy", np.zeros(0, np.int64))
    np.save(folder / "hard_offsets.npy", np.zeros(len(prepared.query_item) + 1, np.int64))
    batches = training_batches(prepared, (IMAGE,), 8, seed=1, hard=2)
    batch = next(batches)
    batches.close()
    np.testing.assert_array_equal(batch["hard_product_ids"], np.repeat(batch["product_ids"][:, None], 2, axis=1))


def test_every_hard_negative_gets_its_turn_as_often_as_the_others(hard_folder: Path) -> None:
    """Of nine, two at a time in 4,500 places: 1,000 each, within five standard errors; another seed draws others."""
    prepared = Prepared(hard_folder)
    sizes = np.diff(prepared.hard_offsets)
    query = int(np.flatnonzero(sizes == 9)[0])
    pairs = np.tile([[query, 0]], (4_500, 1))
    drawn = prepared.hard_of("image", pairs, 2, 5, np.arange(4_500))
    counts = Counter(drawn.ravel().tolist())
    assert len(counts) == 9
    assert max(abs(count - 1_000) for count in counts.values()) < 5 * np.sqrt(4_500 * 2 / 9 * 7 / 9)
    other = prepared.hard_of("image", pairs, 2, 6, np.arange(4_500))
    assert 0.05 < (drawn == other).mean() < 0.2


def test_processes_share_hard_negatives_as_they_share_a_batch(hard_folder: Path) -> None:
    prepared = Prepared(hard_folder)
    whole, *parts = (
        training_batches(prepared, (IMAGE, TEXT), 8, 2, hard=3, process=process) for process in ((0, 1), (0, 2), (1, 2))
    )
    for _ in range(5):
        batch, shares = next(whole), [next(part) for part in parts]
        assert equal([batch], [{name: np.concatenate([share[name] for share in shares]) for name in batch}])
    for batches in (whole, *parts):
        batches.close()


def test_data_without_hard_negatives_is_told(prepared: Prepared) -> None:
    with pytest.raises(DataError, match="has no hard negatives"):
        training_batches(prepared, (IMAGE,), 8, seed=0, hard=1)


@given(seed=st.integers(0, 2**40), number=st.integers(0, 2**62))
def test_scattered_numbers_differ_with_each_of_what_they_are_made_of(seed: int, number: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        numbers = number + np.arange(50)
        found = scattered(seed, numbers[:, None], np.arange(20))
        assert len(np.unique(found)) == 1_000
        assert not np.isin(found, scattered(seed + 1, numbers[:, None], np.arange(20))).any()
