"""What the command line calls: a table's path and names of columns in, text out; files written on request."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from analysis.allocation import allocate
from analysis.choice import CANDIDATES, compare_laws
from analysis.costs import AXES, cost_at
from analysis.equivalent import compute_equivalent
from analysis.exchange import exchange_rate
from analysis.extrapolation import leave_largest_out
from analysis.fitted import Fit
from analysis.fitting import fit
from analysis.formula import cost_of
from analysis.isoflop import isoflop
from analysis.laws import LAWS
from analysis.marginal import marginal_table
from analysis.profile import profile_intervals
from analysis.rates import Rate
from analysis.table import TableError, read_table, read_units, require_columns
from analysis.two_step import two_step
from analysis.words import rolling_words, span
from analysis.worth import Better

if TYPE_CHECKING:
    import polars as pl
    from matplotlib.figure import Figure


def fit_command(
    table_path: str | Path,
    *,
    x: str | Sequence[str],
    y: str,
    law: str = "power_floor",
    transform: Literal["identity", "error"] = "identity",
    group: str | None = None,
    profile: bool = False,
    rolling: bool = False,
    save: str | Path | None = None,
    figure: str | Path | None = None,
    **options: Any,
) -> str:
    """Fit a law to a CSV or Parquet file; returns the summary.

    group: fit each value of this column on its own (files get its name). profile: profile-likelihood intervals, too.
    rolling: a table of rolling leave-largest-out predictions, too, and their figure beside the other ("-rolling" in its
    name). save: path of the JSON. figure: .png and .svg. options: as for `analysis.fit`; units that a Parquet file tells
    are read.

    Raises:
        TableError: whatever is wrong with the table, the file named in the message.
    """
    table = read_table(table_path)
    names = [x] if isinstance(x, str) else list(x)
    options["units"] = {**read_units(table_path), **(options.get("units") or {})}
    try:
        if group is None:
            return _fitted(table, names, y, law, transform, profile, rolling, save, figure, options)

        def told(part: pl.DataFrame, save: Path | None, figure: Path | None) -> str:
            return _fitted(part, names, y, law, transform, profile, rolling, save, figure, options)

        return _each(table, group, told, save, figure)
    except TableError as error:
        raise TableError(_named(table_path, error)) from error


def _each(
    table: pl.DataFrame, group: str, told: Callable[..., str], save: str | Path | None, figure: str | Path | None
) -> str:
    """What is told of each group; one poor group does not hide the others, but they must not all be poor."""
    require_columns(table, [group])
    groups = sorted(((str(value), part) for (value,), part in table.group_by(group)), key=lambda pair: pair[0])
    files = [_suffixed("x", value) for value, _ in groups]
    if (save or figure) and len(set(files)) < len(groups):
        twice = sorted({value for (value, _), file in zip(groups, files, strict=True) if files.count(file) > 1})
        raise TableError(f"groups {', '.join(twice)} would be saved under one name: rename them in column {group!r}")
    parts, faults = [], []
    for value, part in groups:
        try:
            parts.append(f"{group} = {value}\n{told(part, *(_suffixed(path, value) for path in (save, figure)))}")
        except TableError as error:
            faults.append(error)
            parts.append(f"{group} = {value}\n  not fitted: {error}")
    if len(faults) == len(groups):
        raise faults[0]
    return "\n\n".join(parts)


def _fitted(
    table: pl.DataFrame, x: list[str], y: str, law: str, transform: Literal["identity", "error"], profile: bool, rolling: bool,
    save: str | Path | None, figure: str | Path | None, options: dict[str, Any],
) -> str:  # fmt: skip
    made = fit(table, x=x, y=y, law=law, transform=transform, **options)
    lines = [made.summary()]
    if law == "auto":
        lines.append(f"  law: {made.law}, {made.checklist['form_reason']}")
    if profile:
        ends = ", ".join(f"{name} {span(pair)}" for name, pair in profile_intervals(made).items())
        lines.append(f"  profile likelihood, 95 %: {ends}")
    if rolling:
        kept = {name: value for name, value in options.items() if name not in ("holdout", "resamples")}
        left = leave_largest_out(table, x=x, y=y, law=law, transform=transform, ahead="all", **kept)
        lines.append(rolling_words(left, x[0]))
        if figure is not None:
            from analysis.figures import save_figure
            from analysis.validation_figures import rolling_figure

            png, svg = save_figure(rolling_figure(left), _stem(_suffixed(figure, "rolling") or figure))
            lines.append(f"  figure: {png}, {svg}")
    from analysis.figures import scaling_figure
    from analysis.validation_figures import joint_figure

    draw = scaling_figure if len(x) == 1 else joint_figure
    return _told(made, save, figure, lambda: draw(made), lines)


def _told(
    answer: Any, save: str | Path | None, figure: str | Path | None, draw: Callable[[], Figure] | None,
    lines: Sequence[str] = (),
) -> str:  # fmt: skip
    """The answer as text, and what was written of it."""
    out = [*(lines or [answer.summary()])]
    if save is not None:
        out.append(f"saved: {answer.save(save)}")
    if figure is not None and draw is not None:
        from analysis.figures import save_figure

        png, svg = save_figure(draw(), _stem(figure))
        out.append(f"figure: {png}, {svg}")
    return "\n".join(out)


def laws_command(table_path: str | Path, *, x: str, y: str, laws: Sequence[str] = CANDIDATES, **options: Any) -> str:
    """The laws compared on a CSV or Parquet file, as text: extrapolation error, AICc, verdict.

    Raises:
        TableError: whatever is wrong with the table, the file named in the message.
    """
    try:
        ranked = compare_laws(read_table(table_path), x=x, y=y, laws=laws, **options)
    except TableError as error:
        raise TableError(_named(table_path, error)) from error
    lines = [f"{'law':<16}  {'parameters':>10}  {'extrapolation':>13}  {'AICc':>9}  verdict"]
    for row in ranked.iter_rows(named=True):
        missed = "not known" if row["extrapolation"] is None else f"{row['extrapolation']:.2%}"
        lines.append(f"{row['law']:<16}  {row['parameters']:>10}  {missed:>13}  {row['aicc']:>9.1f}  {row['verdict']}")
    return "\n".join(lines)


def exchange_command(
    table_path: str | Path,
    *,
    of: str | Sequence[str],
    into: str,
    cluster: str = "version",
    within: str | None = None,
    noise_ratio: float | None = None,
    resamples: int = 2000,
    seed: int = 0,
    save: str | Path | None = None,
    figure: str | Path | None = None,
) -> str:
    """The exchange rate of one metric or several into another, from a CSV or Parquet file; returns the summary.

    Raises:
        TableError: whatever is wrong with the table, the file named in the message.
    """
    table = read_table(table_path)
    try:
        rate = exchange_rate(
            table,
            of=of,
            into=into,
            cluster=cluster,
            within=within,
            noise_ratio=noise_ratio,
            resamples=resamples,
            seed=seed,
        )
    except TableError as error:
        raise TableError(_named(table_path, error)) from error
    from analysis.figures import exchange_figure

    kinds = (
        None
        if within is None
        else {str(name): str(kind) for name, kind in zip(table[cluster], table[within], strict=True)}
    )
    return _told(rate, save, figure, lambda: exchange_figure(rate, groups=kinds))


def isoflop_command(
    table_path: str | Path, *, save: str | Path | None = None, figure: str | Path | None = None, **options: Any
) -> str:
    """The best x at each budget and how it grows, from a CSV or Parquet file; options: as for `analysis.isoflop`.

    Raises:
        TableError: whatever is wrong with the table, the file named in the message.
    """
    table = read_table(table_path)
    try:
        result = isoflop(table, **options)
    except TableError as error:
        raise TableError(_named(table_path, error)) from error
    return _told(result, save, figure, result.figure)


def two_step_command(
    table_path: str | Path,
    *,
    x: Sequence[str],
    second_path: str | Path | None = None,
    test_path: str | Path | None = None,
    save: str | Path | None = None,
    figure: str | Path | None = None,
    **options: Any,
) -> str:
    """A downstream metric foretold by way of an intermediate one; options: as for `analysis.two_step`.

    Raises:
        TableError: whatever is wrong with a table, the first file named in the message.
    """
    table = read_table(table_path)
    second, test = (None if path is None else read_table(path) for path in (second_path, test_path))
    try:
        chain = two_step(table, x=list(x), second_table=second, test=test, **options)
    except TableError as error:
        raise TableError(_named(table_path, error)) from error
    return _told(chain, save, figure, chain.figure)


def allocate_command(
    laws: Mapping[str, str | Path] | str | Path,
    *,
    at: Mapping[str, float],
    cost: str | None = None,
    budget: float | None = None,
    bounds: Mapping[str, tuple[float, float]] | None = None,
    rate_path: str | Path | None = None,
    share: float = 0.10,
    better: Better | None = None,
    seed: int = 0,
    save: str | Path | None = None,
    figure: str | Path | None = None,
) -> str:
    """Where the next compute pays, and the best set-up for a budget, from saved fits and a saved rate.

    laws: the file of a joint fit, or {axis: file}. at: where the set-up stands; without `cost` also what `analysis.Cost`
    wants (params, tokens_per_pair, embedding, ...). cost: arithmetic over the axes, "6 * N * D". save, figure: of the
    marginal table; of the allocation with "-allocation" in the name.

    Raises:
        TableError: a file is no saved fit or rate, or as `allocate` and `marginal_table`.
    """
    fits = Fit.load(laws) if isinstance(laws, str | Path) else {name: Fit.load(path) for name, path in laws.items()}
    rate = None if rate_path is None else Rate.load(rate_path)
    price = cost_of(cost) if cost is not None else cost_at(at)
    place = dict(at) if cost is not None else {name: value for name, value in at.items() if name in AXES}
    shared: dict[str, Any] = {
        "cost": price,
        "at": place,
        "bounds": bounds,
        "rate": rate,
        "better": better,
        "seed": seed,
    }
    margins = marginal_table(fits, share=share, **shared)
    best = allocate(fits, budget=budget, **shared)
    kept, drawn = (_suffixed(path, "allocation") for path in (save, figure))
    first = _told(margins, save, figure, margins.figure).splitlines()
    second = [line for line in _told(best, kept, drawn, best.figure).splitlines() if line not in first]
    return "\n".join([*first, "", *second])  # what both warn of is said once


def equivalent_command(
    base_path: str | Path,
    *,
    better_path: str | Path | None = None,
    gain: float | None = None,
    at: Mapping[str, float] | None = None,
    axis: str | None = None,
    rate_path: str | Path | None = None,
    save: str | Path | None = None,
) -> str:
    """How many times more of an axis the saved base fit needs to reach a better one, or a gain.

    Raises:
        TableError: both or neither of `better_path` and `gain` are given, or as `compute_equivalent`.
    """
    if (better_path is None) == (gain is None):
        raise TableError("say what is to be matched: a better fit or a gain, one of them")
    better: Fit | float = Fit.load(better_path) if better_path is not None else float(gain or 0.0)
    rate = None if rate_path is None else Rate.load(rate_path)
    found = compute_equivalent(better, Fit.load(base_path), at=at or None, axis=axis, rate=rate)
    return _told(found, save, None, None)


def laws_table() -> str:
    """The laws as text, simple ones first: name, what it is for, formula."""
    laws = sorted(LAWS.values(), key=lambda law: (law.axes, len(law.params)))
    width = max(len(law.name) for law in laws)
    return "\n".join(f"{law.name:<{width}}  {law.about}\n{'':<{width}}    {law.formula}" for law in laws)


def _named(path: str | Path, error: TableError) -> str:
    return f"{path}: {str(error).removeprefix('table: ')}"


def _suffixed(path: str | Path | None, value: str) -> Path | None:
    """fit.json -> fit-value.json, with nothing in the value that a file's name cannot hold."""
    if path is None:
        return None
    safe = "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in value)
    return Path(path).with_stem(f"{Path(path).stem}-{safe}")


def _stem(path: str | Path) -> Path:
    path = Path(path)
    return path.with_suffix("") if path.suffix.lower() in (".png", ".svg") else path
