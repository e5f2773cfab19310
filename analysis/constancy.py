"""Is an exchange rate the same over its range, and what is it at the low, middle and high end?

The bend is a quadratic. Noise in x flattens it, so it is fitted to calibrated x: each version's mean is moved towards
the mean of all by the reliability (regression calibration, Carroll et al. 2006, chapter 4), which makes slope and bend
unbiased where the versions' true x are normal. Measured on planted tables of 12 and 24 versions whose true x are
uniform, with reliability .8, .9 and .95: 95 % intervals of the three local rates cover .94-.99; of the bend (the rate
at the high end minus that at the low end) a third is lost at reliability .8, a fifth at .9, a tenth at .95, so that the
ends err towards the constant rate. Where the versions lie in two clumps a bend cannot be told from a line: coverage at
the ends is then .85-.94. Corrected moments (Cheng and Schneeweiss 1998) lose nothing of the bend, but their intervals
are 2.5 times as wide at reliability .8 with 12 versions; they were not taken.
"""

from __future__ import annotations

import numpy as np

from analysis.eiv import MOSTLY_NOISE, Versions, moments
from analysis.versions import beyond_noise

VARIES = 0.05  # under this p the rate is not taken for constant
LEAST = 5  # versions: three coefficients and at least two degrees of freedom


def _bend(x: np.ndarray, y: np.ndarray, versions: Versions) -> np.ndarray:
    """t statistic of the quadratic term of y (batch, v) on x (batch, v) and the levels of the versions' groups."""
    u = (x - x.mean(axis=1, keepdims=True)) / x.std(axis=1, keepdims=True)
    q, _ = np.linalg.qr(_design(u, versions))
    along = np.einsum("bvp,bv->bp", q, y)
    rest = np.maximum(np.sum(y * y, axis=1) - np.sum(along * along, axis=1), 1e-300)
    return along[:, -1] / np.sqrt(rest / max(versions.df - 1, 1))


def _design(u: np.ndarray, versions: Versions) -> np.ndarray:
    """(batch, v, groups + 2): a level for each group, u and its square, of u (batch, v)."""
    members = versions.members()
    levels = np.broadcast_to(members, (len(u), *members.shape))
    return np.concatenate([levels, u[..., None], (u * u)[..., None]], axis=-1)


def bend_p_value(versions: Versions, slope: float, seed: int, draws: int = 2000) -> float:
    """p of "the relation is a line": the quadratic term against its distribution under the fitted line and noise.

    Noise in x bends nothing by itself but blurs a bend, so the null is simulated with it. NaN with under 5 versions.
    """
    n = len(versions.x)
    if n < LEAST or versions.df < 2 or not np.isfinite(slope):
        return float("nan")
    rng = np.random.default_rng(seed)
    one = np.ones((1, n))
    xx, yy, xy = (float(part[0]) for part in moments(versions, one))
    a, b, c = versions.noise(one)[:, 0] if versions.ratio is None else np.zeros(3)
    away = versions.centred()[0]
    truth = versions.x - away + np.sqrt(max(1 - a / xx, 0.0)) * away
    # What scatters beyond the seeds' noise is scatter of the versions about the line.
    scatter = max(yy - 2 * slope * xy + slope**2 * xx - (b - 2 * slope * c + slope**2 * a), 0.0)
    x = truth + np.sqrt(a) * rng.normal(size=(draws, n))
    y = slope * truth + np.sqrt(b + scatter) * rng.normal(size=(draws, n))
    if b + scatter <= 1e-24 * yy and a <= 0:
        return float("nan")  # an exact line: nothing is left to test
    observed = abs(float(_bend(versions.x[None], versions.y[None] - versions.y.mean(), versions)[0]))
    return float((1 + np.sum(np.abs(_bend(x, y, versions)) >= observed)) / (draws + 1))


def local_rates(versions: Versions, level: float) -> tuple[tuple[dict[str, float], ...], str]:
    """Slopes at the lowest, middle and highest x of the versions, with jackknife-t intervals; and the method's name.

    Each is `x, slope, low, high`. None with under 5 versions or where these do not differ beyond their noise.
    """
    from scipy.special import stdtrit

    n = len(versions.x)
    if n < LEAST or versions.df < 2 or len(np.unique(versions.x)) < 4 or not beyond_noise(versions):
        return (), "no local rate: too few versions that differ"
    at = np.array([versions.x.min(), 0.5 * (versions.x.min() + versions.x.max()), versions.x.max()])
    slopes = local_slopes(versions, np.ones((1, n)), at)[0]
    left_out = local_slopes(versions, np.ones((n, n)) - np.eye(n), at)
    error = np.sqrt((n - 1) / n * np.sum((left_out - left_out.mean(axis=0)) ** 2, axis=0))
    df = versions.df - 1
    half = float(stdtrit(df, 0.5 + level / 2)) * error
    rates = tuple(
        {"x": float(x), "slope": float(slope), "low": float(slope - width), "high": float(slope + width)}
        for x, slope, width in zip(at, slopes, half, strict=True)
    )
    return rates, f"quadratic on calibrated x, jackknife-t over {n} versions ({df} df)"


def local_slopes(versions: Versions, counts: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Derivative of the quadratic at x = `at` (k,) for counts (batch, v): (batch, k)."""
    xx, members = moments(versions, counts)[0], versions.members()
    if versions.ratio is None:
        a, _, c = versions.noise(counts)
    else:
        a = c = np.zeros(len(counts))  # nothing is known of the noise: x is taken as it is
    kept = np.maximum(
        1 - a * (1 - 1 / versions.between(counts)) / xx, MOSTLY_NOISE
    )  # the reliability, Fuller's factor as in `slopes`
    centre, unit = versions.x.mean(), versions.x.std()
    means = counts @ (members * versions.x[:, None]) / np.maximum(counts @ members, 1e-300)
    mean = means[:, versions.groups]
    u = (mean + kept[:, None] * (versions.x - mean) - centre) / unit
    design = _design(u, versions)
    weighted = np.swapaxes(design * counts[:, :, None], 1, 2)
    y = versions.y - versions.y.mean()
    # By pseudo-inverse: where all versions of a group are left out, so is its level.
    coefficients = (np.linalg.pinv(weighted @ design, hermitian=True) @ (weighted @ y[None, :, None]))[..., 0]
    common = c / (xx * kept)  # what the two noises share looks like slope
    return (coefficients[:, -2:-1] + 2 * coefficients[:, -1:] * (at - centre) / unit) / unit - common[:, None]
