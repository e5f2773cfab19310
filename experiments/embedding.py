"""How good are embeddings of this catalogue?

Hypothesis: post-trained on the catalogue's own searches the encoder finds what they should find far more often than the same
encoder untrained. Refuted, search by search, where it does not.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from experiments import steps
from experiments.adopting import beginning_from
from experiments.paradigm import SYSTEMS, first_stage, nested, post_trained, told
from experiments.question import QuestionError, Reading
from experiments.reading import SEARCHES, number, throughput_sentence
from experiments.recipes import measured_search, recipe_for, searches_of
from sweeps import Cell

if TYPE_CHECKING:
    import polars as pl

    from moon_jax.data.contract import Dataset

TRAINED, UNTRAINED = "trained", "untrained"


def cells(
    preset: str,
    data: "Dataset",
    *,
    paradigm: str = "plain",
    tokens: int | None = None,
    vision: Path | None = None,
    language: Path | None = None,
    freeze: Sequence[str] = (),
) -> list[Cell]:
    """The trained system and the untrained encoder, one seed each.

    Args:
        paradigm: "plain", one stage on the measured search; or "whole", the paper's: pretraining, two stages, all of it.
        tokens: post-training tokens of both stages; the recipe's largest budget if left out.
        vision, language: folders of open weights to begin from (SigLIP, Qwen3).
        freeze: parts that stand still.
    """
    recipe, searches, search = told(recipe_for(preset, data)), searches_of(data), measured_search(data)
    recipe = replace(recipe, ablation_tokens=tokens or recipe.budgets[-1], frozen=tuple(freeze))
    if vision or language:
        recipe = beginning_from(recipe, vision, language)
    mixture = first_stage(data, recipe)
    runs = {
        TRAINED: post_trained(data, recipe, SYSTEMS[paradigm], search, mixture, recipe.seeds[0]),
        UNTRAINED: steps.posttrain(data, recipe, forms=(search,), tokens=0, seed=recipe.seeds[0]),
    }
    item = max((form.item for form in searches), key=len)
    out = []
    for name, run in runs.items():
        embedded = steps.embed(data, recipe, run, searches, item, nested(recipe))
        out.append(Cell({"system": name, "run": run.name}, {"posttrain": run, "embed": embedded}))
    return out


def read(results: "pl.DataFrame") -> Reading:
    """Search metrics of both, the widths of the vectors, and where the vectors are."""
    import polars as pl

    reading = Reading(answer=[], weak=["one seed: the spread of runs is not seen; `moon run ablations` has seeds"])
    trained = results.filter(pl.col("system") == TRAINED)
    untrained = results.filter(pl.col("system") == UNTRAINED)
    if trained.is_empty():
        raise QuestionError("embedding: the trained encoder has not been measured; `moon status` says why")
    for search in (s for s in SEARCHES if f"{s}_recall@10" in results.columns):
        metric = f"{search}_recall@10"
        before = "" if untrained.is_empty() else f", untrained {number(untrained[metric][0]):.3f}"
        queries = int(results[f"{search}_queries"].drop_nulls()[0])
        reading.answer.append(
            f"{search} search: recall@10 {number(trained[metric][0]):.3f}{before} ({queries} test queries)."
        )
    row = trained.row(0, named=True)
    widths = sorted(int(c.rpartition("_d")[2]) for c in results.columns if "_recall@10_d" in c)
    first = next(s for s in SEARCHES if f"{s}_recall@10" in results.columns)
    kept = ", ".join(f"{w} dimensions {row[f'{first}_recall@10_d{w}']:.3f}" for w in dict.fromkeys(widths))
    reading.answer.append(f"Cut short, {first} search's recall@10: {kept}.")
    reading.answer.append(f"Take the vectors: moon export OUT/steps/{row['embed_step']} --to FOLDER [--dim N] [--int8]")
    reading.notes.append(throughput_sentence(trained, "posttrain", "tokens"))
    return reading
