"""What the log of a planted world may hold: pages, searches, funnels, arrivals, cold users; and that any size streams."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from tiny import silent

from moon_jax.data.behaviour import START, BehaviourConfig, Simulation, simulate, simulate_behaviour
from moon_jax.data.contract import DataError, Dataset, check
from moon_jax.data.forms import parse_form
from moon_jax.data.loading import Prepared
from moon_jax.data.world import WorldConfig, config_of, draw_products, make_world
from moon_jax.stages.prepare import PrepareConfig, prepare

CROWD = BehaviourConfig(
    users=90,
    impressions=20,
    personas=6,
    page=5,
    position_bias=0.8,
    cold_users=0.3,
    query_events=0.25,
    cart_share=0.4,
    purchase_share=0.5,
    block=40,
)
FULL = WorldConfig(
    products=90, image_queries=2, text_queries=2, mixed_queries=1, new_items=0.4, block=40, behaviour=CROWD
)


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """A world with every knob turned, in several blocks."""
    return make_world(tmp_path_factory.mktemp("worlds") / "full", FULL)


def test_a_world_of_several_blocks_is_written_in_shards_and_keeps_the_contract(full: Dataset) -> None:
    assert check(full.folder) == []
    for file in full.rows:
        assert len(list(full.path(file).glob("part-*.parquet"))) == 3, file
    for file, key in (("items", "item_id"), ("impressions", "impression_id"), ("queries", "query_id")):
        assert sorted(full.read(file)[key]) == list(range(full.rows[file]))
    users = [set(pl.read_parquet(shard)["user_id"]) for shard in sorted(full.path("events").iterdir())]
    assert [len(part) for part in users] == [40, 40, 10]
    assert len(set.union(*users)) == 90
    assert config_of(full) == FULL


def test_a_seed_gives_the_same_shards_in_another_process(full: Dataset, tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from moon_jax.data.contract import open_dataset;"
        "from moon_jax.data.world import config_of, make_world;"
        "config = config_of(open_dataset(sys.argv[1]));"
        "print(sorted(make_world(Path(sys.argv[2]), config).digests.items()))"
    )
    command = [sys.executable, "-W", "error", "-c", script, str(full.folder), str(tmp_path / "again")]
    told = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    assert told.stdout.strip() == str(sorted(full.digests.items()))


@pytest.mark.parametrize("users", [20, 25, 30, 31])
def test_every_user_is_in_a_block_that_can_be_split(users: int) -> None:
    config = BehaviourConfig(users=users, impressions=4, personas=2, block=10)
    simulation = Simulation(np.arange(40), np.arange(40) % 4, config)
    blocks = [block["impressions"] for block in simulation.blocks()]
    assert sum(block["user_id"].n_unique() for block in blocks) == users == len(simulation.personas_of_users())
    assert all(block["split"].n_unique() == 3 for block in blocks)
    assert sorted(pl.concat(blocks)["impression_id"]) == list(range(4 * users))


def test_probabilities_follow_from_all_events_searches_too(full: Dataset) -> None:
    """Whoever has events, searches and styles can rebuild every click probability, of cold users as well."""
    style_P, facts = draw_products(FULL).style("visual"), full.facts
    pairs = full.read("pairs").unique("query_id").select("query_id", asked=pl.col("item_id") // 2)
    product = pl.coalesce(pl.col("item_id") // 2, "asked")
    events = full.read("events").join(pairs, on="query_id", how="left", maintain_order="left")
    events = events.with_columns(style=product.map_elements(lambda p: style_P[p], return_dtype=pl.Int64))
    weights = np.array(facts["weights"])
    effects: dict[int, float] = {}
    lengths = set()
    rows = full.read("impressions").join(full.read("truth"), on="impression_id")
    for row in rows.sample(300, seed=0).iter_rows(named=True):
        past = events.filter((pl.col("user_id") == row["user_id"]) & (pl.col("timestamp") < row["timestamp"]))
        recent = past["style"].to_numpy()[::-1][: len(weights)]
        lengths.add(len(recent))
        match = ((recent == style_P[row["item_id"] // 2]) * weights[: len(recent)]).sum()
        logit = np.log(row["probability"] / (1 - row["probability"]))
        effect = logit - facts["bias"] - facts["gain"] * match
        assert effects.setdefault(row["item_id"], effect) == pytest.approx(effect, abs=1e-3)
    assert min(lengths) < 16
    assert max(lengths) == 64


def test_events_are_items_or_searches_with_a_funnel(full: Dataset) -> None:
    events = full.read("events")
    assert (events["item_id"].is_null() == events["query_id"].is_not_null()).all()
    assert (events["query_id"].is_not_null() == (events["action"] == "search")).all()
    assert (events["action"] == "search").mean() == pytest.approx(0.25, abs=0.02)
    on_items = events.filter(pl.col("item_id").is_not_null())["action"]
    assert on_items.is_in(["cart", "purchase"]).mean() == pytest.approx(0.4, abs=0.03)
    assert (on_items == "purchase").mean() == pytest.approx(0.2, abs=0.025)


def test_a_search_has_one_user_and_time_and_ends_in_a_funnel(full: Dataset) -> None:
    pairs = full.read("pairs")
    of_search = pairs.group_by("search_id").agg(pl.col("user_id", "timestamp", "query_id").n_unique())
    assert of_search.drop("search_id").max().row(0) == (1, 1, 1)
    assert set(pairs["user_id"]) <= set(range(90))
    assert pairs["action"].is_in(["cart", "purchase"]).mean() == pytest.approx(0.4, abs=0.06)
    assert (pairs["action"] == "purchase").mean() == pytest.approx(0.25, abs=0.06)


def test_users_search_for_what_their_persona_wants() -> None:
    """The styles searched for are likelier under the searcher's persona than under others'."""
    from moon_jax.data.world.searches import search_blocks

    config = WorldConfig(products=1500, image_queries=1, behaviour=replace(CROWD, users=600, block=600))
    products = draw_products(config)
    style_I = np.repeat(products.style("visual"), 2)
    simulation = Simulation(np.arange(3000), style_I, replace(config.behaviour, query_events=0.0))
    list(simulation.blocks())
    _, pairs, _ = next(iter(search_blocks(products, config, simulation)))
    persona_R = simulation.personas_of_users()[pairs["user_id"].to_numpy()]
    style_R = np.searchsorted(simulation.labels, style_I[pairs["item_id"].to_numpy()])
    wanted = simulation.personas.targets
    assert wanted[persona_R, style_R].mean() > 1.15 * wanted[:, style_R].mean()


def test_a_page_is_seen_at_once_and_examined_by_position(full: Dataset) -> None:
    shown = full.read("impressions").join(full.read("truth"), on="impression_id")
    pages = shown.group_by("search_id").agg(pl.col("user_id", "timestamp").n_unique(), pl.col("position").sort())
    assert pages.select(pl.col("user_id", "timestamp").max()).row(0) == (1, 1)
    assert all(positions == [1, 2, 3, 4, 5] for positions in pages["position"].to_list())
    np.testing.assert_allclose(shown["examination"], shown["position"].to_numpy() ** -0.8, atol=1e-6)
    for row in shown.group_by("position").agg(pl.col("clicked", "probability").sum()).iter_rows(named=True):
        expected = row["probability"] * row["position"] ** -0.8
        assert abs(row["clicked"] - expected) < 4 * np.sqrt(expected)


def test_what_is_planted_does_not_depend_on_the_position_bias() -> None:
    """The truth is of relevance: with and without bias the same, and without bias nothing is said of examination."""
    style_I = np.arange(200) % 10
    config = BehaviourConfig(users=40, impressions=10, personas=4, page=5)
    plain, biased = (simulate(np.arange(200), style_I, replace(config, position_bias=b)).tables for b in (0.0, 1.0))
    assert plain["truth"].equals(biased["truth"].drop("examination"))
    assert biased["impressions"]["clicked"].sum() < 0.7 * plain["impressions"]["clicked"].sum()
    same = ["item_id", "timestamp", "position"]
    assert plain["impressions"].select(same).equals(biased["impressions"].select(same))


def test_nothing_happens_to_an_item_before_it_arrives(full: Dataset) -> None:
    arrives = full.read("items").select("item_id", "available_from")
    for file in ("events", "impressions", "pairs"):
        rows = full.read(file).drop_nulls("item_id").join(arrives, on="item_id")
        assert (rows["timestamp"] > rows["available_from"]).all(), file
    new = arrives["available_from"] > START
    assert 0.15 < new.mean() < 0.4  # the share asked for, but for the first product of each style
    assert full.read("impressions").join(arrives, on="item_id").filter(pl.col("available_from") > START).height > 50
    assert "new_items" in full.facts["bayes"]["slices"]


def test_cold_users_have_few_events_before(full: Dataset) -> None:
    events, shown = full.read("events"), full.read("impressions")
    first = shown.group_by("user_id").agg(pl.col("timestamp").min())
    before = events.join(first, on="user_id", suffix="_shown").filter(pl.col("timestamp") < pl.col("timestamp_shown"))
    count = before.group_by("user_id").len()["len"]
    assert count.len() == 90
    assert (count < 16).mean() == pytest.approx(0.3, abs=0.15)
    assert ((count < 16) | (count >= 128)).all()


def test_mixed_searches_show_photo_and_text(full: Dataset, tmp_path: Path) -> None:
    assert full.forms["mixed"] == "image+text->image+text"
    files = {name: full.path(name) for name in ("items", "queries", "pairs")}
    prepare(PrepareConfig(vocabulary=300), files=files, inputs={}, folder=tmp_path, report=silent)
    prepared = Prepared(tmp_path)
    form = parse_form("mixed", full.forms["mixed"])
    held = prepared.pairs_of("mixed", "test")
    assert len(held) == 18 * 2  # one search of each of 18 test products, for two variants
    batch = prepared.gather(form, held)
    assert batch["query_images"].shape == (36, 32, 32, 3)
    assert (batch["query_text"] > 0).any(axis=1).all()
    asked = [set(prepared.pairs_of(kind, "train")[:, 0].tolist()) for kind in ("image", "text", "item", "mixed")]
    assert sum(len(queries) for queries in asked) == len(set.union(*asked))
    assert [len(queries) for queries in asked] == [63 * 2, 63 * 2, 63 * 2, 63]


def test_where_popularity_drives_clicks_no_event_tells_anything(tmp_path: Path) -> None:
    config = WorldConfig(products=60, drives="popularity", behaviour=BehaviourConfig(users=300, impressions=20))
    world = make_world(tmp_path / "world", config)
    truth = world.read("truth")
    assert all(truth[f"bayes_{length}"].equals(truth["probability"].rename(f"bayes_{length}")) for length in (0, 8, 64))
    assert world.facts["must_win"] is None
    assert world.facts["bayes"]["expected_auc"]["0"] == pytest.approx(0.78, abs=0.02)
    shown = world.read("impressions").join(truth, on="impression_id").group_by("item_id")
    ranked = shown.agg(pl.col("probability").mean(), shown=pl.len())
    correlation = np.corrcoef(ranked["probability"], np.log(ranked["shown"]))[0, 1]
    assert correlation > 0.5


def test_a_catalogue_keeps_its_arrivals_and_searches(full: Dataset, tmp_path: Path) -> None:
    made = simulate_behaviour(full.folder, tmp_path / "made", by=("category",), styles=5, config=CROWD)
    assert check(made.folder) == []
    assert all(made.digests[file] == full.digests[file] for file in ("items", "queries", "pairs"))
    assert not {"must_win", "config"} & set(made.facts)
    with pytest.raises(DataError, match="not a planted world"):
        config_of(made)
    arrives = made.read("items").select("item_id", "available_from")
    rows = made.read("events").drop_nulls("item_id").join(arrives, on="item_id")
    assert (rows["timestamp"] > rows["available_from"]).all()
    leaf = made.read("items").select("item_id", leaf=pl.col("category").list.last())
    asked = made.read("pairs").join(leaf, on="item_id").unique("query_id").select("query_id", "leaf")
    searched = made.read("events").drop_nulls("query_id").join(asked, on="query_id")
    assert searched.height == made.read("events")["query_id"].is_not_null().sum() > 100
    bare = full.read("items").drop("available_from")
    without = simulate(bare["item_id"].to_numpy(), np.arange(bare.height) % 3, replace(CROWD, query_events=0.0))
    assert "new_items" not in without.facts["bayes"]["slices"]
    with pytest.raises(DataError, match="query_events needs searches"):
        simulate(bare["item_id"].to_numpy(), np.arange(bare.height) % 3, CROWD)


def test_the_log_begins_when_every_style_has_an_item() -> None:
    available_I = np.full(60, START)
    available_I[np.arange(60) % 6 == 2] = START + 5000  # a style of which all items are late
    simulation = Simulation(
        np.arange(60), np.arange(60) % 6, BehaviourConfig(users=20, impressions=4, personas=2), available_I=available_I
    )
    (block,) = simulation.blocks()
    assert simulation.facts["log_start"] == START + 5000
    assert block["events"]["timestamp"].min() > START + 5000


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"weights": (1, 2)}, "weights must be 7 integers"),
        ({"weights": (0,) * 7}, "not all 0"),
        ({"weights": (1, 0, 0, 0, 0, 0, -1)}, "weights must be"),
        ({"stop": 200}, "stop is 200"),
        ({"position_bias": 0.5}, "position_bias needs pages"),
        ({"page": 0}, "page is 0"),
        ({"cold_users": 1.5}, "cold_users is 1.5"),
        ({"auc": 0.4}, "auc is 0.4"),
        ({"click_rate": 0.0}, "click_rate 0.0"),
        ({"clicks_follow": "moods"}, "one of history, popularity"),
        ({"events_before": 60}, "at least 128"),
        ({"users": 3}, "too few to split"),
        ({"block": 5}, "block is 5"),
    ],
)
def test_behaviour_that_cannot_be_is_refused(given: dict, said: str) -> None:
    with pytest.raises(DataError, match=said):
        BehaviourConfig(**given)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"drives": "moods"}, "drives is 'moods'"),
        ({"products": 5}, "at least 20"),
        ({"variants": 1}, "1 variants"),
        ({"new_items": 2.0}, "new_items is 2.0"),
        ({"zipf": -1.0}, "at least 0"),
    ],
)
def test_a_world_that_cannot_be_is_refused(given: dict, said: str) -> None:
    with pytest.raises(DataError, match=said):
        WorldConfig(**given)


def test_clicks_that_cannot_be_had_leave_nothing_behind(tmp_path: Path) -> None:
    """One event alone tells too little for this AUC."""
    crowd = BehaviourConfig(users=40, impressions=10, personas=4, weights=(1, 0, 0, 0, 0, 0, 0), auc=0.9)
    with pytest.raises(DataError, match=r"an AUC of 0.9 cannot be reached"):
        make_world(tmp_path / "world", WorldConfig(products=60, behaviour=crowd))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.proof
def test_memory_does_not_grow_with_the_world(tmp_path: Path) -> None:
    """Four times the blocks, hardly more memory: peak resident set of a process of its own."""
    script = (
        "import sys; from pathlib import Path; from moon_jax.data.behaviour import BehaviourConfig;"
        "from moon_jax.data.world import WorldConfig, make_world;"
        "n = int(sys.argv[2]); crowd = BehaviourConfig(users=1000 * n, block=1000);"
        "make_world(Path(sys.argv[1]), WorldConfig(products=500 * n, block=500, behaviour=crowd));"
        # Not ru_maxrss: it begins with the peak of the process that started this one.
        "print(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0])"
    )
    peaks = []
    for blocks in (2, 8):
        command = [sys.executable, "-c", script, str(tmp_path / str(blocks)), str(blocks)]
        told = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
        peaks.append(int(told.stdout))
    assert peaks[1] < 1.25 * peaks[0]
