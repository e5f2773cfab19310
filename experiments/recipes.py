"""Recipes: how large a question is run, by preset and by what the data shows. The sizes of a study stand here."""

import contextlib
import io
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from moon_jax.data.contract import DataError, Dataset
from moon_jax.data.forms import SEARCHES, Form, parse_form

if TYPE_CHECKING:
    from moon_jax.models.encoder import EncoderConfig
    from sweeps import Step

PRESETS = {
    "smoke": "seconds, for tests: shows that everything runs, the figures mean nothing",
    "demo": "minutes on two cores: small but real",
    "gpu": "one accelerator; estimated from one step on an H100",
    "paper": "a cluster: look at `moon plan` first",
}


@dataclass(frozen=True)
class Recipe:
    """Everything that a preset decides.

    Attributes:
        size, patch, embedding: rung of the encoder's ladder, ViT patch in pixels, width of the representation.
        height, width: of images, in pixels; vocabulary, text_length: of the tokenizer, and tokens of a text.
        batch, lr: pairs a step, and the learning rate that the `lr` axis multiplies.
        budgets: training tokens of the token question; the largest is held out of its fits.
        seeds: replicates; lr_axis: multipliers of the rate that the first seed tries at every point of a grid and for every
            system that is compared, widened where the best lies at an end; one alone leaves nothing to try.
        negatives, negatives_tokens: candidates a query, and the token budget they share; queues: lengths of a queue
            beside the whole batch, in batches; hard: hard negatives of a query.
        lengths, examples: history lengths of the CTR question, and impressions that a CTR run trains on.
        version_budgets: token budgets of the exchange rate's versions; ctr_length: history length of its CTR model, ctr_lr:
            learning rate of CTR models, which the `lr` axis multiplies, too.
        own_weight: share of batches that pair items with their own augmented photo, beside a search's weight of 1; where
            the first search shows a photo on both sides.
        augment_items: augment the photos of items, too, not only those of queries.
        sizes: rungs of the ladder question, smallest first, and the tokens of its runs.
        compute_sizes, compute: of the compute questions: encoders (width x blocks), and FLOPs of a run, smallest first.
        pretrain_tokens: budgets of pretraining; others take the largest. questions: whether texts are tokenised for
            questions about products, which pretraining needs.
        rich_length: tokens of an item's rich text (category and attributes); 0 where a question shows none.
        ablated: what the ablations vary: the whole system, or the plain one where tokens are too few for the whole to learn.
        ablation_tokens: post-training tokens of each of their systems, both stages together; forms: how many of the paper's
            nine forms the first stage mixes: each is a program of its own, and to compile nine takes longer than dozens of steps.
        resample: how images are resized. adopted: the step that adopts open weights, where training begins from
            some; shape: the encoder that they make; frozen: parts of it that stand still.
        images: "decoded" once, or kept "encoded" where their pixels would not fit on the disk (`PrepareConfig`).
    """

    size: str
    height: int
    width: int
    patch: int
    embedding: int
    vocabulary: int
    text_length: int
    batch: int
    lr: float
    budgets: tuple[int, ...]
    seeds: tuple[int, ...]
    negatives: tuple[int, ...]
    negatives_tokens: int
    lengths: tuple[int, ...]
    examples: int
    version_budgets: tuple[int, ...]
    ctr_length: int
    ctr_lr: float = 1e-2
    lr_axis: tuple[float, ...] = (1 / 3, 1.0, 3.0)
    own_weight: float = 0.0
    augment_items: bool = False
    dtype: str = "float32"
    resample: Literal["bilinear", "bicubic"] = "bilinear"
    adopted: "Step | None" = None
    shape: "EncoderConfig | None" = None
    frozen: tuple[str, ...] = ()
    images: Literal["decoded", "encoded"] = "decoded"
    queues: tuple[int, ...] = (4, 16)
    hard: tuple[int, ...] = (1, 4)
    sizes: tuple[str, ...] = ("nano", "micro", "tiny")
    ladder_tokens: int = 60_000
    compute_sizes: tuple[str, ...] = ("16x1", "32x1", "48x1", "64x2")
    compute: tuple[float, ...] = (2.5e10, 5e10, 1e11, 2e11)
    pretrain_tokens: tuple[int, ...] = (30_000, 120_000, 480_000)
    questions: bool = False
    rich_length: int = 0
    ablated: Literal["whole", "plain"] = "whole"
    ablation_tokens: int = 180_000
    forms: int = 9


_RENDERED = Recipe(
    size="nano",
    height=32,
    width=32,
    patch=16,
    embedding=64,
    vocabulary=512,
    text_length=12,
    batch=64,
    lr=2e-3,
    budgets=(30_000, 60_000, 120_000, 240_000, 480_000),
    seeds=(0, 1),
    negatives=(1, 3, 7, 21, 63),
    negatives_tokens=120_000,
    lengths=(1, 4, 16, 64, 128),
    examples=60_000,
    version_budgets=(30_000, 120_000, 240_000, 480_000),
    ctr_length=64,
    ablated="plain",
    forms=3,
)
_PHOTOS = replace(
    _RENDERED,
    height=64,
    width=48,
    patch=16,
    embedding=256,
    vocabulary=2048,
    text_length=16,
    budgets=(100_000, 250_000, 600_000, 1_200_000, 3_000_000),
    negatives_tokens=600_000,
    ablated="whole",
    ablation_tokens=600_000,
    forms=9,
    pretrain_tokens=(300_000, 1_000_000, 3_000_000),
    ladder_tokens=250_000,
    compute_sizes=("16x1", "32x1", "48x1", "64x2", "96x2"),
    compute=(1e11, 2e11, 4e11, 8e11),
    examples=80_000,
    lengths=(1, 4, 16, 64, 256),
    version_budgets=(30_000, 100_000, 300_000, 900_000),
    own_weight=1.0,
)
_DEMO = {True: _RENDERED, False: _PHOTOS}
_SMOKE = {
    "batch": 16,
    "vocabulary": 256,
    "budgets": (1_500, 3_000, 6_000, 12_000, 24_000),
    "seeds": (0, 1),
    "negatives": (1, 3, 7, 15),
    "negatives_tokens": 3_000,
    "ablation_tokens": 6_000,
    "forms": 1,
    "pretrain_tokens": (3_000, 6_000),
    "sizes": ("nano", "micro"),
    "ladder_tokens": 1_500,
    "compute_sizes": ("16x1", "32x1", "64x2"),
    "compute": (1e9, 2e9, 4e9),
    "queues": (2,),
    "hard": (1,),
    "lengths": (1, 4, 16),
    "examples": 1_500,
    "version_budgets": (1_500, 3_000, 6_000, 12_000),
    "ctr_length": 8,
    "lr_axis": (1.0,),
}
_GPU = {
    "size": "small",
    "patch": 8,
    "embedding": 256,
    "batch": 1024,
    "dtype": "bfloat16",
    "lr": 1e-3,
    "budgets": (1_000_000, 3_000_000, 10_000_000, 30_000_000, 100_000_000),
    "seeds": (0, 1, 2),
    "negatives": (1, 7, 31, 127, 511, 1023),
    "negatives_tokens": 10_000_000,
    "ablated": "whole",
    "ablation_tokens": 30_000_000,
    "forms": 9,
    "pretrain_tokens": (3_000_000, 30_000_000),
    "sizes": ("nano", "micro", "tiny", "small", "base"),
    "ladder_tokens": 10_000_000,
    "compute_sizes": ("64x2", "128x2", "192x3", "256x4", "384x6"),
    "compute": (1e14, 3e14, 1e15, 3e15, 1e16),
    "queues": (8, 32, 128),
    "hard": (1, 4, 16),
    "examples": 400_000,
    "version_budgets": (1_000_000, 5_000_000, 20_000_000, 80_000_000),
}
_PAPER = {
    **_GPU,
    "size": "base",
    "batch": 8192,
    "budgets": tuple(int(1e8 * 10 ** (k / 2)) for k in range(7)),
    "negatives": (1, 7, 63, 511, 2047, 8191),
    "negatives_tokens": 10**10,
    "ablation_tokens": 10**10,
    "pretrain_tokens": (10**9, 10**10),
    "sizes": ("nano", "micro", "tiny", "small", "base", "large", "1b"),
    "ladder_tokens": 10**9,
    "compute_sizes": ("128x2", "256x4", "384x6", "768x12", "1024x16"),
    "compute": (1e16, 1e17, 1e18, 1e19),
    "lengths": (16, 64, 256, 1024, 4096),
    "examples": 100_000_000,
    "version_budgets": (10**8, 10**9, 10**10, 10**11),
    "ctr_length": 1024,
}


LONG = (64, 256, 1024, 4096, 16384)  # lengths of the CTR question where users have a thousand events and more,
LONG_EXAMPLES = 20_000  # and its budget then: an impression costs as much as its history is long


def recipe_for(preset: str, dataset: Dataset) -> Recipe:
    """The recipe of a preset for rendered images or photos (sized to their shape)."""
    dataset.path("items")
    rendered = dataset.simulated["items"]
    recipe = _DEMO[rendered]
    changes: dict[str, Any] = {"smoke": _SMOKE, "demo": {}, "gpu": _GPU, "paper": _PAPER}[preset]
    recipe = replace(recipe, **changes)
    if preset == "demo" and (usual := usual_history(dataset)) >= LONG[2]:
        recipe = replace(recipe, lengths=tuple(length for length in LONG if length <= usual), examples=LONG_EXAMPLES)
    if rendered:
        return recipe
    height, width = _photo_size(dataset)
    return replace(recipe, height=height, width=width)


def usual_history(dataset: Dataset) -> int:
    """Events of a user, in the mean; 0 where the data has no events."""
    if not dataset.has("events"):
        return 0
    return dataset.rows["events"] // max(1, dataset.read("events", ["user_id"])["user_id"].n_unique())


def _photo_size(dataset: Dataset) -> tuple[int, int]:
    """Of three small sizes the one nearest in shape to the catalogue's first photos."""
    from PIL import Image

    photos = dataset.read("items", ["image"])["image"].drop_nulls().head(101).to_list()
    shapes = []
    for photo in photos:
        with contextlib.suppress(OSError), Image.open(io.BytesIO(photo)) as image:  # the contract's check names such
            shapes.append(image.height / image.width)
    typical = sorted(shapes)[len(shapes) // 2] if shapes else 1.0
    return min(((64, 48), (48, 48), (48, 64)), key=lambda size: abs(size[0] / size[1] - typical))


def searches_of(dataset: Dataset) -> tuple[Form, ...]:
    """The dataset's own search forms, image search first: what is measured."""
    try:
        forms = tuple(parse_form(kind, dataset.forms[kind]) for kind in SEARCHES if kind in dataset.forms)
    except ValueError as error:
        raise DataError(f"{dataset.folder}/dataset.json: {error}") from None
    if not forms:
        raise DataError(f'{dataset.folder}/dataset.json: no search form; say e.g. "forms": {{"image": "image->image"}}')
    return forms


def measured_search(dataset: Dataset) -> Form:
    """What the token and negatives questions train and measure: the first search; one by photo with photos alone."""
    first = searches_of(dataset)[0]
    return first.restricted(("image",)) or first if first.search == "image" else first


def mixture_of(dataset: Dataset) -> tuple[Form, ...]:
    """What is trained on: the searches; a product as query only where nobody searches by photo."""
    searches = searches_of(dataset)
    photo = any(form.search == "image" for form in searches)
    return tuple(form for form in searches if not (photo and form.search == "item"))
