"""Process: transformations of a dataset's tables as a step, and the representations that some of them read."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from moon_jax.data.contract import read_table
from moon_jax.data.forms import Form
from moon_jax.data.loading import Prepared, words_of
from moon_jax.data.processing.material import Material
from moon_jax.data.processing.outputs import shards_after, tables_of
from moon_jax.data.processing.running import transform, write_report
from moon_jax.data.processing.transformation import Transformation
from moon_jax.data.processing.vectors import Vectors

DERIVED = "checkpoints"  # the ledger hands it on to the next attempt where this one is killed


@dataclass(frozen=True)
class ProcessConfig:
    """The transformations, in order."""

    transformations: tuple[Transformation, ...]


@dataclass(frozen=True)
class RepresentConfig:
    """One form per search kind: what its queries show the encoder; and what items show it."""

    searches: tuple[Form, ...]
    item: tuple[str, ...]


def process(
    config: ProcessConfig,
    *,
    files: Mapping[str, Path],
    inputs: Mapping[str, Path],
    folder: Path,
    report: Callable[..., None],
) -> dict[str, Any]:
    """Step function: tables -> the same tables after the transformations (`items.parquet`, ..., and
    `hard_negatives.parquet` where there are any) and `processing.json`, the reports.

    Needs items, queries and pairs; a "represent" step as input `vectors` where a transformation reads representations.
    Returns the training pairs, items in training and hard negatives, before (`_in`) and after (`_out`).
    Raises DataError as `process_dataset` does.
    """
    derived = folder / DERIVED
    derived.mkdir(exist_ok=True)
    vectors = Vectors.read(inputs["vectors"]) if "vectors" in inputs else None

    def progress(done: int, total: int) -> None:
        report(done, total, doing="processing")

    material = Material(files, derived, vectors, progress)
    working, reports = transform(config.transformations, material)
    for name in tables_of(working, files):
        shards = list(shards_after(working, files, name))
        if len(shards) == 1:
            shards[0].sink_parquet(folder / f"{name}.parquet")
            continue
        (folder / f"{name}.parquet").mkdir()
        for number, shard in enumerate(shards):
            shard.sink_parquet(folder / f"{name}.parquet" / f"part-{number:05d}.parquet")
    write_report(folder, reports)
    shutil.rmtree(derived)
    rows = {"train pairs": "train_pairs", "items in training": "trained_items", "hard negatives": "hard_negatives"}
    before, after = reports[0].rows, reports[-1].rows
    return {f"{short}_in": before[name][0] for name, short in rows.items()} | {
        f"{short}_out": after[name][1] for name, short in rows.items()
    }


def represent(
    config: RepresentConfig,
    *,
    files: Mapping[str, Path],
    inputs: Mapping[str, Path],
    folder: Path,
    report: Callable[..., None],
) -> dict[str, Any]:
    """Step function: encoder + prepared arrays -> `item_ids.npy`, `items.npy`, `query_ids.npy`, `queries.npy`
    (`processing.vectors.Vectors`, float16): all items, and the queries of training pairs. Needs the inputs "prepare" and
    "posttrain", and the file queries that was prepared.
    """
    from moon_jax.stages.embed import encoder_of  # jax: only where an encoder runs

    prepared = Prepared(inputs["prepare"])
    query_ids_Q = read_table(files["queries"], ["query_id"])["query_id"].to_numpy()  # in the order of prepared rows
    encode = encoder_of(inputs["posttrain"])
    report(0, 1 + len(config.searches), doing="embedding items")
    pixels = prepared.item_images if "image" in config.item else None
    words = words_of(config.item)
    items_NxD = encode(pixels, prepared.item_words(words) if words else None)
    ids, queries = [np.zeros(0, np.int64)], [np.zeros((0, items_NxD.shape[1]), np.float32)]
    for index, form in enumerate(config.searches):
        report(1 + index, 1 + len(config.searches), doing=f"embedding queries of {form.search} search")
        rows_Q = np.unique(prepared.pairs_of(form.search, "train")[:, 0])
        if not rows_Q.size:
            continue
        shown = prepared.query_pixels(form.search, rows_Q) if "image" in form.query else None
        words = words_of(form.query)
        told = prepared.query_words(form.search, rows_Q, words) if words else None
        ids.append(query_ids_Q[rows_Q])
        queries.append(encode(shown, told))
    vectors = Vectors(
        np.asarray(prepared.item_ids),
        items_NxD.astype(np.float16),
        np.concatenate(ids),
        np.concatenate(queries).astype(np.float16),
    )
    vectors.save(folder)
    return {"represented_items": len(vectors.items), "represented_queries": len(vectors.queries)}
