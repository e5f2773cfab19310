"""The exchange rate recovers planted slopes with noise on both axes, ranks proxies, and says when it knows nothing."""

import json
from dataclasses import replace

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


def bent(seed=0, count=24, bend=0.15, scatter=0.2, reliability=0.95):
    """Versions whose GAUC bends: gauc = .6 + .1 x + bend (x - .45)^2, with noise on both axes."""
    rng = np.random.default_rng(seed)
    true = rng.uniform(0.2, 0.7, count)
    gauc = 0.6 + 0.1 * true + bend * (true - 0.45) ** 2
    spread = true.std(ddof=1) * np.sqrt((1 - reliability) / reliability * 3)
    lift = scatter * gauc.std() * rng.normal(size=count)
    name, repeats = np.repeat(np.arange(count), 3), (3 * count,)
    return pl.DataFrame(
        {
            "version": name,
            "seed": np.tile(np.arange(3), count),
            "recall": true[name] + spread * rng.normal(size=repeats),
            "gauc": (gauc + lift)[name] + 0.1 * spread * rng.normal(size=repeats),
        }
    )


def test_where_the_rate_bends_its_local_values_are_given_and_printed():
    x = np.linspace(0.2, 0.7, 9)
    exact = pl.DataFrame({"version": np.arange(9), "recall": x, "gauc": 0.6 + 0.1 * x + 0.3 * (x - 0.4) ** 2})
    rate = analysis.exchange_rate(pl.concat([exact, exact]), of="recall", into="gauc", resamples=0)
    assert [one["x"] for one in rate.local] == pytest.approx([0.2, 0.45, 0.7])
    assert [one["slope"] for one in rate.local] == pytest.approx([-0.02, 0.13, 0.28], rel=1e-9)
    assert "local rate of recall, 95%: -0.02 at 0.2" in rate.summary()
    assert "quadratic on calibrated x, jackknife-t over 9 versions (6 df)" in rate.checklist["local"]
    straight = analysis.exchange_rate(bent(bend=0.0), of="recall", into="gauc", resamples=0)
    assert straight.constant_p_value > 0.05
    assert len(straight.local) == 3
    assert "local rate" not in straight.summary()


def test_local_rates_cover_their_truth_and_tell_the_ends_apart():
    hits, apart, trials = np.zeros(3), 0, 80
    for seed in range(trials):
        local = analysis.exchange_rate(bent(seed, bend=0.3), of="recall", into="gauc", resamples=0).local
        truth = [0.1 + 0.6 * (one["x"] - 0.45) for one in local]
        hits += [one["low"] <= slope <= one["high"] for one, slope in zip(local, truth, strict=True)]
        apart += local[0]["high"] < local[2]["low"]
    assert hits.min() / trials >= 0.86  # 80 trials: 3.5 SE under .95
    assert apart / trials > 0.5


def test_too_few_versions_have_no_local_rate():
    assert analysis.exchange_rate(versions(count=4), of="image_recall", into="gauc", resamples=0).local == ()
    tied = pl.DataFrame({"version": range(6), "a": [0.1, 0.1, 0.2, 0.2, 0.3, 0.3], "b": [1.0, 2, 3, 4, 5, 7]})
    assert analysis.exchange_rate(tied, of="a", into="b", resamples=0).local == ()


def known(A=5.0, E=0.3, alpha=0.25, noise=0.0, seed=0, y="image_recall", resamples=0):
    """A law over tokens: error E + A tokens^-alpha, eight budgets, two runs each."""
    x = np.repeat(np.geomspace(1e4, 1e8, 8), 2)
    error = (E + A * x**-alpha) * np.exp(noise * np.random.default_rng(seed).normal(size=x.size))
    return analysis.fit(
        pl.DataFrame({"tokens": x, y: 1 - error}), x="tokens", y=y, transform="error", resamples=resamples
    )


@settings(max_examples=15, deadline=None)
@given(st.floats(2.0, 4.9), st.floats(1e5, 1e7), st.floats(1e-4, 1e-2))
def test_the_equivalent_of_a_better_law_or_a_gain_is_the_closed_form(A, at, gain):
    base = replace(known(), params={"E": 0.3, "A": 5.0, "alpha": 0.25})
    better = replace(base, params={"E": 0.3, "A": A, "alpha": 0.25})
    assert analysis.compute_equivalent(better, base, at=at).multiplier == pytest.approx((5 / A) ** 4, rel=1e-9)
    assert analysis.compute_equivalent(base, better, at=at).multiplier == pytest.approx((A / 5) ** 4, rel=1e-9)
    above = 5.0 * at**-0.25
    found = analysis.compute_equivalent(gain, base, at=at)
    assert found.multiplier == pytest.approx((1 - gain / above) ** -4, rel=1e-7)
    assert found.extrapolation == pytest.approx(max(1.0, at * found.multiplier / 1e8), rel=1e-6)


def test_what_the_floor_forbids_is_infinite_and_said():
    base = known()
    found = analysis.compute_equivalent(0.2, base)
    assert found.multiplier == np.inf
    assert found.at == {"tokens": pytest.approx(1e8)}
    assert "no amount of tokens" in found.summary()
    assert any("its floor E = 0.3 is not under" in warning for warning in found.warnings)
    assert np.isnan(found.interval).all()  # the law has no draws
    noisy = known(noise=0.02, resamples=300)
    within_reach_of_some = analysis.compute_equivalent(5.0 * 1e8**-0.25 * 0.95, noisy)
    assert 0 < within_reach_of_some.never < 1
    assert within_reach_of_some.interval[1] == np.inf
    assert ".. inf" in within_reach_of_some.summary()


def test_the_interval_of_an_equivalent_covers():
    hits, trials = 0, 60
    for seed in range(trials):
        base, better = (known(A=A, noise=0.01, seed=seed + k, resamples=200) for A, k in ((5.0, 0), (4.0, 1000)))
        low, high = analysis.compute_equivalent(better, base, at=1e6, seed=seed).interval
        hits += low <= (5 / 4) ** 4 <= high
        assert 1 < high / low < 2
    assert hits / trials >= 0.85  # 60 trials: 3.5 SE under .95


def test_a_change_downstream_passes_through_the_rate_and_carries_its_doubt():
    base, rate = known(noise=0.01, resamples=300), analysis.exchange_rate(versions(), of="image_recall", into="gauc")
    direct = analysis.compute_equivalent(0.001 / rate.slope, base, at=1e6)
    through = analysis.compute_equivalent(0.001, base, at=1e6, rate=rate)
    assert through.multiplier == pytest.approx(direct.multiplier, rel=1e-9)
    assert np.ptp(through.interval) > np.ptp(direct.interval)
    assert through.summary().startswith("+0.001 gauc at tokens = 1e+06 equals")
    doubtful = replace(rate, interval=(rate.slope - 2 * abs(rate.slope), rate.slope + 2 * abs(rate.slope)))
    lost = analysis.compute_equivalent(0.001, base, at=1e6, rate=doubtful)
    assert 0.05 < lost.never < 0.4  # a rate of the other sign never gives the gain
    assert lost.interval[1] == np.inf


def test_an_equivalent_on_one_of_several_axes():
    grid = np.meshgrid(np.geomspace(1e4, 1e7, 5), np.geomspace(1e4, 1e7, 5))
    N, D = (axis.ravel() for axis in grid)
    table = pl.DataFrame({"N": N, "D": D, "loss": 1.8 + 40 * N**-0.3 + 60 * D**-0.3})
    law = analysis.fit(table, x=["N", "D"], y="loss", law="chinchilla", resamples=0)
    found = analysis.compute_equivalent(-0.05, law, at={"N": 1e6, "D": 1e6}, axis="D")
    assert found.multiplier == pytest.approx((1 - 0.05 / (60 * 1e6**-0.3)) ** (-1 / 0.3), rel=1e-5)
    with pytest.raises(analysis.TableError, match="say which axis grows: axis = 'N' or 'D'"):
        analysis.compute_equivalent(-0.05, law, at={"N": 1e6, "D": 1e6})
    with pytest.raises(analysis.TableError, match="`at` must name the axes N, D, not N"):
        analysis.compute_equivalent(-0.05, law, at={"N": 1e6}, axis="D")
    with pytest.raises(analysis.TableError, match="give at="):
        analysis.compute_equivalent(-0.05, law, at=1e6, axis="D")


def test_a_loaded_equivalent_equals_the_saved_one(tmp_path):
    base = known(noise=0.01, resamples=100)
    for change in (0.01, 0.2):
        found = analysis.compute_equivalent(change, base)
        again = analysis.Equivalent.load(found.save(tmp_path / "e.json"))
        assert again == found
        assert again.multiplier == found.multiplier
        assert again.summary() == found.summary()


@pytest.mark.parametrize(
    ("better", "options", "message"),
    [
        (0.0, {}, "must be finite and not 0"),
        (known(y="hit"), {}, "must share metric and axes: 'hit' on tokens, 'image_recall' on tokens"),
        (0.01, {"at": -1.0}, "tokens must be finite and above 0"),
        (0.01, {"level": 2.0}, "level must lie between 0 and 1"),
        (0.01, {"axis": "steps"}, "say which axis grows: axis = 'tokens'"),
        (known(A=4.0), {"rate": True}, "a rate is for a change given as a number"),
    ],
)
def test_unclear_equivalents_are_refused(better, options, message):
    if "rate" in options:
        options = {"rate": analysis.exchange_rate(versions(), of="image_recall", into="gauc", resamples=0)}
    with pytest.raises(analysis.TableError, match=message):
        analysis.compute_equivalent(better, known(), **options)


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
    v = Versions(x, y, np.zeros((3, 8)), np.zeros(8), np.ones(8), np.zeros(8, int), ratio=0.5)
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
    for ours, theirs in zip(one.local, two.local, strict=True):
        assert theirs["slope"] * x_unit / y_unit == pytest.approx(ours["slope"], rel=1e-6)
        assert theirs["low"] * x_unit / y_unit == pytest.approx(ours["low"], rel=1e-6, abs=1e-9)


def test_a_loaded_rate_equals_the_saved_one(tmp_path):
    for table in (versions(), versions(count=4).filter(pl.col("seed") == 0)):
        rate = analysis.exchange_rate(table, of=PROXIES, into="gauc")
        path = rate.save(tmp_path / "rate.json")
        again = analysis.Rate.load(path)
        assert again == rate
        assert again.summary() == rate.summary()
    document = json.loads(path.read_text())
    assert {"slope", "interval", "elasticity", "ranking", "constant_p_value", "local", "data_hash", "options"} <= set(
        document
    )
    with pytest.raises(analysis.TableError, match="not a saved"):
        analysis.Fit.load(path)


def test_metrics_without_a_ceiling_have_no_elasticity():
    rate = analysis.exchange_rate(versions().with_columns(pl.col("image_recall") * 9), of="image_recall", into="gauc")
    assert np.isnan(rate.elasticity)
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


def kinds(seed=0, count=4, slope=0.5, noise=0.003, scatter=0.003):
    """Three kinds of version: within each GAUC rises with recall, over all it falls, for the best kind has no recall."""
    rng = np.random.default_rng(seed)
    rows = []
    for kind, (low, high, level) in {
        "blind": (0.0, 0.004, 0.70),
        "half": (0.1, 0.2, 0.56),
        "whole": (0.1, 0.2, 0.53),
    }.items():
        for version, true in enumerate(np.linspace(low, high, count)):
            lift = scatter * rng.normal()
            for run in range(2):
                rows.append(
                    {
                        "version": f"{kind} {version}",
                        "kind": kind,
                        "seed": run,
                        "recall": true + noise * rng.normal(),
                        "gauc": level + slope * true + lift + noise * rng.normal(),
                    }
                )
    return pl.DataFrame(rows)


def test_within_kinds_the_slope_is_that_of_one_kind():
    table = kinds(noise=1e-9, scatter=0.0)
    assert analysis.exchange_rate(table, of="recall", into="gauc").slope < 0  # which kind, not which recall
    rate = analysis.exchange_rate(table, of="recall", into="gauc", within="kind")
    assert rate.slope == pytest.approx(0.5, rel=1e-6)
    assert rate.checklist["uncertainty"] == "jackknife-t over 12 versions (8 df)"
    assert [one["slope"] for one in rate.local] == pytest.approx([0.5] * 3, abs=1e-4)
    assert len(set(rate.points.groups)) == 3


def test_within_one_kind_is_the_plain_line():
    table = versions(seed=3).with_columns(kind=pl.lit("one"))
    plain, within = (analysis.exchange_rate(table, of=PROXIES, into="gauc", within=column) for column in (None, "kind"))
    assert within.slope == plain.slope
    assert within.interval == plain.interval
    assert within.ranking.rows == plain.ranking.rows
    assert within.constant_p_value == plain.constant_p_value


def test_intervals_within_kinds_cover():
    """12 versions in three kinds, reliability of recall about .95: of 300 tables as many as stated, within 2.5 SE."""
    inside = []
    for seed in range(300):
        rate = analysis.exchange_rate(
            kinds(seed, noise=0.01, scatter=0.005), of="recall", into="gauc", within="kind", resamples=0
        )
        inside.append(rate.interval[0] <= 0.5 <= rate.interval[1])
    assert np.mean(inside) >= 0.95 - 2.5 * np.sqrt(0.95 * 0.05 / len(inside)), np.mean(inside)


def test_a_version_belongs_to_one_kind():
    table = kinds().with_columns(kind=pl.when(pl.col("seed") == 0).then(pl.lit("other")).otherwise("kind"))
    with pytest.raises(analysis.TableError, match=r"version '\w+ \d' has rows of several 'kind'"):
        analysis.exchange_rate(table, of="recall", into="gauc", within="kind")
    with pytest.raises(analysis.TableError, match="too few to see a slope within them"):
        analysis.exchange_rate(kinds(count=1), of="recall", into="gauc", within="kind")
