"""Seeded damage to the sources of the adapters: files, columns, cells, encodings, photos and zips."""

import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from fuzz_contract import bad_image, flip
from sources import TABLE_MAP, esci_source, mmctr_source, photo, table_source, taobao_mm_source

from moon_jax.data.adapters.esci import import_esci
from moon_jax.data.adapters.fashion import import_fashion
from moon_jax.data.adapters.mmctr import import_mmctr
from moon_jax.data.adapters.movielens import import_movielens
from moon_jax.data.adapters.table import import_table
from moon_jax.data.adapters.taobao_mm import import_taobao_mm

Random = np.random.Generator


@dataclass(frozen=True)
class Spoiled:
    """What was done: `refused`: a DataError must name `source`; else `rows` of it must be in the quarantine; with
    neither, either may happen, or nothing."""

    told: str
    source: str = ""
    rows: tuple[int, ...] = ()
    refused: bool = False


def fashion_source(folder: Path) -> Path:
    (folder / "images").mkdir(parents=True)
    lines = ["id,masterCategory,subCategory,articleType,baseColour,usage,productDisplayName"]
    for k in range(1, 41):
        lines.append(f"{k},Footwear,Shoes,Sports Shoes,Red,Sports,Shoe no. {k // 2}")
        (folder / "images" / f"{k}.jpg").write_bytes(photo(k))
    (folder / "styles.csv").write_text("\n".join(lines) + "\n")
    return folder


def movielens_source(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    (folder / "posters").mkdir(parents=True)
    movies = [f'{k},"Movie, The {k} (1990)",Comedy|Drama' for k in range(1, 31)]
    (folder / "movies.csv").write_text("\n".join(["movieId,title,genres", *movies]) + "\n")
    rated = [
        f"{u},{m},{rng.integers(1, 11) / 2},{1000 + m}"
        for u in range(1, 21)
        for m in range(1, 31)
        if rng.random() < 0.6
    ]
    (folder / "ratings.csv").write_text("\n".join(["userId,movieId,rating,timestamp", *rated]) + "\n")
    for k in range(1, 31):
        (folder / "posters" / f"{k}.jpg").write_bytes(photo(k))
    return folder


SOURCES: dict[str, tuple[Callable[[Path], Any], Callable[[Path, Path], Any]]] = {
    "table": (lambda f: table_source(f, logs=True), lambda s, t: import_table(s, t, mapping=TABLE_MAP)),
    "fashion": (fashion_source, import_fashion),
    "taobao_mm": (taobao_mm_source, import_taobao_mm),
    "movielens": (movielens_source, import_movielens),
    "mmctr": (lambda f: mmctr_source(f, photos=True), import_mmctr),
    "esci": (esci_source, lambda s, t: import_esci(s, t, version="large")),
}
# where a null makes a row that cannot be used
_NEEDED = {
    "taobao_mm": {"-shard-": ("label_0", "129_1", "205")},
    "mmctr": {"train": ("user_id", "item_id", "item_seq", "label"), "item_info": ("item_id", "item_emb_d128")},
    "esci": {"_examples": ("query", "query_id", "product_id", "product_locale", "esci_label", "split")},
}


def make_sources(folder: Path) -> None:
    """Every source, whole, in a folder of its name."""
    for name, (make, _) in SOURCES.items():
        make(folder / name)


def spoil(folder: Path, name: str, seed: int) -> Spoiled:
    """Damages the source `name` in `folder`."""
    rng = np.random.default_rng(seed)
    kinds = _CSV if name in ("table", "fashion", "movielens") else _PARQUET
    return kinds[seed // len(SOURCES) % len(kinds)](folder, name, rng)


def _pick(rng: Random, values: Any) -> Any:
    return values[int(rng.integers(len(values)))]


def _tables(folder: Path, suffix: str) -> list[Path]:
    return sorted(folder.rglob(f"*{suffix}"))


def _missing(folder: Path, name: str, rng: Random) -> Spoiled:
    suffix = "csv" if _tables(folder, "csv") else "parquet"
    optional = ("events", "impressions", "item_feature", "item_features", "scl_embedding_int8_p90")
    paths = [p for p in _tables(folder, suffix) if p.stem not in optional and "train-shard" not in p.stem]
    path = _pick(rng, paths)
    path.unlink()
    told = folder.name if name == "table" else "no shard" if "shard" in path.name else path.name
    return Spoiled(f"{path.name} is missing", told, refused=True)


def _shortened(folder: Path, name: str, rng: Random) -> Spoiled:
    path = _pick(rng, _tables(folder, "parquet"))
    content = path.read_bytes()
    path.write_bytes(content[: int(rng.integers(len(content)))])
    return Spoiled(f"{path.name} is truncated", path.name, refused=True)


def _flipped(folder: Path, name: str, rng: Random) -> Spoiled:
    path = _pick(rng, [p for p in folder.rglob("*") if p.is_file() and p.stat().st_size])
    flip(path, rng)
    return Spoiled(f"flipped bits in {path.name}")


def _emptied(folder: Path, name: str, rng: Random) -> Spoiled:
    path = _pick(rng, [*_tables(folder, "parquet"), *_tables(folder, "csv")])
    path.write_bytes(b"")
    return Spoiled(f"{path.name} is empty", path.name, refused=True)


def _column(folder: Path, name: str, rng: Random) -> Spoiled:
    path = _pick(rng, [p for p in _tables(folder, "parquet") if p.stem != "item_feature"])
    column = _pick(rng, pl.read_parquet(path).columns)
    pl.read_parquet(path).rename({column: "odd"}).write_parquet(path)
    spare = {"151_2_180", "product_description", "product_bullet_point", "example_id"}
    spared = column in spare or (column == "label" and path.stem == "test")
    return Spoiled(f"{path.name} lacks {column}", "" if spared else path.name, refused=not spared)


def _type(folder: Path, name: str, rng: Random) -> Spoiled:
    path = _pick(rng, [p for p in _tables(folder, "parquet") if p.stem != "item_feature"])
    frame = pl.read_parquet(path)
    column = _pick(rng, frame.columns)
    dtype = _pick(
        rng, [pl.Struct({"a": pl.Int64}), pl.List(pl.List(pl.Binary)), pl.Date, pl.Boolean, pl.Decimal(10, 2)]
    )
    frame.with_columns(pl.lit(None, dtype).alias(column)).write_parquet(path)
    return Spoiled(f"{path.name}: {column} is {dtype}")


def _null(folder: Path, name: str, rng: Random) -> Spoiled:
    part, columns = _pick(rng, list(_NEEDED[name].items()))
    path = _pick(rng, [p for p in _tables(folder, "parquet") if part in p.stem])
    frame, column = pl.read_parquet(path), _pick(rng, columns)
    row = int(rng.integers(frame.height))
    changed = pl.when(pl.int_range(pl.len()) != row).then(pl.col(column)).alias(column)
    frame.with_columns(changed).write_parquet(path)
    if path.stem == "item_info":  # a lost item takes its impressions along, here too many of them
        return Spoiled(f"{path.name}: {column} is null in row {row}")
    return Spoiled(f"{path.name}: {column} is null in row {row}", path.name, (row,))


def _number(folder: Path, name: str, rng: Random) -> Spoiled:
    """Huge, negative or wrong numbers in one row; whether it can be used depends on the column."""
    path = _pick(rng, [p for p in _tables(folder, "parquet") if p.stem != "item_feature"])
    frame = pl.read_parquet(path)
    column = _pick(rng, [c for c, dtype in frame.schema.items() if dtype.is_integer()] or frame.columns)
    if not frame.schema[column].is_integer():
        return _null(folder, name, rng)
    row, value = int(rng.integers(frame.height)), _pick(rng, [2**63 - 1, -(2**63), -1, 10**12])
    values = frame[column].to_list()
    values[row] = value
    frame.with_columns(pl.Series(column, values, dtype=pl.Int64)).write_parquet(path)
    return Spoiled(f"{path.name}: {column} is {value} in row {row}")


def _repeat(folder: Path, name: str, rng: Random) -> Spoiled:
    path = _pick(rng, _tables(folder, "parquet"))
    frame = pl.read_parquet(path)
    pl.concat([frame, frame.sample(3, seed=int(rng.integers(99)))]).write_parquet(path)
    return Spoiled(f"{path.name}: three rows twice")


def _cells(folder: Path, name: str, rng: Random) -> Spoiled:
    """A line of a CSV with too few cells, or with a cell of another kind."""
    path = _main_csv(folder, name)
    lines = path.read_text().splitlines()
    at = int(rng.integers(1, len(lines)))
    lines[at] = _pick(rng, ["1,2", "x", '"', "a,b,c", lines[at].split(",")[0]])
    path.write_text("\n".join(lines) + "\n")
    if '"' in lines[at]:
        return Spoiled(f"{path.name}: an open quote in line {at + 1}")
    rows = () if name == "movielens" else (at + 1,)
    return Spoiled(f"{path.name}: a broken line {at + 1}", path.name, rows, refused=name == "movielens")


def _main_csv(folder: Path, name: str) -> Path:
    return folder / {"table": "catalogue.csv", "fashion": "styles.csv", "movielens": "ratings.csv"}[name]


def _twice(folder: Path, name: str, rng: Random) -> Spoiled:
    path = _main_csv(folder, name)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, lines[int(rng.integers(1, len(lines)))]]) + "\n")
    if name == "movielens":  # a second rating of a film is a rating
        return Spoiled(f"{path.name}: a line twice")
    return Spoiled(f"{path.name}: a line twice", path.name, (len(lines) + 1,))


def _encoding(folder: Path, name: str, rng: Random) -> Spoiled:
    path = _main_csv(folder, name)
    text = path.read_text().replace("Shoe", "Schön").replace("Movie", "Schön")
    if "Schön" not in text:
        text = text.replace("\n", "\nö", 1)
    path.write_bytes(text.encode(_pick(rng, ["latin-1", "utf-16"])))
    return Spoiled(f"{path.name} is not UTF-8", path.name, refused=True)


def _bytes(folder: Path, name: str, rng: Random) -> Spoiled:
    path = _pick(rng, _tables(folder, "csv"))
    content = bytearray(path.read_bytes())
    at = int(rng.integers(len(content)))
    content[at : at + 1] = _pick(rng, [b"\0", b'"', b"\r", b"\n\n\n", b"9" * 5000, b'"' + b"x" * 200_000, rng.bytes(4)])
    path.write_bytes(bytes(content))
    return Spoiled(f"{path.name}: odd bytes")


def _header(folder: Path, name: str, rng: Random) -> Spoiled:
    path = _main_csv(folder, name)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0].upper(), *lines[1:]]) + "\n")
    return Spoiled(f"{path.name}: another header", path.name, refused=True)


def _escape(folder: Path, name: str, rng: Random) -> Spoiled:
    if name != "table":
        return _photo(folder, name, rng)
    path, lines = folder / "catalogue.csv", (folder / "catalogue.csv").read_text().splitlines()
    target = _pick(
        rng, ["../fashion/images/1.jpg", "/etc/passwd", "photos/../../x.jpg", "..\\x.jpg", "a\0b.jpg", "x" * 9000]
    )
    path.write_text("\n".join([*lines, f"S-E,Evil,x,red,{target}"]) + "\n")
    return Spoiled(f"image path {target[:20]!r}", path.name, (len(lines) + 1,))


def _photo(folder: Path, name: str, rng: Random) -> Spoiled:
    path = _pick(rng, sorted(folder.rglob("*.jpg")))
    image, may_decode = bad_image(rng, path.read_bytes())
    path.write_bytes(image)
    number = int("".join(filter(str.isdigit, path.stem)))
    source, row = {"table": ("catalogue.csv", number + 2), "fashion": ("styles.csv", number + 1)}.get(
        name, (path.name, None)
    )
    if may_decode or name == "mmctr":
        return Spoiled(f"{path.name}: a damaged photo")
    return Spoiled(f"{path.name}: no photo", source, () if row is None else (row,))


def _zipped(folder: Path, name: str, rng: Random) -> Spoiled:
    """The photos in a zip: damaged, with a bomb, with names that lead out, with a password flag."""
    inner = {"table": "photos", "fashion": "images", "movielens": "posters"}[name]
    archive = folder / ("images.zip" if name == "table" else f"{inner}.zip")
    kind = int(rng.integers(4))
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as opened:
        for k, path in enumerate(sorted((folder / inner).iterdir())):
            bomb = kind == 0 and k == 0
            opened.writestr(
                f"../../{path.name}" if kind == 1 else path.name, bytes(1 << 27) if bomb else path.read_bytes()
            )
    shutil.rmtree(folder / inner)
    if kind == 2:
        flip(archive, rng)
    if kind == 3:
        content = archive.read_bytes()
        archive.write_bytes(content[: int(rng.integers(len(content)))])
    return Spoiled(f"photos in a zip, {kind}", archive.name if kind == 3 else "", refused=kind == 3)


_CSV = (
    _missing,
    _flipped,
    _emptied,
    _cells,
    _twice,
    _encoding,
    _bytes,
    _bytes,
    _header,
    _escape,
    _photo,
    _photo,
    _zipped,
)
_PARQUET = (_missing, _shortened, _flipped, _flipped, _emptied, _column, _type, _null, _null, _number, _repeat)
