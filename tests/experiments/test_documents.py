"""What the documents say is there: links lead somewhere, commands exist, and the README's numbers stand in the results."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("results/*.md"), *ROOT.glob("benchmarks/*.md")]
)
MARK = (
    "<!-- from results -->"  # before a table: the numbers of a row are from the kept answers of the question it names
)
NUMBER = re.compile(r"(?<![\w.])[+-]?\d*\.\d+(?:e[+-]?\d+)?")


def numbers_in(value: Any) -> Iterator[float]:
    """All numbers of an answer: in its tables, and in its sentences."""
    if isinstance(value, dict):
        for item in value.values():
            yield from numbers_in(item)
    elif isinstance(value, list):
        for item in value:
            yield from numbers_in(item)
    elif isinstance(value, str):
        yield from (float(number) for number in NUMBER.findall(value))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield float(value)


def sourced() -> list[tuple[str, str]]:
    """(question, row) of the rows of the README's tables that say that they are from the results."""
    rows = []
    for table in (ROOT / "README.md").read_text().split(MARK)[1:]:
        lines = table.strip().split("\n\n")[0].splitlines()[2:]
        rows += [(re.findall(r"`(\w+)`", line.split("|")[1])[-1], line) for line in lines]
    return rows


def holds(number: str, known: list[float]) -> bool:
    """Whether one of the known numbers is this one, rounded to as many digits, with its sign where it has one."""
    digits = len(number.partition(".")[2].partition("e")[0])
    signed = number[0] in "+-" and float(number) != 0
    value = float(number) if signed else abs(float(number))
    return any(abs((one if signed else abs(one)) - value) <= 0.5000001 * 10.0**-digits for one in known)


def test_the_readme_names_the_source_of_its_results() -> None:
    assert len(sourced()) >= 6
    text = (ROOT / "README.md").read_text()
    for paragraph in text.split("\n\n"):
        if re.search(r"[+-]?\.\d+ \[[+-]?\.\d+", paragraph):  # a value with its interval
            assert MARK in paragraph, paragraph


# The sets whose answers a column's numbers come from; tables with a row a run hold so many numbers that any would be found.
SETS = {2: ("planted",), 3: ("fashion", "movielens")}
OF_RUNS = ("runs", "versions")


@pytest.mark.parametrize(("question", "row"), sourced(), ids=[question for question, _ in sourced()])
def test_numbers_of_the_readme_stand_in_the_results(question: str, row: str) -> None:
    for column, sets in SETS.items():
        known: list[float] = []
        for path in (ROOT / "results" / name / question / "answer.json" for name in sets):
            if path.exists():
                answer = json.loads(path.read_text())
                tables = {name: rows for name, rows in answer["tables"].items() if name not in OF_RUNS}
                known += numbers_in([answer["answer"], answer["notes"], tables])
        text = re.sub(r"\]\([^)]*\)", "]", row.split("|")[column])
        missing = [number for number in NUMBER.findall(text) if not holds(number, known)]
        assert not missing, f"column {column}: not in the answers of {question} on {' and '.join(sets)}: {missing}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=[str(path.relative_to(ROOT)) for path in DOCUMENTS])
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", document.read_text()):
        if not target.startswith("http"):
            assert (document.parent / target).exists(), target


def commands() -> list[str]:
    """Every `moon ...` that a document shows, its first words alone."""
    said = set()
    for document in DOCUMENTS:
        for block in re.findall(r"```\n(.*?)```|`(moon [^`]+)`", document.read_text(), flags=re.DOTALL):
            for line in "\n".join(block).splitlines():
                if found := re.match(r"\s*(?:WANDB_MODE=offline )?moon ([a-z]+)(?: ([a-z]+))?", line):
                    said.add(f"data {found[2]}" if found[1] == "data" and found[2] else found[1])
    return sorted(said)


def test_commands_exist() -> None:
    code = (
        "import contextlib, io, sys\n"
        "from experiments.cli import parsed\n"
        "for line in sys.argv[1:]:\n"
        "    said = io.StringIO()\n"
        "    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(said):\n"
        "        parsed([*line.split(), '--help'])\n"
        "    assert 'usage: moon' in said.getvalue(), line\n"
    )
    assert len(commands()) > 15
    done = subprocess.run(
        [sys.executable, "-c", code, *commands()], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_questions_that_documents_name_exist() -> None:
    from experiments.question import GROUPS, QUESTIONS

    for document in DOCUMENTS:
        for name in re.findall(r"moon run (\w+)(?![\w.])", document.read_text()):
            assert name in {*QUESTIONS, *GROUPS, "published_laws", "my_question", "QUESTION", "dimensions", "tryout"}, (
                document,
                name,
            )
