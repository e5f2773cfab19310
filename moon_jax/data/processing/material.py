"""What transformations read: wide columns in slices, each slice's outcome kept, so that a killed run goes on there."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from moon_jax.data.contract import DataError
from moon_jax.data.processing.shards import scan, slices
from moon_jax.data.processing.vectors import Vectors

if TYPE_CHECKING:
    import polars as pl

Progress = Callable[[int, int], None]


class Material:
    """The source's tables, a folder for what is derived from them, and representations where there are any."""

    def __init__(
        self, files: Mapping[str, Path], folder: Path, vectors: Vectors | None = None, progress: Progress | None = None
    ):
        self.files, self.folder = files, folder
        self._vectors, self._progress = vectors, progress or (lambda done, total: None)
        self._before, self._all = 0, 1

    def at(self, part: int, parts: int) -> None:
        """Say that part `part` of `parts` begins; progress within it is counted in hundredths."""
        self._before, self._all = 100 * part, 100 * parts
        self.report(0.0)

    def report(self, share: float) -> None:
        """How much of the present part is done."""
        self._progress(self._before + int(100 * share), self._all)

    @property
    def has_vectors(self) -> bool:
        return self._vectors is not None

    @property
    def vectors(self) -> Vectors:
        """The given representations; raises DataError where there are none."""
        if self._vectors is None:
            raise DataError("representations are needed: give the folder of a `represent` step (`--vectors DIR`)")
        return self._vectors

    def path(self, table: str) -> Path:
        if table not in self.files:
            raise DataError(f"processing needs {table}.parquet here, and the dataset has none")
        return self.files[table]

    def read(self, table: str, columns: "Sequence[str | pl.Expr]", ids: "pl.Series | None" = None) -> "pl.DataFrame":
        """Some columns of a table, in file order; of the rows with these ids (the series' name is the column)."""
        import polars as pl

        lazy = scan(self.path(table))
        if ids is not None:
            lazy = lazy.filter(pl.col(ids.name).is_in(ids.implode()))
        return lazy.select(columns).collect(engine="streaming")

    def has_column(self, table: str, column: str) -> bool:
        return table in self.files and column in scan(self.files[table]).collect_schema().names()

    def derived(
        self,
        name: str,
        table: str,
        columns: Sequence[str],
        function: "Callable[[pl.DataFrame, str, int], pl.DataFrame]",
        rows: int,
    ) -> "pl.LazyFrame":
        """`function(slice, table, first row)` of every slice of a table, in file order.

        Each finished slice is a file of its own, written by rename; after a kill those are not derived again.
        """
        import polars as pl

        folder = self.folder / f"{name}-{table}"
        folder.mkdir(parents=True, exist_ok=True)
        parts, before = list(slices(self.path(table), rows)), 0
        for index, (shard, start, size) in enumerate(parts):
            part = folder / f"part-{index:06d}.parquet"
            if not part.exists():
                frame = pl.scan_parquet(shard, glob=False).select(columns).slice(start, size).collect()
                temporary = part.with_suffix(f".{os.getpid()}.tmp")
                function(frame, table, before).write_parquet(temporary)
                temporary.replace(part)
            before += size
            self.report((index + 1) / len(parts))
        if not parts:
            raise DataError(f"{self.path(table)}: has no rows")
        return scan(folder)
