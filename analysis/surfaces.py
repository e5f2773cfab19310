"""What the command line calls: a table's path and names of columns in, text out; files written on request."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from analysis.choice import CANDIDATES, compare_laws
from analysis.exchange import exchange_rate
from analysis.fitting import fit
from analysis.laws import LAWS
from analysis.profile import profile_intervals
from analysis.table import TableError, read_table
from analysis.words import span

if TYPE_CHECKING:
    import polars as pl


def fit_command(
    table_path: str | Path,
    *,
    x: str | Sequence[str],
    y: str,
    law: str = "power_floor",
    transform: Literal["identity", "error"] = "identity",
    group: str | None = None,
    profile: bool = False,
    save: str | Path | None = None,
    figure: str | Path | None = None,
    **options: Any,
) -> str:
    """Fit a law to a CSV or Parquet file; returns the summary.

    group: fit each value of this column on its own (files get its name). profile: profile-likelihood intervals, too.
    save: path of the JSON. figure: .png and .svg. options: as for `analysis.fit`.

    Raises:
        TableError: whatever is wrong with the table, the file named in the message.
    """
    table = read_table(table_path)
    names = [x] if isinstance(x, str) else list(x)
    try:
        if group is None:
            return _fitted(table, names, y, law, transform, profile, save, figure, options)
        parts = []
        for (value,), part in sorted(table.group_by(group), key=lambda pair: str(pair[0][0])):
            own_save, own_figure = (_suffixed(path, str(value)) for path in (save, figure))
            try:
                told = _fitted(part, names, y, law, transform, profile, own_save, own_figure, options)
            except TableError as error:  # one poor group does not hide the others
                told = f"  not fitted: {error}"
            parts.append(f"{group} = {value}\n{told}")
        return "\n\n".join(parts)
    except TableError as error:
        raise TableError(_named(table_path, error)) from error


def _fitted(
    table: pl.DataFrame, x: list[str], y: str, law: str, transform: Literal["identity", "error"], profile: bool,
    save: str | Path | None, figure: str | Path | None, options: dict[str, Any],
) -> str:  # fmt: skip
    made = fit(table, x=x, y=y, law=law, transform=transform, **options)
    lines = [made.summary()]
    if law == "auto":
        lines.append(f"  law: {made.law}, {made.checklist['form_reason']}")
    if profile:
        ends = ", ".join(f"{name} {span(pair)}" for name, pair in profile_intervals(made).items())
        lines.append(f"  profile likelihood, 95 %: {ends}")
    if save is not None:
        lines.append(f"saved: {made.save(save)}")
    if figure is not None:
        from analysis.figures import save_figure, scaling_figure

        png, svg = save_figure(scaling_figure(made), _stem(figure))
        lines.append(f"figure: {png}, {svg}")
    return "\n".join(lines)


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
            table, of=of, into=into, cluster=cluster, noise_ratio=noise_ratio, resamples=resamples, seed=seed
        )
    except TableError as error:
        raise TableError(_named(table_path, error)) from error
    lines = [rate.summary()]
    if save is not None:
        lines.append(f"saved: {rate.save(save)}")
    if figure is not None:
        from analysis.figures import exchange_figure, save_figure

        png, svg = save_figure(exchange_figure(rate), _stem(figure))
        lines.append(f"figure: {png}, {svg}")
    return "\n".join(lines)


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
