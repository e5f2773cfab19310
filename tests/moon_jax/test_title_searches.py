"""Text searches laid over a catalogue: some words of a title, leading where the image search leads, in the same split."""

from pathlib import Path

import polars as pl
import pytest
from sources import TABLE_MAP, photo, table_source

from moon_jax.data.adapters.table import import_table
from moon_jax.data.behaviour import BehaviourConfig, simulate_behaviour
from moon_jax.data.contract import DataError, Dataset, check

CONFIG = BehaviourConfig(users=40, impressions=6, personas=4)


KINDS = ("shirt", "shoe", "watch", "dress", "hat", "bag")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """48 products of six kinds, two photos each."""
    home = tmp_path_factory.mktemp("shop")
    rows = []
    for number in range(96):
        (home / f"{number}.png").write_bytes(photo(number))
        product = number // 2
        kind = KINDS[product % len(KINDS)]
        rows.append({"item_id": number, "title": f"Maker {product} {kind}", "image": f"{number}.png", "category": kind})
    pl.DataFrame(rows).write_csv(home / "items.csv")
    return import_table(home, home / "set")


def test_an_auc_that_cannot_be_reached_is_said(tmp_path: Path) -> None:
    """Two styles of which nearly all events are alike leave little to rank."""
    shop = import_table(table_source(tmp_path / "source"), tmp_path / "set", mapping=TABLE_MAP)
    with pytest.raises(DataError, match=r"an AUC of 0\.78 cannot be reached; .* at most 0\.\d+: more styles"):
        simulate_behaviour(shop.folder, tmp_path / "made", by=("colour",), config=CONFIG)


def test_some_words_of_a_title_ask_for_what_its_photo_asks_for(shop: Dataset, tmp_path: Path) -> None:
    made = simulate_behaviour(shop.folder, tmp_path / "made", by=("category",), config=CONFIG, text_searches=True)
    assert not check(made.folder)
    assert made.forms == {**shop.forms, "text": "text->image+text"}
    assert made.simulated["queries"]
    assert made.simulated["pairs"]
    titles = dict(made.read("items", ["item_id", "title"]).iter_rows())
    queries, pairs = made.read("queries", ["query_id", "text", "item_id"]), made.read("pairs")
    typed, shown = queries.filter(pl.col("item_id").is_null()), queries.drop_nulls("item_id")
    assert typed.height == shown.height == shop.rows["queries"]
    for text, shot in zip(typed.iter_rows(named=True), shown.iter_rows(named=True), strict=True):
        words, title = text["text"].split(), titles[shot["item_id"]].split()
        rest = iter(title)
        assert all(word in rest for word in words)  # in their order
        assert min(2, len(title)) <= len(words) <= len(title)
        led, leads = (pairs.filter(pl.col("query_id") == query["query_id"]) for query in (shot, text))
        assert set(leads["item_id"]) == {shot["item_id"], *led["item_id"]}
        assert set(leads["split"]) == set(led["split"])
    again = simulate_behaviour(shop.folder, tmp_path / "again", by=("category",), config=CONFIG, text_searches=True)
    assert again.digests == made.digests


def test_without_them_searches_stay_as_they_are(shop: Dataset, tmp_path: Path) -> None:
    made = simulate_behaviour(shop.folder, tmp_path / "made", by=("category",), config=CONFIG)
    assert made.forms == shop.forms
    assert made.digests["queries"] == shop.digests["queries"]
    assert not made.simulated["queries"]


def test_a_catalogue_with_text_searches_keeps_its_own(shop: Dataset, tmp_path: Path) -> None:
    made = simulate_behaviour(shop.folder, tmp_path / "made", by=("category",), config=CONFIG, text_searches=True)
    with pytest.raises(DataError, match="text searches of its own"):
        simulate_behaviour(made.folder, tmp_path / "twice", by=("category",), config=CONFIG, text_searches=True)
    assert not (tmp_path / "twice").exists()
