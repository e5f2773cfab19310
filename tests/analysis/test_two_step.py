"""Planted chains: both steps are found, step 1's uncertainty reaches the end, chance and ceiling hold, faults are said."""

import numpy as np
import polars as pl
import pytest

import analysis
from analysis.two_step import LINKS, two_step

LINK = {
    "exponential": lambda L: 0.8 - 3.0 * np.exp(-0.8 * L),
    "sigmoid": lambda L: 0.25 + 0.6 / (1 + np.exp(2.5 * (L - 2.8))),
    "line": lambda L: 0.1 + 0.15 * L,
}


def runs(link="exponential", noise=0.0, about=0.0, seed=0, n=12, low=1e17, high=1e21):
    """loss = 2 + 1.2e3 C^-.17 with relative noise, downstream = link(loss) + about."""
    rng = np.random.default_rng(seed)
    C = np.geomspace(low, high, n)
    loss = (2 + 1.2e3 * C**-0.17) * np.exp(noise * rng.normal(size=n))
    y = LINK[link](loss) + about * rng.normal(size=n)
    return pl.DataFrame({"C": C, "loss": loss, "y": y})


def chained(table, **options):
    return two_step(table, x="C", intermediate="loss", y="y", first="power_floor", **options)


@pytest.mark.parametrize("link", list(LINKS))
def test_planted_chains_are_found(link):
    test = runs(link, low=1e22, high=1e23, n=2)
    chain = chained(runs(link), second=link, test=test, resamples=0)
    assert chain.first.params["alpha"] == pytest.approx(0.17, rel=1e-3)
    for row in chain.rows:
        assert abs(row["step1"]) < 1e-4
        assert abs(row["step2"]) < 1e-4
        assert abs(row["chained"]) < 1e-3
        assert np.isnan(row["one_step"])


@pytest.mark.parametrize("link", list(LINKS))
def test_units_do_not_matter(link):
    table = runs(link, noise=0.003, about=0.003, seed=1)
    other = table.with_columns(pl.col("C") * 1e-12, pl.col("loss") * 40.0, pl.col("y") * 5.0)
    one, two = chained(table, second=link, resamples=100), chained(other, second=link, resamples=100)
    ours, theirs = two.predict(np.array([1e10])), one.predict(np.array([1e22]))
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, 5 * b, rtol=2e-3)


def test_the_interval_of_a_new_run_holds_it_and_step_one_widens_it():
    hits, widths = [], []
    for seed in range(40):
        test = runs(noise=0.005, about=0.004, seed=1000 + seed, low=3e21, high=3e21, n=1)
        chain = chained(runs(noise=0.005, about=0.004, seed=seed), test=test, resamples=300, seed=seed)
        row = chain.rows[0]
        hits.append(row["low"] <= row["y"] <= row["high"])
        alone = chain.second.predict(np.array([row["step1_hat"]]), interval=0.95)
        widths.append((row["high"] - row["low"]) / float(alone.high[0] - alone.low[0]))
    assert np.mean(hits) >= 0.85
    assert np.median(widths) > 1.05


def test_a_one_step_fit_stands_beside_the_chain():
    test = runs(noise=0.003, seed=9, low=1e22, high=1e23, n=2)
    chain = chained(runs(noise=0.003), one_step="power_floor", test=test, resamples=100)
    assert chain.one is not None
    assert all(np.isfinite(row["one_step"]) for row in chain.rows)
    assert chain.table().height == 2
    told = chain.summary()
    assert "one_step" in told
    assert "C -> loss" in told
    assert any("beyond the loss that it was fitted on" in warning for warning in chain.warnings)


def test_errors_of_a_metric_and_more_runs_in_step_two():
    table = runs().with_columns(y=1 - pl.col("y"))
    more = pl.concat([table, runs(n=5, low=2e17, high=2e20).with_columns(y=1 - pl.col("y"))])
    chain = chained(table, second_table=more, transform="error", resamples=0)
    assert chain.second.n == 17
    assert chain.predict(np.array([1e22])).mean == pytest.approx(LINK["exponential"](2 + 1.2e3 * 1e22**-0.17), rel=1e-3)


def test_chance_and_ceiling_hold():
    table = runs("sigmoid", about=0.002)
    chain = chained(table, second="sigmoid", pin={"low": 0.25, "span": 0.6}, limits=(0.25, 0.85), resamples=200)
    assert chain.second.params["low"] == 0.25
    mean, low, high = chain.predict(np.geomspace(1e10, 1e30, 9))
    assert (low >= 0.25).all()
    assert (high <= 0.85).all()
    assert ((low <= mean) & (mean <= high)).all()
    line = chained(runs("line"), second="line", limits=(0.0, 0.45), resamples=100)
    assert line.predict(np.array([1e12])).mean == 0.45


def test_a_law_of_ones_own_links_too():
    link = analysis.Law(
        name="square", formula="y = a + b L^2", about="", params=(analysis.Param("a"), analysis.Param("b")),
        function=lambda L, a, b: a + b * L**2, starts=lambda L, y: np.array([[0.0, 1.0]]), residuals="linear",
    )  # fmt: skip
    table = runs().with_columns(y=0.2 + 0.03 * pl.col("loss") ** 2)
    assert list(chained(table, second=link, resamples=0).second.params.values()) == pytest.approx([0.2, 0.03], rel=1e-6)


def test_too_few_runs_give_no_interval_and_say_so():
    chain = chained(runs(n=4), second_table=runs(n=12), resamples=100)
    assert np.isfinite(chain.predict(np.array([1e22])).high).all()  # four runs, three parameters: wide, but known
    few = two_step(runs(n=4), x="C", intermediate="loss", y="y", first="power_floor", second="line", resamples=0)
    assert np.isnan(few.predict(np.array([1e22])).low).all()
    with pytest.raises(analysis.TableError, match="needs more"):
        chained(runs(n=3))


def test_what_cannot_be_answered_is_refused():
    with pytest.raises(analysis.TableError, match="no link"):
        chained(runs(), second="cubic")
    with pytest.raises(analysis.TableError, match="low < high"):
        chained(runs(), limits=(1.0, 0.0))
    with pytest.raises(analysis.TableError, match="no column 'loss'"):
        chained(runs().drop("loss"))
    with pytest.raises(analysis.TableError, match="test: no column 'y'"):
        chained(runs(), test=runs().drop("y"), resamples=0)
