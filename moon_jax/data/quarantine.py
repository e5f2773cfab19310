"""Rows that an import leaves out: each is kept with its place and the reason, and too many of them stop the import."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from moon_jax.data.tables import DataError

if TYPE_CHECKING:
    import polars as pl

NAME = "quarantine.parquet"
SHARE, AT_LEAST = 0.01, 10  # so many rows of a file may be left out: a hundredth, or ten of a small one


@dataclass
class Quarantine:
    """What could not be used, row by row.

    `entries` are (file of the contract, name of the source file, row, reason). The row is the line of a CSV file (the
    header is line 1), the 0-based row of a Parquet file, or None where a whole source file is meant.
    """

    entries: list[tuple[str, str, int | None, str]] = field(default_factory=list)

    def put(self, file: str, source: Path | str, rows: Iterable[int | None], reason: str) -> None:
        """Notes rows of `source` that do not reach `file`, for one reason."""
        name = Path(source).name
        self.entries += [(file, name, row, reason) for row in rows]

    def require_few(self, file: str, rows: int, *, share: float = SHARE) -> None:
        """Raises DataError, with counts by reason and a row, where too many of `rows` rows were left out."""
        mine = [entry for entry in self.entries if entry[0] == file]
        limit = max(AT_LEAST, int(share * rows))
        if len(mine) <= limit:
            return
        reasons = Counter(entry[3] for entry in mine).most_common(4)
        _, source, row, reason = next(entry for entry in mine if entry[3] == reasons[0][0])
        told = ", ".join(f"{kind} {count}" for kind, count in reasons)
        place = source if row is None else f"{source}, row {row}"
        raise DataError(
            f"{place}: {reason}; {len(mine)} of {rows} rows for {file} cannot be used, at most {limit} may be left out "
            f"({told}); is the download complete?"
        )

    def counts(self) -> dict[str, int]:
        """Rows left out, by file of the contract."""
        return dict(sorted(Counter(file for file, _, _, _ in self.entries).items()))

    def table(self) -> "pl.DataFrame":
        """`file`, `source`, `row` (null for a whole file), `reason`."""
        import polars as pl

        schema = {"file": pl.String, "source": pl.String, "row": pl.Int64, "reason": pl.String}
        return pl.DataFrame(self.entries, schema=schema, orient="row").sort("file", "source", "row", nulls_last=True)
