"""Post-training in two stages: Table 2's forms, positives by action, weights that are handed on, parts that stand still."""

from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from posttraining import CONFIG, Interrupts, Run, run
from tiny import silent
from tokenizers import Tokenizer

from moon_jax.data.contract import DataError, Dataset
from moon_jax.data.forms import OWN, SEARCHES, TABLE_2, WORDS, paper_mixture, parse_form
from moon_jax.data.loading import Prepared, training_batches
from moon_jax.stages.prepare import PrepareConfig, prepare
from moon_jax.weights import load_encoder

TABLES = ("items", "queries", "pairs")


@pytest.fixture(scope="module")
def rich_folder(world: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rich")
    files = {name: world.path(name) for name in TABLES}
    prepare(PrepareConfig(16, 16, 8, 200, rich_length=12), files=files, inputs={}, folder=folder, report=silent)
    return folder


def test_the_mixture_is_the_papers_table_where_people_search_by_all_three() -> None:
    mixture = paper_mixture(SEARCHES)
    assert len(mixture) == 9
    assert [form.weight for form in mixture] == [0.2, 0.2, 0.2, 0.5, 0.2, 0.5, 0.2, 0.5, 0.1]
    assert [str(form) for form in mixture] == [text for text, _ in TABLE_2]
    assert [form.search for form in mixture] == ["text"] * 4 + ["image"] * 3 + ["item"] * 2


def test_without_searches_items_stand_for_queries_and_no_form_can_be_answered_by_reading() -> None:
    mixture = paper_mixture({"image"})
    assert {form.search for form in mixture} == {"image", OWN}
    assert len(mixture) == 6
    for form in mixture:
        assert form.search != OWN or not set(form.query) & set(form.item) & set(WORDS)
    assert not any("rich" in (*form.query, *form.item) for form in paper_mixture(SEARCHES, rich=False))


@pytest.mark.parametrize(
    ("search", "text", "message"),
    [
        ("image", "image->text+rich", "a side shows text or rich, not both"),
        ("text", "rich->image", "only a product as query has"),
        ("image", "image->sound", "unknown modality 'sound'"),
    ],
)
def test_forms_that_cannot_be_are_refused(search: str, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_form(search, text)


def test_rich_texts_are_category_and_attributes(world: Dataset, rich_folder: Path) -> None:
    row = world.read("items", ["category", "attributes"]).row(5, named=True)
    tokenizer = Tokenizer.from_file(str(rich_folder / "tokenizer.json"))
    told = ", ".join([*row["category"], *(pair.replace(":", " ") for pair in row["attributes"])])
    shown = Prepared(rich_folder).item_rich[5]
    assert shown[shown > 0].tolist() == tokenizer.encode(told).ids[:12]


def test_arrays_without_rich_texts_say_so(prepared: Prepared) -> None:
    with pytest.raises(DataError, match="prepared without rich texts"):
        prepared.gather(parse_form("image", "image->rich"), prepared.pairs[:2])


def test_all_nine_forms_gather_what_they_name(rich_folder: Path) -> None:
    prepared = Prepared(rich_folder)
    for form in paper_mixture(SEARCHES):
        pairs = prepared.pairs_of(form.search, "train")[:3]
        batch = prepared.gather(form, pairs)
        for side in ("query", "item"):
            shown = getattr(form, side)
            assert ("image" in shown) == (f"{side}_images" in batch)
            assert bool(set(shown) & set(WORDS)) == (f"{side}_text" in batch)
        if "rich" in form.item:
            np.testing.assert_array_equal(batch["item_text"], prepared.item_rich[pairs[:, 1]])
        if "rich" in form.query:
            np.testing.assert_array_equal(batch["query_text"], prepared.item_rich[prepared.query_item[pairs[:, 0]]])


def test_positives_are_those_of_the_actions_asked_for(world: Dataset, prepared: Prepared) -> None:
    action_P = world.read("pairs", ["action"])["action"].to_numpy()
    kind_P = prepared.query_search[prepared.pairs[:, 0]] == SEARCHES.index("image")
    bought = prepared.pairs_of("image", "train", ("purchase",))
    train = kind_P & (prepared.pair_split == 0)
    np.testing.assert_array_equal(bought, prepared.pairs[train & (action_P == "purchase")])
    several = prepared.pairs_of("image", "train", ("click", "cart", "purchase"))
    np.testing.assert_array_equal(several, prepared.pairs_of("image", "train"))
    with pytest.raises(DataError, match="fewer than a batch of 4096"):
        training_batches(prepared, CONFIG.forms[:1], 4096, 0, actions=("purchase",))


def test_a_processed_set_keeps_the_tokenizer_it_is_given(world: Dataset, rich_folder: Path, tmp_path: Path) -> None:
    files = {name: world.path(name) for name in TABLES}
    prepare(
        PrepareConfig(16, 16, 8, 90), files=files, inputs={"tokenizer": rich_folder}, folder=tmp_path, report=silent
    )
    assert (tmp_path / "tokenizer.json").read_text() == (rich_folder / "tokenizer.json").read_text()
    np.testing.assert_array_equal(Prepared(tmp_path).item_text, Prepared(rich_folder).item_text)


@pytest.fixture(scope="module")
def first(prepared_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A first stage."""
    return run(prepared_folder, tmp_path_factory.mktemp("first"), Interrupts())


def test_a_second_stage_begins_where_the_first_ended(prepared_folder: Path, first: Run, tmp_path: Path) -> None:
    """Of no tokens it is the first; its temperature too."""
    run(prepared_folder, tmp_path, Interrupts(), config=replace(CONFIG, tokens=0, seed=5), begin=first.folder)
    _, _, before, temperature = load_encoder(first.folder)
    _, _, after, kept = load_encoder(tmp_path)
    assert kept == pytest.approx(temperature, rel=1e-6)
    for one, other in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        np.testing.assert_array_equal(one, other)


def test_frozen_parts_stand_still_and_the_rest_moves(prepared_folder: Path, first: Run, tmp_path: Path) -> None:
    config = replace(CONFIG, tokens=400, frozen=("vision", "tokens"))
    trained = run(prepared_folder, tmp_path, Interrupts(), config=config, begin=first.folder)
    assert trained.result["steps"] > 1
    before, after = (load_encoder(folder)[2] for folder in (first.folder, tmp_path))
    for (path, one), other in zip(jax.tree_util.tree_leaves_with_path(before), jax.tree.leaves(after), strict=True):
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        still = name.startswith(("vision", "patch_embed", "position", "tokens"))
        assert np.array_equal(one, other) == still, name
    moments = jax.tree_util.tree_leaves_with_path(trained.trained.state["opt"])  # type: ignore[union-attr]
    assert not any("vision" in jax.tree_util.keystr(path) for path, _ in moments)


def test_another_shape_than_that_of_the_first_stage_is_told(prepared_folder: Path, first: Run, tmp_path: Path) -> None:
    wider = replace(CONFIG, encoder=replace(CONFIG.encoder, embedding=8))
    with pytest.raises(DataError, match=r"encoder\.safetensors: tensor head\.kernel.*\(64, 16\), expected.*\(64, 8\)"):
        run(prepared_folder, tmp_path, Interrupts(), config=wider, begin=first.folder)


@pytest.mark.parametrize(("field", "value"), [("actions", ("look",)), ("frozen", ("eyes",)), ("transfer", "both")])
def test_unknown_choices_are_named(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"{field}: .* is unknown"):
        replace(CONFIG, **{field: value})
