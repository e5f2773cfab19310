"""Answers: what a pretrained model says about products that it has not seen, beside two floors."""

import functools
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from moon_jax.data.contract import DataError, read_table
from moon_jax.data.loading import Prepared
from moon_jax.data.questions import LEVELS, Product, products_of, question_of
from moon_jax.models.decoding import build_greedy
from moon_jax.stages.pretrain import COLUMNS, end_of, held_items, tokenizer_of
from moon_jax.title_words import guess_from_titles
from moon_jax.weights import load_encoder

Array = np.ndarray
BATCH = 128
SAMPLES = "samples.json"


@dataclass(frozen=True)
class AnswersConfig:
    """What is asked.

    Attributes:
        products: at most so many held-out products, one item each.
        attributes: of so many attributes, the most frequent ones.
        samples: products whose photos and answers are kept to be looked at.
        question, answer: most tokens of each, as in `PretrainConfig`.
    """

    products: int = 1000
    attributes: int = 2
    samples: int = 8
    question: int = 32
    answer: int = 16


@dataclass(frozen=True)
class Field:
    """One thing that is asked of every product: its name in results, the task, and what the question names."""

    name: str
    task: str
    asked: str = ""

    def of(self, product: Product) -> str:
        """The true answer; "" where there is none."""
        return product.answers().get(self.task, {}).get(self.asked, "")


def answers(
    config: AnswersConfig,
    *,
    files: Mapping[str, Path],
    inputs: Mapping[str, Path],
    folder: Path,
    report: Callable[..., None],
) -> dict[str, Any]:
    """Step function: pretrained encoder + prepared arrays + items -> share of greedy answers that are exactly right.

    Asked about products of the test split, by photo alone and by photo and title. For each field f (the main category, the
    main subject, the most frequent attributes): `answer_f_photo`, `answer_f_photo_title`, `answer_f_majority` (the
    commonest answer of training items), `answer_f_title_words` (naive Bayes on words of the title, without a photo), the
    paired gains `answer_f_photo_over_majority` and `answer_f_photo_title_over_title_words`, each with `_se`, and
    `answer_f_products`. `samples.json` and `sample-N.png` show some products with all that was asked and answered.
    """
    prepared = Prepared(inputs["prepare"])
    tokenizer, products = tokenizer_of(prepared.folder), products_of(read_table(files["items"], COLUMNS))
    trained = [products[row] for row in prepared.own_items.tolist()]
    rows = held_items(prepared, "test")
    if not rows.size:
        raise DataError(f"{files['items']}: no item is an answer of the test split, so there is none to ask about")
    rows = rows[np.random.default_rng(0).permutation(rows.size)[: config.products]]
    asked = [products[row] for row in rows.tolist()]
    fields = fields_of(trained, config.attributes)
    ask = functools.partial(_ask, inputs["pretrain"], tokenizer, prepared, config)
    metrics: dict[str, Any] = {"answer_products": len(asked)}
    said: dict[str, list[str]] = {}
    for number, field in enumerate(fields):
        report(number, len(fields) + 1, doing=f"asking for the {field.name}")
        photo, titled = (ask(rows, [question_of(field.task, field.asked, 0, title) for title in titles]) for titles in
                         ([""] * len(asked), [product.title for product in asked]))  # fmt: skip
        said |= {f"{field.name}, by photo": photo, f"{field.name}, by photo and title": titled}
        metrics |= score(field, trained, asked, photo, titled, tokenizer)
    said["title"] = ask(rows[: config.samples], [question_of("title", "", 0)] * min(config.samples, len(rows)))
    keep_samples(folder, prepared, rows[: config.samples], asked, fields, said)
    return metrics


def fields_of(products: Sequence[Product], attributes: int) -> list[Field]:
    """What is asked about these products: main category, subject, and the most frequent attributes."""
    out = [Field("category", "category", LEVELS[0]), Field("subject", "subject")]
    names = Counter(name for product in products for name, _ in product.attributes)
    out += [Field(name.replace(" ", "_"), "attribute", name) for name, _ in sorted(names.most_common(attributes))]
    return [field for field in out if any(field.of(product) for product in products)]


def score(
    field: Field,
    trained: Sequence[Product],
    asked: Sequence[Product],
    photo: list[str],
    titled: list[str],
    tokenizer: Any,
) -> dict[str, Any]:
    """Accuracies of a field over the products that have a true answer, and paired gains over the floors.

    An answer is right where it reads as the truth does once tokenised: in lower case, with its spelling.
    """
    known = [product for product in trained if field.of(product)]
    told = [field.of(product) for product in known]
    there = [n for n, product in enumerate(asked) if field.of(product)]
    truth = [field.of(asked[n]) for n in there]
    commonest = Counter(told).most_common(1)[0][0]
    guessed = guess_from_titles([product.title for product in known], told, [asked[n].title for n in there])
    read = [readable(tokenizer, answer) for answer in truth]
    right = {
        "photo": np.array([photo[n] == answer for n, answer in zip(there, read, strict=True)], float),
        "photo_title": np.array([titled[n] == answer for n, answer in zip(there, read, strict=True)], float),
        "majority": np.array([commonest == answer for answer in truth], float),
        "title_words": np.array([guess == answer for guess, answer in zip(guessed, truth, strict=True)], float),
    }
    name = f"answer_{field.name}"
    out: dict[str, Any] = {f"{name}_{way}": float(hits.mean()) for way, hits in right.items()}
    for way, floor in (("photo", "majority"), ("photo_title", "title_words")):
        gain = right[way] - right[floor]
        out[f"{name}_{way}_over_{floor}"] = float(gain.mean())
        out[f"{name}_{way}_over_{floor}_se"] = float(gain.std(ddof=1) / np.sqrt(gain.size))
    return out | {f"{name}_products": len(there)}


def readable(tokenizer: Any, text: str) -> str:
    """A text as a model that says exactly this is read."""
    return str(tokenizer.decode(tokenizer.encode(text).ids))


def _ask(
    pretrained: Path, tokenizer: Any, prepared: Prepared, config: AnswersConfig, rows: Array, questions: Sequence[str]
) -> list[str]:
    """Greedy answers to one question about each of these items, in equal batches (one compilation)."""
    _, graph, params, _ = load_encoder(pretrained)
    greedy = build_greedy(graph, config.answer, end_of(tokenizer))
    out: list[str] = []
    for start in range(0, len(rows), BATCH):
        at = np.minimum(np.arange(start, start + BATCH), len(rows) - 1)
        text = np.zeros((BATCH, config.question), np.int32)
        for row, encoded in enumerate(tokenizer.encode_batch([questions[n] for n in at.tolist()])):
            ids = encoded.ids[-config.question :]
            text[row, : len(ids)] = ids
        said = np.asarray(greedy(params, jnp.asarray(prepared.item_images[rows[at]]), jnp.asarray(text)))
        out += [str(tokenizer.decode(ids[ids > 0].tolist())) for ids in said]
    return out[: len(rows)]


def keep_samples(
    folder: Path,
    prepared: Prepared,
    rows: Array,
    asked: Sequence[Product],
    fields: Sequence[Field],
    said: Mapping[str, list[str]],
) -> None:
    """`samples.json`, a list of {title, photo, answers: [[question, true, said], ...]}, and the photos beside it."""
    from PIL import Image

    kept = []
    for n, row in enumerate(rows.tolist()):
        photo = f"sample-{n}.png"
        Image.fromarray(np.asarray(prepared.item_images[row])).save(folder / photo)
        told = [["title", asked[n].title, said["title"][n]]]
        told += [[f.name, f.of(asked[n]), said[f"{f.name}, by photo"][n]] for f in fields if f.of(asked[n])]
        kept.append({"title": asked[n].title, "photo": photo, "answers": told})
    (folder / SAMPLES).write_text(json.dumps(kept, indent=1))
