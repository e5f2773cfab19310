"""What `moon data check` looks for: every rule of the contract that a table or an image can break."""

import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moon_jax.data.contract import FILES, SPLITS, DataError, Dataset, Fault, open_dataset

if TYPE_CHECKING:
    import polars as pl

MAX_PIXELS = 1 << 24  # a 4096 x 4096 image; read from the header, so that a decompression bomb is never decoded
FORMATS = ("JPEG", "PNG", "WEBP")
ACTIONS = {"pairs": ("click", "cart", "purchase")}
IDS = {"items": "item_id", "queries": "query_id", "impressions": "impression_id", "truth": "impression_id"}

# file -> column -> (type, required, may be null)
_COLUMNS: dict[str, dict[str, tuple[str, bool, bool]]] = {
    "items": {
        "item_id": ("int", True, False),
        "source_id": ("string", False, True),
        "title": ("string", True, False),
        "image": ("binary", True, True),
        "category": ("list<string>", True, False),
        "attributes": ("list<string>", True, False),
        "product_id": ("int", True, False),
        "available_from": ("int", False, True),
    },
    "queries": {
        "query_id": ("int", True, False),
        "text": ("string", False, True),
        "image": ("binary", False, True),
        "item_id": ("int", False, True),
    },
    "pairs": {
        "query_id": ("int", True, False),
        "item_id": ("int", True, False),
        "action": ("string", True, False),
        "user_id": ("int", False, True),
        "search_id": ("int", False, True),
        "timestamp": ("int", False, True),
        "split": ("string", True, False),
    },
    "events": {
        "user_id": ("int", True, False),
        "item_id": ("int", False, True),
        "query_id": ("int", False, True),
        "action": ("string", True, False),
        "timestamp": ("int", True, False),
    },
    "impressions": {
        "impression_id": ("int", True, False),
        "user_id": ("int", True, False),
        "item_id": ("int", True, False),
        "query_id": ("int", False, True),
        "search_id": ("int", False, True),
        "position": ("int", False, True),
        "timestamp": ("int", False, False),
        "history": ("list<int>", False, False),
        "clicked": ("bool", True, False),
        "split": ("string", True, False),
    },
    "truth": {"impression_id": ("int", True, False), "probability": ("float", True, False)},
    "relevance": {
        "query_id": ("int", True, False),
        "item_id": ("int", True, False),
        "grade": ("number", True, False),
        "split": ("string", True, False),
    },
    "users": {"user_id": ("int", True, False)},
    "embeddings": {"item_id": ("int", True, False), "embedding": ("list<number>", True, False)},
}


def find_faults(folder: Path, *, progress: Callable[[int, int], None] | None = None) -> list[Fault]:
    """Every fault of the dataset in `folder`; see `contract.check`."""
    dataset = open_dataset(folder)
    faults: list[Fault] = []
    sound: dict[str, pl.DataFrame] = {}
    for file in dataset.rows:
        frame = dataset.read(file)
        broken = [*_schema_faults(file, frame)]
        faults += broken
        faults += _value_faults(file, frame)
        if recorded := dataset.recorded.get(file):
            faults += [Fault(file, None, "content differs from the digest in dataset.json")] * (
                recorded != dataset.digests[file]
            )
        if not broken:
            sound[file] = frame
    for file in FILES:
        if file not in dataset.rows and (folder / f"{file}.parquet").exists():
            faults.append(Fault(file, None, "is in the folder but dataset.json does not list it"))
    faults += _id_faults(dataset, sound)
    faults += _split_faults(sound)
    faults += _query_faults(sound)
    faults += _time_faults(sound)
    faults += _image_faults(sound, progress)
    return faults


def _schema_faults(file: str, frame: "pl.DataFrame") -> Iterator[Fault]:
    for column, (kind, required, _) in _COLUMNS[file].items():
        if column not in frame.columns:
            if required:
                yield Fault(file, None, f"column {column!r} is missing")
            continue
        dtype = frame.schema[column]
        if not _is(dtype, kind):
            yield Fault(file, None, f"column {column!r} is {dtype}, must be {kind}")
    if file == "impressions" and not {"timestamp", "history"} & set(frame.columns):
        yield Fault(file, None, "needs a column 'timestamp' (with events.parquet) or 'history'")
    if frame.height == 0:
        yield Fault(file, None, "has no rows")


def _is(dtype: Any, kind: str) -> bool:
    import polars as pl

    if kind.startswith("list<"):
        return isinstance(dtype, pl.List | pl.Array) and _is(dtype.inner, kind[5:-1])
    return {
        "int": dtype.is_integer(),
        "float": dtype.is_float(),
        "number": dtype.is_numeric(),
        "string": dtype == pl.String,
        "binary": dtype == pl.Binary,
        "bool": dtype == pl.Boolean,
    }[kind]


def _value_faults(file: str, frame: "pl.DataFrame") -> Iterator[Fault]:
    import polars as pl

    columns = _COLUMNS[file]
    for column, dtype in frame.schema.items():
        series = frame[column]
        if column in columns and not columns[column][2]:
            yield from _rows(file, series.is_null(), f"{column} is null")
        if dtype.is_float():
            yield from _rows(file, ~series.is_finite(), f"{column} is not a finite number")
        elif isinstance(dtype, pl.List | pl.Array):
            inner = frame.select(pl.col(column).cast(pl.List(dtype.inner)))[column]
            yield from _rows(file, inner.list.eval(pl.element().is_null()).list.any(), f"{column} holds a null")
            if dtype.inner.is_float():
                not_finite = inner.list.eval(~pl.element().is_finite()).list.any()
                yield from _rows(file, not_finite, f"{column} holds a number that is not finite")
    if (key := IDS.get(file)) in frame.columns:
        yield from _rows(file, ~frame[key].is_first_distinct(), "duplicate {} {}", key, frame[key])
    if file == "truth" and _is(frame.schema.get("probability", pl.Null()), "float"):
        outside = (frame["probability"] < 0) | (frame["probability"] > 1)
        yield from _rows(file, outside, "{} {} is outside 0..1", "probability", frame["probability"])
    for column, allowed in (("split", SPLITS), ("action", ACTIONS.get(file, ()))):
        if allowed and frame.schema.get(column) == pl.String:
            wrong = ~frame[column].is_in(list(allowed))
            yield from _rows(file, wrong, "{} is {!r}, must be one of " + ", ".join(allowed), column, frame[column])


def _rows(
    file: str, mask: "pl.Series", reason: str, column: str = "", values: "pl.Series | None" = None
) -> Iterator[Fault]:
    """A fault per row where `mask` is true (null is not); `reason` may be formatted with the column and its value."""
    for row in mask.fill_null(False).arg_true().to_list():
        yield Fault(file, row, reason if values is None else reason.format(column, values[row]))


def _id_faults(dataset: Dataset, sound: "dict[str, pl.DataFrame]") -> Iterator[Fault]:
    known = {IDS[file]: sound[file][IDS[file]] for file in ("items", "queries") if file in sound}
    for file, frame in sound.items():
        for column in ("item_id", "query_id", "history"):
            if column not in frame.columns or column == IDS.get(file):
                continue
            target = "query_id" if column == "query_id" else "item_id"
            if target not in known:
                if frame[column].is_not_null().any() and not dataset.has("items" if target == "item_id" else "queries"):
                    yield Fault(file, None, f"has {column} but the dataset has no {target[:-3]} table")
                continue
            if column == "history":
                flat = frame.with_row_index("row").select("row", "history").explode("history").drop_nulls()
                for row, item in flat.filter(~flat["history"].is_in(known[target].implode())).rows():
                    yield Fault(file, row, f"unknown item_id {item} in history")
                continue
            values = frame[column]
            unknown = values.is_not_null() & ~values.is_in(known[target].implode())
            yield from _rows(file, unknown, "unknown {} {}", column, values)
    if "truth" in sound and "impressions" in sound:
        values = sound["truth"]["impression_id"]
        unknown = ~values.is_in(sound["impressions"]["impression_id"].implode())
        yield from _rows("truth", unknown, "unknown {} {}", "impression_id", values)


def _split_faults(sound: "dict[str, pl.DataFrame]") -> Iterator[Fault]:
    for file in ("pairs", "impressions"):
        if file not in sound:
            continue
        there = set(sound[file]["split"].unique().to_list())
        for split in SPLITS:
            if split not in there:
                yield Fault(file, None, f"split {split!r} is empty")


def _query_faults(sound: "dict[str, pl.DataFrame]") -> Iterator[Fault]:
    import polars as pl

    if "queries" in sound:
        frame = sound["queries"]
        given = [frame[column].is_null() for column in ("text", "image", "item_id") if column in frame.columns]
        nothing = pl.Series([True] * frame.height)
        for absent in given:
            nothing &= absent
        yield from _rows("queries", nothing, "has neither text nor image nor item_id")
    if "items" in sound:
        frame = sound["items"]
        nothing = frame["image"].is_null() & (frame["title"].str.len_bytes() == 0)
        yield from _rows("items", nothing, "has neither image nor title")
    if "events" in sound:
        frame = sound["events"]
        given = [frame[column].is_null() for column in ("item_id", "query_id") if column in frame.columns]
        if not given:
            yield Fault("events", None, "needs a column 'item_id' or 'query_id'")
            return
        nothing = given[0] if len(given) == 1 else given[0] & given[1]
        yield from _rows("events", nothing, "has neither item_id nor query_id")


def _time_faults(sound: "dict[str, pl.DataFrame]") -> Iterator[Fault]:
    import polars as pl

    if (events := sound.get("events")) is not None:
        user, time = events["user_id"], events["timestamp"]
        back = (user < user.shift(1)) | ((user == user.shift(1)) & (time < time.shift(1)))
        yield from _rows("events", back, "not sorted by user and time")
    if (shown := sound.get("impressions")) is None:
        return
    if "timestamp" in shown.columns:
        shown = shown.with_row_index("row")
        order = {"train": 0, "valid": 1, "test": 2}
        ranked = shown.with_columns(rank=pl.col("split").replace_strict(order, default=None, return_dtype=pl.Int8))
        for split, rank in (("valid", 1), ("test", 2)):
            first = ranked.filter(pl.col("rank") >= rank).group_by("user_id").agg(first=pl.col("timestamp").min())
            late = (
                ranked.filter(pl.col("rank") < rank)
                .join(first, on="user_id")
                .filter(pl.col("timestamp") > pl.col("first"))
            )
            for row, name in late.filter(pl.col("rank") == rank - 1).select("row", "split").rows():
                yield Fault("impressions", row, f"leaks the future: {name} but later than this user's first of {split}")
    if "history" not in shown.columns:
        if events is None:
            yield Fault("impressions", None, "has no history: needs events.parquet or a column 'history'")
        return
    if events is None or "timestamp" not in shown.columns or "item_id" not in events.columns:
        return  # nothing to hold the histories against
    seen = events.drop_nulls("item_id").group_by("user_id", "item_id").agg(first=pl.col("timestamp").min())
    past = shown.select("row", "user_id", "timestamp", item_id="history").explode("item_id").drop_nulls("item_id")
    joined = past.join(seen, on=["user_id", "item_id"], how="left", maintain_order="left")
    for row, item in (
        joined.filter((pl.col("first") >= pl.col("timestamp")).fill_null(True)).select("row", "item_id").rows()
    ):
        yield Fault("impressions", row, f"history leaks the future: item {item} is no earlier event of this user")


def _image_faults(sound: "dict[str, pl.DataFrame]", progress: Callable[[int, int], None] | None) -> Iterator[Fault]:
    frames = [
        (file, sound[file]["image"])
        for file in ("items", "queries")
        if file in sound and "image" in sound[file].columns
    ]
    total, done = sum(len(images) for _, images in frames), 0
    for file, images in frames:
        for start in range(0, len(images), 4096):  # in slices: their bytes and results need not all be held at once
            part = images[start : start + 4096].to_list()
            for row, reason in enumerate(image_faults(part), start):
                if reason:
                    yield Fault(file, row, reason)
            done += len(part)
            if progress is not None:
                progress(done, total)


def image_faults(encoded: Sequence[bytes | None]) -> list[str | None]:
    """`image_fault` of each, on all cores: decoders release the interpreter's lock."""
    from PIL import Image

    def judge(start: int) -> list[str | None]:
        return [image_fault(image) for image in encoded[start : start + 128]]

    with warnings.catch_warnings(), ThreadPoolExecutor() as pool:
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        return [reason for part in pool.map(judge, range(0, len(encoded), 128)) for reason in part]


def image_fault(encoded: bytes | None) -> str | None:
    """Why these bytes are no usable image, or None: too many pixels by its header, or it does not decode."""
    from PIL import Image

    if encoded is None:
        return None
    try:
        with Image.open(io.BytesIO(encoded), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                return f"image is oversized: {image.width} x {image.height} pixels, at most {MAX_PIXELS} are read"
            image.load()
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        return f"image is oversized: at most {MAX_PIXELS} pixels are read"
    except Exception as error:  # decoders raise many kinds: OSError, SyntaxError, struct.error, ...
        return f"image does not decode ({type(error).__name__}: {str(error)[:80] or 'no reason given'})"
    return None


def require_sound(folder: Path) -> None:
    """Raises DataError with the first fault and their number, if there is any."""
    if faults := find_faults(folder):
        raise DataError(f"{folder}: {faults[0]} ({len(faults)} faults; `moon data check {folder}` lists them)")
