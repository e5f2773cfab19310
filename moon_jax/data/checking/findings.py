"""Faults as they are found: of each rule the first are listed by row, the rest are counted."""

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from moon_jax.data.contract import Fault

if TYPE_CHECKING:
    import polars as pl

LISTED = 1000  # rows of a file that break the same rule: a table of a hundred million must not fill the memory


@dataclass
class Findings:
    """What is wrong with a dataset."""

    faults: list[Fault] = field(default_factory=list)
    _counts: Counter[tuple[str, str, str]] = field(default_factory=Counter)

    def whole(self, file: str, reason: str) -> None:
        """A fault of the whole file."""
        self.faults.append(Fault(file, None, reason))

    def rows(
        self,
        file: str,
        start: int,
        mask: "pl.Series",
        reason: str,
        column: str = "",
        values: "pl.Series | None" = None,
    ) -> None:
        """A fault for each row where `mask` is true (null is not); the mask's first row is row `start` of the file.

        `reason` may hold two fields, for the name of a column and its value in that row.
        """
        rows = mask.fill_null(False).arg_true()
        rule = (file, reason, column)
        for row in rows.head(max(0, LISTED - self._counts[rule])).to_list():
            told = reason if values is None else reason.format(column, values[row])
            self.faults.append(Fault(file, start + row, told))
        self._counts[rule] += len(rows)

    def all(self) -> list[Fault]:
        """The faults, with a last one for each rule that more rows break than are listed."""
        more = [
            Fault(file, None, f"{count - LISTED} more rows: {reason.replace('{}', column, 1).replace(' {}', '')}")
            for (file, reason, column), count in self._counts.items()
            if count > LISTED
        ]
        return self.faults + more
