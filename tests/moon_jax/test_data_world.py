"""The planted world: its truth is exact, each latent shows only where it should, and a seed gives everything again."""

import io
import itertools
import math
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from moon_jax.data import rendering, wording
from moon_jax.data.bayes import LENGTHS, Personas, bayes_probabilities, lag_weights, rest_distribution, sigmoid
from moon_jax.data.behaviour import BehaviourConfig, simulate, simulate_behaviour
from moon_jax.data.behaviour.calibration import expected_auc
from moon_jax.data.contract import DataError, Dataset, check
from moon_jax.data.world import WorldConfig, draw_products, make_world
from moon_jax.data.world.judgements import grades
from moon_jax.metrics.ranking import auc, gauc

TINY = WorldConfig(
    products=60, image_queries=1, text_queries=1, behaviour=BehaviourConfig(users=60, impressions=10, personas=6)
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return make_world(tmp_path_factory.mktemp("worlds") / "tiny", TINY)


@pytest.fixture(scope="module")
def log() -> pl.DataFrame:
    """Impressions with their truth, 30,000 of them over 3,000 items in 48 styles."""
    style_I = np.random.default_rng(0).integers(0, 48, 3000)
    tables = simulate(np.arange(3000), style_I, BehaviourConfig(users=750)).tables
    return tables["impressions"].join(tables["truth"], on="impression_id", maintain_order="left")


def test_a_world_keeps_the_contract_and_says_that_it_is_simulated(tiny: Dataset) -> None:
    assert check(tiny.folder) == []
    assert tiny.has("items", "queries", "pairs", "relevance", "events", "impressions", "truth")
    assert all(tiny.simulated.values())
    assert set(tiny.forms) == {"image", "text", "item"}


def test_a_seed_gives_the_same_digests_in_another_process(tiny: Dataset, tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path;"
        "from moon_jax.data.behaviour import BehaviourConfig; from moon_jax.data.world import WorldConfig, make_world;"
        "config = WorldConfig(products=60, image_queries=1, text_queries=1,"
        " behaviour=BehaviourConfig(users=60, impressions=10, personas=6));"
        "print(sorted(make_world(Path(sys.argv[1]), config).digests.items()))"
    )
    command = [sys.executable, "-W", "error", "-c", script, str(tmp_path / "again")]
    told = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    assert told.stdout.strip() == str(sorted(tiny.digests.items()))


def test_another_seed_gives_another_world(tiny: Dataset, tmp_path: Path) -> None:
    behaviour = replace(TINY.behaviour, seed=1)
    other = make_world(tmp_path / "other", replace(TINY, seed=1, behaviour=behaviour))
    assert not set(other.digests.values()) & set(tiny.digests.values())


@pytest.mark.parametrize("wrong", [{"drives": "smell"}, {"products": 3}, {"variants": 1}])
def test_a_bad_world_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(DataError):
        WorldConfig(**wrong)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="events_before"):
        BehaviourConfig(events_before=100)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("kind", [WorldConfig, BehaviourConfig])
def test_a_number_that_is_none_is_named(kind: type, value: float) -> None:
    """Every float of a config, also those that are optional."""
    names = [field.name for field in fields(kind) if "float" in str(field.type)]
    assert len(names) >= 6
    for name in names:
        with pytest.raises(DataError, match=f"^{name} is {value}, must be a finite number"):
            kind(**{name: value})


def test_the_search_log_splits_by_product_and_never_finds_itself(tiny: Dataset) -> None:
    items, queries, pairs = tiny.read("items"), tiny.read("queries"), tiny.read("pairs")
    joined = pairs.join(items.select("item_id", "product_id"), on="item_id")
    assert joined.group_by("product_id").agg(pl.col("split").n_unique())["split"].max() == 1
    assert joined.group_by("query_id").agg(pl.col("product_id").n_unique())["product_id"].max() == 1
    asked = pairs.join(queries.select("query_id", asking="item_id"), on="query_id")
    assert not (asked["item_id"] == asked["asking"]).any()
    kinds = {
        "image": queries.filter(pl.col("image").is_not_null() & pl.col("text").is_null() & pl.col("item_id").is_null()),
        "text": queries.filter(pl.col("text").is_not_null() & pl.col("image").is_null() & pl.col("item_id").is_null()),
        "item": queries.filter(pl.col("item_id").is_not_null() & pl.col("image").is_null() & pl.col("text").is_null()),
    }
    assert sum(kind.height for kind in kinds.values()) == queries.height
    test = pairs.filter(pl.col("split") == "test")["query_id"].unique().implode()
    for kind, positives in (("image", 2), ("text", 2), ("item", 1)):
        in_test = kinds[kind].filter(pl.col("query_id").is_in(test))
        assert in_test.height == 12  # one of each kind for every fifth of 60 products
        assert pairs.filter(pl.col("query_id").is_in(in_test["query_id"].implode())).height == 12 * positives


def test_words_never_name_what_only_the_image_shows(tiny: Dataset) -> None:
    visual = {*rendering.COLOURS, *rendering.PATTERNS, "striped", "dotted", "checked"}
    for text in [*tiny.read("items")["title"], *tiny.read("queries")["text"].drop_nulls()]:
        assert not visual & set(text.split())


def test_an_image_does_not_depend_on_what_only_words_tell() -> None:
    products = draw_products(TINY)
    causes = (products.category, products.colour, products.accent, products.pattern)
    assert (products.colour != products.accent).all()
    one = rendering.render(*causes, rendering.CATALOGUE, np.random.default_rng(5))
    two = rendering.render(*causes, rendering.CATALOGUE, np.random.default_rng(5))
    assert (one == two).all()
    recoloured = rendering.render(
        causes[0], (causes[1] + 1) % 8, causes[2], causes[3], rendering.CATALOGUE, np.random.default_rng(5)
    )
    assert ((recoloured != one).reshape(len(one), -1).any(axis=1)).all()


def test_every_cause_shows_in_the_image_by_itself() -> None:
    """With the same nuisance, any two shapes, colours, patterns or accents give clearly different pictures."""

    def draw(shape: int, colour: int, accent: int, pattern: int) -> np.ndarray:
        causes = (np.array([value]) for value in (shape, colour, accent, pattern))
        picture = rendering.render(*causes, rendering.CATALOGUE, np.random.default_rng(3))  # type: ignore[misc]
        return picture.astype(np.int32)

    for count, at in ((8, 0), (7, 1), (6, 3)):
        for one, two in itertools.combinations(range(count), 2):
            pictures = []
            for value in (one, two):
                causes = [0, 0, 7, 1]
                causes[at] = value
                pictures.append(draw(*causes))
            assert np.abs(pictures[0] - pictures[1]).mean() > 2, (at, one, two)


def test_the_colour_covers_more_than_the_accent() -> None:
    """Else nobody could tell the colour, which may drive clicks, from the accent, which never does."""
    axis = np.arange(-32, 32)
    v, u = np.meshgrid(axis, axis, indexing="ij")
    for pattern in range(len(rendering.PATTERNS)):
        second = rendering._second_colour(u[None], v[None], np.array([pattern]), np.zeros((1, 1, 1), np.int64))
        assert 0.02 < second.mean() < 0.45


def test_png_bytes_decode_to_the_pixels() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    for picture, encoded in zip(pixels, rendering.encode_png(pixels), strict=True):
        with Image.open(io.BytesIO(encoded)) as image:
            image.verify()
        assert (np.asarray(Image.open(io.BytesIO(encoded))) == picture).all()
    with pytest.raises(ValueError, match="stored block"):
        rendering.encode_png(np.zeros((1, 256, 256, 3), np.uint8))


def test_raw_pixels_are_a_weak_retriever() -> None:
    """A user's photo finds a catalogue photo of its product by pixels far less often than by its causes."""
    products = draw_products(WorldConfig(products=300))
    causes = (products.category, products.colour, products.accent, products.pattern)
    rng = np.random.default_rng(0)
    gallery, asked = (
        rendering.render(*causes, nuisance, rng).reshape(300, -1).astype(np.float64)
        for nuisance in (rendering.CATALOGUE, rendering.USER_PHOTO)
    )
    for pixels in (gallery, asked):
        pixels -= pixels.mean(axis=1, keepdims=True)
        pixels /= np.linalg.norm(pixels, axis=1, keepdims=True)
    top = np.argsort(-(asked @ gallery.T), axis=1)[:, :10]
    hit = (top == np.arange(300)[:, None]).any(axis=1).mean()
    assert 10 / 300 < hit < 0.4


def test_titles_spell_a_brand_in_several_ways() -> None:
    words = np.tile([3, 1, 2, 4], (400, 1))
    titles, _ = wording.write_titles(np.zeros(400, np.int64), words, 0.1, np.random.default_rng(0))
    spelled = [sum(spelling in title for title in titles) for spelling in wording.BRANDS[3]]
    assert min(spelled) > 50
    assert 0.05 < 1 - sum(wording.MODELS[4] in title for title in titles) / 400 < 0.16


def test_frequencies_follow_the_planted_exponent() -> None:
    products = draw_products(WorldConfig(products=20_000, zipf=0.7))
    counts = np.sort(np.bincount(products.hidden, minlength=48))[::-1]
    slope = np.polyfit(np.log(1 + np.arange(30)), np.log(counts[:30]), 1)[0]
    assert slope == pytest.approx(-0.7, abs=0.08)


def test_bayes_equals_brute_force() -> None:
    """Every persona and every history of a small world, summed by hand: the tables must give the same to 1e-12."""
    rng = np.random.default_rng(0)
    personas = Personas(events=rng.dirichlet(np.ones(3), 4), targets=rng.dirichlet(np.ones(3), 4))
    weights, gain, stop = np.array([3, 2, 1, 1, 1]), 0.4, 5
    histories = np.array(list(itertools.product(range(3), repeat=stop)))
    prior_ZxH = np.prod(personas.events[:, histories], axis=2)
    for target in range(3):
        logit = 0.3 * target - 1
        p_H = sigmoid(logit + gain * ((histories == target) * weights).sum(axis=1))
        joint_ZxH = prior_ZxH * personas.targets[:, target, None]
        targets = np.full(len(histories), target)
        lengths = (0, 1, 2, 4, 5, 8)
        bayes = bayes_probabilities(
            np.full(len(histories), logit), gain, targets, histories, personas, weights, lengths
        )
        for length in lengths:
            for row, history in enumerate(histories):
                same = (histories[:, : min(length, stop)] == history[: min(length, stop)]).all(axis=1)
                expected = (joint_ZxH[:, same] * p_H[same]).sum() / joint_ZxH[:, same].sum()
                assert bayes[length][row] == pytest.approx(expected, abs=1e-12)


def test_the_rest_is_a_distribution_with_the_right_mean() -> None:
    match = np.array([[0.0, 0.1], [0.5, 1.0]])
    weights = lag_weights(64, 16, 0.2)[4:]
    rest = rest_distribution(match, weights)
    np.testing.assert_allclose(rest.sum(axis=-1), 1, rtol=1e-12)
    np.testing.assert_allclose(rest @ np.arange(rest.shape[-1]), match * weights.sum(), rtol=1e-10, atol=1e-12)


def test_weights_are_dyadic_and_end_at_stop() -> None:
    weights = lag_weights(64, 16, 0.5)
    assert len(weights) == 64
    assert weights[[0, 1, 2, 3, 4, 7, 8, 15, 16, 31, 32, 63]].tolist() == [16, 11, 8, 8, 6, 6, 4, 4, 3, 3, 2, 2]


def test_clicks_follow_the_stated_probabilities(log: pl.DataFrame) -> None:
    for column in ("probability", *(f"bayes_{length}" for length in LENGTHS)):
        ranked = log.sort(column)
        for part in np.array_split(np.arange(log.height), 10):
            rows = ranked[part]
            error = rows["clicked"].mean() - rows[column].mean()
            spread = np.sqrt((rows["probability"] * (1 - rows["probability"])).sum()) / rows.height
            noise = spread + rows[column].std() / np.sqrt(rows.height)
            # Rows of a user share its persona, so their errors are not quite independent: 5 of these, not 4.
            assert abs(error) < 5 * noise, (column, part[0])


def test_the_targets_of_calibration_are_met(log: pl.DataFrame) -> None:
    assert log["probability"].mean() == pytest.approx(0.27, abs=0.005)
    probability = log["probability"].to_numpy()
    assert expected_auc(probability, probability) == pytest.approx(0.78, abs=0.005)
    assert auc(log["clicked"].to_numpy(), log["probability"].to_numpy()) == pytest.approx(0.78, abs=0.015)


def test_longer_histories_predict_better_until_the_stop(log: pl.DataFrame) -> None:
    clicked, users = log["clicked"].to_numpy(), log["user_id"].to_numpy()
    value = {length: gauc(clicked, log[f"bayes_{length}"].to_numpy(), users)[0] for length in LENGTHS}
    for short, long in itertools.pairwise(LENGTHS[:-1]):
        assert value[long] > value[short] + 0.005, (short, long)
    assert log["bayes_64"].equals(log["bayes_128"].rename("bayes_64"))
    assert log["bayes_64"].equals(log["probability"].rename("bayes_64"))


def test_probabilities_follow_from_the_logged_events(tiny: Dataset) -> None:
    """A reader who has the events and the styles can rebuild every click probability: the history is what it says."""
    products, facts = draw_products(TINY), tiny.facts
    style_of_item = np.repeat(products.style("visual"), TINY.variants)
    events = tiny.read("events")
    weights = np.array(facts["weights"])
    effects: dict[int, float] = {}
    for row in tiny.read("impressions").join(tiny.read("truth"), on="impression_id").head(300).iter_rows(named=True):
        past = events.filter((pl.col("user_id") == row["user_id"]) & (pl.col("timestamp") < row["timestamp"]))
        recent = style_of_item[past["item_id"].to_numpy()[::-1][: len(weights)]]
        match = ((recent == style_of_item[row["item_id"]]) * weights).sum()
        logit = np.log(row["probability"] / (1 - row["probability"]))
        effect = logit - facts["bias"] - facts["gain"] * match
        assert effects.setdefault(row["item_id"], effect) == pytest.approx(effect, abs=1e-3)
    assert np.std(list(effects.values())) == pytest.approx(facts["popularity_effect"], abs=0.1)


def test_users_are_seen_in_one_split_and_have_a_past(tiny: Dataset) -> None:
    events, shown = tiny.read("events"), tiny.read("impressions")
    assert shown.group_by("user_id").agg(pl.col("split").n_unique())["split"].max() == 1
    share = shown.group_by("split").len().sort("split")["len"].to_numpy() / shown.height
    np.testing.assert_allclose(share, [0.2, 0.7, 0.1])
    gaps = events.with_columns(gap=pl.col("timestamp").diff().over("user_id"))["gap"].drop_nulls()
    assert gaps.min() > 0  # type: ignore[operator]
    joined = shown.join(events.select("user_id", event_time="timestamp"), on="user_id")
    past = joined.filter(pl.col("event_time") < pl.col("timestamp")).group_by("impression_id").len()
    assert past.height == shown.height
    assert past["len"].min() >= 128  # type: ignore[operator]
    assert joined.filter(pl.col("event_time") == pl.col("timestamp")).height == 0


@pytest.mark.parametrize("drives", ["visual", "text", "id"])
def test_the_driver_is_what_the_clicks_follow(drives: str) -> None:
    """Clicks rise with repeats of the driver's style in the recent past, and of no other style."""
    products = draw_products(WorldConfig(products=1500))
    styles = {name: np.repeat(products.style(name), 2) for name in ("visual", "text", "id")}
    tables = simulate(np.arange(3000), styles[drives], BehaviourConfig(users=150)).tables
    shown, events = tables["impressions"], tables["events"]
    past = shown.join(events.select("user_id", past="item_id", then="timestamp"), on="user_id")
    past = past.filter(pl.col("then") < pl.col("timestamp"))
    lift = {}
    for name, style in styles.items():
        same = style[past["past"].to_numpy()] == style[past["item_id"].to_numpy()]
        repeats = past.with_columns(same=pl.Series(same)).group_by("impression_id").agg(pl.col("same").mean())
        rows = shown.join(repeats, on="impression_id")
        lift[name] = auc(rows["clicked"].to_numpy(), rows["same"].to_numpy())
    assert lift.pop(drives) > 0.65
    assert all(0.45 < other < 0.56 for other in lift.values()), lift


def test_behaviour_over_a_real_catalogue_is_labelled(tiny: Dataset, tmp_path: Path) -> None:
    config = BehaviourConfig(users=40, impressions=6, personas=4)
    made = simulate_behaviour(tiny.folder, tmp_path / "made", by=("category", "use"), styles=20, config=config)
    assert check(made.folder) == []
    assert made.digests["items"] == tiny.digests["items"]
    assert all(made.simulated[file] for file in ("events", "impressions", "truth"))
    assert made.facts["styles"] == 20
    assert made.facts["drives"] == "category+use"
    with pytest.raises(
        DataError, match=r"no item has a value of 'colour'; there are: category, division, department, type, use"
    ):
        simulate_behaviour(tiny.folder, tmp_path / "bad", by=("colour",), config=config)
    with pytest.raises(DataError, match="exists already"):
        simulate_behaviour(tiny.folder, made.folder, by=("use",), config=config)


@pytest.mark.proof
def test_the_default_world_has_what_the_questions_need(tmp_path: Path) -> None:
    world = make_world(tmp_path / "world", WorldConfig())
    assert check(world.folder) == []
    queries, pairs = world.read("queries"), world.read("pairs")
    test = queries.filter(pl.col("query_id").is_in(pairs.filter(pl.col("split") == "test")["query_id"].implode()))
    for kind in ("text", "image", "item_id"):
        assert test[kind].is_not_null().sum() >= 300
    assert 0.75 < world.facts["bayes"]["auc"]["64"] < 0.80
    value = list(world.facts["bayes"]["gauc"].values())
    assert all(long > short + 0.005 for short, long in itertools.pairwise(value[:-1]))


def test_a_world_of_long_histories_knows_their_answers() -> None:
    """Lags up to 2,048 tell, far beyond what a convolution event by event could do."""
    config = BehaviourConfig(
        users=200,
        impressions=20,
        events_before=2_100,
        personas=6,
        weights=(4, 4, 3, 3, 2, 2, 1, 1, 1, 1, 1, 1),
        stop=2_048,
    )
    truth = simulate(np.arange(300), np.arange(300) % 12, config).tables["truth"]
    assert [column for column in truth.columns if column.startswith("bayes_")][-1] == "bayes_2048"
    assert truth["bayes_2048"].equals(truth["probability"].rename("bayes_2048"))
    gaps = [float((truth[f"bayes_{length}"] - truth["probability"]).abs().mean()) for length in config.lengths]
    assert all(shorter > longer for shorter, longer in itertools.pairwise(gaps))
    assert abs(float((truth["bayes_256"] - truth["probability"]).mean())) < 0.01  # unbiased, whatever is not seen


def test_the_unseen_rest_is_what_a_walk_over_its_lags_gives() -> None:
    match, weights = np.array([[0.03, 0.4], [0.9, 1.0]]), np.array([5, 3, 3, 1, 1, 1, 1])
    walked = np.zeros((2, 2, weights.sum() + 1))
    walked[..., 0] = 1
    for weight in weights:
        walked = (1 - match)[..., None] * walked + match[..., None] * np.roll(walked, weight, axis=-1)
    np.testing.assert_allclose(rest_distribution(match, weights), walked, atol=1e-14)


def test_judged_pairs_are_graded_by_what_the_search_told(tiny: Dataset) -> None:
    products, judged = draw_products(TINY), tiny.read("relevance")
    asked = tiny.read("pairs").group_by("query_id").agg(pl.col("item_id").first() // TINY.variants)
    product = dict(asked.iter_rows())
    assert set(judged["split"]) == {"train", "valid", "test"}
    assert not judged.select("query_id", "item_id").is_duplicated().any()
    text = dict(tiny.read("queries", ["query_id", "text"]).iter_rows())
    for row in judged.iter_rows(named=True):
        own, shown = product[row["query_id"]], row["item_id"] // TINY.variants
        assert row["split"] == products.split[own]
        assert text[row["query_id"]]
        assert (row["grade"] > 0) == (products.category[own] == products.category[shown])
        if own == shown:
            assert row["grade"] == 3
        if row["grade"] == 3 and own != shown:
            assert (products.words[own] == products.words[shown]).any() or len(text[row["query_id"]].split()) == 1
    assert judged["grade"].n_unique() == 4


def test_a_grade_is_the_category_and_the_share_of_told_words() -> None:
    products = draw_products(TINY)
    products = replace(
        products,
        category=np.array([1, 1, 1, 1, 2]),
        words=np.array([[1, 2, 3, 4], [1, 2, 0, 0], [1, 0, 0, 4], [0, 0, 3, 4], [1, 2, 3, 4]]),
    )
    told, shown = np.array([[True, True, False, False], [False] * 4]), np.tile(np.arange(5), (2, 1))
    found = grades(products, np.array([0, 0]), told, shown)
    assert found.tolist() == [[3, 3, 2, 1, 0], [3, 3, 3, 3, 0]]
