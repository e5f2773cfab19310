"""From a question's table to its answer: read, and write fits, figures, `answer.json` and `report.html`."""

from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.question import Question, QuestionError, Reading
from experiments.reading import SEARCHES

if TYPE_CHECKING:
    import polars as pl

TOLD = 64  # a table of so many rows stands in `answer.json`, too
FEW_QUERIES = 100  # a 95 % interval of +-.1
STATED, DOUBT = 0.95, 0.05  # what prediction intervals promise, and how seldom a shortfall may be chance


def reading_of(question: Question, table: "pl.DataFrame", out: Path) -> Reading:
    """What the question says of its finished cells in the folder `out`; failed ones stand among the weak points.

    Where held-out scales lie in their prediction intervals more seldom than stated, the answer begins with that.
    """
    import polars as pl

    from sweeps import Ledger

    done = table.filter(pl.col("status") == "done")
    if done.is_empty():
        raise QuestionError(f"{question.name}: no cell has finished; see `moon status`")
    looks = "folder_of" in signature(question.read).parameters and (out / "ledger.json").exists()
    reading = question.read(done, **({"folder_of": Ledger(out, create=False).folder} if looks else {}))
    if not reading.answer:
        raise QuestionError(f"{question.name}: the finished cells say nothing yet; see `moon status`")
    for status, count in table.filter(pl.col("status") != "done").group_by("status").len().iter_rows():
        reading.weak.insert(0, f"{count} of {table.height} cells are {status} and take no part.")
    reading.weak += few_queries(done)
    if short := shortfall(held_of(reading)):
        reading.answer.insert(0, short)
    return reading


def few_queries(done: "pl.DataFrame") -> list[str]:
    """Searches whose recall was taken over fewer test queries than tell a tenth apart."""
    counts = {s: done[f"{s}_queries"].drop_nulls().min() for s in SEARCHES if f"{s}_queries" in done.columns}
    return [
        f"{search} search: only {count:,.0f} test queries, so that a recall is known to +-{0.98 / count**0.5:.2f} at best"
        for search, count in counts.items()
        if isinstance(count, int | float) and 0 < count < FEW_QUERIES
    ]


def held_of(reading: Reading) -> dict[str, tuple[int, int]]:
    """Fit -> (held-out runs within their prediction interval, held-out runs), of the fits that have an interval.

    Where a metric has a `...-power_floor`, its line in logs stands beside it for comparison alone: runs are not counted twice.
    """
    from analysis.fitted import Fit

    beside = {name for name in reading.fits if f"{name.removesuffix('-log_line')}-power_floor" in reading.fits}
    fits = {name: fit for name, fit in reading.fits.items() if isinstance(fit, Fit) and name not in beside}
    found = {name: fit.holdout for name, fit in fits.items() if fit.holdout}
    return reading.held | {
        name: (held["within"], held["of"]) for name, held in found.items() if held["within"] is not None
    }


def shortfall(held: dict[str, tuple[int, int]]) -> str | None:
    """A sentence where fewer held-out runs lie within than stated, beyond chance (binomial, runs taken as independent)."""
    from scipy.stats import binom

    within, of = (sum(pair[k] for pair in held.values()) for k in (0, 1))
    if not of or binom.cdf(within, of, STATED) >= DOUBT:
        return None
    worst = [f"{name} {a} of {b}" for name, (a, b) in held.items() if a < b]
    return (
        f"NOT foretold as stated: of {of} held-out runs at the largest scale {within} lie within their {STATED:.0%} prediction "
        f"intervals ({', '.join(worst)})."
    )


def write_reading(
    out: Path, question: Question, reading: Reading, table: "pl.DataFrame", about: dict[str, Any]
) -> Path:
    """Fits, figures, `answer.json` and the self-contained `report.html`; returns the report's path."""
    from analysis.figures import save_figure
    from analysis.report import write_report
    from analysis.saved import plain
    from sweeps.files import write_json

    home = out / question.name
    for folder in ("fits", "figures"):
        (home / folder).mkdir(parents=True, exist_ok=True)
        for former in (home / folder).iterdir():  # of an earlier reading, perhaps of other metrics
            former.unlink()
    for name, fit in reading.fits.items():
        fit.save(home / "fits" / f"{name}.json")
    for name, figure in reading.figures.items():
        save_figure(figure, home / "figures" / name)
    made = provenance_of(table, about)
    answer = {
        "question": question.name,
        "hypothesis": question.hypothesis,
        "answer": reading.answer,
        "notes": reading.notes,
        "weak": reading.weak,
        "held_out": held_of(reading),
        "figures": list(reading.figures),
        "tables": {name: frame.to_dicts() for name, frame in reading.tables.items() if frame.height <= TOLD},
        "provenance": made,
    }
    write_json(home / "answer.json", _rounded(plain(answer)))
    return write_report(
        home / "report.html",
        title=question.name.replace("_", " ").capitalize(),
        answer=reading.answer,
        sections=_sections(question, reading),
        provenance=made,
    )


def _sections(question: Question, reading: Reading) -> list[Any]:
    from analysis.fitted import Fit
    from analysis.rates import Rate
    from analysis.report import Section, fit_section, rate_section

    sections = [Section("The hypothesis", text=question.hypothesis)]
    if reading.notes:
        sections.append(Section("How it was measured", text=" ".join(reading.notes)))
    if reading.weak:
        sections.append(Section("What is weak", warnings=reading.weak))
    sections += [
        Section(name, figure=figure, alt=f"{question.name}: {name}") for name, figure in reading.figures.items()
    ]
    for name, fit in reading.fits.items():
        if isinstance(fit, Fit):
            sections.append(fit_section(f"Fit: {name}", fit))
        elif isinstance(fit, Rate):
            sections.append(rate_section(f"Rate: {name}", fit))
    return sections + [Section(name, table=frame) for name, frame in reading.tables.items()]


def provenance_of(table: "pl.DataFrame", about: dict[str, Any]) -> dict[str, Any]:
    """What the numbers come from: data, preset, cells, seeds, devices, versions, commits."""
    seeds = sorted(set(table["seed"].drop_nulls())) if "seed" in table.columns else []
    return about | {
        "cells": table.height,
        "seeds": ", ".join(map(str, seeds)) or "not named",
        "device": ", ".join(sorted(set(table["device"].drop_nulls()))),
        "versions": ", ".join(sorted(set(table["versions"].drop_nulls()))),
        "commit": ", ".join(sorted(set(table["commit"].drop_nulls()))) or "not in a commit",
        "table": "results.parquet beside this page",
    }


def _rounded(value: Any) -> Any:
    """Floats to eight digits: sums over threads differ in the last ones, and an answer that is made again should be the same."""
    if isinstance(value, dict):
        return {name: _rounded(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return float(f"{value:.8g}") if isinstance(value, float) else value
