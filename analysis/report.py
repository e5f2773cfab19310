"""One self-contained HTML page: the answer first, then figures, tables, how it was made, and what is weak.

No script, no network, no external file; follows the reader's light or dark scheme and prints.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import polars as pl
    from matplotlib.figure import Figure

    from analysis.fitted import Fit
    from analysis.rates import Rate

STYLE = """
:root { color-scheme: light dark; --ink: #1b1b1b; --quiet: #5c5c5c; --paper: #fff; --card: #f6f6f4; --line: #d9d9d5;
  --warn: #8a4b00; --warn-paper: #fff4e0; --accent: #00619b; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e8e6; --quiet: #a5a5a0; --paper: #161718; --card: #202224;
  --line: #3a3c3f; --warn: #ffc078; --warn-paper: #33260f; --accent: #6bb8ec; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 60rem; padding: 2rem 1.25rem 4rem; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 1rem; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .5rem; border-top: 1px solid var(--line); padding-top: 1.25rem; }
.answer { border-left: 4px solid var(--accent); background: var(--card); padding: .75rem 1.1rem; font-size: 1.08rem; }
.answer p, .text p { margin: .35rem 0; }
.simulated { display: inline-block; border: 1px solid var(--warn); color: var(--warn); border-radius: 4px;
  padding: .1rem .5rem; font-size: .85rem; margin-bottom: .75rem; }
.warnings { background: var(--warn-paper); color: var(--warn); padding: .6rem 1.1rem; }
.warnings ul { margin: .25rem 0; padding-left: 1.2rem; }
figure { margin: 1rem 0; background: #fff; border: 1px solid var(--line); border-radius: 6px; padding: .6rem; }
figure svg { display: block; max-width: 100%; height: auto; margin: auto; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; margin: .75rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
th { color: var(--quiet); font-weight: 600; }
td.number, th.number { text-align: right; white-space: nowrap; }
a { color: var(--accent); } nav { margin: 1rem 0; display: flex; flex-wrap: wrap; gap: .3rem 1.1rem; font-size: .95rem; }
details { margin: 1rem 0; } summary { cursor: pointer; color: var(--quiet); }
pre { overflow-x: auto; background: var(--card); padding: .75rem 1rem; font-size: .85rem; }
@media print { body { max-width: none; padding: 0; font-size: 11pt; } figure, table, .answer { break-inside: avoid; }
  details > * { display: block; } }
"""


@dataclass(frozen=True)
class Section:
    """A part of a report. `text`: paragraphs parted by blank lines. `figure`: a Figure or SVG text. `table`: a
    polars DataFrame, or rows as mappings. `preformatted`: text kept as it is, e.g. a summary. `link`: (address, words)."""

    heading: str
    text: str = ""
    figure: Figure | str | None = None
    table: pl.DataFrame | Sequence[Mapping[str, Any]] | None = None
    preformatted: str = ""
    warnings: Sequence[str] = ()
    made: Mapping[str, Any] | None = None
    alt: str = ""
    link: tuple[str, str] | None = None


def fit_section(heading: str, fit: Fit, figure: Figure | None = None, text: str = "") -> Section:
    """A fit as a section: figure, summary, checklist, warnings."""
    without = fit.summary().split("\n  warning: ")[0]
    return Section(
        heading, text=text, figure=figure, preformatted=without, warnings=fit.warnings, made=fit.checklist,
        alt=f"{fit.y_label} against {', '.join(fit.x)} with the fitted law {fit.form.formula}",
    )  # fmt: skip


def rate_section(heading: str, rate: Rate, figure: Figure | None = None, text: str = "") -> Section:
    """An exchange rate as a section: figure, summary, ranking, checklist, warnings."""
    without = "\n".join(line for line in rate.summary().split("\n") if not line.startswith("  warning: "))
    return Section(
        heading, text=text, figure=figure, preformatted=without, warnings=rate.warnings, made=rate.checklist,
        table=rate.ranking.table() if len(rate.ranking.rows) > 1 else None,
        alt=f"{rate.into} against its proxies, one point a version",
    )  # fmt: skip


def write_report(
    path: str | Path,
    *,
    title: str,
    answer: str | Sequence[str],
    sections: Sequence[Section],
    provenance: Mapping[str, Any],
    contents: bool = False,
) -> Path:
    """Write the page.

    answer: one sentence or several; it stands first. contents: a list of the sections below it. provenance: what the numbers
    come from (data, commit, device, preset, ...); `simulated: true` in it, or a true value for any file in a mapping of that
    name, puts a label on top.
    """
    answers = [answer] if isinstance(answer, str) else list(answer)
    body = [f"<h1>{html.escape(title)}</h1>", _simulated(provenance.get("simulated"))]
    body.append('<div class="answer">' + "".join(f"<p>{html.escape(line)}</p>" for line in answers) + "</div>")
    if contents:
        links = (f'<a href="#s{k}">{html.escape(section.heading)}</a>' for k, section in enumerate(sections))
        body.append(f"<nav>{' '.join(links)}</nav>")
    body += [_section(section, k) for k, section in enumerate(sections)]
    body.append("<h2>Where the numbers come from</h2>" + _pairs(provenance))
    page = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(part for part in body if part)
        + "\n</body>\n</html>\n"
    )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")
    return path


def _simulated(value: Any) -> str:
    if isinstance(value, Mapping):
        files = [str(name) for name, simulated in value.items() if simulated]
        return f'<div class="simulated">simulated: {html.escape(", ".join(files))}</div>' if files else ""
    return '<div class="simulated">simulated data</div>' if value else ""


def _section(section: Section, index: int) -> str:
    parts = [f'<h2 id="s{index}">{html.escape(section.heading)}</h2>']
    if section.text:
        paragraphs = [part.strip() for part in section.text.split("\n\n") if part.strip()]
        parts.append('<div class="text">' + "".join(f"<p>{html.escape(part)}</p>" for part in paragraphs) + "</div>")
    if section.figure is not None:
        label = html.escape(section.alt or section.heading, quote=True)
        parts.append(f'<figure role="img" aria-label="{label}">{_svg(section.figure, f"f{index}-")}</figure>')
    if section.warnings:
        items = "".join(f"<li>{html.escape(warning)}</li>" for warning in section.warnings)
        parts.append(f'<div class="warnings"><strong>Weak points</strong><ul>{items}</ul></div>')
    if section.preformatted:
        parts.append(f"<pre>{html.escape(section.preformatted)}</pre>")
    if section.table is not None:
        parts.append(_table(section.table))
    if section.made:
        parts.append(f"<details><summary>How it was made</summary>{_pairs(section.made)}</details>")
    if section.link:
        parts.append(f'<p><a href="{html.escape(section.link[0], quote=True)}">{html.escape(section.link[1])}</a></p>')
    return "\n".join(parts)


def _svg(figure: Figure | str, prefix: str) -> str:
    """SVG with ids of its own: figures on one page must not reach into each other's clip paths."""
    from analysis.figures import svg_text

    text = figure if isinstance(figure, str) else svg_text(figure)
    text = text[text.index("<svg") :] if "<svg" in text else text
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{prefix}', text)
    text = re.sub(r"url\(#", f"url(#{prefix}", text)
    return re.sub(r'href="#', f'href="#{prefix}', text)


def _table(table: pl.DataFrame | Sequence[Mapping[str, Any]]) -> str:
    rows = [dict(row) for row in (table if isinstance(table, Sequence) else table.to_dicts())]
    if not rows:
        return ""
    names = list(rows[0])
    numbers = {name: all(_is_number(row.get(name)) for row in rows) for name in names}
    kind = {name: ' class="number"' if numbers[name] else "" for name in names}
    head = "".join(f"<th{kind[name]}>{html.escape(name)}</th>" for name in names)
    lines = ["".join(f"<td{kind[name]}>{_cell(row.get(name))}</td>" for name in names) for row in rows]
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _pairs(values: Mapping[str, Any]) -> str:
    lines = "".join(
        f"<tr><th>{html.escape(str(name).replace('_', ' '))}</th><td>{_cell(value)}</td></tr>"
        for name, value in values.items()
    )
    return f'<div class="scroll"><table><tbody>{lines}</tbody></table></div>'


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _cell(value: Any) -> str:
    if value is None:
        return "not known"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}" if math.isfinite(value) else "none"
    if isinstance(value, Mapping):
        return "<br>".join(f"{html.escape(str(name))}: {_cell(item)}" for name, item in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(_cell(item) for item in value) or "none"
    return html.escape(str(value))
