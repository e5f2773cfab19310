"""What the command line calls: a table's path and names of columns in, text out; files written on request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from analysis.exchange import exchange_rate
from analysis.fitting import fit
from analysis.laws import LAWS
from analysis.solver import Loss
from analysis.table import TableError, read_table


def fit_command(
    table_path: str | Path,
    *,
    x: str | Sequence[str],
    y: str,
    law: str = "power_floor",
    transform: Literal["identity", "error"] = "identity",
    cluster: str | None = None,
    loss: Loss = "squares",
    delta: float | None = None,
    pin: Mapping[str, float] | None = None,
    holdout: Literal["largest"] | None = None,
    resamples: int = 2000,
    seed: int = 0,
    save: str | Path | None = None,
    figure: str | Path | None = None,
) -> str:
    """Fit a law to a CSV or Parquet file; returns the summary. `save`: path of the JSON. `figure`: .png and .svg.

    Raises:
        TableError: whatever is wrong with the table, the file named in the message.
    """
    table = read_table(table_path)
    names = [x] if isinstance(x, str) else list(x)
    try:
        made = fit(
            table, x=names, y=y, law=law, transform=transform, cluster=cluster, loss=loss, delta=delta, pin=pin,
            holdout=holdout, resamples=resamples, seed=seed,
        )  # fmt: skip
    except TableError as error:
        raise TableError(_named(table_path, error)) from error
    lines = [made.summary()]
    if save is not None:
        lines.append(f"saved: {made.save(save)}")
    if figure is not None:
        from analysis.figures import save_figure, scaling_figure

        png, svg = save_figure(scaling_figure(made), _stem(figure))
        lines.append(f"figure: {png}, {svg}")
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
    """The laws as text: name, formula, what it is for."""
    rows = [(law.name, law.formula, law.about) for law in LAWS.values()]
    widths = [max(len(row[k]) for row in rows) for k in range(2)]
    return "\n".join(f"{name:<{widths[0]}}  {formula:<{widths[1]}}  {about}" for name, formula, about in rows)


def _named(path: str | Path, error: TableError) -> str:
    return f"{path}: {str(error).removeprefix('table: ')}"


def _stem(path: str | Path) -> Path:
    path = Path(path)
    return path.with_suffix("") if path.suffix.lower() in (".png", ".svg") else path
