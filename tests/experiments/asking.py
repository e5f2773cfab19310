"""What tests of questions share: a question begun, its attempts and tables, a report that stands alone."""

import html.parser
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import polars as pl

Moon = Callable[..., subprocess.CompletedProcess[str]]
OF_TIME = re.compile(
    "second|peak_memory|share|compilations|commit|versions|device"
)  # columns that may differ between two runs


def attempts(runs: Path) -> dict[str, float]:
    """Every attempt's result with its time: what has been done, and when."""
    return {str(path.relative_to(runs)): path.stat().st_mtime for path in runs.glob("steps/*/attempts/*/result.json")}


def results(runs: Path, question: str) -> pl.DataFrame:
    """The table of a question without what depends on the moment."""
    table = pl.read_parquet(runs / question / "results.parquet")
    return table.select(column for column in table.columns if not OF_TIME.search(column))


def copy(runs: Path, to: Path) -> Path:
    shutil.copytree(runs, to, symlinks=True)
    return to


def begin(environment: dict[str, str], home: Path, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "experiments.cli", "run", *map(str, arguments), "--workers", "1"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=home, env=environment, **pipes)


def wait_for(runs: Path, count: int, process: subprocess.Popen[str]) -> None:
    """Until so many steps have their results."""
    while len(attempts(runs)) < count:
        assert process.poll() is None, "it ended before it could be interrupted"
        time.sleep(0.02)


class Loads(html.parser.HTMLParser):
    """Addresses that a browser would fetch by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        for name, value in attributes:
            if name in ("src", "srcset", "data", "xlink:href") or (name == "href" and tag in ("link", "image", "use")):
                self.found.append(value or "")


def assert_self_contained(report: Path) -> None:
    text = report.read_text()
    page = Loads()
    page.feed(text)
    assert all(address.startswith(("data:", "#")) for address in page.found)
    assert not re.search(r"url\(\s*['\"]?(?!#|data:)", text)
    assert "@import" not in text
