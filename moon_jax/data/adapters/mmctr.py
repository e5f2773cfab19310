"""MMCTR / MicroLens_1M_x1: one million users of a video platform, CTR with given content vectors.

Where: recsys.westlake.edu.cn/MicroLens_1M_MMCTR (WWW 2025 challenge; also `reczoo/MicroLens_1M_x1`). Licence: MicroLens
asks for research use and citation; not verified. Layout, Parquet, in one folder:

    train, valid, test    user_id, item_seq (list, 0 = padding, newest last), item_id, likes_level, views_level, label
    item_info             row = item_id: item_id, item_tags (5), item_emb_d128 (128); row 0 is the padding
    item_feature          optional, beside it or one folder up: item_id, item_title
    item_images/          optional, likewise: <item_id>.jpg

The challenge hides the labels of test.parquet. Then its valid.parquet, on which the published figures stand (DIN: AUC
0.8655), is our test split, and a tenth of the training users, by SHA-256 of the id, is our valid split.
"""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from moon_jax.data.adapters.groups import held_out
from moon_jax.data.adapters.parquet_source import Steps, require_columns, set_apart, sound_batches
from moon_jax.data.adapters.photos import open_photos, read_all
from moon_jax.data.checking.ids import Known
from moon_jax.data.contract import Dataset, refuse_existing
from moon_jax.data.quarantine import SHARE
from moon_jax.data.tables import count_rows, flattened, read_schema, read_table
from moon_jax.data.writing import DatasetWriter

if TYPE_CHECKING:
    import polars as pl

_LEVELS = ("likes_level", "views_level")
_LOG = {"user_id": "int", "item_seq": "list<int>", "item_id": "int", **dict.fromkeys(_LEVELS, "int")}
_INFO = {"item_id": "int", "item_tags": "list<int>", "item_emb_d128": "list<number>"}
_HELD_OUT = 0.1  # of the training users, where the published test has no labels
WIDTH = 128


def import_mmctr(
    source: Path, target: Path, *, limit: float = SHARE, progress: Callable[[int, int], None] | None = None
) -> Dataset:
    """Imports the folder `source` into the contract directory `target`: items, embeddings, impressions with histories.

    Rows that break the layout go to the quarantine; more than `limit` of a table stop the import with a DataError.
    `progress(done, total)` counts rows.
    """
    source, target = Path(source), Path(target)
    refuse_existing(target)
    info, logs = source / "item_info.parquet", {s: source / f"{s}.parquet" for s in ("train", "valid", "test")}
    require_columns(info, _INFO)
    for path in logs.values():
        require_columns(path, _LOG)
    labelled = "label" in read_schema(logs["test"])
    logs = logs if labelled else {"train": logs["train"], "test": logs["valid"]}
    for path in logs.values():
        require_columns(path, {"label": "int"})
    step = Steps(progress, info, *logs.values())
    hidden = (
        "test: the published valid.parquet; valid: a tenth of the training users by SHA-256 (test labels are hidden)"
    )
    with DatasetWriter(
        target,
        name="MicroLens_1M_x1",
        source="MMCTR challenge, WWW 2025 (MicroLens)",
        licence="MicroLens: research use with citation; not verified",
        split_rule="as published" if labelled else hidden,
        simulated=dict.fromkeys(("items", "embeddings", "impressions"), False),
        forms={},
    ) as writer:
        known = _write_items(writer, source, limit, step)
        for split, path in logs.items():
            train = split == "train" and not labelled
            valid = held_out(read_table(path, ["user_id"])["user_id"].drop_nulls(), _HELD_OUT) if train else set()
            _write_impressions(writer, path, split, known, step, valid=valid)
        writer.quarantine.require_few("impressions", sum(map(count_rows, logs.values())), share=limit)
        writer.facts["labels_of_test"] = "published" if labelled else "hidden"
    return writer.dataset


def _write_items(writer: DatasetWriter, source: Path, limit: float, step: Callable[[int], None]) -> Known:
    """Writes items and their vectors, without the padding row; returns the ids."""
    import polars as pl

    info = source / "item_info.parquet"
    titles = _titles(source)
    vector, item = pl.col("item_emb_d128").cast(pl.List(pl.Float32)), pl.col("item_id")
    faults = {
        "item_id is null": item.is_null(),
        "item_id is not the row's number": item != pl.col("row"),
        f"item_emb_d128 has not {WIDTH} numbers": vector.list.len().fill_null(0) != WIDTH,
        "item_emb_d128 holds a number that is not finite": vector.list.eval(
            ~pl.element().is_finite() | pl.element().is_null()
        ).list.any(),
    }
    ids = []
    folder = next((f for f in (source, source.parent) if (f / "item_images").is_dir()), None)
    with open_photos(folder, "item_images") if folder else nullcontext(None) as read:
        for part in sound_batches(info, list(_INFO), faults, writer.quarantine, "items", rows=4096):
            rows, part = part.height, part.filter(item > 0)
            images: list[bytes | None] = [None] * part.height
            if read is not None:
                images = [image if fault is None else None for image, fault in read_all(read, _photos(part))]
            writer.gather("items", _items(part, titles, images))
            writer.gather(
                "embeddings", part.select(item.cast(pl.Int64), vector.list.to_array(WIDTH).alias("embedding"))
            )
            ids.append(part["item_id"].cast(pl.Int64))
            step(rows)
    writer.quarantine.require_few("items", count_rows(info), share=limit)
    return Known(pl.concat(ids))


def _photos(part: "pl.DataFrame") -> list[str]:
    return [f"{item}.jpg" for item in part["item_id"].to_list()]


def _titles(source: Path) -> "pl.DataFrame | None":
    """`item_id`, `title` of item_feature.parquet, where it is there."""
    import polars as pl

    path = next((p for f in (source, source.parent) if (p := f / "item_feature.parquet").exists()), None)
    if path is None:
        return None
    require_columns(path, {"item_id": "int", "item_title": "string"})
    frame = read_table(path, ["item_id", "item_title"]).drop_nulls().unique("item_id", keep="first")
    return frame.select(pl.col("item_id").cast(pl.Int64), title="item_title")


def _items(part: "pl.DataFrame", titles: "pl.DataFrame | None", images: list[bytes | None]) -> "pl.DataFrame":
    import polars as pl

    tags = (
        pl.col("item_tags")
        .cast(pl.List(pl.Int64))
        .list.eval(pl.lit("tag:") + pl.element().filter(pl.element() > 0).cast(pl.String))
    )
    frame = part.select(
        pl.col("item_id").cast(pl.Int64),
        pl.Series("image", images, dtype=pl.Binary),
        pl.lit([], pl.List(pl.String)).alias("category"),
        tags.fill_null([]).alias("attributes"),
        pl.col("item_id").cast(pl.Int64).alias("product_id"),
    )
    if titles is None:
        return frame.with_columns(title=pl.lit(""))
    return frame.join(titles, on="item_id", how="left", maintain_order="left").with_columns(
        pl.col("title").fill_null("")
    )


def _write_impressions(
    writer: DatasetWriter, path: Path, split: str, known: Known, step: Callable[[int], None], *, valid: set[object]
) -> None:
    """One published file, streamed: the history is `item_seq` without its padding; users in `valid` are held out."""
    import polars as pl

    columns, held = [*_LOG, "label"], pl.Series(sorted(valid), dtype=pl.Int64)
    faults = {
        **{f"{name} is null": pl.col(name).is_null() for name in ("user_id", "item_id", "item_seq", "label")},
        "label is neither 0 nor 1": ~pl.col("label").is_in([0, 1]),
        **{f"{name} is not of 0..10": ~pl.col(name).is_between(0, 10).fill_null(False) for name in _LEVELS},
    }
    for part in sound_batches(path, columns, faults, writer.quarantine, "impressions", rows=50_000):
        history = pl.col("item_seq").cast(pl.List(pl.Int64)).list.eval(pl.element().filter(pl.element() != 0))
        part = part.with_columns(history=history)
        flat = flattened(part["history"])
        strangers = flat.filter(known.lacks(flat)).unique()
        unknown: dict[str, pl.Expr | pl.Series] = {"unknown item_id": known.lacks(part["item_id"])}
        if len(strangers):
            among = pl.element().is_in(strangers.implode())
            unknown["unknown item_id in item_seq"] = pl.col("history").list.eval(among).list.any()
        part = set_apart(part, unknown, writer.quarantine, "impressions", path)
        start = writer.rows("impressions")
        writer.gather(
            "impressions",
            part.select(
                pl.int_range(start, start + pl.len(), dtype=pl.Int64).alias("impression_id"),
                pl.col("user_id", "item_id").cast(pl.Int64),
                "history",
                pl.col(*_LEVELS).cast(pl.Int8),
                (pl.col("label") == 1).alias("clicked"),
                pl.when(pl.col("user_id").is_in(held.implode()))
                .then(pl.lit("valid"))
                .otherwise(pl.lit(split))
                .alias("split"),
            ),
        )
        step(part.height)
