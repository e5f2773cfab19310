"""Reading tables: what can be read, and one clear line for what cannot."""

import polars as pl
import pytest

import analysis
from analysis.table import fingerprint, numeric_column


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.parquet"])
def test_a_table_is_read_from_each_format(tmp_path, name):
    table = pl.DataFrame({"tokens": [1.0, 2.0], "run": ["a", "b"]})
    path = tmp_path / name
    if name.endswith("parquet"):
        table.write_parquet(path)
    else:
        table.write_csv(path, separator="\t" if name.endswith("tsv") else ",")
    assert analysis.read_table(path).equals(table)


def test_results_are_read_from_the_question_s_folder(tmp_path):
    (tmp_path / "negatives").mkdir()
    table = pl.DataFrame({"negatives": [1, 2]})
    table.write_parquet(tmp_path / "negatives" / "results.parquet")
    assert analysis.read_results(tmp_path, "negatives").equals(table)
    with pytest.raises(analysis.TableError, match=r"training_tokens.*no such file.*results there: negatives"):
        analysis.read_results(tmp_path, "training_tokens")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", b"", "not a readable csv"),
        ("t.csv", b"a,b\n", "no rows"),
        ("t.parquet", b"not parquet", "not a readable parquet"),
        ("t.xlsx", b"x", "cannot tell the format"),
    ],
)
def test_unreadable_files_are_named(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(analysis.TableError, match=message) as error:
        analysis.read_table(path)
    assert str(path) in str(error.value)
    with pytest.raises(analysis.TableError, match="no such file"):
        analysis.read_table(tmp_path / "missing.csv")


def test_faulty_columns_name_the_rows_and_the_closest_names():
    table = pl.DataFrame({"tokens": [1.0, float("nan"), None, float("inf")], "word": ["1", "2", "x", "3"]})
    with pytest.raises(analysis.TableError, match="'tokens' is not finite in rows 1, 2, 3"):
        numeric_column(table, "tokens")
    with pytest.raises(analysis.TableError, match=r"'word' is String, not numeric \(row 2: 'x'\)"):
        numeric_column(table, "word")
    with pytest.raises(analysis.TableError, match=r"no column 'token'; closest: tokens"):
        numeric_column(table, "token")


def test_fingerprint_ignores_the_order_of_rows_but_not_the_values():
    assert fingerprint(a=[1.0, 2.0], b=[3.0, 4.0]) == fingerprint(b=[4.0, 3.0], a=[2.0, 1.0])
    assert fingerprint(a=[1.0, 2.0], b=[3.0, 4.0]) != fingerprint(a=[1.0, 2.0], b=[4.0, 3.0])
