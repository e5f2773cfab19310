"""Does our fitter give what was published? Public data and numbers; each number beside ours, with the rule of agreement.

`moon run published_laws --data DIR`: DIR is the user's own copy of the public files, not a contract directory; nothing is
trained, so there are no cells, no preset and no ledger.
"""

import hashlib
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.conformance import Row, as_text, by_source
from experiments.published_fits import broken, chinchilla, gadre, openclip, porian, vision
from experiments.question import QuestionError, Reading, load_question

if TYPE_CHECKING:
    import polars as pl
    from matplotlib.figure import Figure

NAME = "published_laws"
# One function a source.
PARTS: tuple[Callable[[Path], list[Row]], ...] = (chinchilla, openclip, gadre, porian, broken, vision)
WIDEST = 1.25  # of what a rule allows: what the figure shows in place; beyond, the number is written


def cells(preset: str, data: Any) -> list[Any]:
    """There are none: raises QuestionError."""
    raise QuestionError(f"{NAME} trains nothing: `moon run {NAME} --data DIR`, your copy of the public files")


def run(data: Path | None, out: Path, say: Callable[[str], None] = print) -> list[Row]:
    """Do all fits, say the table, write `results.parquet`, the figure, `answer.json` and `report.html`.

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
    say(f"\n{_verdict(rows)}\n  {_write(rows, data, out)}")
    return rows


def read(results: "pl.DataFrame") -> Reading:
    """How many agree, and each that does not; a table a source."""
    import polars as pl

    rows = [Row(*row) for row in results.select(field.name for field in fields(Row)).iter_rows()]
    missed = [
        f"{row.source}: {row.name} is published as {row.published}, ours is {row.ours}."
        for row in rows
        if not row.agrees
    ]
    tables = {source: pl.DataFrame([_told(row) for row in part]) for source, part in by_source(rows).items()}
    return Reading([_verdict(rows), *missed], figures={"agreement": agreement_figure(rows)}, tables=tables)


def agreement_figure(rows: list[Row]) -> "Figure":
    """Each number as a dot, a line a source: how much of what its rule allows lies between the published number and ours."""
    import numpy as np

    from analysis.axes import frame
    from analysis.figures import BLUE, VERMILLION, new_figure

    figure = new_figure(height=3.6)
    ax = figure.add_subplot()
    sources = by_source(rows)
    for at, part in enumerate(sources.values()):
        heights = at + (np.linspace(-0.28, 0.28, len(part)) if len(part) > 1 else np.zeros(1))
        for row, height in zip(part, heights, strict=True):
            color, beyond = (BLUE if row.agrees else VERMILLION), row.used > WIDEST
            ax.plot(min(row.used, WIDEST), height, ">" if beyond else "o", color=color, ms=4.5, alpha=0.75, mew=0)
    ax.axvline(1.0, color="0.5", ls="--", lw=1.0)
    ax.annotate(" agrees to here", (1.0, -0.62), fontsize=8, color="0.35")
    counts = [
        f"{source.partition(':')[0]} ({sum(r.agrees for r in part)} of {len(part)})" for source, part in sources.items()
    ]
    ax.set_yticks(range(len(sources)), counts)
    ax.set_ylim(len(sources) - 0.5, -0.75)
    ax.set_xlim(-0.03, WIDEST + 0.05)
    missed = [
        f"{row.source.partition(':')[0]}, {row.name}: {row.published}, ours {row.ours}"
        for row in rows
        if not row.agrees
    ]
    frame(ax, "difference, as a share of what the rule of agreement allows", "")
    for line, told in enumerate(missed):
        place = (1.0, -0.24 - 0.065 * line)
        ax.annotate(f"▶ {told}", place, xycoords="axes fraction", ha="right", fontsize=8, color=VERMILLION)
    ax.set_title("Published numbers, refitted from public data", loc="left", fontsize=11)
    return figure


def _verdict(rows: list[Row]) -> str:
    return f"{sum(row.agrees for row in rows)} of {len(rows)} published numbers agree with ours."


def _write(rows: list[Row], data: Path, out: Path) -> Path:
    """A table like those of other questions, so that it is kept and drawn again as they are."""
    import polars as pl

    from experiments.answering import write_reading
    from sweeps.files import write_json
    from sweeps.provenance import provenance

    made = provenance(f"{__name__}:run")
    versions = ", ".join(
        f"{name} {version}" for name, version in {"python": made["python"], **made["versions"]}.items()
    )
    table = pl.DataFrame(rows).with_columns(
        status=pl.lit("done"),
        device=pl.lit(made["device"]),
        versions=pl.lit(versions),
        commit=pl.lit(made["commit"], dtype=pl.String),
    )
    about = {
        "data": "public results of scaling studies",
        "source": "; ".join(by_source(rows)),
        "simulated": {},
        "preset": "none, for nothing is trained",
        "files": {path.name: hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in sorted(data.glob("*.csv"))},
    }
    home = out / NAME
    home.mkdir(parents=True, exist_ok=True)
    table.write_parquet(home / "results.parquet", metadata={"schema_version": "1"})
    write_json(home / "about.json", about)
    return write_reading(out, load_question(NAME), read(table), table, about)


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
