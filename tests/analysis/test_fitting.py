"""A fit recovers planted laws, does not depend on units or order, refuses what cannot be fitted, and warns."""

import json

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import TRUTH, runs

import analysis
from analysis.figures import new_figure
from analysis.laws import LAWS, Law, Param
from analysis.solver import Objective, Problem, solve

COLUMNS = {"x": "tokens", "y": "recall", "transform": "error", "cluster": "run"}


def warned(fit, text):
    return any(text in warning for warning in fit.warnings)


@settings(max_examples=25, deadline=None)
@given(st.floats(0.05, 0.5), st.floats(0.5, 8.0), st.floats(0.1, 0.6))
def test_noiseless_laws_are_recovered(E, A, alpha):
    x = np.geomspace(1e2, 1e7, 9)
    floor = analysis.fit(pl.DataFrame({"x": x, "y": E + A * x**-alpha}), x="x", y="y", law="power_floor", resamples=0)
    assert list(floor.params.values()) == pytest.approx([E, A, alpha], rel=1e-4)
    power = analysis.fit(pl.DataFrame({"x": x, "y": A * x**-alpha}), x="x", y="y", law="power", resamples=0)
    assert list(power.params.values()) == pytest.approx([A, alpha], rel=1e-7)
    line = analysis.fit(pl.DataFrame({"x": x, "y": A - alpha * np.log(x)}), x="x", y="y", law="log_line", resamples=0)
    assert list(line.params.values()) == pytest.approx([A, -alpha], rel=1e-7)


def test_a_noisy_law_lies_in_its_intervals_and_most_starts_agree():
    fit = analysis.fit(runs(), **COLUMNS)
    for name, (low, high) in fit.intervals(0.99).items():
        assert low < TRUTH[name] < high
    assert fit.objective["share_at_optimum"] > 0.5
    assert fit.noise["sd"] == pytest.approx(0.02, rel=0.4)
    assert fit.clusters == fit.n == 21


def test_the_optimum_is_the_one_that_scipy_finds():
    from scipy.optimize import least_squares

    table = runs(noise=0.05, seed=4)
    x, y = table["tokens"].to_numpy(), table["error"].to_numpy()

    def residuals(theta):
        return np.log(theta[0] + np.exp(theta[1]) * x ** -theta[2]) - np.log(y)

    peer = least_squares(
        residuals, [0.1, 1.0, 0.2], bounds=([0, -20, 0], [1, 20, 5]), xtol=1e-15, ftol=1e-15, gtol=1e-15
    )
    ours = analysis.fit(table, x="tokens", y="error", resamples=0)
    assert ours.objective["value"] <= peer.cost * (1 + 1e-9)
    assert ours.params["alpha"] == pytest.approx(peer.x[2], rel=1e-4)


def test_huber_resists_an_outlier_and_its_optimum_is_the_one_that_scipy_finds():
    from scipy.optimize import minimize

    clean = runs(noise=0.01, seed=5)
    y = clean["error"].to_numpy().copy()
    y[0] *= 1.5
    table = clean.with_columns(pl.Series("error", y))
    squares = analysis.fit(table, x="tokens", y="error", resamples=0)
    huber = analysis.fit(table, x="tokens", y="error", loss="huber", delta=1e-2, resamples=0)
    assert abs(huber.params["alpha"] - 0.25) < abs(squares.params["alpha"] - 0.25)
    x = table["tokens"].to_numpy()

    def objective(theta):
        r = np.log(theta[0] + np.exp(theta[1]) * x ** -theta[2]) - np.log(y)
        return Objective("huber", 1e-2).rho(r).sum() * 1e3

    start = [huber.params["E"], np.log(huber.params["A"]), huber.params["alpha"]]
    peer = minimize(objective, start, method="Nelder-Mead", options={"xatol": 1e-10, "fatol": 1e-12, "maxiter": 4000})
    assert huber.objective["value"] <= peer.fun / 1e3 * (1 + 1e-6)


@settings(max_examples=10, deadline=None)
@given(st.floats(1e-6, 1e6), st.floats(1e-3, 1e3), st.randoms(use_true_random=False))
def test_units_and_the_order_of_rows_do_not_matter(x_unit, y_unit, random):
    table = runs(budgets=5, seeds=2, seed=2)
    order = list(range(table.height))
    random.shuffle(order)
    other = table[order].with_columns(pl.col("tokens") * x_unit, pl.col("error") * y_unit)
    one = analysis.fit(table, x="tokens", y="error", cluster="run", resamples=100)
    two = analysis.fit(other, x="tokens", y="error", cluster="run", resamples=100)
    assert two.params["alpha"] == pytest.approx(one.params["alpha"], rel=1e-6)
    assert two.params["E"] == pytest.approx(one.params["E"] * y_unit, rel=1e-6)
    for ends, same in zip(two.intervals()["alpha"], one.intervals()["alpha"], strict=True):
        assert ends == pytest.approx(same, rel=1e-3)
    at = np.array([1e5, 1e9])
    for ours, theirs in zip(two.predict(at * x_unit, interval=0.9), one.predict(at, interval=0.9), strict=True):
        np.testing.assert_allclose(ours, theirs * y_unit, rtol=1e-3)


def test_a_shuffled_table_gives_the_same_fit_to_the_last_digit():
    table = runs(seed=3)
    assert analysis.fit(table, **COLUMNS) == analysis.fit(table.sample(fraction=1, shuffle=True, seed=1), **COLUMNS)


def test_a_loaded_fit_equals_the_saved_one(tmp_path):
    fit = analysis.fit(runs(), holdout="largest", pin={"E": 0.15}, **COLUMNS)
    path = fit.save(tmp_path / "deep" / "fit.json")
    again = analysis.Fit.load(path)
    assert again == fit
    for ours, theirs in zip(
        fit.predict([1e5, 1e9], interval=0.9), again.predict([1e5, 1e9], interval=0.9), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    document = json.loads(path.read_text())
    keys = {"law", "params", "intervals", "objective", "n", "warnings", "checklist", "data_hash", "options", "holdout"}
    assert keys <= set(document)
    assert document["intervals"]["alpha"] == list(fit.intervals(0.95)["alpha"])
    path.write_text("{}")
    with pytest.raises(analysis.TableError, match="not a saved"):
        analysis.Fit.load(path)


def test_a_loaded_fit_without_intervals_equals_the_saved_one(tmp_path):
    fit = analysis.fit(runs(), resamples=0, **COLUMNS)
    assert np.isnan(fit.intervals()["E"]).all()
    assert np.isnan(fit.predict(1e8, interval=0.95).low)
    assert analysis.Fit.load(fit.save(tmp_path / "fit.json")) == fit
    assert "no interval" in fit.summary()


def test_the_new_run_interval_is_wider_than_the_band_of_the_mean():
    fit = analysis.fit(runs(), **COLUMNS)
    x = np.geomspace(1e4, 1e9, 7)
    band, new_run = fit.band(x), fit.predict(x, interval=0.95)
    assert np.all(new_run.low < band.low)
    assert np.all(new_run.high > band.high)
    np.testing.assert_array_equal(band.mean, fit.predict(x))
    narrow = fit.predict(x, interval=0.5)
    assert np.all(narrow.high - narrow.low < new_run.high - new_run.low)


def test_a_held_out_largest_scale_is_predicted_and_judged():
    fit = analysis.fit(runs(budgets=7, seeds=3), holdout="largest", **COLUMNS)
    assert fit.n == 18
    assert fit.holdout["of"] == 3
    assert fit.holdout["x"] == pytest.approx(3e7)
    assert len(fit.holdout["rows"]) == 3
    assert all((row["low"] <= row["observed"] <= row["high"]) == row["within"] for row in fit.holdout["rows"])
    table = runs().with_columns(recall=pl.when(pl.col("tokens") > 2e7).then(0.05).otherwise(pl.col("recall")))
    broken = analysis.fit(table, holdout="largest", **COLUMNS)
    assert broken.holdout["within"] == 0
    assert warned(broken, "held out: only 0 of 3")


def test_a_pinned_floor_is_kept_exactly_and_recorded():
    fit = analysis.fit(runs(), pin={"E": 0.15}, **COLUMNS)
    assert fit.params["E"] == 0.15
    assert fit.intervals()["E"] == (0.15, 0.15)
    assert fit.checklist["pinned"] == {"E": 0.15}
    assert "pinned" in fit.summary()
    assert fit.params["alpha"] == pytest.approx(0.25, rel=0.05)
    assert not warned(fit, "floor")
    other = analysis.fit(runs(), pin={"alpha": 0.25}, **COLUMNS)
    assert other.params["alpha"] == 0.25
    assert other.params["E"] == pytest.approx(0.15, rel=0.1)


def test_methods_are_named_and_few_clusters_warn():
    many, few = analysis.fit(runs(), **COLUMNS), analysis.fit(runs(budgets=4, seeds=2), **COLUMNS)
    assert "cluster bootstrap" in many.checklist["uncertainty"]
    assert not warned(many, "few clusters")
    assert "parametric bootstrap" in few.checklist["uncertainty"]
    assert few.checklist["uncertainty"] in few.summary()
    assert warned(few, "few clusters: 8")


def test_checkpoints_of_one_run_are_one_cluster():
    table = runs(budgets=6, seeds=12).with_columns(run=pl.col("seed").cast(pl.String))
    fit = analysis.fit(table, **COLUMNS)
    assert (fit.n, fit.clusters) == (72, 12)
    assert "wild cluster bootstrap" in fit.checklist["uncertainty"]
    few = analysis.fit(table.filter(pl.col("seed") < 2), **COLUMNS)
    assert warned(few, "no interval: 2 clusters")
    assert np.isnan(few.intervals()["alpha"]).all()


def test_what_speaks_against_a_fit_is_said():
    table = runs()
    assert not analysis.fit(table, **COLUMNS).warnings
    assert warned(analysis.fit(runs(E=0.0), **COLUMNS), "floor E is not identified")
    assert warned(analysis.fit(runs(span=(1e4, 1e6)), **COLUMNS), "2.0 decades")
    flat = analysis.fit(runs(A=1e-9, noise=0.02, seed=1), **COLUMNS)
    assert warned(flat, "the curve is flat")
    marked = table.with_columns(
        lr_at_edge=pl.col("tokens") > 2e7,
        passes=pl.col("tokens") / 1e7,
        device=pl.when(pl.col("seed") > 0).then(pl.lit("cpu")).otherwise(pl.lit("gpu")),
        simulated=pl.lit(True),
    )
    fit = analysis.fit(marked, **COLUMNS)
    for text in ("learning rate not bracketed", "passes > 1 in", "different values of 'device'", "simulated data"):
        assert warned(fit, text)


def test_unfinished_rows_are_left_out_and_counted():
    table = runs().with_columns(status=pl.when(pl.col("seed") == 0).then(pl.lit("diverged")).otherwise(pl.lit("done")))
    table = table.with_columns(recall=pl.when(pl.col("seed") == 0).then(float("nan")).otherwise(pl.col("recall")))
    fit = analysis.fit(table, **COLUMNS)
    assert fit.n == 14
    assert fit.checklist["points_dropped"] == "7 diverged"
    with pytest.raises(analysis.TableError, match="'recall' is not finite in row 4;"):
        analysis.fit(changed(table, "recall", 4, None), **COLUMNS)  # the number that the row has in the user's table


def changed(table, column, row, value):
    values = table[column].to_list()
    values[row] = value
    return table.with_columns(pl.Series(column, values, dtype=table[column].dtype))


@pytest.mark.parametrize(
    ("table", "options", "message"),
    [
        (runs()[:2], {}, "3 free parameters and the fit only 2 points"),
        (runs()[:3], {}, "3 free parameters and the fit only 3 points"),
        (runs()[:0], {}, "no row with a finished measurement"),
        (changed(runs(), "recall", 4, float("nan")), {}, "'recall' is not finite in row 4"),
        (changed(runs(), "recall", 4, float("inf")), {}, "'recall' is not finite in row 4"),
        (changed(runs(), "recall", 4, None), {}, "'recall' is not finite in row 4"),
        (changed(runs(), "recall", 4, 1.0), {}, "needs 1 - recall above 0, it is not in row 4"),
        (changed(runs(), "error", 4, -0.1), {"y": "error", "transform": "identity"}, "needs error above 0.*row 4"),
        (changed(runs(), "tokens", 4, 0.0), {}, "'tokens' must be above 0, it is not in row 4"),
        (changed(runs(), "tokens", 4, -1.0), {}, "'tokens' must be above 0"),
        (changed(runs(), "run", 4, None), {}, "'run' is empty in row 4"),
        (runs().with_columns(tokens=pl.lit(5.0)), {}, "has the one value 5 in all rows"),
        (runs(), {"y": "recal"}, "no column 'recal'; closest: recall"),
        (runs(), {"cluster": "ruin"}, "no column 'ruin'; closest: run"),
        (runs(), {"law": "powre"}, "no law 'powre'; laws: .*power_floor"),
        (runs(), {"x": ["tokens", "seed"]}, r"takes 1 column\(s\) as x, not 2"),
        (runs(), {"pin": {"F": 1.0}}, "no parameter 'F' to pin"),
        (runs(), {"pin": {"E": -1.0}}, "E cannot be pinned at -1"),
        (runs(), {"loss": "huber"}, "needs a delta"),
        (runs(), {"delta": 0.1}, "needs a delta"),
        (runs(), {"transform": "log"}, "no transform 'log'"),
        (runs(), {"holdout": "smallest"}, "no holdout"),
    ],
)
def test_what_cannot_be_fitted_is_refused_in_one_clear_line(table, options, message):
    with pytest.raises(analysis.TableError, match=message) as error:
        analysis.fit(table, **{**COLUMNS, **options})
    assert "\n" not in str(error.value)


def test_a_constant_column_is_fitted_as_flat_and_duplicated_rows_do_not_break_a_fit():
    table = pl.DataFrame({"x": np.geomspace(1, 1e4, 6), "y": [0.5] * 6})
    for law in ("log_line", "power", "power_floor"):
        fit = analysis.fit(table, x="x", y="y", law=law, resamples=50)
        assert float(fit.predict(10.0)) == pytest.approx(0.5, rel=1e-6)
        assert warned(fit, "the curve is flat")
    doubled = pl.concat([runs(), runs()])
    assert analysis.fit(doubled, **COLUMNS).params == pytest.approx(analysis.fit(runs(), **COLUMNS).params, rel=1e-5)


def test_a_user_s_law_needs_neither_gradient_nor_rescaling():
    law = Law(
        name="two_axes",
        formula="y = E + A n^-alpha + B d^-beta",
        about="for this test",
        axes=2,
        params=(
            Param("E", "nonnegative"),
            Param("A", "positive"),
            Param("B", "positive"),
            Param("alpha"),
            Param("beta"),
        ),
        function=lambda n, d, E, A, B, alpha, beta: E + A * n**-alpha + B * d**-beta,
        starts=lambda n, d, y: np.array([[y.min() / 2, 1.0, 1.0, a, b] for a in (0.2, 0.6) for b in (0.2, 0.6)]),
    )
    n, d = (axis.ravel() for axis in np.meshgrid([1.0, 4.0, 16.0, 64.0], [1.0, 8.0, 64.0, 512.0]))
    y = 0.3 + 2 * n**-0.5 + 3 * d**-0.3
    table = pl.DataFrame({"n": n, "d": d, "y": y})
    fit = analysis.fit(table, x=["n", "d"], y="y", law=law, resamples=0)
    assert list(fit.params.values()) == pytest.approx([0.3, 2, 3, 0.5, 0.3], rel=1e-4)


@pytest.mark.parametrize("name", ["log_line", "power", "power_floor", "bounded_power", "peaked_power"])
def test_gradients_equal_the_complex_step(name):
    from dataclasses import replace

    law = LAWS[name]
    x = np.geomspace(0.1, 10, 6)[None]
    y = 1 + x[0] ** -0.3
    problem = Problem(law, x, y, np.ones(6), Objective(), {})
    inner = problem.inner(law.starts(*x, y)[-1:])
    without = Problem(replace(law, gradient=None), x, y, np.ones(6), Objective(), {})
    np.testing.assert_allclose(problem.jacobian(inner), without.jacobian(inner), rtol=1e-10, atol=1e-12)


def test_a_batch_member_is_solved_as_if_alone():
    law = LAWS["power_floor"]
    x = np.geomspace(0.01, 100, 8)
    rng = np.random.default_rng(0)
    y = (0.3 + x**-0.3) * np.exp(0.05 * rng.normal(size=(20, 8)))
    starts = np.tile([0.2, 1.0, 0.2], (20, 1))
    together, _ = solve(Problem(law, x[None], y, np.ones(8), Objective(), {}), starts)
    for k in (0, 7, 19):
        alone, _ = solve(Problem(law, x[None], y[k], np.ones(8), Objective(), {}), starts[:1])
        np.testing.assert_allclose(together[k], alone[0], rtol=1e-8)


def test_a_column_that_only_marks_rows_may_be_empty():
    table = runs().with_columns(passes=pl.lit(None, pl.Float64))
    fit = analysis.fit(table, resamples=0, **COLUMNS)
    assert np.isnan(fit.points.passes).all()
    fit.plot(new_figure().add_subplot())


def test_as_many_different_x_as_parameters_are_needed():
    table = pl.DataFrame({"x": [1.0, 10.0] * 4, "y": [1.0, 0.5] * 4})
    with pytest.raises(analysis.TableError, match="stand at only 2 different x"):
        analysis.fit(table, x="x", y="y", law="power_floor")
