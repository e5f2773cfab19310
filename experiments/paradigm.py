"""The paper's paradigm as one recipe: what a system is made of, and the steps that train it."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from experiments import steps
from experiments.recipes import Recipe
from moon_jax.data.forms import SEARCHES, Form, paper_mixture
from moon_jax.data.processing import (
    EntityFilter,
    ExactImages,
    HardNegatives,
    MatchExposure,
    Transformation,
    named_share,
)
from sweeps import Step

if TYPE_CHECKING:
    from moon_jax.data.contract import Dataset

MOMENTUM = 0.99  # share of the average that fills the queue
SLOWER = 1 / 3  # the second stage's learning rate, of the first's
HARD = 2  # hard negatives of a query
MOST = 0.5  # of the titles name two entities: where fewer do the filter would take the catalogue, not its poor titles


@dataclass(frozen=True)
class System:
    """One system: a field for each choice; the defaults are the paper's.

    Attributes:
        backbone: "generative" or "dual". pretraining: whether it starts from product questions, or at random.
        causal: attention as in pretraining, or bidirectional. pool: "mean" or "last".
        stages: post-training's "both", "first" alone or "second" alone, at the same tokens in all.
        mixture: the first stage's forms: the paper's Table 2, or the measured search alone.
        hard_negatives, queue, loss: of the second stage. matryoshka: nested widths in both. processed: whether the second
            stage's pairs go through processing; hard negatives come out of it.
    """

    backbone: str = "generative"
    pretraining: bool = True
    causal: bool = False
    pool: str = "mean"
    stages: str = "both"
    mixture: bool = True
    hard_negatives: bool = True
    queue: bool = True
    loss: str = "info_nce"
    matryoshka: bool = True
    processed: bool = True

    def __post_init__(self) -> None:
        if self.hard_negatives and not self.processed:
            raise ValueError("hard negatives come out of processing: a system without it has none")


WHOLE = System()
# One stage from random weights on the measured search alone, negatives of the batch alone.
PLAIN = System(pretraining=False, stages="second", mixture=False, hard_negatives=False, queue=False)
SYSTEMS = {"whole": WHOLE, "plain": PLAIN}


def post_trained(
    data: "Dataset", recipe: Recipe, system: System, search: Form, mixture: tuple[Form, ...], seed: int, lr: float = 1.0
) -> Step:
    """The last post-training step of a system; what it starts from is among its needs, and shared where it is the same.

    Args:
        search: the second stage's form, and what is measured.
        mixture: the first stage's forms, where the system has them.
        lr: multiplies the rates of both stages.
    """
    shape = steps.encoder(
        recipe, backbone=system.backbone, causal=system.causal, pool=system.pool, **lengths(recipe, system)
    )
    both = system.stages == "both"
    tokens = recipe.ablation_tokens // 2 if both else recipe.ablation_tokens
    begin = steps.pretrain(data, recipe, tokens=recipe.pretrain_tokens[-1], seed=seed) if system.pretraining else None
    shared: dict[str, Any] = {"shape": shape, "tokens": tokens, "seed": seed}
    shared["dims"] = nested(recipe) if system.matryoshka else ()
    if system.stages != "second":
        forms = mixture if system.mixture else (search,)
        begin = steps.posttrain(data, recipe, forms=forms, begin=begin, lr=lr, **shared)
        if system.stages == "first":
            return begin
    processed = steps.process(data, *second_stage(data, recipe)) if system.processed else None
    negatives: dict[str, Any] = {"ema": MOMENTUM, "hard_negatives": HARD if system.hard_negatives else 0}
    if system.queue:
        negatives |= {"queue": recipe.batch * recipe.queues[0], "queue_from": "ema"}
    actions = ("purchase",) if "purchase" in actions_of(data) else ()
    return steps.posttrain(
        data,
        recipe,
        forms=(search,),
        begin=begin,
        lr=lr * (SLOWER if both else 1.0),
        loss=system.loss,
        processed=processed,
        actions=actions,
        **shared,
        **negatives,
    )


def first_stage(data: "Dataset", recipe: Recipe) -> tuple[Form, ...]:
    """The paper's mixture of forms, or `recipe.forms` of them, evenly spread."""
    mixture = paper_mixture(searched(data), rich=described(data))
    step = max(1, len(mixture) // recipe.forms)
    return mixture[step // 2 :: step][: recipe.forms]


def told(recipe: Recipe) -> Recipe:
    """The recipe with texts for all of it: rich texts of items, and questions to pretrain on."""
    return replace(recipe, rich_length=recipe.rich_length or 2 * recipe.text_length, questions=True)


def lengths(recipe: Recipe, system: System) -> dict[str, int]:
    """Two towers have learned positions, enough for the longest text that they are shown."""
    return {"text_length": max(recipe.text_length, recipe.rich_length)} if system.backbone == "dual" else {}


def nested(recipe: Recipe) -> tuple[int, ...]:
    """An eighth, a quarter, a half and the whole of the representation."""
    return tuple(recipe.embedding // share for share in (8, 4, 2, 1))


def second_stage(data: "Dataset", recipe: Recipe) -> tuple[Transformation, ...]:
    """What the second stage's pairs go through, as far as the data has what it reads; hard negatives come last."""
    out: list[Transformation] = [ExactImages()]
    if data.has("impressions"):
        out.append(MatchExposure())
    if described(data):
        if named_share(data) >= MOST:
            out.append(EntityFilter())
        out.append(HardNegatives(kind="category", per_query=HARD))
    if {"click", "purchase"} <= actions_of(data):
        out.append(HardNegatives(kind="clicked", per_query=HARD))
    return tuple(out)


def described(data: "Dataset") -> bool:
    """Whether items have categories or attributes."""
    import polars as pl

    items = data.read("items", ["category", "attributes"])
    return bool(items.select((pl.col("category").list.len() + pl.col("attributes").list.len()).sum()).item())


def actions_of(data: "Dataset") -> set[str]:
    """What training pairs are made of: click, cart, purchase."""
    import polars as pl

    pairs = data.read("pairs", ["action", "split"])
    return set(pairs.filter(pl.col("split") == "train")["action"].unique())


def searched(data: "Dataset") -> set[str]:
    """Kinds of search that the dataset has a form for."""
    return {kind for kind in SEARCHES if kind in data.forms}
