"""The page that explains a planted world: whole, self-contained, and of what was made."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from experiments.world_page import write_page
from experiments.worlds import with_knobs, world_for
from moon_jax.data.behaviour import BehaviourConfig
from moon_jax.data.contract import DataError, open_dataset
from moon_jax.data.world import WorldConfig, make_world

KNOBS = {"page": 5, "position_bias": 0.7, "new_items": 0.4, "cold_users": 0.3, "query_events": 0.2, "cart_events": 0.3}
ALWAYS = (
    "Products, their variants",
    "Attributes",
    "Searches, and what came",
    "history, and what it tells",
    "best possible",
    "Files",
)


def test_a_page_explains_every_knob_that_is_turned(tmp_path: Path) -> None:
    config = with_knobs(world_for("smoke"), **KNOBS, mixed_queries=1, zipf_looks=2.0, seed=3)
    world = make_world(tmp_path / "world", config)
    text = write_page(world.folder, tmp_path / "page.html").read_text()
    for heading in (*ALWAYS, "Positions", "New items", "How much the event at each lag tells", "known exponent"):
        assert heading in text, heading
    assert text.count("<svg") == 9
    assert "n^-0.500" in text
    assert "simulated: items, queries, pairs, events, impressions, truth" in text
    assert f"{world.facts['best_recall']['mixed']['recall@10']:.4g}" in text
    assert not re.search(r"(src|href)=\"(?!data:|#)", text)  # nothing is fetched


def test_a_page_of_a_plain_world_leaves_out_what_is_not_there(tmp_path: Path) -> None:
    config = WorldConfig(products=40, drives="popularity", behaviour=BehaviourConfig(users=60, impressions=10))
    world = make_world(tmp_path / "world", config)
    text = write_page(world.folder, tmp_path / "page.html").read_text()
    assert all(heading in text for heading in ALWAYS)
    assert not any(heading in text for heading in ("<h2>Positions", "<h2>New items", "<h2>How much the event"))


def test_only_a_planted_world_has_such_a_page(tmp_path: Path) -> None:
    world = make_world(tmp_path / "world", world_for("smoke"))
    told = (world.folder / "dataset.json").read_text().replace('"config"', '"other"')
    (world.folder / "dataset.json").write_text(told)
    with pytest.raises(DataError, match="not a planted world"):
        write_page(world.folder, tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()
    assert "other" in open_dataset(world.folder).facts


def test_knobs_turn_what_they_name() -> None:
    plain = world_for("demo")
    assert with_knobs(plain) == plain
    assert with_knobs(plain, products=None, seed=None) == plain
    turned = with_knobs(plain, products=99, users=77, weights=(8, 4, 2, 1), seed=5, zipf=1.3)
    assert turned == replace(
        plain,
        products=99,
        zipf=1.3,
        seed=5,
        behaviour=replace(plain.behaviour, users=77, weights=(8, 4, 2, 1), stop=8, seed=5),
    )
    with pytest.raises(DataError, match="position_bias needs pages"):
        with_knobs(plain, position_bias=0.5)
