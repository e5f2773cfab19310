"""Fill README.md's tables from results/*.json: run it after a benchmark that was saved.

    python benchmarks/page.py

Between `<!-- results: NAME -->` and `<!-- end -->` stand the tables, goals and provenance of results/NAME.json and, where
there is one, figures/NAME.png; "Not measured." where there is no such file.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PLACE = re.compile(r"(<!-- results: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def table(one: dict[str, Any]) -> str:
    """A table in Markdown: its caption, then the first column to the left and the others to the right."""
    header, rows = one["header"], one["rows"]
    lines = [header, [":--", *["--:"] * (len(header) - 1)], *rows]
    return f"{one['caption']}:\n\n" + "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def provenance(facts: dict[str, Any]) -> str:
    """One line: the machine, the versions, when, and how quiet it was."""
    device = facts.get("device", {}).get("kind")
    versions = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    where = f"{device}; " if device else ""
    quiet = (
        f"**disturbed: other processes kept {facts['others_busy_cores']:.1f} cores busy; to be measured again**"
        if facts["disturbed"]
        else "quiet machine"
    )
    return f"{where}{facts['processor']}, {facts['cores']} cores, {facts['began'][:10]}; {versions}; {quiet}."


def verdict(goal: dict[str, Any], disturbed: bool) -> str:
    if disturbed and goal["timing"]:
        return "not judged (disturbed)"
    return "reached" if goal["reached"] else "**not reached**"


def section(name: str, home: Path) -> str:
    path = home / "results" / f"{name}.json"
    if not path.exists():
        return "Not measured.\n"
    results = json.loads(path.read_text())
    disturbed = results["provenance"]["disturbed"]
    goals = [f"- {verdict(goal, disturbed)}: {goal['what']}" for goal in results["goals"]]
    parts = [*map(table, results["tables"]), "\n".join(goals), *results["notes"], provenance(results["provenance"])]
    if (home / "figures" / f"{name}.png").exists():
        parts.append(f"![{name}](figures/{name}.png)")
    return "\n\n".join(part for part in parts if part) + "\n"


def filled(text: str, home: Path = HERE) -> str:
    """The page with every place filled."""
    return PLACE.sub(lambda found: found[1] + section(found[2], home) + found[3], text)


def main() -> int:
    page = HERE / "README.md"
    page.write_text(filled(page.read_text()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
