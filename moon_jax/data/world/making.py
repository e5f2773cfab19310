"""Making a planted world: one block of users or products in memory at a time."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np

from moon_jax.data.behaviour import Simulation
from moon_jax.data.contract import Dataset, refuse_existing
from moon_jax.data.wording import LEVELS
from moon_jax.data.world.catalogue import block_rng, item_blocks
from moon_jax.data.world.judgements import judgements
from moon_jax.data.world.products import WorldConfig, draw_products
from moon_jax.data.world.recall import best_recall, held_out, proxy_that_wins, token_law
from moon_jax.data.world.searches import FORMS, counts_of, search_blocks, searchable
from moon_jax.data.writing import DatasetWriter

FILES = ("items", "queries", "pairs", "relevance", "events", "impressions", "truth")


def make_world(folder: Path, config: WorldConfig, *, progress: Callable[[int, int], None] | None = None) -> Dataset:
    """Makes the world of `config` in the contract directory `folder`; the same config gives the same logical digests.

    A world larger than a block is written in shards, block by block. `progress(done, total)` counts blocks. Raises
    DataError where the folder holds something else, or where the wanted clicks cannot be had.
    """
    folder = Path(folder)
    refuse_existing(folder)
    crowd = config.crowd()
    done, total = 0, 2 * -(-config.products // config.block) + -(-crowd.users // crowd.block)

    def step() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(min(done, total), total)

    products = draw_products(config)
    kinds = counts_of(products, config)
    simulation = Simulation(
        np.arange(config.products * config.variants),
        np.repeat(products.style(config.drives), config.variants),
        crowd,
        available_I=np.repeat(products.available_from, config.variants) if config.new_items else None,
        searches=searchable(products, config) if crowd.query_events else None,
    )
    with DatasetWriter(
        folder,
        name=f"planted world, {config.drives} drives",
        source=f"moon_jax.data.world, seed {config.seed}",
        licence="generated, free to use",
        split_rule="search log: by product, 70/10/20 % at random; impressions: by user, 70/10/20 % at random",
        simulated=dict.fromkeys(FILES, True),
        forms={kind: FORMS[kind] for kind in kinds},
    ) as writer:
        told = []
        for items, told_Ix4 in item_blocks(products, config):
            writer.add("items", items)
            told.append(told_Ix4)
            step()
        for block in simulation.blocks():
            for file, table in block.items():
                writer.add(file, table)
            step()
        asked = []
        for number, (queries, pairs, parts) in enumerate(search_blocks(products, config, simulation)):
            writer.add("queries", queries)
            writer.add("pairs", pairs)
            first = 0
            for part in parts:
                ids_Q = queries["query_id"][first : first + len(part.product_Q)].to_numpy()
                first += len(part.product_Q)
                if part.kind == "text":
                    writer.add("relevance", judgements(products, config, part, ids_Q, block_rng(config, 8, number)))
            asked += held_out(products, parts)
            step()
        writer.facts |= {
            "items": config.products * config.variants,
            "products": config.products,
            "variants": config.variants,
            "category_levels": list(LEVELS),
            "drives": config.drives,
            "must_win": proxy_that_wins(config.drives),
            "zipf": config.zipf,
            "missing": config.missing,
            "new_items": config.new_items,
            "world_seed": config.seed,
            **simulation.facts,
            "best_recall": best_recall(products, np.concatenate(told), asked),
            "token_law": token_law(products, config.zipf_looks),
            "config": asdict(config),
        }
    return writer.dataset
