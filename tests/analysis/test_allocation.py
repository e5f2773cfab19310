"""Allocation finds the known optimum of known laws; the marginal table gives planted gains, with honest intervals."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import versions

import analysis
from analysis.worth import ends

FEW = settings(max_examples=15, deadline=None)


def made(law, names, y="loss", transform="identity", resamples=0, **params):
    """A fit of exact points whose parameters are then set: a law that is known, without a search for each example."""
    grid = np.meshgrid(*(np.geomspace(1e2, 1e6, 4) for _ in names))
    axes = {name: values.ravel() for name, values in zip(names, grid, strict=True)}
    form = analysis.get_law(law)
    values = form.values(np.stack(list(axes.values())), np.array([params[name] for name in form.names]))
    if transform == "error":
        values = 1 - values
    fit = analysis.fit(
        pl.DataFrame({**axes, y: values}), x=list(names), y=y, law=law, transform=transform, resamples=resamples
    )
    return replace(fit, params={name: params[name] for name in form.names})


CHINCHILLA = made("chinchilla", ["N", "D"], E=1.8, A=480.0, alpha=0.35, B=2000.0, beta=0.37)
ADDITIVE = made("additive_3", ["t", "k", "n"], E=0.1, A=2.0, alpha=0.3, B=0.5, beta=0.2, C=1.5, gamma=0.4)


def curve(name="tokens", y="recall", E=0.2, A=5.0, alpha=0.25):
    return made("power_floor", [name], y, "error", E=E, A=A, alpha=alpha)


def product(values):
    return float(np.prod(list(values.values())))


def sweep(name, rng, A, alpha, E=0.2, noise=0.01, low=1e3, high=1e6):
    """A noisy sweep of one axis: six values, two runs each."""
    x = np.repeat(np.geomspace(low, high, 6), 2)
    error = (E + A * x**-alpha) * np.exp(noise * rng.normal(size=x.size))
    table = pl.DataFrame({name: x, "recall": 1 - error, "run": np.arange(x.size)})
    return analysis.fit(table, x=name, y="recall", transform="error", cluster="run", resamples=200)


def rate_into_gauc(seed=0, **planted):
    table = versions(seed=seed, **planted).rename({"image_recall": "recall"})
    return analysis.exchange_rate(table, of="recall", into="gauc", resamples=0)


def spend(**options):
    return analysis.allocate(CHINCHILLA, **{"cost": product, "budget": 1e9, **options})


def marginal(laws, **options):
    return analysis.marginal_table(laws, cost=product, at=dict.fromkeys(laws, 1e5), **options)


@FEW
@given(
    alpha=st.floats(0.15, 0.6), beta=st.floats(0.15, 0.6), A=st.floats(50, 2000), B=st.floats(50, 5000),
    budget=st.floats(1e9, 1e15),
)  # fmt: skip
def test_the_optimum_for_six_n_d_is_the_closed_form_of_hoffmann_et_al(alpha, beta, A, B, budget):
    law = replace(CHINCHILLA, params={"E": 1.8, "A": A, "alpha": alpha, "B": B, "beta": beta})
    anywhere = {"N": (1e-9, 1e30), "D": (1e-9, 1e30)}
    found = analysis.allocate(law, cost=lambda v: 6 * v["N"] * v["D"], budget=budget, bounds=anywhere)
    G = (alpha * A / (beta * B)) ** (1 / (alpha + beta))
    N, D = G * (budget / 6) ** (beta / (alpha + beta)), (budget / 6) ** (alpha / (alpha + beta)) / G
    assert found.values["N"] == pytest.approx(N, rel=1e-6)
    assert found.values["D"] == pytest.approx(D, rel=1e-6)
    assert found.spent == pytest.approx(budget, rel=1e-9)
    assert found.value == pytest.approx(1.8 + A * N**-alpha + B * D**-beta, rel=1e-12)
    assert found.better == "lower"


@FEW
@given(st.lists(st.floats(0.5, 4.0), min_size=3, max_size=3), st.floats(1e4, 1e8))
def test_at_the_optimum_the_next_flop_is_worth_the_same_on_each_axis(prices, budget):
    def cost(v):
        return v["t"] * prices[0] * (10 + prices[1] * v["k"] ** 0.5) + prices[2] * v["n"]

    best = analysis.allocate(ADDITIVE, cost=cost, budget=budget)
    assert all(row["bound"] == "" for row in best.rows)
    table = analysis.marginal_table(ADDITIVE, cost=cost, at=best.values, share=1e-4)
    gains = [row["gain"] for row in table.rows]
    assert gains == pytest.approx([gains[0]] * 3, rel=2e-3)
    assert gains[0] < 0


@FEW
@given(st.randoms(use_true_random=False), st.floats(1e5, 1e9))
def test_no_other_set_up_within_budget_and_bounds_is_better(random, budget):
    laws = {"tokens": curve(), "negatives": curve("negatives", A=1.0, alpha=0.1), "length": curve("length", A=3.0)}
    bounds = {"tokens": (10, 1e5), "negatives": (1, 3e3), "length": (5, 5)}

    def cost(v):
        return v["tokens"] * (100 + v["negatives"]) + 50 * v["length"]

    def error(v):
        return sum(float(law.predict(v[name])) for name, law in laws.items())

    best = analysis.allocate(laws, cost=cost, budget=budget, bounds=bounds, at=dict.fromkeys(laws, 100.0))
    assert best.spent <= budget * (1 + 1e-6)
    for _ in range(30):
        other = {name: low * (high / low) ** random.random() for name, (low, high) in bounds.items()}
        if cost(other) <= budget:
            assert error(best.values) <= error(other) + 1e-9
    notes = {row["axis"]: row["bound"] for row in best.rows}
    assert notes["length"] == "fixed"


def test_separate_laws_and_their_sum_agree_and_so_do_a_metric_and_its_error():
    cost = product
    pairs = {"t": (2.0, 0.3), "k": (0.5, 0.2), "n": (1.5, 0.4)}
    separate = {name: curve(name, E=0.1, A=A, alpha=alpha) for name, (A, alpha) in pairs.items()}
    at = dict.fromkeys(pairs, 1e3)
    joint = analysis.allocate(ADDITIVE, cost=cost, at=at)  # loss: identity of the same sum
    apart = analysis.allocate(separate, cost=cost, at=at)  # recall: its errors
    assert apart.values == pytest.approx(joint.values, rel=1e-5)
    assert (joint.better, apart.better) == ("lower", "higher")
    assert apart.gain == pytest.approx(-joint.gain, rel=1e-6)
    assert apart.gain > 0
    assert np.isnan(apart.value)
    assert any("interactions are not seen" in warning for warning in apart.warnings)


def test_bounds_and_extrapolation_are_said():
    found = analysis.allocate(CHINCHILLA, cost=product, budget=1e14, bounds={"N": (1e2, 1.5e6)})
    rows = {row["axis"]: row for row in found.rows}
    assert rows["N"]["x"] == pytest.approx(1.5e6, rel=1e-6)
    assert rows["N"]["bound"] == "upper"
    assert rows["N"]["extrapolation"] == pytest.approx(1.5, rel=1e-6)  # fitted up to 1e6
    assert rows["D"]["x"] == pytest.approx(1e14 / 1.5e6, rel=1e-6)
    assert any("N lies on its upper bound" in warning for warning in found.warnings)
    assert "66.7 x beyond its fitted range" in found.summary()
    inside = analysis.allocate(CHINCHILLA, cost=product, budget=1e9)
    assert [row["extrapolation"] for row in inside.rows] == [1.0, 1.0]


def test_what_a_law_that_turns_does_not_want_is_not_spent():
    law = made("peaked_power", ["x"], E=0, A=2.0, alpha=0.8, c=0.04)  # turns at exp(.8 / .08) = 22,026
    found = analysis.allocate(law, cost=lambda v: v["x"], budget=1e6, better="lower")
    assert found.values["x"] == pytest.approx(np.exp(10), rel=1e-4)
    assert any("only 2% of the budget" in warning for warning in found.warnings)


def test_the_interval_of_an_allocation_holds_the_true_optimum():
    hits, trials = 0, 30
    for seed in range(trials):
        rng = np.random.default_rng(seed)
        laws = {"a": sweep("a", rng, 5.0, 0.3), "b": sweep("b", rng, 3.0, 0.3)}
        found = analysis.allocate(laws, cost=product, budget=1e9, at={"a": 1e4, "b": 1e4}, draws=60, seed=seed)
        low, high = found.rows[0]["low"], found.rows[0]["high"]
        hits += low <= np.sqrt(1e9) * (5 / 3) ** (1 / 0.6) <= high  # chinchilla's G where the exponents agree
        assert high / low < 20
    assert hits / trials >= 0.8  # 30 trials: 3.8 SE under .95


def test_a_cost_counts_encoder_loss_and_application():
    cost = analysis.Cost(
        tokens=4e6, params=1e6, negatives=255, length=32, tokens_per_pair=40, embedding=64, impressions=1e5, event_flops=1e3
    )  # fmt: skip
    parts = {"encoder": 24e12, "loss": 1e5 * 8 * 256 * 64, "application": 1e5 * 32 * 1e3}
    assert cost.parts({}) == parts
    assert cost({}) == sum(parts.values())
    assert cost.parts({"negatives": 511})["loss"] == 2 * parts["loss"]
    queued = replace(cost, batch=64.0)
    assert queued.parts({})["loss"] == 1e5 * (8 * 64 + 6 * 192) * 64
    assert queued.parts({"tokens": 8e6})["loss"] == 2 * queued.parts({})["loss"]
    with pytest.raises(analysis.TableError, match="Cost knows tokens, params, negatives, length, not N"):
        cost({"N": 1e6})


def test_the_marginal_table_gives_the_planted_gains():
    laws = {
        "tokens": curve("tokens", A=5.0, alpha=0.25),
        "negatives": curve("negatives", A=1.0, alpha=0.2),
        "length": curve("length", y="gauc", A=0.1, alpha=0.4),
    }
    cost = analysis.Cost(
        tokens=1e5, params=1e3, negatives=255, length=1e3, tokens_per_pair=40, embedding=64, impressions=1e3, event_flops=1e2
    )  # fmt: skip
    rate = rate_into_gauc()
    table = analysis.marginal_table(laws, cost=cost, rate=rate)
    rows = {row["axis"]: row for row in table.rows}
    extra = 0.1 * cost({})
    parts = cost.parts({})
    factors = {
        "tokens": 1 + extra / (parts["encoder"] + parts["loss"]),
        "negatives": (256 * (1 + extra / parts["loss"]) - 1) / 255,
        "length": 1 + extra / parts["application"],
    }
    x = {"tokens": 1e5, "negatives": 255, "length": 1e3}
    for name, (A, alpha) in {"tokens": (5.0, 0.25), "negatives": (1.0, 0.2), "length": (0.1, 0.4)}.items():
        gain = A * x[name] ** -alpha * (1 - factors[name] ** -alpha)
        assert rows[name]["factor"] == pytest.approx(factors[name], rel=1e-9)
        assert rows[name]["gain"] == pytest.approx(gain, rel=1e-8)
        assert rows[name]["worth"] == pytest.approx(gain * (1 if name == "length" else rate.slope), rel=1e-8)
    assert [row["worth"] for row in table.rows] == sorted((row["worth"] for row in table.rows), reverse=True)
    assert table.best == table.rows[0]["axis"]
    assert rows["length"]["metric"] == table.target == "gauc"
    assert all(np.isnan(row["worth_low"]) and np.isnan(row["p_best"]) for row in table.rows)  # laws without draws


@FEW
@given(share=st.floats(0.01, 1.0), price=st.floats(0.2, 5.0), x=st.floats(1e2, 1e5))
def test_more_compute_on_tokens_alone_is_as_many_more_tokens(share, price, x):
    table = analysis.marginal_table(
        {"tokens": curve()}, cost=lambda v: v["tokens"] ** price, at={"tokens": x}, share=share
    )
    row = table.rows[0]
    assert row["factor"] == pytest.approx((1 + share) ** (1 / price), rel=1e-8)
    assert row["gain"] == pytest.approx(5.0 * x**-0.25 * (1 - row["factor"] ** -0.25), rel=1e-7)


def test_intervals_of_the_marginal_table_cover_and_carry_the_rate():
    hits, widths, trials = 0, [], 60
    truth = 0.1 * 5.0 * 1e5**-0.3 * (1 - 1.1**-0.3)
    for seed in range(trials):
        rng = np.random.default_rng(seed)
        laws = {"a": sweep("a", rng, 5.0, 0.3), "b": sweep("b", rng, 2.0, 0.3)}
        rate = rate_into_gauc(seed, reliability=0.9, scatter=0.3)
        row = marginal(laws, rate=rate, seed=seed).rows[0]
        assert row["axis"] == "a"
        hits += row["worth_low"] <= truth <= row["worth_high"]
        of_gain, of_worth = ((row[f"{name}_high"] - row[f"{name}_low"]) / row[name] for name in ("gain", "worth"))
        assert of_worth > of_gain
        widths.append(of_worth)
    assert hits / trials >= 0.85  # 60 trials: 3.5 SE under .95
    assert np.median(widths) < 1.0


def test_p_best_is_near_one_for_a_clear_winner_and_a_half_for_twins():
    rng = np.random.default_rng(0)
    strong, weak = sweep("a", rng, 8.0, 0.3), sweep("b", rng, 1.0, 0.3)
    clear = marginal({"a": strong, "b": weak})
    assert clear.best == "a"
    assert clear.rows[0]["p_best"] > 0.99
    twins = marginal({"a": strong, "b": strong})
    assert [row["p_best"] for row in twins.rows] == pytest.approx([0.5, 0.5], abs=0.05)
    assert sum(row["p_best"] for row in clear.rows) == pytest.approx(1)


def test_a_bound_stops_an_axis_and_a_loss_is_to_fall():
    table = analysis.marginal_table(
        CHINCHILLA, cost=product, at={"N": 1e5, "D": 9e5}, bounds={"N": (1, 1.02e5)}, share=0.2
    )
    rows = {row["axis"]: row for row in table.rows}
    assert rows["N"]["x_after"] == 1.02e5
    assert rows["N"]["bounded"]
    assert not rows["D"]["bounded"]
    assert rows["D"]["extrapolation"] == pytest.approx(1.08)
    assert table.better == "lower"
    assert table.rows[0]["worth"] < table.rows[1]["worth"] < 0
    assert any("N stops at its bound 1.02e+05" in warning for warning in table.warnings)
    assert any("D goes to 1.08e+06, 1.08 x beyond its fitted range" in warning for warning in table.warnings)


def test_a_rate_used_beyond_its_versions_or_without_an_interval_is_said():
    rate = rate_into_gauc()
    cost = analysis.Cost(tokens=1e6, params=1e3, tokens_per_pair=40, embedding=64)
    table = analysis.marginal_table({"tokens": curve(E=0.05, A=1.0)}, cost=cost, rate=rate)
    assert any("leaves the versions behind the exchange rate" in warning for warning in table.warnings)
    unknown = replace(rate, interval=(float("nan"), float("nan")), constant_p_value=0.01)
    rng = np.random.default_rng(0)
    table = analysis.marginal_table({"a": sweep("a", rng, 5.0, 0.3)}, cost=product, at={"a": 1e5}, rate=unknown)
    assert np.isfinite(table.rows[0]["gain_low"])
    assert np.isnan(table.rows[0]["worth_low"])
    assert any("includes 0 or is not known" in warning for warning in table.warnings)
    assert any("exchange rate is not constant" in warning for warning in table.warnings)


def test_loaded_answers_equal_the_saved_ones(tmp_path):
    rng = np.random.default_rng(0)
    laws = {"a": sweep("a", rng, 5.0, 0.3), "b": sweep("b", rng, 2.0, 0.3)}
    at = {"a": 1e5, "b": 1e4}
    for kind, answer in (
        (analysis.MarginalTable, analysis.marginal_table(laws, cost=product, at=at, rate=rate_into_gauc())),
        (analysis.MarginalTable, analysis.marginal_table({"tokens": curve()}, cost=product, at={"tokens": 1e4})),
        (analysis.Allocation, analysis.allocate(laws, cost=product, at=at, draws=20)),
        (analysis.Allocation, analysis.allocate(CHINCHILLA, cost=product, budget=1e9)),
    ):
        again = kind.load(answer.save(tmp_path / "deep" / "answer.json"))
        assert again == answer
        assert again.summary() == answer.summary()
        assert again.table().equals(answer.table(), null_equal=True)
        with pytest.raises(analysis.TableError, match="not a saved"):
            analysis.Rate.load(tmp_path / "deep" / "answer.json")


def test_ends_of_draws_keep_infinity_and_do_not_hide_what_is_not_known():
    draws = np.arange(100.0)
    assert ends(draws, 0.95) == pytest.approx((1.525, 97.475))
    draws[95:] = np.inf
    assert ends(draws, 0.95) == (2.0, np.inf)
    draws[0] = np.nan
    assert np.isnan(ends(draws, 0.95)).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: analysis.allocate({}, cost=product, budget=1.0), "no law: give a fit"),
        (lambda: analysis.allocate({"a": CHINCHILLA}, cost=product, budget=1.0), "law 'a' has the axes N, D"),
        (lambda: spend(budget=None), "where the set-up stands now"),
        (lambda: spend(budget=None, at={"N": 1e3}), "`at` must name each axis: D missing"),
        (lambda: spend(budget=None, at={"N": 1e3, "D": -1.0}), "D must be finite and above 0"),
        (lambda: spend(budget=-1.0), "budget must be finite and above 0"),
        (lambda: spend(bounds={"M": (1, 2)}), "no axis 'M'"),
        (lambda: spend(bounds={"N": (3, 2)}), "give 0 < low <= high"),
        (lambda: spend(budget=10.0, bounds=dict.fromkeys("ND", (9, 99))), "the cheapest set-up"),
        (lambda: spend(cost=lambda v: v["n"]), "the cost reads 'n'; .* give N, D"),
        (lambda: spend(cost=lambda v: -1.0), "it must be finite and above 0"),
        (lambda: spend(level=1.0), "level must lie between 0 and 1"),
        (lambda: spend(better="more"), "no direction 'more'"),
        (lambda: analysis.marginal_table({"tokens": curve()}, cost=product), "where the set-up stands now"),
        (lambda: analysis.marginal_table(CHINCHILLA, cost=lambda v: v["N"], at={"N": 1e3, "D": 1e3}), "hardly depends on 'D'"),
        (lambda: analysis.marginal_table(CHINCHILLA, cost=product, at={"N": 1e3, "D": 1e3}, share=0.0), "share must be"),
        (lambda: analysis.marginal_table(CHINCHILLA, cost=product, at={"N": 1, "D": 1}, bounds={"M": (1, 2)}), "no axis 'M'"),
        (lambda: marginal({"a": curve(), "b": curve(y="hit")}), "different metrics"),
        (lambda: marginal({"a": curve(y="hit")}, rate=rate_into_gauc()), "predicts 'hit', the rate leads from 'recall'"),
        (lambda: analysis.Cost(tokens=0, params=1, tokens_per_pair=1, embedding=1), "tokens must be finite and above 0"),
        (lambda: analysis.Cost(tokens=1, params=1, tokens_per_pair=1, embedding=1, length=-1), "not under 0"),
        (lambda: analysis.Cost(tokens=1, params=1, tokens_per_pair=1, embedding=1, batch=0), "batch must be at least 1"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_in_one_clear_line(call, message):
    with pytest.raises(analysis.TableError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


def test_a_metric_that_more_does_not_move_one_way_needs_a_direction():
    up = replace(made("log_line", ["a"], a=0.1, b=0.02), y="loss")
    laws = {"a": up, "b": replace(up, params={"a": 0.5, "b": -0.02})}
    with pytest.raises(analysis.TableError, match="say better='higher' or 'lower'"):
        analysis.allocate(laws, cost=product, at={"a": 1e3, "b": 1e3})
    found = analysis.allocate(laws, cost=product, at={"a": 1e3, "b": 1e3}, better="higher", bounds={"b": (1e2, 1e6)})
    assert found.values["b"] == pytest.approx(1e2, rel=1e-6)


def test_docstring_examples_run():
    import doctest
    import importlib

    for name in ("allocation", "costs", "equivalent", "marginal"):
        result = doctest.testmod(importlib.import_module(f"analysis.{name}"))
        assert result.attempted > 0
        assert result.failed == 0
