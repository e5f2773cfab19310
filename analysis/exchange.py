"""The exchange rate: what a better intermediate metric is worth downstream, over versions; and which proxy is best.

The independent unit is the version (`cluster`). Seeds of a version are replicates: they are averaged, and their scatter
gives the noise of both axes. Where every version has the same seeds, what a seed does to all versions alike (the
same test impressions, the same initial CTR model) cancels in every slope, so it is taken out of the noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.checks import about_runs
from analysis.constancy import VARIES, bend_p_value, local_rates
from analysis.eiv import Versions, jackknife, moments, slopes
from analysis.intervals import check_draws
from analysis.rates import NAMED_AT, Ranking, Rate
from analysis.table import TableError, done_rows, fingerprint, numeric_column
from analysis.versions import about_versions, beyond_noise, read_versions, reliability, version_points

if TYPE_CHECKING:
    import polars as pl

LEVEL = 0.95
ADVISED_VERSIONS = 12


def exchange_rate(
    table: pl.DataFrame,
    *,
    of: str | Sequence[str],
    into: str,
    cluster: str = "version",
    seed_column: str = "seed",
    within: str | None = None,
    noise_ratio: float | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> Rate:
    """Slope of `into` on `of` over versions, with noise on both axes (see `analysis.eiv`).

    Args:
        table: one row a measurement, several seeds a version; rows whose `status` is not "done" are left out.
        of: the intermediate metric, or several: then the rate is that of the proxy that ranks first.
        into: the downstream metric.
        cluster: the column of the version.
        seed_column: where it exists and every version has every seed once, effects common to a seed are taken out.
        within: a column of kinds of version, each with a level of its own (fixed effects): the slope is then what a better
            metric is worth at the same kind. Without it versions that cannot be good at the metric (it needs what they do
            not see) decide the slope.
        noise_ratio: only for tables without replicates: noise variance of `into` over that of `of`, on standardised
            axes; 1 if not given, and the rate then carries a warning.
        resamples: of versions, behind P(best).

    Raises:
        TableError: a column is missing or not finite, there are under 3 versions, or a metric is the same in all.

    Example:
        >>> import analysis, polars
        >>> recall = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
        >>> table = polars.DataFrame({"version": list("abcdef"), "recall": recall, "gauc": [0.6 + 0.3 * r for r in recall]})
        >>> rate = analysis.exchange_rate(table, of="recall", into="gauc")
        >>> f"{rate.slope:.3f}"
        '0.300'
    """
    proxies = [of] if isinstance(of, str) else list(of)
    done, dropped = done_rows(table)
    how: dict[str, Any] = {
        "cluster": cluster, "seed_column": seed_column, "noise_ratio": noise_ratio, "within": within
    }  # fmt: skip
    ranking = rank_proxies(done, of=proxies, into=into, resamples=resamples, seed=seed, **how)
    first = ranking.proxies[0]
    versions, names, noise_source = read_versions(done, first, into, **how)
    n = len(names)
    one = np.ones((1, n))
    slope = float(slopes(versions, one)[0])
    interval, error, method = _interval(versions)
    warnings = [*about_versions(versions, first, into, noise_ratio), *ranking.warnings, *about_runs(done)]
    elasticity, elasticity_interval = _elasticity(done, first, into, how)
    xx, yy, xy = (float(part[0]) for part in moments(versions, one))
    noise = versions.noise(one)[:, 0] if versions.ratio is None else np.full(3, np.nan)
    p_value = bend_p_value(versions, slope, seed)
    if p_value < VARIES:
        warnings.append(
            f"the rate is not constant over the range (p = {p_value:.2g}): one slope does not tell it, see `local`"
        )
    if np.isfinite(interval[0]) and interval[0] <= 0 <= interval[1]:
        warnings.append("the interval of the slope includes 0")
    local, local_method = local_rates(versions, LEVEL)
    options = {"cluster": cluster, "within": within, "noise_ratio": noise_ratio, "resamples": resamples, "seed": seed}
    checklist = {
        "form": f"{into} = a + slope * {first}" + (f", a level a for each {within}" if within else ""),
        "estimator": "errors in variables: moments corrected for the seeds' noise (Fuller)"
        if versions.ratio is None
        else "errors in variables: Deming with an assumed noise ratio",
        "noise": noise_source,
        "noise_sd_of_version_mean": {first: float(np.sqrt(noise[0])), into: float(np.sqrt(noise[1]))},
        "versions": n,
        "rows": done.height,
        "points_dropped": ", ".join(dropped) or "none",
        "uncertainty": method,
        "local": local_method,
        "resamples": resamples,
        "proxies_compared": len(proxies),
    }
    return Rate(
        of=first,
        into=into,
        slope=slope,
        interval=interval,
        elasticity=elasticity,
        elasticity_interval=elasticity_interval,
        smallest_detectable=_power_factor(versions.df) * error,
        constant_p_value=p_value,
        local=local,
        r2=xy * xy / (xx * yy),
        reliability=float(1 - noise[0] / xx),
        n=n,
        points=ranking.points[0],
        ranking=ranking,
        warnings=tuple(dict.fromkeys(warnings)),
        checklist=checklist,
        options=options,
        data_hash=fingerprint(
            into=numeric_column(done, into), version=[names.index(str(v)) for v in done[cluster]],
            **{f"of{k}": numeric_column(done, proxy) for k, proxy in enumerate(proxies)},
        ),
    )  # fmt: skip


def rank_proxies(
    table: pl.DataFrame,
    *,
    of: Sequence[str],
    into: str,
    cluster: str = "version",
    seed_column: str = "seed",
    within: str | None = None,
    noise_ratio: float | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> Ranking:
    """Compare proxies of `into` over the same versions, all by the same resamples of versions.

    Raises:
        TableError: as `exchange_rate`, for any of the proxies; or a proxy is named twice, or is `into` itself.

    Example:
        >>> import analysis, numpy as np, polars
        >>> rng = np.random.default_rng(0)
        >>> image, text = rng.uniform(0.2, 0.6, (2, 12))
        >>> gauc = 0.6 + 0.1 * image + 0.002 * rng.normal(size=12)
        >>> table = polars.DataFrame({"version": range(12), "image": image, "text": text, "gauc": gauc})
        >>> analysis.rank_proxies(table, of=["text", "image"], into="gauc").winner
        'image'
    """
    proxies = list(of)
    check_draws(resamples, seed)
    if not proxies:
        raise TableError("no proxy to rank: name at least one column")
    if len(set(proxies)) < len(proxies) or into in proxies:
        raise TableError(f"proxies must differ from each other and from {into!r}: {', '.join(proxies)}")
    done, _ = done_rows(table)
    read = [read_versions(done, proxy, into, cluster, seed_column, noise_ratio, within) for proxy in proxies]
    measured, names = [versions for versions, _, _ in read], read[0][1]
    n = len(names)
    counts = _resampled(n, resamples, seed)
    r2 = np.stack([_r2(versions, counts) for versions in measured])
    best = r2 >= r2.max(axis=0) - 1e-12
    p_best = np.mean(best / best.sum(axis=0), axis=1) if counts.shape[0] else np.full(len(proxies), np.nan)
    rows: list[dict[str, Any]] = []
    for k, (proxy, versions) in enumerate(zip(proxies, measured, strict=True)):
        low, high = _interval(versions)[0]
        rows.append({
            "proxy": proxy, "slope": float(slopes(versions, np.ones((1, n)))[0]), "low": low, "high": high,
            "r2": float(_r2(versions, np.ones((1, n)))[0]), "spearman": _spearman(*versions.centred()),
            "loo_error": _loo_error(versions), "p_best": float(p_best[k]),
            "reliability": reliability(versions),
        })  # fmt: skip
    order = sorted(range(len(rows)), key=lambda k: (-rows[k]["p_best"], -rows[k]["r2"], rows[k]["proxy"]))
    means = np.stack([measured[k].x for k in order])
    correlations = np.atleast_2d(np.corrcoef(means))
    top = rows[order[0]]
    winner = top["proxy"] if len(rows) > 1 and top["p_best"] >= NAMED_AT else None
    warnings = []
    if len(rows) > 1 and n < ADVISED_VERSIONS:
        warnings.append(f"{n} versions: a ranking of proxies wants at least {ADVISED_VERSIONS}")
    others = correlations[0, 1:]
    if len(rows) > 1 and np.all(others > 0.95):
        warnings.append("all proxies rise together (correlations above .95): the versions cannot tell them apart")
    return Ranking(
        into,
        n,
        tuple(rows[k] for k in order),
        tuple(tuple(map(float, row)) for row in correlations),
        tuple(version_points(measured[k], names) for k in order),
        winner,
        tuple(warnings),
    )


def _resampled(n: int, resamples: int, seed: int) -> np.ndarray:
    """How often each resample takes each version (resamples, n); those with under 3 different versions are redrawn."""
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(n, np.full(n, 1.0 / n), size=resamples).astype(float)
    for _ in range(1000):
        poor = np.sum(counts > 0, axis=1) < min(3, n)
        if not poor.any():
            break
        counts[poor] = rng.multinomial(n, np.full(n, 1.0 / n), size=int(poor.sum()))
    return counts


def _interval(versions: Versions) -> tuple[tuple[float, float], float, str]:
    """Interval of the slope, its standard error, and the method's name.

    Measured on planted tables (noise on both axes, reliability .8 to .98): jackknife-t over versions covers .94-.97 with
    12 and 24 versions; percentiles of a version bootstrap expanded to Student's t .92-.96 and up to 1.8 times as wide.
    """
    from scipy.special import stdtrit

    n = len(versions.x)
    slope = float(slopes(versions, np.ones((1, n)))[0])
    error = float(jackknife(versions, np.ones((1, n)))[0])
    if not np.isfinite(slope + error) or not beyond_noise(versions):
        nothing = (float("nan"), float("nan"))
        return nothing, float("nan"), "no interval: the versions do not differ beyond their noise"
    half = float(stdtrit(versions.df, 0.5 + LEVEL / 2)) * error
    return (slope - half, slope + half), error, f"jackknife-t over {n} versions ({versions.df} df)"


def _elasticity(table: pl.DataFrame, of: str, into: str, how: dict[str, Any]) -> tuple[float, tuple[float, float]]:
    """The same slope between the logs of both errors; NaN unless both metrics lie below 1 in every row and differ in logs."""
    import polars as pl

    nothing = (float("nan"), float("nan"))
    if max(numeric_column(table, of).max(), numeric_column(table, into).max()) >= 1:
        return float("nan"), nothing
    logs = table.with_columns((1 - pl.col(of)).log().alias(of), (1 - pl.col(into)).log().alias(into))
    try:
        versions, _, _ = read_versions(logs, of, into, **how)
    except TableError:  # metrics so near 0 that the errors are all alike
        return float("nan"), nothing
    value = float(slopes(versions, np.ones((1, len(versions.x))))[0])
    return value, _interval(versions)[0]


def _power_factor(df: int) -> float:
    """Multiple of the standard error that is seen with 80 % power in a two-sided test at 5 %: 2.8 for many versions."""
    from scipy.special import stdtrit

    return float(stdtrit(df, 0.975) + stdtrit(df, 0.8))


def _r2(versions: Versions, counts: np.ndarray) -> np.ndarray:
    xx, yy, xy = moments(versions, counts)
    with np.errstate(all="ignore"):
        return np.nan_to_num(xy * xy / (xx * yy))


def _spearman(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.corrcoef(_ranks(x), _ranks(y))[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 0, ties at their mean."""
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts + 1) / 2.0)[group]


def _loo_error(versions: Versions) -> float:
    """Root mean square leave-one-out error of the least squares line, by leverages (predicting wants no EIV).

    A version that is alone in its group cannot be foretold from the others and is not counted.
    """
    u, v = versions.centred()
    size = np.bincount(versions.groups)[versions.groups]
    leverage = 1 / size + u * u / (u @ u)
    rest = v - (u @ v / (u @ u)) * u
    errors = rest / np.maximum(1 - leverage, 1e-12)
    return float(np.sqrt(np.mean(errors[size > 1] ** 2)))
