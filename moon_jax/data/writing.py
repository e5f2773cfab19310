"""Writing a contract directory whole or not at all, in shards where a table is larger than memory."""

import hashlib
import json
import os
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from moon_jax.data import contract
from moon_jax.data.quarantine import NAME, Quarantine
from moon_jax.data.tables import (
    WHOLE_BYTES,
    DataError,
    batches,
    count_rows,
    logical_digest,
    one_line,
    read_schema,
    stamps,
)

if TYPE_CHECKING:
    import polars as pl

SHARD_BYTES = 1 << 28  # decoded: what `gather` holds before it writes a shard
ROW_GROUP = 10_000  # rows: of a streamed shard, so that a reader need not hold more of long histories


class DatasetWriter:
    """A contract directory in the making: `add` tables or their shards, then leave the `with` block.

    All is written into a sibling folder that one rename publishes; after an error nothing is left. If another process
    has meanwhile written the same content, that one stands. `facts` and `forms` may be filled until the end, and what is
    put into `quarantine` is written beside the tables. Afterwards `dataset` is the opened result.

        with DatasetWriter(folder, name=..., ...) as writer:
            for block in blocks:
                writer.add("items", block)
        return writer.dataset
    """

    dataset: "contract.Dataset"

    def __init__(
        self,
        folder: Path | str,
        *,
        name: str,
        source: str,
        licence: str,
        split_rule: str,
        simulated: Mapping[str, bool],
        forms: Mapping[str, str],
        facts: Mapping[str, Any] | None = None,
    ):
        self.folder = Path(folder)
        self.facts = dict(facts or {})
        self.quarantine = Quarantine()
        self._told = {"name": name, "source": source, "licence": licence, "split_rule": split_rule}
        self._simulated = dict(simulated)
        self.forms = dict(forms)
        self._parts: dict[str, int] = defaultdict(int)
        self._rows: dict[str, int] = defaultdict(int)
        self._schemas: dict[str, dict[str, Any]] = {}
        self._waiting: dict[str, list[pl.DataFrame]] = defaultdict(list)

    def __enter__(self) -> "DatasetWriter":
        contract.refuse_existing(self.folder)
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        self._home = Path(tempfile.mkdtemp(prefix=f".{self.folder.name}-", dir=self.folder.parent))
        return self

    def add(self, file: str, rows: "pl.DataFrame | pl.LazyFrame") -> None:
        """Writes the next shard of `file`; a lazy frame is streamed and need not fit in memory.

        Raises DataError for a file that the contract does not know, one of which `simulated` says nothing, and a shard
        with other columns than the first.
        """
        import polars as pl

        if file not in contract.FILES:
            raise DataError(f"the data contract knows no file {file!r}; it has {', '.join(contract.FILES)}")
        if file not in self._simulated:
            raise DataError(f"say for every file whether it is simulated; missing: {file}")
        part = self._part(file, self._parts[file])
        part.parent.mkdir(exist_ok=True)
        if isinstance(rows, pl.LazyFrame):
            rows.sink_parquet(part, compression="zstd", compression_level=3, row_group_size=ROW_GROUP)
        else:
            rows.write_parquet(part, compression="zstd", compression_level=3)
        schema = dict(read_schema(part))
        if schema != (first := self._schemas.setdefault(file, schema)):
            raise DataError(f"{file}: shard {self._parts[file]} has the columns {schema}, the first one {first}")
        self._parts[file] += 1
        self._rows[file] += count_rows(part)

    def gather(self, file: str, rows: "pl.DataFrame") -> None:
        """Adds rows that are few: they wait until a shard is full, or for the end."""
        self._waiting[file].append(rows)
        if sum(part.estimated_size() for part in self._waiting[file]) > SHARD_BYTES:
            self._flush(file)

    def rows(self, file: str) -> int:
        """Rows of `file` so far."""
        return self._rows[file] + sum(part.height for part in self._waiting.get(file, ()))

    def _flush(self, file: str) -> None:
        import polars as pl

        waiting = pl.concat(self._waiting.pop(file, [])) if self._waiting.get(file) else None
        if waiting is not None and (waiting.height or not self._parts[file]):
            self.add(file, waiting)

    def written(self, file: str, columns: Sequence[str]) -> "Iterator[tuple[int, pl.DataFrame]]":
        """(first row, some columns) of the rows of `file` so far, in batches."""
        self._flush(file)
        return batches(self._home / f"{file}.parquet", columns)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._publish()
        finally:
            shutil.rmtree(self._home, ignore_errors=True)
        if kind is None:
            self.dataset = contract.open_dataset(self.folder)

    def _part(self, file: str, number: int) -> Path:
        return self._home / f"{file}.parquet" / f"part-{number:05d}.parquet"

    def _publish(self) -> None:
        for file in list(self._waiting):
            self._flush(file)
        files: dict[str, Any] = {}
        large: dict[str, Any] = {}
        for file in (known for known in contract.FILES if known in self._parts):
            path = self._home / f"{file}.parquet"
            if self._parts[file] == 1:  # one shard needs no folder
                only = self._part(file, 0).rename(self._home / "only.parquet")
                path.rmdir()
                only.rename(path)
            digest = logical_digest(path)
            files[file] = {"rows": self._rows[file], "simulated": bool(self._simulated[file]), "digest": digest}
            state = stamps(path)
            if sum(size for size, _ in state) > WHOLE_BYTES:
                large[file] = {"digest": digest, "stamps": state}
        fingerprint = hashlib.sha256(json.dumps({k: v["digest"] for k, v in files.items()}).encode()).hexdigest()
        described = {
            "format": contract.FORMAT,
            **self._told,
            "fingerprint": fingerprint,
            "files": files,
            "forms": self.forms,
            "facts": self.facts,
        }
        if self.quarantine.entries:
            described["quarantined"] = self.quarantine.counts()
            self.quarantine.table().write_parquet(self._home / NAME)
        if large:  # so that opening a dataset larger than memory need not read all of it
            (self._home / contract.STAMPS).write_text(json.dumps(large), encoding="utf-8")
        text = json.dumps(described, indent=2, ensure_ascii=False, allow_nan=False)
        (self._home / "dataset.json").write_text(text + "\n", encoding="utf-8")
        self._home.chmod(0o755)  # mkdtemp makes folders that only their owner can read
        try:
            os.rename(self._home, self.folder)
        except OSError as error:
            if contract.fingerprint_of(self.folder) != fingerprint:
                told = f"{self.folder}: exists already with other content; remove it or name another"
                raise DataError(told if self.folder.exists() else f"{self.folder}: {one_line(error)}") from error
