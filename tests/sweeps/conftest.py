"""What the tests of sweeps share: a ledger in a fresh folder, and steps whose calls leave traces outside of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from steps_for_tests import Work

from sweeps import Ledger, Step


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "runs")


@pytest.fixture
def traces(tmp_path: Path) -> Path:
    """Folder with one file a call, named `<number>.<call>`."""
    folder = tmp_path / "traces"
    folder.mkdir()
    return folder


@pytest.fixture
def counting(traces: Path) -> Callable[..., Step]:
    """Makes counting steps: `counting(3, units=2, behave="crash", needs={...}, files={...})`."""

    def make(number: int, *, needs: Any = None, files: Any = None, function: str = "count", **how: Any) -> Step:
        config = Work(number, trace=str(traces), **how)
        return Step(f"steps_for_tests:{function}", 1, config, files=files or {}, needs=needs or {})

    return make
