"""Units, the order of rows and the names of clusters do not matter: for every law that is registered, and for all that
is computed from laws and versions."""

from functools import cache

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
from analysis.two_step import LINKS, two_step

DRAWS = 40
CLUSTERS = 12
PROXIES = ["image_recall", "text_recall"]

few = settings(max_examples=2, deadline=None)
some = settings(max_examples=5, deadline=None)
many = settings(max_examples=60, deadline=None)

# Each unit is a power of ten: what an exponent of 0.3 makes of it is then no round number.
units = st.floats(-8, 8).map(lambda exponent: 10.0**exponent)
orders = st.randoms(use_true_random=False)
every_law = pytest.mark.parametrize("name", sorted(LAWS))


def planted(name: str) -> pl.DataFrame:
    """A law's own values with noise, 12 clusters of 2 to 4 rows; two rows stand twice, in two clusters."""
    law = LAWS[name]
    axes = axes_of(law, 24 if law.axes == 1 else 40)
    values, noise = law.values(axes, np.array(TYPICAL[name])), np.random.default_rng(1).normal(size=axes.shape[1])
    y = values * np.exp(0.01 * noise) if law.residuals == "log" else values + 1e-3 * noise
    columns = {f"x{k}": axis for k, axis in enumerate(axes)}
    table = pl.DataFrame({**columns, "y": y, "run": [f"run {k % CLUSTERS}" for k in range(len(y))]})
    return pl.concat([table, table.head(2).with_columns(run=pl.lit("run 7"))])


def fitted(name: str, table: pl.DataFrame, **options) -> analysis.Fit:
    x = [f"x{k}" for k in range(LAWS[name].axes)]
    return analysis.fit(table, x=x, y="y", law=name, cluster="run", resamples=DRAWS, **options)


@cache
def first_fit(name: str) -> analysis.Fit:
    return fitted(name, planted(name))


def shuffled(table: pl.DataFrame, random) -> pl.DataFrame:
    order = list(range(table.height))
    random.shuffle(order)
    return table[order]


def renamed(table: pl.DataFrame, column: str, random) -> pl.DataFrame:
    names = table[column].unique(maintain_order=True).to_list()
    others = [f"{k:03d} {name[::-1]}" for k, name in enumerate(names)]
    random.shuffle(others)
    return table.with_columns(pl.col(column).replace_strict(dict(zip(names, others, strict=True))))


# Every law


def check_units(name: str, x_units: list[float], y_unit: float) -> None:
    law, one = LAWS[name], first_fit(name)
    scales, y_unit = np.array(x_units[: law.axes]), y_unit if law.y_scaled else 1.0
    other = planted(name).with_columns(pl.col(f"x{k}") * scale for k, scale in enumerate(scales.tolist()))
    two = fitted(name, other.with_columns(pl.col("y") * y_unit))
    at = one.points.x * np.array([1.0, 30.0])[:, None, None]  # among the points and beyond them
    at, far = (np.moveaxis(part, 0, 1).reshape(law.axes, -1) for part in (at, at * scales[:, None]))
    at, far = (part if law.axes > 1 else part[0] for part in (at, far))
    for ours, theirs in ((two.predict(far, 0.9), one.predict(at, 0.9)), (two.band(far, 0.9), one.band(at, 0.9))):
        for part, same in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(part, same * y_unit, rtol=1e-4)
    if law.rescale is not None:
        scaled = law.rescale(np.array([list(one.params.values())]), scales, y_unit)[0]
        np.testing.assert_allclose(list(two.params.values()), scaled, rtol=1e-3, atol=1e-12)
    assert two.warnings == one.warnings
    assert two.data_hash != one.data_hash or (np.all(scales == 1) and y_unit == 1)


@every_law
@few
@given(x_units=st.lists(units, min_size=3, max_size=3), y_unit=units)
def test_units_do_not_matter(name, x_units, y_unit):
    check_units(name, x_units, y_unit)


@pytest.mark.proof
@every_law
@many
@given(x_units=st.lists(units, min_size=3, max_size=3), y_unit=units)
def test_no_unit_matters(name, x_units, y_unit):
    check_units(name, x_units, y_unit)


@every_law
@few
@given(orders)
def test_the_order_of_rows_and_the_names_of_clusters_do_not_matter(name, random):
    one = first_fit(name)
    assert fitted(name, shuffled(planted(name), random)) == one
    other = fitted(name, renamed(shuffled(planted(name), random), "run", random))
    assert (other.params, other.warnings, other.data_hash) == (one.params, one.warnings, one.data_hash)
    np.testing.assert_array_equal(other.draws, one.draws)
    np.testing.assert_array_equal(other.noise_draws, one.noise_draws)


@pytest.mark.parametrize(
    "options",
    [
        {"weights": "weight"},
        {"trials": "queries"},
        {"holdout": "largest"},
        {"bootstrap": "cases"},
        {"loss": "lad"},
        {"loss": "huber", "delta": 1e-2},
        {"cluster": None},
    ],
    ids=lambda options: next(iter(options)),
)
@few
@given(orders)
def test_nor_with_any_option(options, random):
    rng = np.random.default_rng(2)
    table = runs(budgets=7, seeds=3).with_columns(
        weight=rng.uniform(0.5, 2, 21), queries=rng.integers(500, 2000, 21), recall=pl.col("recall").round(2)
    )
    columns = {"x": "tokens", "y": "recall", "transform": "error", "cluster": "run", "resamples": DRAWS, **options}
    assert analysis.fit(shuffled(table, random), **columns) == analysis.fit(table, **columns)


# What is computed from laws


def check_choice(random, x_unit: float, **laws) -> None:
    table = runs(budgets=8, seeds=2)
    columns = {"x": "tokens", "y": "recall", "transform": "error", "cluster": "run", **laws}
    one = analysis.compare_laws(table, **columns)
    assert analysis.compare_laws(shuffled(table, random), **columns).equals(one)
    two = analysis.compare_laws(table.with_columns(pl.col("tokens") * x_unit), **columns)
    assert two["law", "verdict"].equals(one["law", "verdict"])
    for column in ("extrapolation", "aicc", "noise"):
        np.testing.assert_allclose(two[column].to_numpy(), one[column].to_numpy(), rtol=1e-3, err_msg=column)


@few
@given(orders, units)
def test_the_choice_of_a_law_knows_no_order_and_no_unit(random, x_unit):
    check_choice(random, x_unit, laws=["log_line", "power", "power_floor", "bounded_power"])


@pytest.mark.proof
@settings(max_examples=3, deadline=None)
@given(orders, units)
def test_nor_does_the_choice_among_all_laws(random, x_unit):
    check_choice(random, x_unit)


@few
@given(orders, units, units)
def test_leave_largest_out_and_profiles_know_no_order_and_no_unit(random, x_unit, y_unit):
    table = runs(budgets=6, seeds=2)
    other = shuffled(table, random).with_columns(pl.col("tokens") * x_unit, pl.col("error") * y_unit)
    one, two = (analysis.leave_largest_out(t, x="tokens", y="error", resamples=DRAWS) for t in (table, other))
    same = ["factor", "points", "error", "error_last_value", "error_log_line", "within", "of", "alpha"]
    np.testing.assert_allclose(two[same].to_numpy(), one[same].to_numpy(), rtol=1e-4, atol=1e-9)
    np.testing.assert_allclose(two["E"], one["E"] * y_unit, rtol=1e-4, atol=1e-9 * y_unit)
    one, two = (analysis.profile_intervals(analysis.fit(t, x="tokens", y="error", resamples=0)) for t in (table, other))
    np.testing.assert_allclose(two["alpha"], one["alpha"], rtol=1e-3)
    np.testing.assert_allclose(two["E"], np.array(one["E"]) * y_unit, rtol=1e-3)


@cache
def valleys() -> pl.DataFrame:
    """y over sizes at five budgets, least at 0.3 budget^0.4, with noise; one row stands in two versions."""
    C, N = (grid.ravel() for grid in np.meshgrid(np.geomspace(1e3, 1e5, 5), np.geomspace(1, 100, 9)))
    noise = np.random.default_rng(3).normal(size=C.size)
    y = 2 + 0.05 * np.log(N / (0.3 * C**0.4)) ** 2 + 0.002 * noise
    table = pl.DataFrame({"C": C, "N": N, "y": y})
    return pl.concat([table, table.head(1).with_columns(pl.col("y") * 1.01)])


@pytest.mark.parametrize(("method", "noise"), [("parabola", None), ("interpolation", "sd")])
@some
@given(orders, units, units, units)
def test_isoflops_know_no_order_and_no_unit(method, noise, random, x_unit, y_unit, c_unit):
    table = valleys().with_columns(sd=0.001 * pl.col("y"))
    columns = {"x": "N", "y": "y", "budget": "C", "method": method, "noise": noise, "draws": 200}
    one = isoflop(table, **columns)
    assert isoflop(shuffled(table, random), **columns) == one
    two = isoflop(table.with_columns(pl.col("N") * x_unit, pl.col("y", "sd") * y_unit, pl.col("C") * c_unit), **columns)
    assert (two.exponent, *two.interval) == pytest.approx((one.exponent, *one.interval), rel=1e-6)
    assert two.coefficient == pytest.approx(one.coefficient * x_unit / c_unit**one.exponent, rel=1e-6)
    assert [row["edge"] for row in two.rows] == [row["edge"] for row in one.rows]
    for column, unit in (("x", x_unit), ("low", x_unit), ("high", x_unit), ("y", y_unit), ("log_sd", 1.0)):
        np.testing.assert_allclose(two.table()[column], one.table()[column] * unit, rtol=1e-6, err_msg=column)


@pytest.mark.parametrize("link", sorted(LINKS))
@few
@given(orders, units, units, units)
def test_two_steps_know_no_order_and_no_unit(link, random, x_unit, middle_unit, y_unit):
    rng = np.random.default_rng(4)
    C = np.repeat(np.geomspace(1e2, 1e6, 9), 2)
    loss = (2 + 20 * C**-0.4) * np.exp(0.005 * rng.normal(size=C.size))
    y = 0.2 + 0.6 / (1 + np.exp(-2.0 * (loss - 3))) + 0.003 * rng.normal(size=C.size)
    table = pl.DataFrame({"C": C, "loss": loss, "y": y})

    def chained(runs: pl.DataFrame, limit: float):  # type: ignore[no-untyped-def]
        test, rest = runs.filter(pl.col("C") == runs["C"].max()), runs.filter(pl.col("C") < runs["C"].max())
        return two_step(
            rest, x="C", intermediate="loss", y="y", first="power_floor", second=link, one_step="power_floor",
            test=test.sort("loss"), limits=(0.0, limit), resamples=DRAWS,
        )  # fmt: skip

    one, mixed = chained(table, 1.0), chained(shuffled(table, random), 1.0)
    assert (mixed.rows, mixed.warnings) == (one.rows, one.warnings)
    scaled = table.with_columns(pl.col("C") * x_unit, pl.col("loss") * middle_unit, pl.col("y") * y_unit)
    two = chained(scaled, y_unit)
    for column in ("step1", "step2", "chained", "one_step"):
        np.testing.assert_allclose(two.table()[column], one.table()[column], rtol=1e-3, atol=1e-6, err_msg=column)
    for column in ("chained_hat", "low", "high"):
        np.testing.assert_allclose(two.table()[column], one.table()[column] * y_unit, rtol=1e-4, err_msg=column)


@some
@given(orders, units, units, units)
def test_where_the_next_compute_goes_knows_no_unit(random, n_unit, d_unit, c_unit):
    table = planted("chinchilla").rename({"x0": "N", "x1": "D"})

    def answers(runs: pl.DataFrame, n_unit: float, d_unit: float, c_unit: float):  # type: ignore[no-untyped-def]
        law = analysis.fit(runs, x=["N", "D"], y="y", law="chinchilla", cluster="run", resamples=DRAWS)

        def cost(at):  # type: ignore[no-untyped-def]
            return c_unit * 6 * at["N"] / n_unit * at["D"] / d_unit

        at = {"N": 1e9 * n_unit, "D": 1e10 * d_unit}
        best = analysis.allocate(law, cost=cost, budget=1e21 * c_unit, at=at, draws=40)
        return best, analysis.marginal_table(law, cost=cost, at=at)

    (best, margin), (other, moved) = (
        answers(table, 1.0, 1.0, 1.0),
        answers(
            shuffled(table, random).with_columns(pl.col("N") * n_unit, pl.col("D") * d_unit), n_unit, d_unit, c_unit
        ),
    )
    for row, same, unit in zip(other.rows, best.rows, (n_unit, d_unit), strict=True):
        for end in ("x", "low", "high"):
            assert row[end] == pytest.approx(same[end] * unit, rel=1e-3)
        assert row["extrapolation"] == pytest.approx(same["extrapolation"], rel=1e-3)
    assert (other.value, other.gain) == pytest.approx((best.value, best.gain), rel=1e-4)
    assert other.spent == pytest.approx(best.spent * c_unit, rel=1e-6)
    for row, same in zip(moved.rows, margin.rows, strict=True):
        assert row["axis"] == same["axis"]
        for column in ("factor", "worth", "worth_low", "worth_high", "p_best"):
            assert row[column] == pytest.approx(same[column], rel=1e-3), column


# Exchange rates


shifts = st.floats(-5, 5)
signs = st.sampled_from([1.0, -1.0])


def check_rate(random, of_unit: float, of_shift: float, into_unit: float, into_shift: float) -> None:
    table = versions(12, scatter=0.3)
    columns = {"of": PROXIES, "into": "gauc", "resamples": 200}
    one, mixed = analysis.exchange_rate(table, **columns), analysis.exchange_rate(shuffled(table, random), **columns)
    assert mixed == one
    other = analysis.exchange_rate(renamed(table, "version", random), **columns)
    assert (other.slope, other.interval, other.constant_p_value) == (one.slope, one.interval, one.constant_p_value)
    assert (other.ranking.rows, other.data_hash) == (one.ranking.rows, one.data_hash)
    two = analysis.exchange_rate(
        table.with_columns((pl.col(PROXIES) + of_shift) * of_unit, (pl.col("gauc") + into_shift) * into_unit),
        **columns,
    )
    rate = into_unit / of_unit
    ends = np.sort(np.array(one.interval) * rate)  # another sign of x turns them around
    np.testing.assert_allclose([two.slope, *two.interval], [one.slope * rate, *ends], rtol=1e-6)
    assert two.smallest_detectable == pytest.approx(one.smallest_detectable * abs(rate), rel=1e-6)
    assert two.of == one.of
    assert (two.r2, two.reliability) == pytest.approx((one.r2, one.reliability), rel=1e-6)
    simulated = 0.002 if of_unit > 0 else 0.05  # the simulation's noise does not turn around with x
    assert two.constant_p_value == pytest.approx(one.constant_p_value, abs=simulated)
    assert two.warnings == one.warnings
    assert (two.ranking.winner, two.ranking.proxies) == (one.ranking.winner, one.ranking.proxies)
    sign = np.sign(of_unit)
    for row, same in zip(two.ranking.rows, one.ranking.rows, strict=True):
        assert (row["p_best"], row["r2"]) == pytest.approx((same["p_best"], same["r2"]), rel=1e-6)
        assert row["spearman"] == pytest.approx(sign * same["spearman"])
        assert row["loo_error"] == pytest.approx(same["loo_error"] * into_unit, rel=1e-6)
    np.testing.assert_allclose(two.ranking.correlations, one.ranking.correlations, rtol=1e-6)


@some
@given(orders, units, signs, shifts, units, shifts)
def test_rates_know_no_unit_no_order_and_no_names(random, of_unit, sign, of_shift, into_unit, into_shift):
    check_rate(random, sign * of_unit, of_shift, into_unit, into_shift)


@pytest.mark.proof
@many
@given(orders, units, signs, shifts, units, shifts)
def test_no_rate_knows_units_order_or_names(random, of_unit, sign, of_shift, into_unit, into_shift):
    check_rate(random, sign * of_unit, of_shift, into_unit, into_shift)


@some
@given(orders, units, units)
def test_a_rate_without_replicates_knows_no_unit_and_no_order(random, of_unit, into_unit):
    table = versions(12, seeds=1, reliability=1.0, scatter=0.3)
    columns = {"of": PROXIES, "into": "gauc", "resamples": 100, "noise_ratio": 1.0}
    one = analysis.rank_proxies(table, **columns)
    assert repr(analysis.rank_proxies(shuffled(table, random), **columns)) == repr(one)  # it holds NaN
    two = analysis.rank_proxies(table.with_columns(pl.col(PROXIES) * of_unit, pl.col("gauc") * into_unit), **columns)
    for row, same in zip(two.rows, one.rows, strict=True):
        assert row["slope"] == pytest.approx(same["slope"] * into_unit / of_unit, rel=1e-6)
        assert (row["p_best"], row["r2"]) == pytest.approx((same["p_best"], same["r2"]), rel=1e-6)
