"""What a table can have wrong is said in one line that names the column and the row, or in a warning; nothing is fitted to it
in silence, and nothing is written."""

import sys
from decimal import Decimal
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import runs, versions
from test_laws import TYPICAL, axes_of

import analysis
from analysis.isoflop import isoflop
from analysis.laws import LAWS
from analysis.two_step import two_step
from experiments import cli

every_law = pytest.mark.parametrize("name", sorted(LAWS))
COLUMNS = {"x": "tokens", "y": "recall", "transform": "error", "cluster": "run"}
RATE = {"of": ["image_recall", "text_recall"], "into": "gauc", "resamples": 50}


def planted(name: str) -> pl.DataFrame:
    law = LAWS[name]
    axes = axes_of(law, 30)
    noise = 1e-3 * np.random.default_rng(0).normal(size=30)
    columns = {f"x{k}": axis for k, axis in enumerate(axes)}
    return pl.DataFrame({**columns, "y": law.values(axes, np.array(TYPICAL[name])) * np.exp(noise)})


def fitted(name: str, table: pl.DataFrame, **options) -> analysis.Fit:
    x = [f"x{k}" for k in range(LAWS[name].axes)]
    return analysis.fit(table, x=x, y="y", law=name, **{"resamples": 40, **options})


def changed(table: pl.DataFrame, column: str, value: object, row: int = 4) -> pl.DataFrame:
    values = table[column].to_list()
    values[row] = value
    return table.with_columns(pl.Series(column, values, strict=False))


def refusal(call, *arguments, **options) -> str:
    with pytest.raises(analysis.TableError) as error:
        call(*arguments, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def fit_or_line(table: pl.DataFrame, **options) -> analysis.Fit | str:
    """A fit, or the one line why there is none."""
    try:
        return analysis.fit(table, **options)
    except analysis.TableError as error:
        line = str(error)
    assert "\n" not in line
    return line


NOT_FINITE = [float("nan"), float("inf"), float("-inf"), None]


@every_law
def test_every_law_names_the_column_and_the_row_of_a_value_that_it_cannot_take(name):
    table, logs = planted(name), LAWS[name].residuals == "log"
    for column in ("x0", "y"):
        for value in NOT_FINITE:
            assert f"column {column!r} is not finite in row 4" in refusal(fitted, name, changed(table, column, value))
        vast, words = changed(table, column, 1e300), changed(table.cast({column: pl.String}), column, "n/a")
        assert f"column {column!r} is beyond 1e+100 in row 4" in refusal(fitted, name, vast)
        assert f"column {column!r} is String, not numeric (row 4: 'n/a')" in refusal(fitted, name, words)
        missing = refusal(fitted, name, table.rename({column: f"{column}_"}))
        assert f"no column {column!r}; closest: {column}_" in missing
    for value in (0.0, -1.0):
        assert "column 'x0' must be above 0, it is not in row 4" in refusal(fitted, name, changed(table, "x0", value))
        if logs:
            told = refusal(fitted, name, changed(table, "y", value))
            assert "needs y above 0, it is not in row 4" in told
    assert "column 'x0' is under 1e-100 in row 4" in refusal(fitted, name, changed(table, "x0", 1e-300))
    if logs:
        assert "column 'y' is under 1e-100 in row 4" in refusal(fitted, name, changed(table, "y", 1e-300))
    if not LAWS[name].y_scaled:
        told = refusal(fitted, name, changed(table, "y", 35.2))
        assert "'y' is above 1 in row 4; is it in per cent?" in told


@every_law
def test_every_law_refuses_too_few_points_and_an_axis_that_does_not_move(name):
    table, law = planted(name), LAWS[name]
    assert "no row" in refusal(fitted, name, table.head(0))
    for points in (1, 2, len(law.params)):
        told = refusal(fitted, name, table.head(points))
        assert f"{len(law.params)} free parameters and the fit only {points} points" in told
    for k in range(law.axes):
        told = refusal(fitted, name, table.with_columns(pl.lit(5.0).alias(f"x{k}")))
        assert f"column 'x{k}' has the one value 5 in all rows" in told
    if len(law.params) == 2:
        return
    few = pl.concat([table.head(len(law.params) - 1)] * 3)
    assert f"the rows stand at only {len(law.params) - 1} different x" in refusal(fitted, name, few)


@every_law
def test_every_law_says_that_a_constant_y_is_flat(name):
    fit = fitted(name, planted(name).with_columns(y=pl.lit(0.5)))
    np.testing.assert_allclose(fit.predict(fit.points.x if len(fit.x) > 1 else fit.points.x[0]), 0.5, rtol=1e-6)
    assert any("the curve is flat" in warning for warning in fit.warnings)


@every_law
def test_every_law_warns_of_duplicated_rows(name):
    table = planted(name)
    one, two = fitted(name, table), fitted(name, pl.concat([table, table.head(3)]))
    assert not any("duplicated" in warning for warning in one.warnings)
    assert any("duplicated rows: 3 of 33 repeat another in every column" in warning for warning in two.warnings)


def test_x_that_differ_by_rounding_alone_are_one_x():
    near = pl.DataFrame({"x": [1.0, 1 + 4e-16, 10.0, 10 + 2e-15], "y": [3.0, 3.1, 2.0, 2.1]})
    assert "the rows stand at only 2 different x" in refusal(analysis.fit, near, x="x", y="y", law="peaked_power")
    assert "has the one value 1 in all rows" in refusal(
        analysis.fit, near.head(2), x="x", y="y", law="log_line", pin={"b": 1}
    )


def test_a_recall_in_per_cent_is_suspected():
    told = refusal(analysis.fit, runs().with_columns(pl.col("recall") * 100), **COLUMNS)
    assert "needs 1 - recall above 0, it is not in rows 0, 1, 2, 3, 4 and 16 more; is it in per cent?" in told


def test_rows_that_a_column_tells_apart_are_no_duplicates():
    table = runs(noise=0.0)  # all seeds of a budget are equal in x and y
    assert not any("duplicated" in warning for warning in analysis.fit(table, **COLUMNS).warnings)
    without = table.select("tokens", "recall")
    warnings = analysis.fit(without, x="tokens", y="recall", transform="error", resamples=40).warnings
    assert any("duplicated rows: 14 of 21" in warning for warning in warnings)
    marked = without.with_columns(status=pl.lit("done"), notes=pl.lit([["a", "b"]]))  # also beside a column of lists
    warnings = analysis.fit(marked, x="tokens", y="recall", transform="error", resamples=40).warnings
    assert any("duplicated rows: 14 of 21" in warning for warning in warnings)


@pytest.mark.parametrize("kind", ["Int32", "UInt64", "Float32", "Decimal", "Boolean"])
def test_any_numeric_type_is_read_as_the_number_that_it_is(kind):
    table = runs(budgets=6, seeds=3).select(x=pl.col("tokens").round(), y=(1000 * pl.col("error")).round())
    typed = {
        "Int32": table.cast(pl.Int32),
        "UInt64": table.cast(pl.UInt64),
        "Float32": table.cast({"y": pl.Float32}),
        "Decimal": table.cast({"y": pl.Decimal(20, 3)}),
        "Boolean": table.with_columns(y=pl.col("x") > 1e6),
    }[kind]
    law = "log_line" if kind == "Boolean" else "power_floor"
    plain = typed.cast({"x": pl.Float64, "y": pl.Float64})
    one, two = (analysis.fit(t, x="x", y="y", law=law, resamples=40) for t in (plain, typed))
    assert one == two


def test_types_that_hold_no_numbers_are_named():
    table = runs(budgets=6, seeds=1)
    for column, kind in (
        (pl.lit(None), "Null"),
        (pl.lit("2020-01-01").str.to_date(), "Date"),
        (pl.concat_list("recall"), "List"),
        (pl.struct("recall"), "Struct"),
    ):
        told = refusal(analysis.fit, table.with_columns(recall=column), **COLUMNS)
        assert f"column 'recall' is {kind}" in told
    objects = table.with_columns(recall=pl.Series([Decimal("0.1")] * 6, dtype=pl.Object))
    assert "column 'recall' is Object" in refusal(analysis.fit, objects, **COLUMNS)


@every_law
def test_magnitudes_at_the_end_of_what_is_taken_give_a_fit_or_one_line(name):
    """No warning of the arithmetic (warnings are errors here), whatever stands in one row."""
    table, x = planted(name), [f"x{k}" for k in range(LAWS[name].axes)]
    for column, value in (("x0", 1e99), ("x0", 1e-99), ("y", 1e-99), ("y", 1e99)):
        fit = fit_or_line(changed(table, column, value), x=x, y="y", law=name, resamples=40)
        if isinstance(fit, str):
            assert "'y' is above 1" in fit
            continue
        assert np.isfinite(list(fit.params.values())).all()
        assert fit.summary()


def any_table(sane: bool) -> st.SearchStrategy[pl.DataFrame]:
    finite = st.floats(-3, 6).map(lambda exponent: 10.0**exponent) | st.sampled_from([1.0, 2.0, 3.0])
    odd = st.sampled_from([*NOT_FINITE, 0.0, -1.0, 1e-320, 1e300, 1e90, 1e-90])
    value = finite if sane else finite | odd
    row = st.tuples(value, value, st.integers(0, 4))
    schema = {"x": pl.Float64, "y": pl.Float64, "run": pl.Int64}
    return st.lists(row, max_size=14).map(lambda rows: pl.DataFrame(rows, schema=schema, orient="row"))


def check_any_table(table: pl.DataFrame, name: str, cluster: str | None, holdout: str | None) -> None:
    fit = fit_or_line(table, x="x", y="y", law=name, cluster=cluster, holdout=holdout, resamples=40)
    if isinstance(fit, str):
        return
    assert np.isfinite(list(fit.params.values())).all()
    assert fit.summary()
    assert np.isfinite(fit.predict(fit.points.x[0, fit.points.used])).all()


one_axis = st.sampled_from(sorted(name for name, law in LAWS.items() if law.axes == 1))
clusters, holdouts = st.sampled_from([None, "run"]), st.sampled_from([None, "largest"])


@settings(max_examples=25, deadline=None, derandomize=True)  # the proof looks for new tables
@given(st.booleans().flatmap(any_table), one_axis, clusters, holdouts)
def test_any_table_gives_a_fit_or_one_line(table, name, cluster, holdout):
    check_any_table(table, name, cluster, holdout)


@pytest.mark.proof
@settings(max_examples=1000, deadline=None)
@given(st.booleans().flatmap(any_table), one_axis, clusters, holdouts)
def test_any_of_many_tables_gives_a_fit_or_one_line(table, name, cluster, holdout):
    check_any_table(table, name, cluster, holdout)


# Versions


@pytest.mark.parametrize("column", ["image_recall", "gauc"])
def test_a_rate_names_the_column_and_the_row(column):
    table = versions()
    for value in NOT_FINITE:
        told = refusal(analysis.exchange_rate, changed(table, column, value), **RATE)
        assert f"column {column!r} is not finite in row 4" in told
    assert f"column {column!r} is beyond 1e+100 in row 4" in refusal(
        analysis.exchange_rate, changed(table, column, 1e300), **RATE
    )
    words = table.cast({column: pl.String})
    assert f"column {column!r} is String" in refusal(analysis.exchange_rate, words, **RATE)
    assert f"no column {column!r}" in refusal(analysis.exchange_rate, table.drop(column), **RATE)
    same = table.with_columns(pl.lit(0.5).alias(column))
    assert f"column {column!r} is the same in every version" in refusal(analysis.exchange_rate, same, **RATE)
    tiny = table.with_columns(pl.col(column) * 1e-60)
    assert "give it in another unit" in refusal(analysis.exchange_rate, tiny, **RATE)


def test_a_rate_wants_three_named_versions():
    table = versions()
    assert "'version' is empty in row 4" in refusal(analysis.exchange_rate, changed(table, "version", None), **RATE)
    assert "no column 'version'" in refusal(analysis.exchange_rate, table.drop("version"), **RATE)
    for rows, count in ((0, 0), (1, 1), (2, 1), (6, 2)):
        told = refusal(analysis.exchange_rate, table.head(rows), **RATE)
        assert f"{count} versions in 'version': a rate needs at least 3" in told


def test_a_rate_warns_of_duplicated_rows_and_takes_any_numeric_type():
    table = versions()
    warnings = analysis.exchange_rate(pl.concat([table, table]), **RATE).warnings
    assert any("duplicated rows: 36 of 72" in warning for warning in warnings)
    assert not any("duplicated" in warning for warning in analysis.exchange_rate(table, **RATE).warnings)
    whole = table.with_columns((pl.col("gauc") * 1000).round())
    for kind in (pl.Int32, pl.Decimal(10, 2), pl.Float32):
        assert analysis.exchange_rate(whole.cast({"gauc": kind}), **RATE) == analysis.exchange_rate(whole, **RATE)


# What else reads tables


@pytest.mark.parametrize(
    ("call", "y"),
    [
        (lambda t: analysis.compare_laws(t, **COLUMNS), "recall"),
        (lambda t: analysis.leave_largest_out(t, **COLUMNS), "recall"),
        (lambda t: analysis.extrapolate(t, x="tokens", y="recall", transform="error"), "recall"),
        (lambda t: isoflop(t, x="tokens", y="recall", budget="seed"), "recall"),
        (
            lambda t: two_step(t, x="tokens", intermediate="error", y="recall", first="power_floor", second="line"),
            "recall",
        ),
        (
            lambda t: two_step(t, x="tokens", intermediate="error", y="recall", first="power_floor", second="line"),
            "error",
        ),
    ],
    ids=["compare_laws", "leave_largest_out", "extrapolate", "isoflop", "two_step", "two_step, step 1"],
)
def test_whatever_reads_a_table_names_the_column_and_the_row(call, y):
    table = runs().with_columns(pl.col("seed") + 1)
    for column in ("tokens", y):
        for value in NOT_FINITE:
            assert f"column {column!r} is not finite in row 4" in refusal(call, changed(table, column, value))
        assert f"no column {column!r}" in refusal(call, table.drop(column))
        assert f"column {column!r} is String" in refusal(call, table.cast({column: pl.String}))
    assert "'tokens' must be above 0, it is not in row 4" in refusal(call, changed(table, "tokens", 0.0))


# The command line


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):  # type: ignore[no-untyped-def]
    """The one line of a `moon` command over a CSV that holds the text given; nothing but that file is there afterwards."""
    monkeypatch.chdir(tmp_path)

    def call(command: str, text: str, *arguments: str) -> str:
        (tmp_path / "runs.csv").write_text(text)
        monkeypatch.setattr(sys, "argv", ["moon", command, "runs.csv", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        told = capsys.readouterr()
        assert (ended.value.code, told.out) == (2, "")
        assert told.err.count("\n") == 1
        assert told.err.startswith("moon: runs.csv: ")
        assert [path.name for path in tmp_path.iterdir()] == ["runs.csv"]
        return told.err

    return call


def as_csv(table: pl.DataFrame) -> str:
    return table.write_csv()


def test_the_command_line_names_file_column_and_row_and_writes_nothing(refused):
    fit = ("--x", "tokens", "--y", "recall", "--transform", "error", "--save", "fit.json", "--figure", "fit.png")
    table = runs()
    assert "column 'recall' is not finite in row 4" in refused("fit", as_csv(changed(table, "recall", None)), *fit)
    assert "column 'tokens' must be above 0, it is not in row 4" in refused(
        "fit", as_csv(changed(table, "tokens", -1.0)), *fit
    )
    words = changed(table.cast({"recall": pl.String}), "recall", "n/a")
    assert "column 'recall' is String, not numeric (row 4: 'n/a')" in refused("fit", as_csv(words), *fit)
    assert "3 free parameters and the fit only 2 points" in refused("fit", as_csv(table.head(2)), *fit)
    assert "no rows" in refused("fit", "tokens,recall\n", *fit)
    assert "no column 'recall'; closest: recal" in refused("fit", "tokens,recal\n1,2\n", *fit)
    assert "not a readable csv file" in refused("fit", "", *fit)
    assert "column 'recall' is not finite in row 4" in refused(
        "laws", as_csv(changed(table, "recall", None)), "--x", "tokens", "--y", "recall"
    )
    rate = ("--of", "image_recall", "--into", "gauc", "--save", "rate.json", "--figure", "rate.png")
    table = versions()
    assert "column 'gauc' is not finite in row 4" in refused("exchange", as_csv(changed(table, "gauc", None)), *rate)
    assert "2 versions in 'version'" in refused("exchange", as_csv(table.head(6)), *rate)
