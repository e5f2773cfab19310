"""Corrupted datasets and sources: each gets its clear line or a quarantine entry; none a traceback, a hang or much memory.

`make test` runs the first 100 cases, `make proof` all of them. To look at one: python tests/moon_jax/fuzz_worker.py
FOLDER contract SEED SEED+1.
"""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
WORKER = Path(__file__).with_name("fuzz_worker.py")
SAMPLE = {"contract": (0, 52), "sources": (0, 48)}
ALL = {"contract": (52, 700), "sources": (48, 500)}  # with the sample: 1,200
MEMORY_RATIO = 2.0


def run(work: Path, kind: str, first: int, last: int) -> tuple[list[dict[str, Any]], float]:
    """What came of each case, and the peak of the process's memory in MiB."""
    command = [sys.executable, str(WORKER), str(work), kind, str(first), str(last)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, f"ended after case {first + len(lines)} of {kind}:\n{done.stderr[-3000:]}"
    assert done.stderr == ""  # nor does a library's thread print its own
    assert len(lines) == last - first + 1
    return lines[:-1], lines[-1]["peak"]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@pytest.fixture(scope="module")
def whole_peak(work: Path) -> float:
    """Peak memory in MiB of a process that does the same to undamaged data."""
    cases, peak = run(work, "whole", 0, 2)
    assert [case["wrong"] for case in cases] == [None] * 2
    return peak


def assert_told(work: Path, whole_peak: float, kind: str, first: int, last: int) -> None:
    cases, peak = run(work, kind, first, last)
    assert [f"seed {case['seed']}: {case['wrong']}" for case in cases if case["wrong"]] == []
    # One process does all cases, so its peak bounds each of them.
    assert peak <= MEMORY_RATIO * whole_peak, f"{peak:.0f} MiB against {whole_peak:.0f} for undamaged data"


@pytest.mark.parametrize("kind", list(SAMPLE))
def test_a_hundred_corrupted_datasets(work: Path, whole_peak: float, kind: str) -> None:
    assert_told(work, whole_peak, kind, *SAMPLE[kind])


@pytest.mark.proof
@pytest.mark.parametrize("kind", list(ALL))
def test_a_thousand_corrupted_datasets(work: Path, whole_peak: float, kind: str) -> None:
    assert_told(work, whole_peak, kind, *ALL[kind])


def test_nothing_is_pickled_anywhere() -> None:
    """No pickle in the source tree, and no array file is loaded that could hold one."""
    packages = [ROOT / name for name in ("analysis", "experiments", "moon_jax", "sweeps", "benchmarks")]
    found = []
    for path in (path for package in packages for path in package.rglob("*.py")):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            if re.search(r"\b(pickle|cPickle|dill|cloudpickle|joblib|shelve|marshal)\b", line.split("#")[0]):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()}")
            if re.search(r"\b(np|numpy)\.load\(", line) and "allow_pickle=False" not in line:
                found.append(f"{path.relative_to(ROOT)}:{number}: np.load without allow_pickle=False")
    assert found == []
