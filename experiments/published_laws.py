"""Does our fitter give what was published? Public data and numbers; each number beside ours, with the rule of agreement.

`moon run published_laws --data DIR`: DIR is the user's own copy of the public files, not a contract directory; nothing is
trained, so there are no cells, no preset and no ledger.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path

from experiments.conformance import Row, as_text, by_source
from experiments.published_fits import broken, chinchilla, gadre, openclip, porian, vision
from experiments.question import QuestionError

NAME = "published_laws"
# One function a source.
PARTS: tuple[Callable[[Path], list[Row]], ...] = (chinchilla, openclip, gadre, porian, broken, vision)


def run(data: Path | None, out: Path, say: Callable[[str], None] = print) -> list[Row]:
    """Do all fits, say the table, write `results.parquet` and `report.html`.

    Raises:
        QuestionError: no folder was given, or its files hold something else.
        TableError: a file or a column is missing. In both cases nothing is written.
    """
    if data is None:
        raise QuestionError(f"{NAME} reads your copy of the public files: say where it is, --data DIR")
    if not data.is_dir():
        raise QuestionError(f"{data}: there is no such folder")
    import polars as pl

    try:
        rows = [row for part in PARTS for row in part(data)]
    except pl.exceptions.PolarsError as error:
        raise QuestionError(f"{data}: these are not the files as published ({str(error).splitlines()[0]})") from error
    say(as_text(rows))
    say(f"\n{_verdict(rows)}\n  {_write(rows, data, out / NAME)}")
    return rows


def _verdict(rows: list[Row]) -> str:
    return f"{sum(row.agrees for row in rows)} of {len(rows)} published numbers agree with ours."


def _write(rows: list[Row], data: Path, home: Path) -> Path:
    import polars as pl

    from analysis.report import Section, write_report

    home.mkdir(parents=True, exist_ok=True)
    pl.DataFrame(rows).write_parquet(home / "results.parquet", metadata={"schema_version": "1"})
    sections = [Section(source, table=[_told(row) for row in part]) for source, part in by_source(rows).items()]
    missed = [
        f"{row.source}: {row.name} is published as {row.published}, ours is {row.ours}"
        for row in rows
        if not row.agrees
    ]
    files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in sorted(data.glob("*.csv"))}
    return write_report(
        home / "report.html",
        title="Published laws",
        answer=_verdict(rows),
        sections=[Section("What does not agree", warnings=missed), *sections] if missed else sections,
        provenance={"data": str(data), "SHA-256, first 16 digits": files, "table": "results.parquet beside this page"},
    )


def _told(row: Row) -> dict[str, str]:
    told = "yes" if row.agrees else "no"
    return {
        "name": row.name,
        "published": row.published,
        "ours": row.ours,
        "agrees": told,
        "rule": row.rule,
        "note": row.note,
    }
