"""The notebook runs as it is, on a table of results and, without one, on a planted table that says so."""

from pathlib import Path

import polars as pl
import pytest
from planted import runs

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "read_a_curve.ipynb"

# Only what Jupyter's own packages warn about; the notebook's own warnings are checked in its output.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:jupyter_client"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:nbclient"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning:zmq"),
]


def executed(monkeypatch, folder: Path) -> str:
    """Everything that the notebook printed, after running it from its own folder."""
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("MOON_RUNS", str(folder))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(
        notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(NOTEBOOK.parent)}}
    ).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert any("image/svg+xml" in output.get("data", {}) for output in outputs)
    assert not [output for output in outputs if output.get("name") == "stderr"]
    return "".join(output.get("text", "") for output in outputs)


def test_it_runs_on_results(monkeypatch, tmp_path):
    (tmp_path / "training_tokens").mkdir()
    table = runs().rename({"recall": "image_recall@10"})
    table = table.with_columns(budget=pl.col("tokens").cast(pl.Int64), lr=pl.lit(1.0), status=pl.lit("done"))
    # What a real table holds besides: the untrained encoder, another learning rate, a cell that did not finish.
    others = [{"budget": 0, "tokens": 0.0}, {"lr": 3.0, "image_recall@10": 0.9}, {"status": "crashed"}]
    rest = [table.head(1).with_columns(**{k: pl.lit(v, table.schema[k]) for k, v in o.items()}) for o in others]
    table = pl.concat([table, *rest])
    table.write_parquet(tmp_path / "training_tokens" / "results.parquet")
    text = executed(monkeypatch, tmp_path)
    assert "PLANTED" not in text
    assert "power_floor: y = E + A x^-alpha" in text


def test_it_runs_without_results_and_says_that_its_table_is_planted(monkeypatch, tmp_path):
    assert "PLANTED TABLE: what follows is not a measurement." in executed(monkeypatch, tmp_path)


def test_it_is_kept_without_outputs():
    import nbformat

    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook.cells)
