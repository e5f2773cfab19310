"""Questions about products and their answers, out of a catalogue's own titles, categories and attributes.

MOON pretrains on generative question answering over product images (arXiv 2511.11305, Fig 1; which tasks: a third party's
summary): captioning, title generation, attribute extraction, category, main subject. The wordings are ours.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from moon_jax.data.contract import DataError
from moon_jax.data.loading import scattered

if TYPE_CHECKING:
    import polars as pl

Array = np.ndarray
Mix = tuple[tuple[str, float], ...]

# task -> wordings; {name} is an attribute's name, {level} a level of the category.
WORDINGS: dict[str, tuple[str, ...]] = {
    "caption": ("describe the product", "what does the photo show ?"),
    "title": ("write a title for the product", "what would a shop call it ?"),
    "attribute": ("what is its {name} ?", "tell the {name} of the product"),
    "category": ("which {level} is it in ?", "tell the {level} of the product"),
    "subject": ("what kind of product is it ?", "name the main subject"),
}
TASKS = tuple(WORDINGS)
MIX: Mix = (("caption", 1.0), ("title", 1.0), ("attribute", 2.0), ("category", 1.0), ("subject", 2.0))
TITLED = ("attribute", "category", "subject")  # tasks that may be asked with the title beside the photo
CONTEXT = "title : {title} . "
LEVELS = ("main category", "sub category")


@dataclass(frozen=True)
class Product:
    """What is known of an item: title, category from root to leaf, (name, value) of its attributes."""

    title: str
    category: tuple[str, ...]
    attributes: tuple[tuple[str, str], ...]

    def answers(self) -> dict[str, dict[str, str]]:
        """task -> {what is asked for: the answer}; tasks for which it lacks what they need are left out.

        The main subject is the leaf of the category, and a caption all attributes' values and the leaf. Levels above the
        leaf are asked for as category: the root is the main one.
        """
        leaf = self.category[-1] if self.category else ""
        out = {
            "caption": {"": " ".join([*(value for _, value in self.attributes), leaf]).strip()},
            "title": {"": self.title},
            "attribute": dict(self.attributes),
            "category": {LEVELS[min(depth, 1)]: level for depth, level in enumerate(self.category[:-1][:2])},
            "subject": {"": leaf},
        }
        kept = {task: {asked: answer for asked, answer in all_.items() if answer} for task, all_ in out.items()}
        return {task: all_ for task, all_ in kept.items() if all_}


@dataclass(frozen=True)
class Instance:
    """One question about one item and its answer, as texts."""

    task: str
    question: str
    answer: str


def products_of(items: "pl.DataFrame") -> list[Product]:
    """The items of a catalogue in its order, from the columns title, category, attributes ("name:value")."""
    out = []
    for row in items.select("title", "category", "attributes").iter_rows(named=True):
        pairs = (text.partition(":") for text in row["attributes"] or () if text)
        named = tuple((name.strip(), value.strip()) for name, _, value in pairs if value.strip())
        out.append(Product(row["title"] or "", tuple(level for level in row["category"] or () if level), named))
    return out


def question_of(task: str, asked: str, wording: int, title: str = "") -> str:
    """The question in one of its wordings, after the title where one is given."""
    text = WORDINGS[task][wording % len(WORDINGS[task])].format(name=asked, level=asked)
    return (CONTEXT.format(title=title) if title else "") + text


def require_mix(mix: Mix) -> None:
    """ValueError where a ratio is none, or of a task that there is not."""
    for task, ratio in mix:
        if task not in TASKS:
            raise ValueError(f"mix: {task!r} is no task; some of {', '.join(TASKS)}")
        if not (np.isfinite(ratio) and ratio > 0):
            raise ValueError(f"mix: {task} = {ratio} must be above 0; leave out a task that is not wanted")
    if not mix or len(dict(mix)) < len(mix):
        raise ValueError("mix: name at least one task, and each once")


def draw(products: Sequence[Product], mix: Mix, seed: int, places_B: Array) -> list[Instance]:
    """A question for each product: what is drawn depends on the seed and on its place in the sequence alone.

    Among the tasks that a product can answer one is drawn by their ratios, then what is asked for, the wording, and for
    tasks of `TITLED` whether the title is told.

    Raises:
        DataError: a product has nothing to ask about.
    """
    lots_Bx4 = scattered(seed, places_B[:, None], np.arange(4)) >> np.uint64(11)
    chances_Bx4 = lots_Bx4 / float(1 << 53)
    out = []
    for product, (of_task, of_asked, of_wording, of_title) in zip(products, chances_Bx4.tolist(), strict=True):
        answers = product.answers()
        there = [(task, ratio) for task, ratio in mix if task in answers]
        if not there:
            raise DataError(f"the product {product.title!r} has neither title, category nor attributes to ask about")
        ends = np.cumsum([ratio for _, ratio in there])
        task = there[int(np.searchsorted(ends, of_task * ends[-1], side="right"))][0]
        asked = list(answers[task])[int(of_asked * len(answers[task]))]
        wording = int(of_wording * len(WORDINGS[task]))
        title = product.title if task in TITLED and of_title < 0.5 else ""
        out.append(Instance(task, question_of(task, asked, wording, title), answers[task][asked]))
    return out


def corpus(products: Sequence[Product]) -> list[str]:
    """Texts that a tokenizer should know: every wording, and all answers."""
    asked = {name for product in products for name, _ in product.attributes}
    wordings = [question_of(task, name, n) for task in TASKS for name in (*asked, *LEVELS, "") for n in range(2)]
    told = [answer for product in products for all_ in product.answers().values() for answer in all_.values()]
    return [*wordings, CONTEXT, *told]
