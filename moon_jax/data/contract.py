"""The data contract: a directory of Parquet files and a `dataset.json` that says what they are.

| file | columns |
|---|---|
| items | item_id, title, image, category, attributes, product_id |
| queries | query_id, text, image, item_id |
| pairs | query_id, item_id, action, split |
| events | user_id, item_id, query_id, action, timestamp; sorted by (user, time) |
| impressions | impression_id, user_id, item_id, timestamp, clicked, split (or `history` in place of events) |
| truth | impression_id, probability, bayes_<L>; only for simulated clicks |

The kind of a query follows from what is set: `image` is an image search (with `item_id`, the photo is that item's own,
and the item is taken out of the gallery), only `text` a text search, only `item_id` an item search (itself taken out).
The relevant items of a query are its pairs in that split. Any file may be a folder of that name with Parquet shards.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moon_jax.data.tables import DataError, count_rows, logical_digest, one_line, read_table

__all__ = ["DataError", "Dataset", "Fault", "check", "logical_digest", "open_dataset", "read_table", "write_dataset"]

if TYPE_CHECKING:
    import polars as pl

FILES = ("items", "queries", "pairs", "events", "impressions", "truth", "relevance", "users", "embeddings")
SPLITS = ("train", "valid", "test")
FORMAT = 1
_REMEDY = {
    "items": "import a catalogue (`moon data import`) or make a planted world (`moon data world DIR`)",
    "queries": "the dataset has no search log; take one that has, or `moon data world DIR`",
    "pairs": "the dataset has no search log; take one that has, or `moon data world DIR`",
    "events": "`moon data simulate` adds labelled, simulated behaviour to a catalogue",
    "impressions": "`moon data simulate` adds labelled, simulated behaviour to a catalogue",
    "truth": "only simulated clicks have a known truth: `moon data world DIR` or `moon data simulate`",
}


@dataclass(frozen=True)
class Fault:
    """One thing wrong with a dataset: the file, the row (0-based; None where it is the whole file) and why."""

    file: str
    row: int | None
    reason: str

    def __str__(self) -> str:
        return f"{self.file}{'' if self.row is None else f', row {self.row}'}: {self.reason}"


@dataclass(frozen=True)
class Dataset:
    """A dataset that follows the contract.

    `rows`, `simulated` and `digests` have one entry per file that is there (names without `.parquet`). `digests` are
    SHA-256 hex strings of the logical content as found now. `forms` gives per search kind its natural query->item form.
    """

    folder: Path
    name: str
    source: str
    licence: str
    simulated: Mapping[str, bool]
    rows: Mapping[str, int]
    digests: Mapping[str, str]
    forms: Mapping[str, str]
    facts: Mapping[str, Any]
    split_rule: str = ""
    recorded: Mapping[str, str] = field(default_factory=dict, repr=False)

    def has(self, *files: str) -> bool:
        """Whether all these files are there, e.g. `has("events", "impressions")`."""
        return all(file in self.rows for file in files)

    def path(self, file: str) -> Path:
        """The Parquet file (or folder of shards) of `file`; raises DataError where the dataset lacks it."""
        if file not in FILES:
            raise DataError(f"the data contract knows no file {file!r}; it has {', '.join(FILES)}")
        if file not in self.rows:
            remedy = _REMEDY.get(file, "take a dataset that has it")
            raise DataError(f"{self.folder}: no {file}.parquet (there are: {', '.join(self.rows)}); {remedy}")
        return self.folder / f"{file}.parquet"

    def read(self, file: str, columns: Sequence[str] | None = None) -> "pl.DataFrame":
        """The table, or some of its columns, in file order; raises DataError for a missing file or column."""
        return read_table(self.path(file), columns)


def open_dataset(folder: Path | str) -> Dataset:
    """Opens a contract directory: reads `dataset.json`, counts rows and digests the logical content of each file.

    Raises DataError where the folder, its `dataset.json`, a listed file or a field is missing or unreadable.
    """
    folder = Path(folder)
    described = _read_json(folder)
    files: dict[str, Any] = described["files"]
    rows, digests = {}, {}
    for file in (name for name in FILES if name in files):
        path = folder / f"{file}.parquet"
        if not path.exists():
            raise DataError(f"{folder}: dataset.json lists {file} but {path.name} is missing; import again")
        rows[file] = count_rows(path)
        digests[file] = logical_digest(path)
    return Dataset(
        folder=folder,
        name=described["name"],
        source=described["source"],
        licence=described["licence"],
        split_rule=described.get("split_rule", ""),
        simulated={file: files[file]["simulated"] for file in rows},
        rows=rows,
        digests=digests,
        forms=described.get("forms", {}),
        facts=described.get("facts", {}),
        recorded={file: files[file]["digest"] for file in rows if "digest" in files[file]},
    )


def write_dataset(
    folder: Path | str,
    *,
    name: str,
    source: str,
    licence: str,
    split_rule: str,
    tables: Mapping[str, "pl.DataFrame"],
    simulated: Mapping[str, bool],
    forms: Mapping[str, str],
    facts: Mapping[str, Any],
) -> Dataset:
    """Writes a contract directory whole or not at all: into a sibling folder, then one rename.

    If another process has meanwhile written the same content, that one stands and is returned. Raises DataError where
    `folder` exists already with other content, or where `simulated` does not speak of every table.
    """
    folder = Path(folder)
    if unknown := set(tables) - set(FILES):
        raise DataError(f"the data contract knows no file {sorted(unknown)[0]!r}; it has {', '.join(FILES)}")
    if unsaid := set(tables) - set(simulated):
        raise DataError(f"say for every file whether it is simulated; missing: {', '.join(sorted(unsaid))}")
    refuse_existing(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        files: dict[str, Any] = {}
        for file in (known for known in FILES if known in tables):
            path = temporary / f"{file}.parquet"
            tables[file].write_parquet(path, compression="zstd", compression_level=3)
            digest = logical_digest(path)
            files[file] = {"rows": tables[file].height, "simulated": bool(simulated[file]), "digest": digest}
        fingerprint = hashlib.sha256(json.dumps({k: v["digest"] for k, v in files.items()}).encode()).hexdigest()
        described = {
            "format": FORMAT,
            "name": name,
            "source": source,
            "licence": licence,
            "split_rule": split_rule,
            "fingerprint": fingerprint,
            "files": files,
            "forms": dict(forms),
            "facts": dict(facts),
        }
        text = json.dumps(described, indent=2, ensure_ascii=False, allow_nan=False)
        (temporary / "dataset.json").write_text(text + "\n", encoding="utf-8")
        temporary.chmod(0o755)  # mkdtemp makes folders that only their owner can read
        try:
            os.rename(temporary, folder)
        except OSError as error:
            if not (folder / "dataset.json").exists() or _read_json(folder).get("fingerprint") != fingerprint:
                raise DataError(f"{folder}: exists already with other content; remove it or name another") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return open_dataset(folder)


def check(folder: Path | str, *, progress: Callable[[int, int], None] | None = None) -> list[Fault]:
    """Every fault of a dataset, by file and row; empty if it keeps the contract.

    `progress(done, total)` counts decoded images. Raises DataError only where there is no dataset to check.
    """
    from moon_jax.data.checking import find_faults  # checking needs this module

    return find_faults(Path(folder), progress=progress)


def refuse_existing(folder: Path) -> None:
    """Raises DataError if something is at `folder`: called before long work, so that it is not done in vain."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder}: exists already; remove it or name another folder")


def _read_json(folder: Path) -> dict[str, Any]:
    path = folder / "dataset.json"
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; make one with `moon data world DIR` or `moon data import`")
    if not path.is_file():
        raise DataError(f"{folder}: not a dataset, it has no dataset.json; make one with `moon data world` or `import`")
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, OSError) as error:
        raise DataError(f"{path}: not readable as JSON: {one_line(error)}") from error
    if not isinstance(described, dict):
        raise DataError(f"{path}: must hold one JSON object")
    for key, kind in (("name", str), ("source", str), ("licence", str), ("files", dict)):
        if not isinstance(described.get(key), kind):
            raise DataError(f"{path}: field {key!r} is missing or not a {kind.__name__}")
    for key in ("forms", "facts"):
        if not isinstance(described.get(key, {}), dict):
            raise DataError(f"{path}: field {key!r} must be an object")
    for search, form in described.get("forms", {}).items():
        if not isinstance(form, str):
            raise DataError(f'{path}: forms.{search} must be text such as "image->image+text", not {form!r}')
    for file, entry in described["files"].items():
        if file not in FILES:
            raise DataError(f"{path}: files names {file!r}; the contract has {', '.join(FILES)}")
        if not isinstance(entry, dict) or not isinstance(entry.get("simulated"), bool):
            raise DataError(f"{path}: files.{file}.simulated must be true or false")
    return described
