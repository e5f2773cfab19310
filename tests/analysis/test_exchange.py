"""The exchange rate recovers planted slopes with noise on both axes, ranks proxies, and says when it knows nothing."""

import json

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import versions

import analysis
from analysis.eiv import Versions, slopes

PROXIES = ["text_recall", "image_recall"]


def warned(result, text):
    return any(text in warning for warning in result.warnings)


def ols(table):
    means = table.group_by("version").mean()
    x, y = means["image_recall"].to_numpy(), means["gauc"].to_numpy()
    return np.cov(x, y)[0, 1] / x.var(ddof=1)


def test_a_noiseless_slope_and_elasticity_are_exact():
    x = np.linspace(0.2, 0.7, 12)
    table = pl.DataFrame(
        {"version": np.arange(12), "recall": x, "gauc": 1 - 0.4 * (1 - x) ** 0.3, "line": 0.6 + 0.1 * x}
    )
    two = pl.concat([table, table])
    rate = analysis.exchange_rate(two, of="recall", into="line")
    assert rate.slope == pytest.approx(0.1, rel=1e-9)
    assert warned(rate, "recall has no noise over seeds")
    bent = analysis.exchange_rate(two, of="recall", into="gauc")
    assert bent.elasticity == pytest.approx(0.3, rel=1e-9)
    assert bent.constant_p_value < 0.05
    assert warned(bent, "the rate is not constant")


def test_noise_on_both_axes_does_not_bias_the_median_where_least_squares_is_attenuated():
    ours, naive = [], []
    for seed in range(80):
        table = versions(count=24, reliability=0.8, scatter=0.3, seed=seed)
        ours.append(analysis.exchange_rate(table, of="image_recall", into="gauc", resamples=0).slope)
        naive.append(ols(table))
    assert np.median(ours) == pytest.approx(0.1, rel=0.05)
    assert np.median(naive) < 0.09


def test_with_a_noise_ratio_alone_the_estimator_is_deming_s_closed_form():
    rng = np.random.default_rng(1)
    x = rng.normal(size=8)
    y = 0.5 * x + 0.2 * rng.normal(size=8)
    xx, yy, xy = np.var(x, ddof=1), np.var(y, ddof=1), np.cov(x, y)[0, 1]
    ratio = 0.5 * yy / xx
    deming = (yy - ratio * xx + np.sqrt((yy - ratio * xx) ** 2 + 4 * ratio * xy**2)) / (2 * xy)
    v = Versions(x, y, np.zeros((3, 8)), np.zeros(8), np.ones(8), ratio=0.5)
    assert slopes(v, np.ones((1, 8)))[0] == pytest.approx(deming, rel=1e-9)


def test_scatter_of_the_versions_beyond_their_seeds_does_not_bias_the_slope():
    found = [
        analysis.exchange_rate(
            versions(count=24, reliability=0.9, scatter=1.0, seed=seed), of="image_recall", into="gauc", resamples=0
        ).slope
        for seed in range(80)
    ]
    assert np.median(found) == pytest.approx(0.1, rel=0.1)


def test_the_interval_covers_and_the_smallest_detectable_slope_is_beyond_the_error():
    rate = analysis.exchange_rate(versions(), of="image_recall", into="gauc")
    low, high = rate.interval
    assert low < 0.1 < high
    assert low < rate.slope < high
    assert 0 < rate.smallest_detectable < rate.slope
    assert "smallest slope that could have been seen" in rate.summary()
    assert rate.constant_p_value > 0.01
    assert "jackknife-t over 12 versions" in rate.checklist["uncertainty"]


def test_the_right_proxy_wins_and_twins_cannot_be_told_apart():
    rate = analysis.exchange_rate(versions(), of=PROXIES, into="gauc")
    ranking = rate.ranking
    assert rate.of == ranking.winner == "image_recall"
    assert ranking.rows[0]["p_best"] >= 0.9
    assert sum(row["p_best"] for row in ranking.rows) == pytest.approx(1)
    assert ranking.rows[0]["loo_error"] < ranking.rows[1]["loo_error"]
    assert np.array(ranking.correlations).shape == (2, 2)
    twins = versions().with_columns(twin=pl.col("image_recall") * 2 + 1)
    tied = analysis.rank_proxies(twins, of=["image_recall", "twin"], into="gauc")
    assert tied.winner is None
    assert [row["p_best"] for row in tied.rows] == [0.5, 0.5]
    assert any("all proxies rise together" in warning for warning in tied.warnings)
    assert "no proxy can be named best" in tied.summary()


def test_few_versions_take_the_named_small_sample_method():
    rate = analysis.exchange_rate(versions(count=6), of=PROXIES, into="gauc")
    assert "jackknife-t over 6 versions" in rate.checklist["uncertainty"]
    assert warned(rate, "few versions: 6")
    assert warned(rate, "a ranking of proxies wants at least 12")


def test_without_replicates_a_ratio_is_assumed_and_said():
    table = versions(reliability=0.98).filter(pl.col("seed") == 0)
    assumed = analysis.exchange_rate(table, of="image_recall", into="gauc")
    assert warned(assumed, "a ratio of 1 is assumed")
    assert assumed.slope == pytest.approx(0.1, rel=0.2)
    given_ = analysis.exchange_rate(table, of="image_recall", into="gauc", noise_ratio=0.5)
    assert warned(given_, "a ratio of 0.5 is given")
    assert given_.slope != assumed.slope
    with pytest.raises(analysis.TableError, match="noise_ratio must be above 0"):
        analysis.exchange_rate(table, of="image_recall", into="gauc", noise_ratio=0.0)


def test_versions_that_differ_only_by_noise_give_no_interval():
    rng = np.random.default_rng(0)
    table = versions().with_columns(image_recall=pl.Series(0.5 + 0.01 * rng.normal(size=36)))
    rate = analysis.exchange_rate(table, of="image_recall", into="gauc")
    assert np.isnan(rate.interval).all()
    assert np.isnan(rate.smallest_detectable)
    assert warned(rate, "do not differ in image_recall beyond seed noise")


def test_effects_common_to_a_seed_are_no_noise_of_the_slope():
    table = versions()
    shifted = table.with_columns(gauc=pl.col("gauc") + 0.2 * pl.col("seed"))
    plain, common = (analysis.exchange_rate(t, of="image_recall", into="gauc") for t in (table, shifted))
    assert common.slope == pytest.approx(plain.slope, rel=1e-6)
    assert common.points.y_error == pytest.approx(plain.points.y_error, rel=1e-6)


@settings(max_examples=10, deadline=None)
@given(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3), st.randoms(use_true_random=False))
def test_units_and_the_order_of_rows_do_not_matter(x_unit, y_unit, random):
    table = versions()
    order = list(range(table.height))
    random.shuffle(order)
    other = table[order].with_columns(pl.col("image_recall") * x_unit, pl.col("gauc") * y_unit)
    one = analysis.exchange_rate(table, of="image_recall", into="gauc", resamples=100)
    two = analysis.exchange_rate(other, of="image_recall", into="gauc", resamples=100)
    assert two.slope * x_unit / y_unit == pytest.approx(one.slope, rel=1e-6)
    assert np.array(two.interval) * x_unit / y_unit == pytest.approx(one.interval, rel=1e-6)
    assert two.r2 == pytest.approx(one.r2, rel=1e-6)


def test_a_loaded_rate_equals_the_saved_one(tmp_path):
    for table in (versions(), versions(count=4).filter(pl.col("seed") == 0)):
        rate = analysis.exchange_rate(table, of=PROXIES, into="gauc")
        path = rate.save(tmp_path / "rate.json")
        again = analysis.Rate.load(path)
        assert again == rate
        assert again.summary() == rate.summary()
    document = json.loads(path.read_text())
    assert {"slope", "interval", "elasticity", "ranking", "constant_p_value", "data_hash", "options"} <= set(document)
    with pytest.raises(analysis.TableError, match="not a saved"):
        analysis.Fit.load(path)


def test_metrics_without_a_ceiling_have_no_elasticity():
    rate = analysis.exchange_rate(versions().with_columns(pl.col("image_recall") * 9), of="image_recall", into="gauc")
    assert rate.elasticity is None
    assert "elasticity" not in rate.summary()


@pytest.mark.parametrize(
    ("table", "options", "message"),
    [
        (versions(count=2), {}, "2 versions in 'version'"),
        (versions().with_columns(image_recall=pl.lit(0.5)), {}, "'image_recall' is the same in every version"),
        (versions().with_columns(gauc=pl.lit(0.5)), {}, "'gauc' is the same in every version"),
        (versions().with_columns(gauc=pl.lit(float("nan"))), {}, "'gauc' is not finite in rows 0, 1"),
        (versions(), {"of": "image_recal"}, "no column 'image_recal'; closest: image_recall"),
        (versions(), {"cluster": "versions"}, "no column 'versions'; closest: version"),
        (versions(), {"of": ["gauc"]}, "proxies must differ"),
        (versions(), {"of": []}, "no proxy to rank"),
    ],
)
def test_bad_tables_are_refused_in_one_clear_line(table, options, message):
    with pytest.raises(analysis.TableError, match=message):
        analysis.exchange_rate(table, **{"of": "image_recall", "into": "gauc", **options})
