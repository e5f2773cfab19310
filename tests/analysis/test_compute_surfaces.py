"""The commands about compute, as the command line calls them: planted answers, files that read back equal, clear refusals."""

import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import runs, versions

import analysis
from analysis.costs import cost_at
from analysis.formula import cost_of
from analysis.isoflop import IsoFlop
from analysis.surfaces import (
    allocate_command,
    equivalent_command,
    exchange_command,
    fit_command,
    isoflop_command,
    two_step_command,
)
from analysis.two_step import TwoStep
from analysis.validation_figures import joint_figure


@pytest.fixture
def sweep(tmp_path):
    """A CSV of a planted Chinchilla law (E 1.8, alpha .35, beta .37), the runs on lines of equal C = 6 N D."""
    C, N = (grid.ravel() for grid in np.meshgrid(np.geomspace(1e18, 1e21, 5), np.geomspace(1e7, 1e10, 9)))
    D = C / (6 * N)
    loss = 1.8 + 480 * N**-0.35 + 2000 * D**-0.37
    path = tmp_path / "sweep.csv"
    pl.DataFrame({"N": N, "D": D, "C": C, "loss": loss, "error": 0.8 - 2 * np.exp(-0.9 * loss)}).write_csv(path)
    return path


def test_an_isoflop_is_printed_kept_and_drawn(sweep, tmp_path):
    options = {"x": "N", "y": "loss", "budget": "C", "method": "interpolation"}
    text = isoflop_command(sweep, **options, save=tmp_path / "i.json", figure=tmp_path / "i.png")
    made = analysis.isoflop(pl.read_csv(sweep), **options)
    assert f"C^{made.exponent:.4f}" in text
    assert made.exponent == pytest.approx(0.37 / 0.72, abs=0.03)
    assert IsoFlop.load(tmp_path / "i.json") == made
    assert (tmp_path / "i.svg").stat().st_size > 0


def test_a_law_over_two_axes_is_drawn_with_what_it_leaves(sweep, tmp_path):
    text = fit_command(
        sweep, x=["N", "D"], y="loss", law="chinchilla", holdout="largest", rolling=True, resamples=0,
        figure=tmp_path / "f.png",
    )  # fmt: skip
    assert "foretold from smaller N alone" in text
    assert {path.name for path in tmp_path.glob("*.svg")} == {"f.svg", "f-rolling.svg"}
    figure = joint_figure(analysis.fit(pl.read_csv(sweep), x=["N", "D"], y="loss", law="chinchilla", resamples=0))
    left = np.concatenate([line.get_ydata() for line in figure.axes[1].lines if line.get_label() == "fitted"])
    assert np.abs(left).max() < 1e-3  # exact points leave nothing, in per cent


def test_a_chain_is_printed_kept_and_drawn(sweep, tmp_path):
    table = pl.read_csv(sweep)
    test = tmp_path / "test.csv"
    table.filter(pl.col("C") == table["C"].max()).write_csv(test)
    options = {"intermediate": "loss", "y": "error", "first": "chinchilla", "resamples": 100}
    text = two_step_command(
        sweep, x=["N", "D"], test_path=test, save=tmp_path / "c.json", figure=tmp_path / "c.png", **options
    )
    assert "chained" in text
    assert "one_step" not in text  # none was asked for
    kept = TwoStep.load(tmp_path / "c.json")
    made = analysis.two_step(table, x=["N", "D"], test=pl.read_csv(test), **options)
    assert kept == made
    at = np.array([[1e9], [2e10]])
    np.testing.assert_array_equal(kept.predict(at), made.predict(at))
    assert (tmp_path / "c.svg").stat().st_size > 0


def test_an_allocation_from_saved_files_finds_the_closed_form(sweep, tmp_path):
    law = tmp_path / "law.json"
    analysis.fit(pl.read_csv(sweep), x=["N", "D"], y="loss", law="chinchilla", resamples=50).save(law)
    text = allocate_command(
        law,
        at={"N": 1e9, "D": 2e10},
        cost="6 * N * D",
        budget=1e21,
        save=tmp_path / "a.json",
        figure=tmp_path / "a.png",
    )
    best = analysis.Allocation.load(tmp_path / "a-allocation.json")
    G = (0.35 * 480 / (0.37 * 2000)) ** (1 / 0.72)  # Hoffmann et al. (2022), equation 4
    assert best.values["N"] == pytest.approx(G * (1e21 / 6) ** (0.37 / 0.72), rel=1e-3)
    assert analysis.MarginalTable.load(tmp_path / "a.json").at == {"N": 1e9, "D": 2e10}
    assert {path.name for path in tmp_path.glob("*.svg")} == {"a.svg", "a-allocation.svg"}
    warnings = [line for line in text.splitlines() if "warning" in line]
    assert len(warnings) == len(set(warnings))


def test_laws_over_one_axis_a_rate_and_flops_lead_to_the_marginal_table(tmp_path):
    runs().write_csv(tmp_path / "r.csv")
    versions().with_columns(recall=pl.col("image_recall")).write_csv(tmp_path / "v.csv")
    law = analysis.fit(runs(), x="tokens", y="recall", transform="error", cluster="run", resamples=200)
    law.save(tmp_path / "law.json")
    exchange_command(tmp_path / "v.csv", of="recall", into="gauc", save=tmp_path / "rate.json")
    at = {"tokens": 1e7, "params": 1e6, "tokens_per_pair": 40, "embedding": 64}
    text = allocate_command({"tokens": tmp_path / "law.json"}, at=at, rate_path=tmp_path / "rate.json")
    assert "change of gauc" in text
    rate = analysis.Rate.load(tmp_path / "rate.json")
    gain = float(law.predict(1e7) - law.predict(1.1e7))
    assert f"{gain * rate.slope:+.3g}" in text
    text = equivalent_command(tmp_path / "law.json", gain=0.002, at={"tokens": 1e7}, rate_path=tmp_path / "rate.json")
    assert "x the tokens" in text


@pytest.mark.parametrize(
    ("given_", "told"),
    [
        ({}, "a better fit or a gain"),
        ({"better_path": "a.json", "gain": 0.1}, "a better fit or a gain"),
    ],
)
def test_an_equivalent_needs_one_thing_to_match(given_, told):
    with pytest.raises(analysis.TableError, match=told):
        equivalent_command("base.json", **given_)


def test_flops_by_name_say_what_is_missing_or_unknown():
    with pytest.raises(analysis.TableError, match="missing: params, tokens_per_pair, embedding"):
        cost_at({"tokens": 1e6})
    with pytest.raises(analysis.TableError, match="unknown: tokns"):
        cost_at({"tokens": 1e6, "params": 1e6, "tokens_per_pair": 40, "embedding": 64, "tokns": 1.0})


NUMBERS = st.floats(0.5, 4.0)
ARITHMETIC = st.recursive(
    st.one_of(NUMBERS.map(repr), st.sampled_from(["N", "D"])),
    lambda inner: st.tuples(inner, st.sampled_from(["+", "*", "/", "-"]), inner).map(
        lambda t: f"({t[0]} {t[1]} {t[2]})"
    ),
    max_leaves=6,
)


@settings(max_examples=50, deadline=None)
@given(ARITHMETIC, NUMBERS, NUMBERS)
def test_a_typed_cost_is_the_arithmetic_that_it_says(text, N, D):
    try:
        wanted = eval(text, {"__builtins__": {}}, {"N": N, "D": D})
    except ZeroDivisionError:
        with pytest.raises(analysis.TableError, match="cannot be computed"):
            cost_of(text)({"N": N, "D": D})
        return
    assert math.isclose(cost_of(text)({"N": N, "D": D}), wanted, rel_tol=1e-12, abs_tol=1e-12)


@pytest.mark.parametrize(
    "text", ["__import__('os')", "N.real", "N[0]", "6 * (lambda: N)()", "N if D else N", "'a' * 3", "6 N"]
)
def test_a_typed_cost_is_arithmetic_and_nothing_else(text):
    with pytest.raises(analysis.TableError, match=r"^cost .*(only numbers|not arithmetic)"):
        cost_of(text)
