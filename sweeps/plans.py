"""Plans: which steps and cells a question asked for, so that later commands need not ask it again."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from sweeps.errors import SweepError
from sweeps.files import read_json, write_json
from sweeps.outcomes import plain_scalar
from sweeps.step import Cell

PLAN = "plan.json"
_TAKEN = ("steps", "workers")  # folders of the ledger itself


class Plan(NamedTuple):
    """What a question asked for: names of its steps, what is needed first, and its cells with their steps by name."""

    steps: tuple[str, ...]
    cells: tuple[Cell, ...]


def write_plan(root: Path, question: str, names: Sequence[str], cells: Sequence[Cell]) -> None:
    """Write `<root>/<question>/plan.json`.

    Raises SweepError for a name that makes no folder or coordinates that are no scalars.
    """
    folder = _folder(root, question)
    listed = [
        {"coordinates": _plain(cell, question), "steps": {key: step.name for key, step in cell.steps.items()}}
        for cell in cells
    ]
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / PLAN, {"format": 1, "question": question, "steps": list(names), "cells": listed})


def read_plan(root: Path, question: str) -> Plan:
    """Read a plan back. Raises SweepError where there is none."""
    content = read_json(_folder(root, question) / PLAN)
    if content is None:
        known = ", ".join(questions_in(root)) or "none yet"
        raise SweepError(f"question {question!r} has no plan in {root}; planned here: {known}")
    cells = tuple(Cell(entry["coordinates"], entry["steps"]) for entry in content["cells"])
    return Plan(tuple(content["steps"]), cells)


def questions_in(root: Path) -> list[str]:
    """Questions that have a plan, sorted."""
    return sorted(path.parent.name for path in root.glob(f"*/{PLAN}") if path.parent.name not in _TAKEN)


def _folder(root: Path, question: str) -> Path:
    if not re.fullmatch(r"\w[\w.-]*", question) or question in _TAKEN:
        raise SweepError(f"question {question!r}: use letters, digits, '_', '-' and '.', and not {' or '.join(_TAKEN)}")
    return root / question


def _plain(cell: Cell, question: str) -> dict[str, object]:
    try:
        return {name: plain_scalar(value, f"coordinate {name!r}") for name, value in cell.coordinates.items()}
    except TypeError as error:
        raise SweepError(f"question {question!r}: {error}") from None
