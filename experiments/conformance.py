"""A published number beside ours, and the rules by which the two agree: five for all numbers, none made for one of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Decimal

SAME = 1e-3  # of the value
ENDS = 0.1  # of the published interval's width

Interval = tuple[float, float]


@dataclass(frozen=True)
class Row:
    """One published number. `published` and `ours` as printed; `rule` is how they agree; `used` is how much of the difference
    that the rule allows is there: 0 where the two are the same, 1 at the limit."""

    source: str
    name: str
    published: str
    ours: str
    used: float
    agrees: bool
    rule: str
    note: str = ""


def digits(source: str, name: str, published: str, ours: float, note: str = "") -> Row:
    """Agrees if ours, rounded to the digits that were printed, is what was printed."""
    printed, last = Decimal(published), Decimal((0, (1,), int(Decimal(published).as_tuple().exponent)))
    rounded = Decimal(repr(float(ours))).quantize(last, ROUND_HALF_EVEN)
    used = abs(ours - float(printed)) / (float(last) / 2)
    return Row(source, name, published, shown(ours), used, rounded == printed, "all printed digits", note)


def same_optimum(source: str, name: str, published: str, ours: float, note: str = "") -> Row:
    """Agrees to 0.1 %: what the tolerance of a published optimiser leaves open; `analysis.fit` counts starts by the same."""
    used = abs(ours / float(published) - 1) / SAME
    return Row(source, name, published, shown(ours), used, used <= 1, "within 0.1 %", note)


def at_most(source: str, name: str, published: str, ours: float, note: str = "") -> Row:
    """Agrees if ours is no larger; shown to three digits more than were printed."""
    told = f"{ours:.{len(Decimal(published).as_tuple().digits) + 3}g}"
    return Row(
        source, name, f"<= {published}", told, ours / float(published), ours <= float(published), "no larger", note
    )


def inside(
    source: str, name: str, published: str, interval: Interval, ours: float, mine: Interval, note: str = ""
) -> Row:
    """Agrees if ours lies in the published interval; ours has an interval, too."""
    told = f"{published} {_ends(interval)}"
    middle = float(published)
    used = (ours - middle) / ((interval[1] if ours > middle else interval[0]) - middle)
    agrees = interval[0] <= ours <= interval[1]
    return Row(source, name, told, f"{shown(ours)} {_ends(mine)}", used, agrees, "ours in the published interval", note)


def same_ends(source: str, name: str, interval: Interval, mine: Interval, note: str = "") -> Row:
    """Agrees if each end is off by no more than a tenth of the published width: an end is itself a resampled number."""
    off = max(abs(a - b) for a, b in zip(mine, interval, strict=True)) / (interval[1] - interval[0])
    rule = f"each end within {ENDS:.0%} of the published width"
    return Row(source, name, _ends(interval), _ends(mine), off / ENDS, off <= ENDS, rule, note or f"off by {off:.0%}")


def shown(value: float) -> str:
    """Six significant digits."""
    return f"{value:.6g}"


def _ends(interval: Interval) -> str:
    return f"({interval[0]:.4g}, {interval[1]:.4g})"


def as_text(rows: Sequence[Row]) -> str:
    """The rows as an aligned table, a heading for each source."""
    lines, source = [], ""
    columns = [("published", *(row.published for row in rows)), ("ours", *(row.ours for row in rows))]
    name, *wide = [max(map(len, column)) for column in (("", *(row.name for row in rows)), *columns)]
    lines.append(f"  {'':{name}}  {'published':{wide[0]}}  {'ours':{wide[1]}}  agrees  rule")
    for row in rows:
        if row.source != source:
            source = row.source
            lines.append(source)
        rule = f"{row.rule}; {row.note}" if row.note else row.rule
        told = "yes" if row.agrees else "no"
        lines.append(f"  {row.name:{name}}  {row.published:{wide[0]}}  {row.ours:{wide[1]}}  {told:6}  {rule}")
    return "\n".join(lines)


def by_source(rows: Sequence[Row]) -> Mapping[str, list[Row]]:
    """Rows under their source, in order."""
    out: dict[str, list[Row]] = {}
    for row in rows:
        out.setdefault(row.source, []).append(row)
    return out
