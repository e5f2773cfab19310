"""The data contract: a directory of Parquet files and a `dataset.json` that says what they are.

| file | columns |
|---|---|
| items | item_id, title, image, category, attributes, product_id |
| queries | query_id, text, image, item_id |
| pairs | query_id, item_id, action, split |
| events | user_id, item_id, query_id, action, timestamp; sorted by (user, time) |
| impressions | impression_id, user_id, item_id, timestamp, clicked, split (or `history` in place of events) |
| truth | impression_id, probability (if examined), examination?, bayes_<L>; only for simulated clicks |
| relevance | query_id, item_id, grade, split: judgements of one pair each |
| users | user_id and any features |
| embeddings | item_id, embedding (one length), scale where the embedding is of integers |
| hard_negatives | query_id, item_id, kind: no positives of the query |

Items may have `available_from`: nothing happens to them before. `facts["open_histories"]` says that a `history` may name
items beyond the items file. `quarantine.parquet` beside them names the rows that an import left out.

The kind of a query follows from what is set: `image` is an image search (with `item_id`, the photo is that item's own,
and the item is taken out of the gallery), `text` without it a text search (an `item_id` beside it
only names an item, which may be found), only `item_id` an item search (itself taken out); `image` and `text` together
are a mixed search.
The relevant items of a query are its pairs in that split. Any file may be a folder of that name with Parquet shards.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moon_jax.data.tables import DataError, batches, count_rows, logical_digest, one_line, read_table, stamps

__all__ = ["DataError", "Dataset", "Fault", "check", "logical_digest", "open_dataset", "read_table", "write_dataset"]

if TYPE_CHECKING:
    import polars as pl

    from moon_jax.data.quarantine import Quarantine

FILES = (
    "items",
    "queries",
    "pairs",
    "events",
    "impressions",
    "truth",
    "relevance",
    "users",
    "embeddings",
    "hard_negatives",
)
SPLITS = ("train", "valid", "test")
FORMAT = 1
STAMPS = ".digests.json"  # digests of large tables with the sizes and times of change they hold for
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
    `quarantined` counts the rows that the import left out; `quarantine.parquet` says which and why.
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
    quarantined: Mapping[str, int] = field(default_factory=dict)

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

    def batches(self, file: str, columns: Sequence[str] | None = None) -> "Iterator[tuple[int, pl.DataFrame]]":
        """(first row, table) of consecutive rows in bounded memory; raises DataError as `read` does."""
        return batches(self.path(file), columns)


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
        if not path.resolve().is_relative_to(folder.resolve()):
            raise DataError(f"{path}: is a link out of the dataset; put the file itself there")
        rows[file] = count_rows(path)
        digests[file] = known_digest(path) or logical_digest(path)
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
        quarantined=described.get("quarantined", {}),
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
    quarantine: "Quarantine | None" = None,
) -> Dataset:
    """Writes a contract directory whole or not at all: into a sibling folder, then one rename.

    If another process has meanwhile written the same content, that one stands and is returned. Raises DataError where
    `folder` exists already with other content, or where `simulated` does not speak of every table. A dataset larger than
    memory is written by `moon_jax.data.writing.DatasetWriter`.
    """
    from moon_jax.data.writing import DatasetWriter  # writing needs this module

    if unknown := set(tables) - set(FILES):
        raise DataError(f"the data contract knows no file {sorted(unknown)[0]!r}; it has {', '.join(FILES)}")
    if unsaid := set(tables) - set(simulated):
        raise DataError(f"say for every file whether it is simulated; missing: {', '.join(sorted(unsaid))}")
    with DatasetWriter(
        folder,
        name=name,
        source=source,
        licence=licence,
        split_rule=split_rule,
        simulated=simulated,
        forms=forms,
        facts=facts,
    ) as writer:
        writer.quarantine = quarantine or writer.quarantine
        for file in (known for known in FILES if known in tables):
            writer.add(file, tables[file])
    return writer.dataset


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


def known_digest(path: Path) -> str | None:
    """The digest that was noted for a large table, if it still has the sizes and times of change of then."""
    try:
        noted = json.loads((path.parent / STAMPS).read_text(encoding="utf-8"))[path.stem]
        if noted["stamps"] == [list(stamp) for stamp in stamps(path)]:
            return str(noted["digest"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None


def fingerprint_of(folder: Path) -> str | None:
    """The fingerprint of the dataset at `folder`, if there is one."""
    return _read_json(folder).get("fingerprint") if (folder / "dataset.json").exists() else None


def _read_json(folder: Path) -> dict[str, Any]:
    path = folder / "dataset.json"
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; make one with `moon data world DIR` or `moon data import`")
    if not path.is_file():
        raise DataError(f"{folder}: not a dataset, it has no dataset.json; make one with `moon data world` or `import`")
    try:
        described = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError, OSError) as error:
        raise DataError(f"{path}: not readable as JSON: {one_line(error)}") from error
    if not isinstance(described, dict):
        raise DataError(f"{path}: must hold one JSON object")
    for key, kind in (("name", str), ("source", str), ("licence", str), ("files", dict)):
        if not isinstance(described.get(key), kind):
            raise DataError(f"{path}: field {key!r} is missing or not a {kind.__name__}")
    if not isinstance(described.get("split_rule", ""), str):
        raise DataError(f"{path}: field 'split_rule' must be text")
    for key in ("forms", "facts", "quarantined"):
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
        if not isinstance(entry.get("digest", ""), str):
            raise DataError(f"{path}: files.{file}.digest must be text")
    if not described["files"]:
        raise DataError(f"{path}: lists no file; import again")
    return described


def _refuse_constant(name: str) -> None:
    raise ValueError(f"it holds {name}, which is no number")
