"""Results that outlive their runs: small tables with their provenance, and everything that is drawn and fitted from them.

`keep` copies a question's table out of a folder of runs; `redraw` makes fits, figures, answers and reports of kept tables again,
without running a step: `make results` does it for `results/`.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from experiments.question import QuestionError

KEPT = ("results.parquet", "about.json")


def keep(runs: Path, question: str, to: Path) -> Path:
    """Copy a question's table and provenance from a folder of runs to `to/<question>`; of a .py file that file, too.

    Raises QuestionError where it has not been run there, or some of its cells have not finished.
    """
    import polars as pl

    own = Path(question) if question.endswith(".py") else None
    if own is not None and not own.is_file():
        raise QuestionError(f"{own}: there is no such file")
    home = runs / (question if own is None else own.stem)
    if missing := [name for name in KEPT if not (home / name).exists()]:
        raise QuestionError(f"{home}: there is no {missing[0]}; run the question first")
    table = pl.read_parquet(home / "results.parquet")
    unfinished = table.filter(pl.col("status").is_in(["pending", "running"])).height
    if unfinished:
        raise QuestionError(f"{home}: {unfinished} cells have not finished yet")
    if "trial" in table.columns:
        tried, grid = table.filter(pl.col("trial") != ""), table.filter(pl.col("trial").fill_null("") == "")
        if grid.is_empty():
            raise QuestionError(f"{home}: only learning rates have been tried yet; run the question again")
        if failed := tried.filter(~pl.col("status").is_in(["done", "diverged"])).height:
            told = "so what waits for the best rate is missing; run the question again"
            raise QuestionError(f"{home}: {failed} runs that try learning rates have failed, {told}")
    target = to / home.name
    target.mkdir(parents=True, exist_ok=True)
    for name in KEPT:
        shutil.copyfile(home / name, target / name)
    if own is not None:
        shutil.copyfile(own, target / own.name)
    return target


def kept_in(folder: Path) -> list[Path]:
    """The folders below (or at) `folder` that hold a kept question."""
    return sorted(path.parent for path in folder.rglob("about.json") if (path.parent / "results.parquet").exists())


def redraw(folder: Path, told: Callable[[Path], None] = lambda page: None) -> list[Path]:
    """Answers, fits, figures and reports of every kept question below `folder`, a page for each set, `README.md`; their paths."""
    from experiments.overview import write_overview
    from experiments.suite_page import write_suite

    if not (kept := kept_in(folder)):
        raise QuestionError(f"{folder}: no kept results below it; `moon keep QUESTION --to {folder}` puts some there")
    pages = []
    for page in _answered(kept):
        told(page)
        pages.append(page)
    for home in dict.fromkeys(path.parent for path in kept):
        if (suite := write_suite(home)) is not None:
            told(suite)
            pages.append(suite)
    if folder in kept or folder in {path.parent for path in kept}:  # a question or a set by itself
        return pages
    told(overview := write_overview(folder))
    return [*pages, overview]


def _answered(kept: list[Path]) -> Iterator[Path]:
    """A process a core, started afresh: a fit's threads are not to be forked."""
    with ProcessPoolExecutor(max_workers=os.cpu_count(), mp_context=get_context("spawn")) as pool:
        yield from pool.map(answer_kept, kept)


def answer_kept(home: Path) -> Path:
    """Read one kept table and write what it says; the report's path."""
    import polars as pl

    from experiments import answering
    from experiments.question import load_question

    own = home / f"{home.name}.py"
    question = load_question(str(own) if own.exists() else home.name)
    table = pl.read_parquet(home / "results.parquet")
    reading = answering.reading_of(question, table, home.parent)
    return answering.write_reading(home.parent, question, reading, table, json.loads((home / "about.json").read_text()))
