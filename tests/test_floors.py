"""The three floors do not know each other, and none knows the roof."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FLOORS = ("moon_jax", "sweeps", "analysis")


def imported(path: Path) -> set[str]:
    """Top-level packages that a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add((node.module or "").split(".")[0])
    return names


@pytest.mark.parametrize("floor", FLOORS)
def test_a_floor_imports_neither_another_floor_nor_the_roof(floor: str) -> None:
    strangers = {*FLOORS, "experiments"} - {floor}
    files = sorted((ROOT / floor).rglob("*.py"))
    assert files
    guilty = {str(path.relative_to(ROOT)): sorted(imported(path) & strangers) for path in files}
    assert {path: names for path, names in guilty.items() if names} == {}


def test_the_roof_knows_all_three() -> None:
    assert set().union(*(imported(path) for path in (ROOT / "experiments").glob("*.py"))) >= set(FLOORS)
