"""`fit`: a law on the columns of a table, from many starts, with intervals, validation and the record of how."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from analysis import checks
from analysis.evaluation import beyond_trials
from analysis.fitted import Fit, Points
from analysis.intervals import Draws, check_draws, leverages, replicate_spread, resample
from analysis.laws import Law, get_law
from analysis.rows import Rows, read_rows
from analysis.solver import Loss, Objective, Problem, solve
from analysis.table import TableError, done_rows, fingerprint, numeric_column

if TYPE_CHECKING:
    import polars as pl

TOLERANCE = 1e-13
SAME_X = 9  # decimals of log x: what differs beyond them differs by rounding alone
SAME_OPTIMUM = 1e-3  # a start has reached the optimum if its objective is within 0.1 % of the best


def fit(
    table: pl.DataFrame,
    *,
    x: str | Sequence[str],
    y: str,
    law: str | Law = "power_floor",
    transform: Literal["identity", "error"] = "identity",
    cluster: str | None = None,
    loss: Loss = "squares",
    delta: float | None = None,
    weights: str | None = None,
    trials: str | None = None,
    noise: float | None = None,
    units: Mapping[str, str] | None = None,
    pin: Mapping[str, float] | None = None,
    holdout: Literal["largest"] | None = None,
    bootstrap: Literal["residuals", "cases"] = "residuals",
    resamples: int = 2000,
    seed: int = 0,
) -> Fit:
    """Fit a law to a table.

    Args:
        table: one row a measurement. Rows whose `status` (if there is such a column) is not "done" are left out.
        x: the column of the axis, above 0, in any unit; several columns for laws with several axes.
        y: the measured column.
        law: a name in `analysis.LAWS`, a Law, or "auto": the choice of `analysis.compare_laws`.
        transform: "error" fits 1 - y (for metrics with the ceiling 1), "identity" fits y.
        cluster: the column of the independent unit, e.g. "run"; without it each row is its own.
        loss: "squares", "lad" (least absolute deviations), or "huber" with `delta` in the residual space (logs, for laws
            with log residuals). A delta is a modelling choice: look at what another one gives.
        weights: a column of row weights, in proportion to 1 / variance in the residual space.
        trials: a column with the number of trials behind each y (test queries of a recall): a row's variance is then
            binomial plus what runs scatter beyond it (`analysis.evaluation`), rows are weighted by its inverse, and a new
            run is taken to have the trials' harmonic mean.
        noise: the standard deviation of a run that is known from elsewhere (seeds of an earlier sweep), in the residual
            space: 0.02 is 2 % for laws fitted in logs. No run is then taken to scatter less.
        units: {column: unit}, for summary and figures.
        pin: parameters held at a value, in the units of the table; recorded as such.
        holdout: "largest" fits without the largest x (of the first axis) and compares its runs with their prediction.
        bootstrap: "residuals" keeps the design and redraws the deviations of whole clusters from the fitted law; "cases"
            draws whole clusters with replacement, as published fits over hundreds of runs do.
        resamples: bootstrap draws behind the intervals; 0 for none.
        seed: of the resampling.

    Returns:
        A Fit. What speaks against it is in `Fit.warnings`.

    Raises:
        TableError: a column is missing or not finite, x or (for laws with log residuals) y is not above 0, there are
            no more points than free parameters, or no start led anywhere.

    Example:
        >>> import analysis, polars
        >>> tokens = [1e4, 1e5, 1e6, 1e7, 1e8, 1e9]
        >>> table = polars.DataFrame({"tokens": tokens, "loss": [0.5 + 20 * t**-0.3 for t in tokens]})
        >>> analysis.fit(table, x="tokens", y="loss", law="power_floor").params
        {'E': 0.5..., 'A': 20.0..., 'alpha': 0.3...}
    """
    reason = None
    if law == "auto":
        shared = {
            "transform": transform, "cluster": cluster, "loss": loss, "delta": delta, "weights": weights, "trials": trials
        }  # fmt: skip
        law, reason = _auto(table, x, y, holdout, shared)
    form = get_law(law)
    names = (x,) if isinstance(x, str) else tuple(x)
    options = _options(
        form, names, transform, cluster, loss, delta, weights, trials, pin, holdout, bootstrap, resamples, seed
    )
    if noise is not None and not (np.isfinite(noise) and noise > 0):
        raise TableError(f"noise is a standard deviation: finite and above 0, not {noise}")
    options |= {"noise": noise, "units": {name: unit for name, unit in (units or {}).items() if name in (*names, y)}}
    done, dropped = done_rows(table)
    rows = read_rows(done, names, y, cluster, transform, form, weights, trials)
    held = rows.x[0] == rows.x[0].max() if holdout == "largest" else np.zeros(len(rows.y), bool)
    used = rows.pick(~held)
    problem, x_scales, y_scale = _problem(form, used, names, Objective(loss, delta), options["pin"])
    found, values = _solved(problem, y, names)
    beyond = 0.0
    if used.variance is not None:
        beyond = _beyond(problem, found[int(np.argmin(values))], used.variance, y_scale)
        used, rows = used.weighed(beyond), rows.weighed(beyond)
        problem = replace(problem, weights=used.weights)
        found, values = _solved(problem, y, names)
    best = int(np.argmin(values))
    scatter = _noise(problem, found[best], y_scale, used, beyond, noise or 0.0)
    if trials:
        scatter["trials"] = float(1 / np.mean(1 / np.sort(numeric_column(done, trials))))
    drawn = resample(
        problem,
        found[best],
        np.array(used.codes),
        resamples,
        seed,
        cases=bootstrap == "cases",
        at_least=scatter["inflate"],
    )

    def rescale(params: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            natural = params if form.rescale is None else form.rescale(params, x_scales, y_scale)
        for name, value in options["pin"].items():  # exactly as given, not through the rescaling and back
            natural[..., form.names.index(name)] = value
        return natural

    params = dict(zip(form.names, map(float, rescale(found[best].copy())), strict=True))
    if lost := [name for name, value in params.items() if not np.isfinite(value)]:
        raise TableError(
            f"{form.name}: {', '.join(lost)} leaves the range of floats; give {', '.join((*names, y))} in other units"
        )
    draws, noise_draws = np.empty((0, len(params))), np.empty(0)
    if drawn is not None:
        draws = rescale(drawn.params)
        finite = np.isfinite(draws).all(axis=1)
        draws, noise_draws = draws[finite], scatter["sd"] * drawn.noise_factor[finite]
        drawn = replace(drawn, failed=drawn.failed + int(np.sum(~finite)))
    result = Fit(
        form=form,
        params=params,
        x=names,
        y=y,
        transform=transform,
        n=len(used.y),
        clusters=len(set(used.cluster)),
        objective=_objective(values, loss, delta, form, y_scale),
        diagnostics=_diagnostics(problem, found[best], drawn, used),
        noise=scatter,
        warnings=(),
        checklist={},
        options=options,
        data_hash=fingerprint(**{f"x{k}": axis for k, axis in enumerate(rows.x)}, y=rows.y, cluster=rows.codes),
        points=Points(rows.x, rows.y, rows.cluster, held, rows.passes, rows.weights),
        draws=draws,
        noise_draws=noise_draws,
    )
    return checks.complete(result, done, drawn, dropped, reason)


def _auto(
    table: pl.DataFrame, x: str | Sequence[str], y: str, holdout: str | None, options: dict[str, Any]
) -> tuple[str, str]:
    """The chosen law and why; what is held out takes no part in the choice."""
    import polars as pl

    from analysis.choice import compare_laws  # it fits laws itself

    names = [x] if isinstance(x, str) else list(x)
    if len(names) != 1:
        raise TableError(f"law auto compares laws on one axis, not on {', '.join(names)}; name a law (`moon laws`)")
    if holdout:
        done, _ = done_rows(table)
        table = done.filter(pl.col(names[0]) < numeric_column(done, names[0]).max())
    ranked = compare_laws(table, x=names[0], y=y, **options)
    chosen = ranked["law"][0]
    others = ", ".join(ranked.filter(pl.col("verdict") == "in the running")["law"]) or "none"
    return chosen, f"chosen of {ranked.height} laws by leave-largest-out error and AICc; also in the running: {others}"


def _options(
    form: Law, names: tuple[str, ...], transform: str, cluster: str | None, loss: str, delta: float | None,
    weights: str | None, trials: str | None, pin: Mapping[str, float] | None, holdout: str | None, bootstrap: str,
    resamples: int, seed: int,
) -> dict[str, Any]:  # fmt: skip
    if len(names) != form.axes:
        raise TableError(f"{form.name} takes {form.axes} column(s) as x, not {len(names)}: {', '.join(names)}")
    if transform not in ("identity", "error"):
        raise TableError(f"no transform {transform!r}; transforms: identity, error")
    if loss not in ("squares", "huber", "lad"):
        raise TableError(f"no loss {loss!r}; losses: squares, huber, lad")
    if bootstrap not in ("residuals", "cases"):
        raise TableError(f"no bootstrap {bootstrap!r}; bootstraps: residuals, cases")
    if weights and trials:
        raise TableError("give weights or trials, not both: trials are turned into weights")
    if (loss == "huber") != (delta is not None) or (delta is not None and not delta > 0):
        raise TableError("loss 'huber' needs a delta above 0, and no other loss takes one")
    check_draws(resamples, seed)
    if holdout not in (None, "largest"):
        raise TableError(f"no holdout {holdout!r}; give 'largest' or nothing")
    pinned = {name: float(value) for name, value in (pin or {}).items()}
    for name, value in pinned.items():
        if name not in form.names:
            raise TableError(f"{form.name} has no parameter {name!r} to pin; it has {', '.join(form.names)}")
        if not np.isfinite(value) or (value < 0 and form.params[form.names.index(name)].domain != "real"):
            raise TableError(f"{form.name}: {name} cannot be pinned at {value}")
    return {
        "cluster": cluster, "loss": loss, "delta": delta, "weights": weights, "trials": trials, "pin": pinned,
        "holdout": holdout, "bootstrap": bootstrap, "resamples": resamples, "seed": seed,
    }  # fmt: skip


def _problem(
    form: Law, rows: Rows, names: Sequence[str], objective: Objective, pin: Mapping[str, float]
) -> tuple[Problem, np.ndarray, float]:
    """Centre: x is divided by its geometric mean, y by its scale, so that parameters are nearly uncorrelated."""
    free = len(form.params) - len(pin)
    if len(rows.y) <= free:
        raise TableError(f"{form.name} has {free} free parameters and the fit only {len(rows.y)} points: it needs more")
    places = np.unique(np.round(np.log(rows.x), SAME_X), axis=1).shape[1]
    for name, axis in zip(names, rows.x, strict=True):
        if np.ptp(np.log(axis)) < 10.0**-SAME_X:
            raise TableError(f"column {name!r} has the one value {axis[0]:g} in all rows: no slope can be seen")
    if places < free:
        raise TableError(f"{form.name} has {free} free parameters, and the rows stand at only {places} different x")
    axis_scales, y_scale, pins = np.ones(form.axes), 1.0, dict(pin)
    if form.rescale is not None and set(pin) <= {
        form.floor
    }:  # a floor is in units of y; other pins would not carry over
        axis_scales = np.exp(np.mean(np.log(rows.x), axis=1))
        spread = np.std(rows.y) or np.abs(rows.y).max() or 1.0
        if form.y_scaled:
            y_scale = float(np.exp(np.mean(np.log(rows.y))) if form.residuals == "log" else spread)
        pins = {name: value / y_scale for name, value in pin.items()}
    axes = rows.x / axis_scales[:, None]
    return Problem(form, axes, rows.y / y_scale, rows.weights, objective, pins), axis_scales, y_scale


def _solved(problem: Problem, y: str, names: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Natural parameters (starts, p) and objectives (starts,) that all starts lead to."""
    found, values = solve(problem, problem.law.starts(*problem.axes, problem.y), tolerance=TOLERANCE)
    if not np.isfinite(values).any():
        raise TableError(f"{problem.law.name}: no start led to a finite fit of {y!r} on {', '.join(names)}")
    return found, values


def _beyond(problem: Problem, params: np.ndarray, variance: np.ndarray, y_scale: float) -> float:
    """Variance of runs beyond their trials', in the residual space of the table."""
    unit = 1.0 if problem.law.residuals == "log" else y_scale
    inner = problem.inner(params[None])
    residuals = problem.residuals(inner, problem.y[None])[0] * unit
    with np.errstate(all="ignore"):
        leverage = leverages(problem.jacobian(inner)[0] * np.sqrt(problem.weights)[:, None])
    return beyond_trials(residuals, variance, leverage, len(residuals) - len(problem.free))


def problem_of(fit: Fit) -> tuple[Problem, np.ndarray]:
    """The minimisation behind a one-unit fit again, in the units of the table, and its parameters (p,)."""
    used = fit.points.used
    objective = Objective(fit.objective["loss"], fit.objective["delta"])
    weights = fit.points.weights[used]
    problem = Problem(fit.form, fit.points.x[:, used], fit.points.y[used], weights, objective, fit.options["pin"])
    return problem, np.array(list(fit.params.values()))


def _noise(
    problem: Problem, params: np.ndarray, y_scale: float, rows: Rows, beyond: float, told: float
) -> dict[str, Any]:
    """Standard deviation of one run (of weight 1) about the law, in the residual space and in the units of the table.

    `inflate` is by how much the resampled noise must grow where the trials' own noise, or what was `told`, exceeds what the
    rows show;
    `known` is the variance that a row of weight 1 has by its trials and what lies `beyond` them.
    """
    evaluation = 0.0 if rows.variance is None else float(np.sqrt(1 / np.mean(1 / rows.variance)))
    logs = problem.law.residuals == "log"
    with np.errstate(all="ignore"):  # a wild optimum may lie at the end of the floats
        residuals = problem.residuals(problem.inner(params[None]), problem.y[None])[0]
    freedom = len(residuals) - len(problem.free)
    about_law = float(np.sqrt(np.sum(problem.weights * residuals**2) / freedom))
    values = np.log(problem.y) if logs else problem.y
    replicates, replicate_freedom = replicate_spread(problem.axes, values, problem.weights)
    unit = 1.0 if logs else y_scale
    # A law that misses its points has more scatter than its seeds: a new run then falls by the larger of the two.
    seen = max(about_law, replicates) if replicate_freedom else about_law
    least = max(evaluation, told) if logs else max(evaluation, told) / y_scale
    source = "replicates" if replicate_freedom and replicates >= about_law else "residuals"
    return {
        "sd": max(seen, least) * unit,
        "space": problem.law.residuals,
        "source": ("trials" if evaluation >= told else "what was told") if least > seen else source,
        "evaluation": evaluation or None,
        "beyond": beyond,
        "known": None if rows.variance is None else float(1 / np.mean(1 / (rows.variance + beyond))),
        "inflate": max(least / about_law, 1.0) if about_law > 0 else 1.0,
        "about_law": about_law * unit,
        "replicates": replicates * unit if replicate_freedom else None,
        "replicate_df": replicate_freedom,
    }


def _objective(values: np.ndarray, loss: str, delta: float | None, form: Law, y_scale: float) -> dict[str, Any]:
    best = float(values.min())
    reached = values <= best * (1 + SAME_OPTIMUM) + 1e-20
    unit = 1.0 if form.residuals == "log" else y_scale**2
    return {
        "value": best * unit, "loss": loss, "delta": delta, "space": form.residuals, "form": "sum over points",
        "optimiser": "batched Levenberg-Marquardt", "tolerance": TOLERANCE,
        "starts": len(values), "share_at_optimum": float(np.mean(reached)),
    }  # fmt: skip


def _diagnostics(problem: Problem, params: np.ndarray, drawn: Draws | None, rows: Rows) -> dict[str, Any]:
    with np.errstate(all="ignore"):
        jacobian = problem.jacobian(problem.inner(params[None]))[0]
        norms = np.linalg.norm(jacobian, axis=0)
        scaled = jacobian / np.where((norms > 0) & np.isfinite(norms), norms, 1.0)
        condition = float(np.linalg.cond(scaled)) if jacobian.shape[1] and np.isfinite(scaled).all() else np.inf
        residuals = problem.residuals(problem.inner(params[None]), problem.y[None])[0]
    condition = condition if jacobian.shape[1] else 1.0
    return {
        "degrees_of_freedom": len(rows.y) - len(problem.free),
        "condition": condition if np.isfinite(condition) else None,
        "correlations": _correlations(problem, drawn),
        "decades": [float(np.log10(axis.max() / axis.min())) for axis in rows.x],
        "largest_leverage": float(leverages(jacobian).max()),
        "median_abs_residual": float(np.median(np.abs(residuals))),
        "failed_resamples": 0 if drawn is None else drawn.failed,
    }


def _correlations(problem: Problem, drawn: Draws | None) -> dict[str, float]:
    """Of the resampled parameters, as the solver moves them: "A,alpha" -> r."""
    if drawn is None or len(drawn.params) < 2 or len(problem.free) < 2:
        return {}
    names = [problem.law.names[k] for k in problem.free]
    with np.errstate(all="ignore"):  # a parameter that does not vary has no correlation: NaN, left out
        r = np.corrcoef(problem.inner(drawn.params), rowvar=False)
    pairs = [(i, j) for i in range(len(names)) for j in range(i + 1, len(names))]
    return {f"{names[i]},{names[j]}": float(r[i, j]) for i, j in pairs if np.isfinite(r[i, j])}
