"""Simulated behaviour over somebody's catalogue: labelled as such wherever it goes."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from moon_jax.data.behaviour.config import BehaviourConfig
from moon_jax.data.behaviour.simulation import Searchable, Simulation
from moon_jax.data.behaviour.title_searches import FORM, title_searches
from moon_jax.data.contract import DataError, Dataset, open_dataset, refuse_existing
from moon_jax.data.tables import read_schema, shards
from moon_jax.data.writing import DatasetWriter

if TYPE_CHECKING:
    import polars as pl


def simulate_behaviour(
    folder: Path,
    target: Path,
    *,
    by: tuple[str, ...] = ("colour", "category"),
    styles: int = 48,
    config: BehaviourConfig | None = None,
    text_searches: bool = False,
) -> Dataset:
    """Behaviour over the catalogue in `folder`, written with it to the contract directory `target`.

    A style is a combination of the values of `by`: names of attributes ("colour" of "colour:Blue"), "category" (the
    leaf) or a level's name in the dataset's facts ("articleType"); the `styles - 1` most frequent combinations stand,
    all else is one style. Where items have `available_from`, nothing happens to them before; the log begins when every
    style has an item. Searches (`config.query_events`) are the catalogue's own queries, for what their first pair tells.
    With `text_searches` there are searches by words of titles besides (`title_searches`); queries and pairs are labelled, then.
    Raises DataError where no item has such a value, or where there is nothing to search with.
    """
    import polars as pl

    dataset = open_dataset(folder)
    refuse_existing(Path(target))
    arrives = "available_from" in read_schema(dataset.path("items"))
    items = dataset.read("items", ["item_id", "category", "attributes", *(["available_from"] if arrives else [])])
    levels = list(dataset.facts.get("category_levels", ()))
    names = _style_names(items, levels, by, dataset.folder)
    frequent = sorted(Counter(names).items(), key=lambda pair: (-pair[1], pair[0]))[: styles - 1]
    rank = {name: place for place, (name, _) in enumerate(frequent)}
    style_I = np.array([rank.get(name, len(rank)) for name in names])
    simulation = Simulation(
        items["item_id"].to_numpy(),
        style_I,
        config or BehaviourConfig(),
        available_I=items["available_from"].fill_null(0).to_numpy() if arrives else None,
        searches=_searches(dataset, items["item_id"], style_I),
    )
    simulated: tuple[str, ...] = ("events", "impressions", "truth")
    kept = [file for file in dataset.rows if file not in simulated]
    typed = title_searches(dataset, (config or BehaviourConfig()).seed) if text_searches else ()
    if typed:
        simulated = (*simulated, "queries", "pairs")
    with DatasetWriter(
        target,
        name=f"{dataset.name} with simulated behaviour",
        source=dataset.source,
        licence=dataset.licence,
        split_rule=f"{dataset.split_rule}; simulated impressions: by user",
        simulated={**{file: dataset.simulated[file] for file in kept}, **dict.fromkeys(simulated, True)},
        forms={**dataset.forms, "text": FORM} if typed else dataset.forms,
    ) as writer:
        for file in kept:
            for shard in shards(dataset.path(file)):
                writer.add(file, pl.scan_parquet(shard, glob=False))
        for file, table in zip(("queries", "pairs"), typed, strict=False):
            writer.add(file, pl.concat([pl.DataFrame(schema=read_schema(dataset.path(file))), table], how="diagonal"))
        for block in simulation.blocks():
            for file, table in block.items():
                writer.add(file, table)
        writer.facts |= {**dataset.facts, "drives": "+".join(by), **simulation.facts}
        for told in ("must_win", "config"):  # of the clicks that these replace
            writer.facts.pop(told, None)
    return writer.dataset


def _searches(dataset: Dataset, item_ids_I: "pl.Series", style_I: np.ndarray) -> Searchable | None:
    """The catalogue's queries with the style of the item that each one's first pair leads to."""
    import polars as pl

    if not dataset.has("queries", "pairs"):
        return None
    style = pl.DataFrame({"item_id": item_ids_I, "style": style_I})
    asked = dataset.read("pairs", ["query_id", "item_id"]).unique("query_id", keep="first", maintain_order=True)
    asked = asked.join(style, on="item_id", maintain_order="left")
    return Searchable(asked["query_id"].to_numpy(), asked["style"].to_numpy())


def _style_names(items: "pl.DataFrame", levels: list[str], by: tuple[str, ...], folder: Path) -> list[tuple[str, ...]]:
    """Each item's values of `by`, an empty string where it has none."""
    categories, attributes = items["category"].to_list(), items["attributes"].to_list()
    columns = []
    for name in by:
        if name == "category":
            column = [category[-1] if category else "" for category in categories]
        elif name in levels:
            level = levels.index(name)
            column = [category[level] if level < len(category) else "" for category in categories]
        else:
            column = [next((a.split(":", 1)[1] for a in given if a.startswith(f"{name}:")), "") for given in attributes]
        if not any(column):
            known = {attribute.split(":", 1)[0] for given in attributes for attribute in given if ":" in attribute}
            choice = ", ".join(["category", *levels, *sorted(known)])
            raise DataError(f"{folder}: no item has a value of {name!r}; there are: {choice}")
        columns.append(column)
    return list(zip(*columns, strict=True))
