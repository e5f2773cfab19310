"""What the benchmark scripts share: finding their data, printing a table, saying what was missed."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path


def need(folder: Path, *names: str) -> list[Path]:
    """Paths of files in the data folder; ends the process with 2 and one clear line where one is missing."""
    for path in (folder, *(folder / name for name in names)):
        if not path.exists():
            print(
                f"{Path(sys.argv[0]).name}: {path}: no such file or folder; give the folder of public data",
                file=sys.stderr,
            )
            raise SystemExit(2)
    return [folder / name for name in names]


def show(header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows under a header, the first column to the left and the others to the right."""
    texts = [[*map(str, header)], *([*map(str, row)] for row in rows)]
    widths = [max(len(row[k]) for row in texts) for k in range(len(header))]
    for at, row in enumerate(texts):
        cells = [
            cell.rjust(width) if k else cell.ljust(width)
            for k, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())
        if at == 0:
            print("  ".join("-" * width for width in widths))


def goal(what: str, reached: bool) -> bool:
    """One line: a goal, and whether it was reached."""
    print(f"{'reached    ' if reached else 'NOT REACHED'}  {what}")
    return reached


def machine() -> str:
    """How many cores this process may use and how busy the machine is: a timing without it means little."""
    return f"{len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f}"
