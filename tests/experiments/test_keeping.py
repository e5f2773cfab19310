"""Kept tables: what is drawn and said of them is what was said when they were made; the page of a whole folder."""

import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import analysis
from experiments import answering, keeping, suite_page
from experiments.comparing import compare_folders
from experiments.question import Question, QuestionError, Reading

ABOUT = {"data": "a shop", "fingerprint": "f", "source": "here", "licence": "none", "simulated": {}, "preset": "demo"}


def table(beyond: float = 1.0, rows: int = 24) -> pl.DataFrame:
    """Errors that fall as a power of tokens; the largest point's are off the law by a factor."""
    rng = np.random.default_rng(0)
    tokens = np.repeat(np.geomspace(1e4, 1e7, rows // 2), 2)
    error = 2 * tokens**-0.1 * np.exp(0.01 * rng.normal(size=rows)) * np.where(tokens == tokens.max(), beyond, 1.0)
    run = [f"r{k}" for k in range(rows)]
    more = {"status": "done", "device": "cpu", "versions": "jax 0", "commit": "abc"}
    return pl.DataFrame({"tokens": tokens, "error": error, "run": run, "seed": np.arange(rows) % 2}).with_columns(
        **{name: pl.lit(value) for name, value in more.items()}
    )


def read(results: pl.DataFrame) -> Reading:
    fit = analysis.fit(results, x="tokens", y="error", law="power", cluster="run", holdout="largest")
    from analysis.figures import scaling_figure

    return Reading(
        [f"It falls with exponent {fit.params['alpha']:.3f}."], {"error": fit}, {"error": scaling_figure(fit)}
    )


QUESTION = Question("falling", "It falls.", lambda preset, data: [], read)


def put(home: Path, rows: pl.DataFrame, question: str = "falling") -> Path:
    (home / question).mkdir(parents=True)
    rows.write_parquet(home / question / "results.parquet")
    (home / question / "about.json").write_text(json.dumps(ABOUT))
    return home / question


def test_an_answer_tells_its_sentences_intervals_and_provenance(tmp_path: Path) -> None:
    rows = table()
    page = answering.write_reading(tmp_path, QUESTION, answering.reading_of(QUESTION, rows, tmp_path), rows, ABOUT)
    told = json.loads((tmp_path / "falling" / "answer.json").read_text())
    assert told["answer"][0].startswith("It falls with exponent 0.1")
    assert told["held_out"] == {"error": [2, 2]}
    assert told["provenance"]["data"] == "a shop"
    assert told["provenance"]["seeds"] == "0, 1"
    assert (tmp_path / "falling" / "fits" / "error.json").is_file()
    assert "It falls with exponent" in page.read_text()


def test_what_is_not_foretold_is_said_first(tmp_path: Path) -> None:
    rows = table(beyond=1.5)
    reading = answering.reading_of(QUESTION, rows, tmp_path)
    assert reading.answer[0].startswith("NOT foretold as stated: of 2 held-out runs at the largest scale 0 lie within")
    answering.write_reading(tmp_path, QUESTION, reading, rows, ABOUT)
    page = suite_page.write_suite(tmp_path)
    assert page is not None
    answer = re.search(r'<div class="answer"><p>(.*?)</p>', page.read_text())
    assert answer is not None
    assert answer[1].startswith("NOT foretold as stated")


def test_an_answer_without_a_sentence_is_none(tmp_path: Path) -> None:
    """A question that says nothing yet is told so, and an older answer without a sentence does not spoil the page of all."""
    rows = table()
    silent = Question("silent", "Nothing.", lambda preset, data: [], lambda results: Reading([]))
    with pytest.raises(QuestionError, match="silent: the finished cells say nothing yet"):
        answering.reading_of(silent, rows, tmp_path)
    answering.write_reading(tmp_path, silent, Reading([]), rows, ABOUT)
    assert suite_page.write_suite(tmp_path) is None
    answering.write_reading(tmp_path, QUESTION, answering.reading_of(QUESTION, rows, tmp_path), rows, ABOUT)
    page = suite_page.write_suite(tmp_path)
    assert page is not None
    assert "silent" not in page.read_text()


@pytest.mark.parametrize(
    ("within", "of", "said"), [(2, 2, False), (1, 2, False), (0, 2, True), (5, 6, False), (4, 6, True)]
)
def test_a_shortfall_is_one_beyond_chance(within: int, of: int, said: bool) -> None:
    assert (answering.shortfall({"a": (within, of)}) is not None) == said


OWN = '''"""It falls."""
from test_keeping import read


def cells(preset, data):
    return []
'''


def test_kept_tables_give_the_same_answer_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A question of one's own is kept with its file, and read again by processes that know nothing else of it."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), *sys.path]))
    runs = put(tmp_path / "runs", table()).parent
    (tmp_path / "falling.py").write_text(OWN)
    first = keeping.keep(runs, str(tmp_path / "falling.py"), tmp_path / "results" / "shop")
    assert {path.name for path in first.iterdir()} == {"results.parquet", "about.json", "falling.py"}
    told: list[Path] = []
    pages = keeping.redraw(tmp_path / "results", told.append)
    overview = tmp_path / "results" / "README.md"
    assert told == pages == [first / "report.html", tmp_path / "results" / "shop" / "report.html", overview]
    assert "- It falls with exponent 0.1" in overview.read_text()
    assert "![shop: falling](shop/falling/figures/error.png)" in overview.read_text()
    before = (first / "answer.json").read_bytes(), (first / "fits" / "error.json").read_bytes()
    assert keeping.redraw(tmp_path / "results" / "shop") == pages[:2]  # a set by itself: no overview in it
    assert ((first / "answer.json").read_bytes(), (first / "fits" / "error.json").read_bytes()) == before
    whole = (tmp_path / "results" / "shop" / "report.html").read_text()
    assert "What pays: a shop" in whole
    assert "2 of 2 runs lie within" in whole
    assert 'href="falling/report.html"' in whole
    assert "<script" not in whole


def test_laws_that_two_questions_read_count_once() -> None:
    answers = {
        "training_tokens": {"held_out": {"recall": [1, 2]}},
        "next_gpu_hour": {"held_out": {"training_tokens: recall": [1, 2], "negatives: recall": [2, 2]}},
    }
    assert suite_page.held_in(answers) == {"training_tokens: recall": (1, 2), "negatives: recall": (2, 2)}


@pytest.mark.parametrize("state", ["pending", "running"])
def test_unfinished_runs_are_not_kept(tmp_path: Path, state: str) -> None:
    rows = table().with_columns(status=pl.when(pl.col("run") == "r3").then(pl.lit(state)).otherwise("status"))
    put(tmp_path / "runs", rows)
    with pytest.raises(QuestionError, match="1 cells have not finished yet"):
        keeping.keep(tmp_path / "runs", "falling", tmp_path / "results")
    assert not (tmp_path / "results").exists()


def test_what_waits_for_a_trial_that_failed_is_missed(tmp_path: Path) -> None:
    trials = table(rows=2).with_columns(trial=pl.lit("MUSE"), status=pl.Series(["diverged", "crashed"]))
    put(tmp_path / "runs", pl.concat([table(), trials], how="diagonal"))
    with pytest.raises(QuestionError, match="1 runs that try learning rates have failed"):
        keeping.keep(tmp_path / "runs", "falling", tmp_path / "results")
    put(tmp_path / "none", trials)
    with pytest.raises(QuestionError, match="only learning rates have been tried yet"):
        keeping.keep(tmp_path / "none", "falling", tmp_path / "results")


def test_two_folders_are_compared_cell_by_cell_and_one_with_itself_is_refused(tmp_path: Path) -> None:
    rows = table().select("seed", "tokens", "error", "status", "device", "versions", "commit")
    ours = put(tmp_path / "ours", rows).parent
    last = pl.col("tokens") == pl.col("tokens").max()
    moved = rows.with_columns(error=pl.when(last).then(pl.col("error") - 0.25).otherwise("error"))
    theirs = put(tmp_path / "theirs", moved).parent
    lines = compare_folders("falling", ours, theirs)
    assert lines[0] == "24 cells stand in both, known by seed, tokens"
    assert "error: differs in 2 cells, by +0.02083 in the mean, 0.25 at most" in lines  # the mean is over all 24
    assert (ours / "falling" / "against.html").is_file()
    with pytest.raises(QuestionError, match="that is the same folder"):
        compare_folders("falling", ours, ours)


def test_nothing_kept_is_said(moon: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    for arguments, said in (
        (("redraw", "results"), "no kept results below it"),
        (("keep", "negatives", "--to", "results"), "run the question first"),
    ):
        done = moon(*arguments, cwd=tmp_path)
        assert done.returncode == 2
        assert said in done.stderr
        assert len(done.stderr.splitlines()) == 1
