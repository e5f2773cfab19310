"""CTR: a history is what happened strictly before; the model reads it, and nothing else."""

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import polars as pl
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss, roc_auc_score
from tiny import silent

from moon_jax.data.behaviour import BehaviourConfig, simulate
from moon_jax.data.contract import DataError
from moon_jax.data.histories import SLICED, Behaviour, read_behaviour
from moon_jax.data.representations import embeddings_table
from moon_jax.models.behaviour import Shape, lag_bands
from moon_jax.models.catalogue import Catalogue, place_catalogue
from moon_jax.models.ctr import CtrConfig
from moon_jax.sharding import data_mesh
from moon_jax.stages.application import ApplicationConfig, against_bayes, application
from moon_jax.stages.compare import CompareConfig, compare, quartiles

ACTIONS = ("buy", "click", "view")


@st.composite
def logs(draw: st.DrawFn) -> tuple[list[int], list[tuple], list[tuple]]:
    """Item ids in any order, events (user, item or None, action, time) with many ties, impressions (user, item, time)."""
    ids = draw(st.lists(st.integers(-5, 40), min_size=1, max_size=8, unique=True))
    user, time = st.integers(0, 4), st.integers(0, 6)
    event = st.tuples(user, st.sampled_from([*ids, None]), st.sampled_from(ACTIONS), time)
    events = draw(st.lists(event, min_size=1, max_size=40))
    shown = draw(st.lists(st.tuples(user, st.sampled_from(ids), time), min_size=1, max_size=10))
    return ids, sorted(events, key=lambda event: (event[0], event[3])), shown


def behaviour_of(folder: Path, ids: list[int], events: list[tuple], shown: list[tuple]) -> Behaviour:
    whole = {"item_id": pl.Int64}
    pl.DataFrame({"item_id": ids}).write_parquet(folder / "items.parquet")
    pl.DataFrame(
        events, ["user_id", "item_id", "action", "timestamp"], orient="row", schema_overrides=whole
    ).write_parquet(folder / "events.parquet")
    pl.DataFrame(
        [(place + 100, *row, place % 2 == 0, "train") for place, row in enumerate(shown)],
        ["impression_id", "user_id", "item_id", "timestamp", "clicked", "split"],
        orient="row",
    ).write_parquet(folder / "impressions.parquet")
    return read_behaviour(*(folder / f"{name}.parquet" for name in ("items", "events", "impressions")))


@settings(max_examples=80, deadline=None)
@given(logs(), st.one_of(st.integers(1, 12), st.just(SLICED)))
def test_a_history_of_any_length_is_what_happened_strictly_before(log: tuple, length: int) -> None:
    """Against a loop over the log: same user, earlier time (ties are no past), newest first, -1 beyond."""
    ids, events, shown = log
    with tempfile.TemporaryDirectory() as folder:
        behaviour = behaviour_of(Path(folder), ids, events, shown)
    histories, actions = behaviour.history(np.arange(len(shown)), length)
    for place, (user, item, time) in enumerate(shown):
        past = [event for event in events if event[0] == user and event[3] < time][::-1][:length]
        expected = [-1 if event[1] is None else ids.index(event[1]) for event in past]
        assert histories[place].tolist() == expected + [-1] * (length - len(past))
        told = [behaviour.actions[a] for a in actions[place][: len(past)]]
        assert told == [event[2] for event in past]
        assert behaviour.impression_item[place] == ids.index(item)
    assert behaviour.clicked.tolist() == [float(place % 2 == 0) for place in range(len(shown))]


@pytest.mark.parametrize("file", ["events", "impressions"])
def test_an_unknown_item_is_named(tmp_path: Path, file: str) -> None:
    events, shown = [(1, 10, "view", 1), (1, 20, "view", 2)], [(1, 20, 5), (1, 10, 6)]
    if file == "events":
        events[1] = (1, 15, "view", 2)
    else:
        shown[1] = (1, 99, 6)
    with pytest.raises(DataError, match=rf"{file}\.parquet, row 1: unknown item_id (15|99)"):
        behaviour_of(tmp_path, [20, 10], events, shown)


def test_histories_that_impressions_bring_along_are_read_as_they_stand(tmp_path: Path) -> None:
    pl.DataFrame({"item_id": [30, 10, 20]}).write_parquet(tmp_path / "items.parquet")
    shown = {
        "impression_id": [1, 2, 3],
        "user_id": [7, 7, 8],
        "item_id": [10, 20, 30],
        "clicked": [True, False, True],
        "split": ["train", "train", "test"],
        "history": [[30, 20, 10], [], [20]],
    }
    pl.DataFrame(shown).write_parquet(tmp_path / "impressions.parquet")
    behaviour = read_behaviour(tmp_path / "items.parquet", None, tmp_path / "impressions.parquet")
    items, actions = behaviour.history(np.arange(3), 2)
    assert items.tolist() == [[1, 2], [-1, -1], [2, -1]]  # newest first
    assert not actions.any()
    assert behaviour.shown_in_training().tolist() == [True, True, True]
    pl.DataFrame(shown | {"history": [[30], [20, 99], [99]]}).write_parquet(tmp_path / "impressions.parquet")
    behaviour = read_behaviour(tmp_path / "items.parquet", None, tmp_path / "impressions.parquet")
    assert behaviour.history(np.arange(3), 2)[0].tolist() == [[0, -1], [-1, 2], [-1, -1]]  # 99 is not in the catalogue


def test_queries_are_behaviours_where_they_are_asked_for(tmp_path: Path) -> None:
    """Their rows follow the items'; so do their vectors, and an impression's own query is a feature."""
    pl.DataFrame({"item_id": [30, 10]}).write_parquet(tmp_path / "items.parquet")
    pl.DataFrame({"query_id": [5, 4, 9]}).write_parquet(tmp_path / "queries.parquet")
    events = {
        "user_id": [1, 1, 1],
        "item_id": [10, None, 30],
        "query_id": [None, 9, None],
        "action": ["click", "search", "click"],
        "timestamp": [1, 2, 3],
    }
    shown = {
        "impression_id": [1, 2],
        "user_id": [1, 1],
        "item_id": [30, 10],
        "query_id": [4, None],
        "timestamp": [4, 3],
        "clicked": [True, False],
        "split": ["train", "test"],
    }
    pl.DataFrame(events).write_parquet(tmp_path / "events.parquet")
    pl.DataFrame(shown).write_parquet(tmp_path / "impressions.parquet")
    paths = [tmp_path / f"{name}.parquet" for name in ("items", "events", "impressions", "queries")]
    behaviour = read_behaviour(*paths)
    assert behaviour.history(np.arange(2), 3)[0].tolist() == [[0, 4, 1], [4, 1, -1]]
    assert read_behaviour(*paths[:3]).history(np.arange(2), 3)[0].tolist() == [[0, -1, 1], [-1, 1, -1]]
    assert behaviour.impression_query is not None
    assert behaviour.impression_query.tolist() == [3, -1]
    assert behaviour.shown_in_training().tolist() == [True, True]
    placed, rows = place_catalogue(np.array([True, False]), np.eye(5), "float32", data_mesh(1), queries=3)
    assert (placed.id_row_N.tolist(), rows) == ([0, 1, 2, 2, 2], 3)
    asked = CtrConfig(rows, 2, ("cube",), Shape(content=5), query=True).build(0)
    items, actions = behaviour.history(np.arange(2), 3)
    clicks = [
        asked(jnp.asarray([0, 1]), jnp.asarray(items), jnp.asarray(actions), placed, jnp.asarray(query))
        for query in ([3, -1], [-1, -1], [4, -1])
    ]
    assert clicks[0][0] != clicks[1][0] != clicks[2][0]
    assert clicks[0][1] == clicks[1][1] == clicks[2][1]
    pl.DataFrame(events | {"query_id": [None, 8, None]}).write_parquet(tmp_path / "events.parquet")
    with pytest.raises(DataError, match=r"events\.parquet, row 1: unknown query_id 8"):
        read_behaviour(*paths)


@settings(max_examples=60, deadline=None)
@given(logs(), st.integers(0, 2**10 - 1))
def test_an_item_is_known_if_training_shows_it(log: tuple, held_out: int) -> None:
    ids, events, shown = log
    with tempfile.TemporaryDirectory() as folder:
        behaviour = behaviour_of(Path(folder), ids, events, shown)
    split = np.array(["test" if held_out >> place & 1 else "train" for place in range(len(shown))])
    known: set[int] = set()
    for (user, item, time), part in zip(shown, split, strict=True):
        if part == "train":
            known |= {item} | {event[1] for event in events if event[0] == user and event[3] < time}
    found = replace(behaviour, split=split).shown_in_training()
    assert found.tolist() == [item in known for item in ids]


# The model

ITEMS, CONTENT = 9, 5


def model(modules: tuple[str, ...] = ("din",), content: int = CONTENT, **changes: Any) -> Any:
    return CtrConfig(ITEMS, 3, modules, Shape(content=content), **changes).build(0)


def catalogue(content: int = CONTENT, seed: int = 5) -> Catalogue:
    vectors = np.random.default_rng(seed).normal(size=(ITEMS, CONTENT)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return Catalogue(jnp.arange(ITEMS), jnp.asarray(vectors) if content else None)


def shown_to(rng: np.random.Generator, real: int, length: int) -> dict[str, np.ndarray]:
    """A batch of four whose histories have `real` events and are padded to `length`."""
    padding = ((0, 0), (0, length - real))
    return {
        "target": rng.integers(0, ITEMS, 4),
        "history": np.pad(rng.integers(0, ITEMS, (4, real)), padding, constant_values=-1),
        "action": np.pad(rng.integers(0, 3, (4, real)), padding),
    }


def logits(model: Any, batch: dict[str, np.ndarray], items: Catalogue) -> np.ndarray:
    return np.asarray(model(*(jnp.asarray(batch[name]) for name in ("target", "history", "action")), items))


@pytest.mark.parametrize("modules", [("din", "simtier"), ("cube",)])
def test_every_event_counts_and_so_do_target_and_representations(modules: tuple[str, ...]) -> None:
    batch, whole = shown_to(np.random.default_rng(1), 4, 4), model(modules)
    expected = logits(whole, batch, catalogue())
    for change in ("history", "action", "target"):
        other = batch | {change: np.roll(batch[change], 1, axis=-1)}
        assert np.abs(logits(whole, other, catalogue()) - expected).max() > 1e-6, change
    assert np.abs(logits(whole, batch, catalogue(seed=6)) - expected).max() > 1e-6


def test_without_representations_the_model_sees_ids_alone() -> None:
    batch, alone = shown_to(np.random.default_rng(2), 4, 4), model(content=0)
    expected = logits(alone, batch, catalogue(0))
    assert np.array_equal(logits(alone, batch, catalogue()), expected)
    assert not np.array_equal(logits(alone, batch | {"target": (batch["target"] + 1) % ITEMS}, catalogue(0)), expected)


def test_crosses_add_products_of_features() -> None:
    """DCN-v2: with its matrices at 0 and biases at 1 a cross layer doubles its input."""
    batch, crossed = shown_to(np.random.default_rng(3), 4, 4), model(top="dcnv2", crosses=1)
    for layer in crossed.crosses:
        layer.kernel[...], layer.bias[...] = jnp.zeros_like(layer.kernel[...]), jnp.ones_like(layer.bias[...])
    plain = model()
    for ours, theirs in zip(crossed.layers, plain.layers, strict=True):
        theirs.kernel[...], theirs.bias[...] = ours.kernel[...], ours.bias[...]
    plain.layers[0].kernel[...] *= 2
    plain.logit.kernel[...], plain.logit.bias[...] = crossed.logit.kernel[...], crossed.logit.bias[...]
    for name in ("ids", "actions"):
        getattr(plain, name).embedding[...] = getattr(crossed, name).embedding[...]
    plain.project.kernel[...] = crossed.project.kernel[...]
    nnx.update(plain.modules, nnx.state(crossed.modules))
    np.testing.assert_allclose(logits(plain, batch, catalogue()), logits(crossed, batch, catalogue()), rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"modules": ()}, "modules: at least one is needed"),
        ({"modules": ("dim",)}, "modules: 'dim' is unknown; some of attention, din"),
        ({"top": "mpl"}, "top: 'mpl' is unknown"),
        ({"modules": ("din", "cube"), "content": 0}, "cube reads representations, and there are none"),
    ],
)
def test_a_model_that_cannot_be_is_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        model(**changes)


def test_recency_bands_double() -> None:
    assert lag_bands(10, 12).tolist() == [0, 1, 2, 2, 3, 3, 3, 3, 4, 4]
    assert lag_bands(5_000, 12)[-1] == 11


@pytest.mark.parametrize(("storage", "within"), [("float32", 1e-6), ("float16", 1e-3), ("int8", 1e-2)])
def test_the_catalogue_gives_back_what_was_stored(storage: Any, within: float) -> None:
    rng = np.random.default_rng(0)
    vectors, known = rng.normal(size=(300, 64)).astype(np.float32), rng.random(300) < 0.8
    vectors[7] = 0
    placed, rows = place_catalogue(known, vectors, storage, data_mesh(2))
    assert rows == known.sum() + 1
    seen = np.asarray(placed.id_row_N)
    assert sorted(seen[known]) == list(range(known.sum()))
    assert set(seen[~known]) == {rows - 1}  # what was never trained shares one row
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)
    found = np.asarray(placed.vectors(jnp.arange(300)))
    assert np.linalg.norm(found - unit, axis=1).max() < within
    assert placed.vectors_NxD is not None
    assert placed.vectors_NxD.dtype == storage
    history = jnp.asarray(rng.integers(0, 300, (32, 40)))
    whole, cut = (
        np.asarray(placed.similarities(placed.vectors(jnp.arange(32)), history, places)) for places in (2_000, 7)
    )
    np.testing.assert_allclose(cut, whole, atol=1e-6)
    np.testing.assert_allclose(whole[1], found[history[1]] @ found[1], atol=1e-5)


# The stage

LOG = BehaviourConfig(users=300, impressions=30, popularity_effect=0.2, auc=0.85)
STYLES = 12
CONFIG = ApplicationConfig(length=16, examples=16_000, batch=256)
MODULES = {"ids": ("attention",), "moon": ("attention", "simtier")}


@pytest.fixture(scope="module", autouse=True)
def _one_device() -> Iterator[None]:
    """Eight simulated devices take turns on one core: the training tests show that they agree."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOON_ENGINE", "data=1")
        yield


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Clicks that follow the items' style: 120 items of twelve styles, 300 users."""
    folder, ids = tmp_path_factory.mktemp("clicks"), np.arange(120) * 3 + 7
    tables = simulate(ids, np.arange(120) % STYLES, LOG).tables | {"items": pl.DataFrame({"item_id": ids})}
    for name, table in tables.items():
        table.write_parquet(folder / f"{name}.parquet")
    return {name: folder / f"{name}.parquet" for name in tables}


@pytest.fixture(scope="module")
def representations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a perfect encoder would give: items of a style point in one direction, with a little noise."""
    folder = tmp_path_factory.mktemp("embed")
    noise = 0.1 * np.random.default_rng(0).normal(size=(120, STYLES))
    np.save(folder / "items.npy", (np.eye(STYLES)[np.arange(120) % STYLES] + noise).astype(np.float16))
    return folder


@pytest.fixture(scope="module")
def runs(
    files: dict[str, Path], representations: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[dict, Path]]:
    out = {}
    for name, inputs in (("ids", {}), ("moon", {"embed": representations})):
        folder = tmp_path_factory.mktemp(name)
        config = replace(CONFIG, modules=MODULES[name])
        out[name] = application(config, files=files, inputs=inputs, folder=folder, report=silent), folder
    return out


def test_metrics_are_those_of_the_predictions(runs: dict, files: dict[str, Path]) -> None:
    result, folder = runs["moon"]
    saved = np.load(folder / "predictions.npz")
    test = pl.read_parquet(files["impressions"]).filter(pl.col("split") == "test")
    assert saved["impression_id"].tolist() == test["impression_id"].to_list()
    assert saved["clicked"].tolist() == test["clicked"].cast(pl.Float32).to_list()
    assert saved["user"].tolist() == test["user_id"].to_list()
    assert result["auc"] == pytest.approx(roc_auc_score(saved["clicked"], saved["p"]), abs=1e-12)
    assert result["log_loss"] == pytest.approx(log_loss(saved["clicked"], saved["p"]), abs=1e-9)
    assert result["gauc_users"] + result["gauc_left_out"] == test["user_id"].n_unique()
    assert (result["test_impressions"], result["examples"]) == (test.height, 16_128)  # whole batches of 256


def test_what_is_chosen_by_is_measured_on_valid_alone(
    runs: dict, files: dict[str, Path], representations: Path, tmp_path: Path
) -> None:
    swapped = pl.col("split").replace({"test": "valid", "valid": "test"})
    pl.read_parquet(files["impressions"]).with_columns(swapped).write_parquet(tmp_path / "impressions.parquet")
    given = files | {"impressions": tmp_path / "impressions.parquet"}
    config = replace(CONFIG, modules=MODULES["moon"])
    theirs = application(config, files=given, inputs={"embed": representations}, folder=tmp_path, report=silent)
    ours, _ = runs["moon"]
    for metric in ("log_loss", "gauc"):
        assert ours[f"valid_{metric}"] == pytest.approx(theirs[metric], abs=1e-9)
        assert theirs[f"valid_{metric}"] == pytest.approx(ours[metric], abs=1e-9)
    assert ours["valid_log_loss"] != ours["log_loss"]


def test_representations_that_hold_the_cause_beat_ids_and_chance_but_not_bayes(runs: dict, tmp_path: Path) -> None:
    (ours, folder), (ids, baseline) = runs["moon"], runs["ids"]
    assert ours["gauc"] > 0.6
    assert ours["bayes_gauc"] > 0.7
    assert ours["gauc_minus_bayes"] < 2 * ours["gauc_minus_bayes_se"]
    assert ours["log_loss"] < -(ours["ctr"] * np.log(ours["ctr"]) + (1 - ours["ctr"]) * np.log(1 - ours["ctr"]))
    inputs = {"application": folder, "baseline": baseline}
    gained = compare(CompareConfig(), files={}, inputs=inputs, folder=tmp_path, report=silent)
    assert gained["gauc_gain"] == pytest.approx(ours["gauc"] - ids["gauc"], abs=1e-12)
    assert gained["gauc_gain"] > 2 * gained["gauc_gain_se"] > 0


def test_slices_are_those_of_the_predictions(runs: dict, files: dict[str, Path]) -> None:
    result, folder = runs["ids"]
    saved, shown = np.load(folder / "predictions.npz"), pl.read_parquet(files["impressions"])
    test = shown.filter(pl.col("split") == "test")
    counts = dict(shown.filter(pl.col("split") == "train").group_by("item_id").len().iter_rows())
    seen = np.array([counts.get(item, 0) for item in test["item_id"].to_list()])
    tail = seen <= np.quantile(seen, 0.2)
    assert result["new_items_impressions"] == 0  # 300 users show 120 items all
    assert result["tail_items_impressions"] == tail.sum() >= 0.2 * test.height
    assert result["tail_items_auc"] == pytest.approx(roc_auc_score(saved["clicked"][tail], saved["p"][tail]), abs=1e-12)
    assert 0.2 * test.height <= result["cold_users_impressions"] < test.height
    assert 0 < result["ece"] < 0.2


def test_vectors_of_ones_own_are_read_from_a_file(
    runs: dict, files: dict[str, Path], representations: Path, tmp_path: Path
) -> None:
    """In another order, and one missing: as the embed step's own with a row of zeros."""
    vectors, ids = np.load(representations / "items.npy").astype(np.float32), np.arange(120) * 3 + 7
    for name in ("own", "embed", "a", "b", "c"):
        (tmp_path / name).mkdir()
    kept = np.random.default_rng(0).permutation(119)
    embeddings_table(ids[kept], vectors[kept]).write_parquet(tmp_path / "own" / "embeddings.parquet")
    vectors[119] = 0
    np.save(tmp_path / "embed" / "items.npy", vectors)
    brief = replace(CONFIG, modules=("simtier",), examples=512)
    own = files | {"embeddings": tmp_path / "own" / "embeddings.parquet"}
    ours = application(brief, files=own, inputs={}, folder=tmp_path / "a", report=silent)
    theirs = application(brief, files=files, inputs={"embed": tmp_path / "embed"}, folder=tmp_path / "b", report=silent)
    assert ours["auc"] == pytest.approx(theirs["auc"], abs=2e-3)  # its vectors were rounded once more
    embeddings_table(ids + 1, np.ones((120, 3))).write_parquet(tmp_path / "own" / "embeddings.parquet")
    with pytest.raises(DataError, match=r"embeddings\.parquet: not one of its item_ids is in items\.parquet"):
        application(brief, files=own, inputs={}, folder=tmp_path / "c", report=silent)


def test_a_run_compared_with_itself_gains_nothing(runs: dict, tmp_path: Path) -> None:
    _, folder = runs["ids"]
    inputs = {"application": folder, "baseline": folder}
    result = compare(CompareConfig(), files={}, inputs=inputs, folder=tmp_path, report=silent)
    assert result["gauc_gain"] == result["gauc_gain_se"] == result["quartile_1_gauc_gain"] == 0.0
    assert [result[f"quartile_{n}_events_most"] for n in (1, 2, 3)] < [
        result[f"quartile_{n}_events_most"] for n in (2, 3, 4)
    ]


def test_runs_on_different_impressions_are_not_compared(runs: dict, tmp_path: Path) -> None:
    _, folder = runs["ids"]
    saved = dict(np.load(folder / "predictions.npz"))
    np.savez(tmp_path / "predictions.npz", **{name: array[1:] for name, array in saved.items()})
    inputs = {"application": folder, "baseline": tmp_path}
    with pytest.raises(ValueError, match="different impressions"):
        compare(CompareConfig(), files={}, inputs=inputs, folder=tmp_path, report=silent)


def test_bayes_itself_stands_at_bayes(files: dict[str, Path]) -> None:
    joined = pl.read_parquet(files["impressions"]).join(pl.read_parquet(files["truth"]), on="impression_id")
    joined = joined.sample(fraction=1.0, shuffle=True, seed=0)  # the order of rows means nothing
    ids, users = joined["impression_id"].to_numpy(), joined["user_id"].to_numpy()
    labels = joined["clicked"].to_numpy().astype(float)
    result = against_bayes(files["truth"], 16, ids, labels, joined["bayes_16"].to_numpy(), users)
    assert result["bayes_auc"] == pytest.approx(roc_auc_score(labels, joined["bayes_16"]), abs=1e-12)
    assert (result["gauc_minus_bayes"], result["gauc_minus_bayes_se"]) == (0.0, 0.0)
    assert against_bayes(files["truth"], 17, ids, labels, labels, users) == {}


def test_features_that_hold_the_cause_are_used(files: dict[str, Path], tmp_path: Path) -> None:
    """A place that tells nine clicks of ten; users have an age. ID rows may be updated by row meanwhile."""
    shown = pl.read_parquet(files["impressions"])
    told = pl.col("clicked") ^ (pl.col("impression_id") % 10 == 0)
    shown.with_columns(position=pl.when(told).then(1).otherwise(2)).write_parquet(tmp_path / "impressions.parquet")
    shown.select("user_id", age=pl.col("user_id") % 7).unique().write_parquet(tmp_path / "users.parquet")
    given = files | {name: tmp_path / f"{name}.parquet" for name in ("impressions", "users")}
    config = replace(CONFIG, examples=8_192, id_updates="rows", features=("user", "position"))
    result = application(config, files=given, inputs={}, folder=tmp_path, report=silent)
    assert result["application_features"] == 2  # age and position; all have as many events before, to a power of two
    assert result["auc"] > 0.85


def test_a_stopped_run_ends_as_if_it_had_not_been_stopped(
    runs: dict, files: dict[str, Path], representations: Path, tmp_path: Path
) -> None:
    stops = [5, 40]

    def report(done: int, total: int, **info: Any) -> None:
        if stops and done == stops[0]:
            stops.pop(0)
            raise KeyboardInterrupt

    result: dict[str, Any] = {}
    while not result:
        try:
            inputs = {"embed": representations}
            config = replace(CONFIG, modules=MODULES["moon"])
            result = application(config, files=files, inputs=inputs, folder=tmp_path, report=report)
        except KeyboardInterrupt:
            continue
    assert not stops
    expected, folder = runs["moon"]
    for name in ("auc", "gauc", "log_loss", "examples", "application_flops"):
        assert result[name] == expected[name]
    assert np.array_equal(np.load(tmp_path / "predictions.npz")["p"], np.load(folder / "predictions.npz")["p"])


def test_a_rate_that_is_far_too_high_is_a_result(files: dict[str, Path], tmp_path: Path) -> None:
    wild = replace(CONFIG, peak_lr=1e30)
    result = application(wild, files=files, inputs={}, folder=tmp_path, report=silent)
    assert result["status"] == "diverged"
    assert result["diverged_at_step"] < 20


def test_a_batch_larger_than_the_log_is_told(files: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="train impressions are fewer than a batch of 100000"):
        application(ApplicationConfig(4, 10, batch=100_000), files=files, inputs={}, folder=tmp_path, report=silent)


def test_quarters_keep_users_whole_and_share_them_evenly() -> None:
    user, events = np.repeat(np.arange(40), 3), np.repeat(np.arange(40), 3) * 10 - np.tile([0, 1, 2], 40)
    quartile, most = quartiles(user, events)
    assert np.array_equal(quartile, np.repeat(np.arange(40) // 10 + 1, 3))
    assert np.array_equal(most, np.repeat(np.arange(40) * 10, 3))


def test_quarters_of_equal_histories_are_one() -> None:
    assert set(quartiles(np.arange(8), np.full(8, 5))[0]) == {1}


def test_quarters_without_a_user_have_no_gain(tmp_path: Path) -> None:
    rng, size = np.random.default_rng(0), 80
    shown = {"impression_id": np.arange(size), "user": np.repeat(np.arange(8), 10), "clicked": rng.random(size) < 0.5}
    np.savez(tmp_path / "predictions.npz", **shown, p=rng.random(size), events=np.full(size, 5))
    inputs = {"application": tmp_path, "baseline": tmp_path}
    result = compare(CompareConfig(), files={}, inputs=inputs, folder=tmp_path, report=silent)
    assert result["quartile_1_users"] == 8
    assert not any(name.startswith("quartile_2") for name in result)
