"""The notebooks run as they are: on a table of results or on real data where there are any, else on tables that say that they
are made up."""

import polars as pl
import pytest
from planted import runs
from running_notebooks import NOTEBOOKS, executed

# Only what Jupyter's own packages warn about; the notebook's own warnings are checked in its output.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:jupyter_client"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:nbclient"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning:zmq"),
]


def test_it_runs_on_results(monkeypatch, tmp_path):
    (tmp_path / "training_tokens").mkdir()
    table = runs().rename({"recall": "image_recall@10"})
    table = table.with_columns(budget=pl.col("tokens").cast(pl.Int64), lr=pl.lit(1.0), status=pl.lit("done"))
    # What a real table holds besides: the untrained encoder, another learning rate, a cell that did not finish.
    others = [{"budget": 0, "tokens": 0.0}, {"lr": 3.0, "image_recall@10": 0.9}, {"status": "crashed"}]
    rest = [table.head(1).with_columns(**{k: pl.lit(v, table.schema[k]) for k, v in o.items()}) for o in others]
    table = pl.concat([table, *rest])
    table.write_parquet(tmp_path / "training_tokens" / "results.parquet")
    monkeypatch.setenv("MOON_RUNS", str(tmp_path))
    text = executed("read_a_curve.ipynb")
    assert "PLANTED" not in text
    assert "power_floor: y = E + A x^-alpha" in text


def test_it_runs_without_results_and_says_that_its_table_is_planted(monkeypatch, tmp_path):
    monkeypatch.setenv("MOON_RUNS", str(tmp_path))
    assert "PLANTED TABLE: what follows is not a measurement." in executed("read_a_curve.ipynb")


def check_own_csv(text: str) -> None:
    """What the tutorial says in words is what its tables show."""
    assert "MADE UP TABLES" in text
    first = text[: text.index("held_x")]
    assert "3 of 3 runs within the 95" in first
    assert first.count("warning:") == first.count("warning: simulated data") == 1
    assert "the floor E is not identified: tokens spans 1.3 decades" in text
    assert "per cent: power_floor is fitted in logs" in text
    assert "a table pasted twice: duplicated rows: 24 of 48" in text
    assert "best proxy: image_recall" in text
    assert "True True" in text  # saved and loaded
    assert "figure: fit.png, fit.svg" in text
    rows = [line.split()[:4] for line in text.splitlines() if line.startswith(("0.0  ", "0.2  ", "0.3  ", "0.4  "))]
    foretold = [float(row[1]) for row in rows]
    truth = float(next(line for line in text.splitlines() if line.startswith("truth    ")).split()[-1])
    assert foretold == sorted(foretold)
    assert len(foretold) == 4
    assert foretold[0] < foretold[1] < truth < foretold[2] < foretold[3]


def test_the_tutorial_on_your_own_csv_runs_and_shows_what_it_says(monkeypatch):
    monkeypatch.delenv("MOON_SCALING", raising=False)
    text = executed("fit_your_own_csv.ipynb")
    check_own_csv(text)
    assert "no folder given" in text


@pytest.mark.proof
@pytest.mark.real_data
def test_the_tutorial_runs_on_real_data(monkeypatch, real_data):
    monkeypatch.setenv("MOON_SCALING", str(real_data / "scaling"))
    text = executed("fit_your_own_csv.ipynb")
    check_own_csv(text)
    assert "  E      1.817  95%" in text
    assert "exchange rate of ImageNet into COCO R@5: 0.77" in text


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_it_is_kept_without_outputs(path):
    import nbformat

    notebook = nbformat.read(path, as_version=4)
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook.cells)
