"""Questions about products: every task, every wording, and nothing that the product does not say."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moon_jax.data.contract import DataError
from moon_jax.data.questions import LEVELS, MIX, TASKS, WORDINGS, Product, corpus, draw, products_of, question_of
from moon_jax.models.encoder import EncoderConfig
from moon_jax.stages.pretrain import PretrainConfig
from moon_jax.title_words import guess_from_titles

SHIRT = Product("Nike Men Blue Shirt", ("Apparel", "Topwear", "Shirts"), (("colour", "Blue"), ("usage", "Casual")))
TEXT = st.text("abc ", max_size=6)


def test_products_are_read_from_the_catalogue() -> None:
    items = pl.DataFrame(
        {"title": ["Nike", None], "category": [["A", "B"], []], "attributes": [["colour:Navy Blue", "odd"], None]},
        schema={"title": pl.String, "category": pl.List(pl.String), "attributes": pl.List(pl.String)},
    )
    assert products_of(items) == [Product("Nike", ("A", "B"), (("colour", "Navy Blue"),)), Product("", (), ())]


def test_answers_are_what_the_product_says() -> None:
    told = SHIRT.answers()
    assert set(told) == set(TASKS)
    assert told["caption"] == {"": "Blue Casual Shirts"}
    assert told["attribute"] == {"colour": "Blue", "usage": "Casual"}
    assert told["category"] == {LEVELS[0]: "Apparel", LEVELS[1]: "Topwear"}
    assert told["subject"] == {"": "Shirts"}


def test_every_task_has_several_wordings_and_all_are_asked() -> None:
    assert all(len(set(wordings)) > 1 for wordings in WORDINGS.values())
    drawn = draw([SHIRT] * 400, MIX, 0, np.arange(400))
    asked = {question_of(task, name, n) for task, names in SHIRT.answers().items() for name in names for n in range(2)}
    assert asked <= {instance.question.rpartition(" . ")[2] for instance in drawn}
    shares = {task: sum(instance.task == task for instance in drawn) / 400 for task in TASKS}
    total = sum(ratio for _, ratio in MIX)
    for task, ratio in MIX:
        assert abs(shares[task] - ratio / total) < 0.1
    titled = [instance for instance in drawn if "title : " in instance.question]
    assert 0.2 < len(titled) / 400 < 0.6
    assert not any(instance.task in ("title", "caption") for instance in titled)


@settings(max_examples=40, deadline=None)
@given(TEXT, st.lists(TEXT, max_size=3), st.lists(st.tuples(TEXT, TEXT), max_size=2), st.integers(0, 9))
def test_what_is_drawn_is_true_and_depends_on_the_place_alone(
    title: str, category: list[str], attributes: list[tuple[str, str]], seed: int
) -> None:
    product = Product(title, tuple(filter(None, category)), tuple((n, v) for n, v in attributes if v))
    if not product.answers():
        with pytest.raises(DataError, match="neither title, category nor attributes"):
            draw([product], MIX, seed, np.array([0]))
        return
    together = draw([product] * 5, MIX, seed, np.arange(5))
    for place, instance in enumerate(together):
        assert instance.answer in product.answers()[instance.task].values()
        assert draw([product], MIX, seed, np.array([place])) == [instance]


def test_the_corpus_has_every_wording_and_answer() -> None:
    texts = set(corpus([SHIRT]))
    for instance in draw([SHIRT] * 100, MIX, 1, np.arange(100)):
        assert instance.answer in texts
        assert instance.question.rpartition(" . ")[2] in texts


@pytest.mark.parametrize(
    ("mix", "message"),
    [((("poem", 1.0),), "'poem' is no task"), ((("title", 0.0),), "must be above 0"), ((), "at least one task")],
)
def test_a_mix_that_cannot_be_is_refused(mix: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PretrainConfig(EncoderConfig(), 100, mix=mix)


def test_two_towers_write_no_text() -> None:
    with pytest.raises(ValueError, match="needs the generative backbone"):
        PretrainConfig(EncoderConfig(backbone="dual"), 100)


def test_title_words_guess_what_scikit_learn_guesses() -> None:
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.naive_bayes import MultinomialNB

    rng = np.random.default_rng(0)
    vocabulary = np.array(["red", "blue", "nike", "shirt", "shoe", "hat", "men"])
    titles = [" ".join(rng.choice(vocabulary, rng.integers(1, 5))) for _ in range(80)]
    answers = [["Shirts", "Shoes", "Caps"][hash_ % 3] for hash_ in rng.integers(0, 99, 80)]
    asked = [*titles[:30], "unknown words", "RED Shirt!"]
    counted = CountVectorizer(token_pattern=r"\w+")
    theirs = MultinomialNB(alpha=0.1).fit(counted.fit_transform(titles), answers)
    assert guess_from_titles(titles, answers, asked) == theirs.predict(counted.transform(asked)).tolist()
