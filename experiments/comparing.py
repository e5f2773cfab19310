"""The same question in two folders of runs: which cells differ, in what, and by how much."""

from pathlib import Path
from typing import TYPE_CHECKING

from experiments.question import QuestionError
from experiments.reading import number

if TYPE_CHECKING:
    import polars as pl

# What says how a run went and not what it found.
ASIDE = ("_step", "_seconds", "_per_second", "_compilations", "_share_of_matmul_peak", "_peak")
OTHERS = ("run", "version", "seconds", "data_wait_share", "peak_memory", "versions", "device", "commit", "shrunk")
NOISE = 1e-6  # relative: what the order of sums may do


def compare_folders(question: str, ours: Path, theirs: Path) -> list[str]:
    """Writes `<ours>/<question>/against.html`; returns what a person should know of it, in lines.

    Cells are the same where their coordinates are. QuestionError where a folder has no results of the question.
    """
    from analysis.report import Section, write_report

    if ours.resolve() == theirs.resolve():
        raise QuestionError(f"--against {theirs}: that is the same folder; name another that holds {question}")
    tables = {folder: _results(folder, question) for folder in (ours, theirs)}
    mine, other = tables.values()
    names = [name for name in _coordinates(mine) if name in other.columns]
    joined = mine.join(other, on=names, how="inner", suffix=" there", nulls_equal=True)
    alone = [folder for folder, table in tables.items() if table.height > joined.height]
    differing = differences(joined)
    lines = [f"{joined.height} cells stand in both, known by {', '.join(names)}"]
    lines += [f"{tables[folder].height - joined.height} cells stand in {folder} alone" for folder in alone]
    lines += [
        f"{row['metric']}: differs in {row['cells']} cells, by {row['mean difference']:+.4g} in the mean, "
        f"{row['largest']:.3g} at most"
        for row in differing.head(8).iter_rows(named=True)
    ]
    if differing.is_empty():
        lines.append("no metric differs")
    for name in ("status", "commit", "versions", "device"):
        if (found := [_listed(table, name) for table in tables.values()])[0] != found[1]:
            lines.append(f"{name}: {found[0]} here, {found[1]} there")
    sections = [Section("Metrics that differ, the most first", table=differing)] if differing.height else []
    path = write_report(
        ours / question / "against.html",
        title=f"{question.replace('_', ' ').capitalize()}: {ours} against {theirs}",
        answer=lines,
        sections=sections,
        provenance={"here": str(ours), "there": str(theirs)},
    )
    return [*lines, str(path)]


def differences(joined: "pl.DataFrame") -> "pl.DataFrame":
    """One row a metric that differs in some cell: in how many, the mean difference (here - there), the largest in size."""
    import polars as pl

    rows = []
    for name in joined.columns:
        there = f"{name} there"
        if there not in joined.columns or not joined[name].dtype.is_numeric() or _aside(name):
            continue
        pair = joined.select(here=pl.col(name).cast(pl.Float64), there=pl.col(there).cast(pl.Float64)).drop_nulls()
        gap = pl.col("here") - pl.col("there")
        size = pl.max_horizontal(pl.col("here").abs(), pl.col("there").abs())
        found = pair.filter(gap.abs() > NOISE * size).select(gap=gap)["gap"]
        if found.len():
            sizes = {"mean difference": number(pair.select(gap.mean()).item()), "largest": number(found.abs().max())}
            rows.append({"metric": name, "cells": found.len(), **sizes})
    return pl.DataFrame(rows).sort("cells", descending=True) if rows else pl.DataFrame()


def _results(folder: Path, question: str) -> "pl.DataFrame":
    import polars as pl

    path = folder / question / "results.parquet"
    if not path.exists():
        raise QuestionError(f"{path}: no results of {question}; `moon run {question} --out {folder}` makes them")
    return pl.read_parquet(path)


def _coordinates(table: "pl.DataFrame") -> list[str]:
    """The columns before the cell's first metric that tell all cells apart."""
    names: list[str] = []
    for name in table.columns:
        if name in OTHERS:
            continue
        names.append(name)
        if not table.select(names).is_duplicated().any():
            return names
    raise QuestionError("no columns tell the cells apart")


def _aside(name: str) -> bool:
    return name in OTHERS or name.endswith(ASIDE)


def _listed(table: "pl.DataFrame", name: str) -> str:
    return ", ".join(sorted(set(table[name].drop_nulls().cast(str)))) or "none"
