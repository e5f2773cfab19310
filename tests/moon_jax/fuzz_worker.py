"""Runs fuzzed cases, one after another, and writes what came of each as a line of JSON; run by test_data_fuzz.py.

    python fuzz_worker.py FOLDER contract|sources|whole FIRST LAST

A case that takes too long ends the process with a traceback on stderr; the last line is the peak memory in MiB.
"""

import faulthandler
import json
import resource
import shutil
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import polars as pl
from fuzz_contract import KINDS, Damage, damage, make_dataset
from fuzz_sources import SOURCES, Spoiled, make_sources, spoil

from moon_jax.data.contract import DataError, check

CASE_SECONDS = 30


def run(work: Path, kind: str, first: int, last: int) -> None:
    whole = work / "whole"
    if not whole.exists():
        make_dataset(whole / "contract")
        make_sources(whole / "sources")
    for seed in range(first, last):
        case = work / f"case-{kind}-{first}"
        shutil.rmtree(case, ignore_errors=True)
        case.mkdir()
        faulthandler.dump_traceback_later(CASE_SECONDS, exit=True)
        start = time.perf_counter()
        try:
            wrong = {"contract": contract_case, "sources": source_case, "whole": whole_case}[kind](whole, case, seed)
        except BaseException:
            wrong = "raised " + traceback.format_exc(limit=-6)
        faulthandler.cancel_dump_traceback_later()
        print(json.dumps({"seed": seed, "wrong": wrong, "seconds": time.perf_counter() - start}), flush=True)
    shutil.rmtree(case, ignore_errors=True)
    print(json.dumps({"peak": peak_mib()}))


def peak_mib() -> float:
    """Peak memory of this program: `ru_maxrss` would begin with that of the process which started it."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def contract_case(whole: Path, case: Path, seed: int) -> str | None:
    """What `check` gets wrong about a damaged dataset, or None."""
    folder = case / "set"
    shutil.copytree(whole / "contract", folder)
    done = damage(folder, seed)
    try:
        faults = check(folder)
    except DataError as error:
        told = str(error)
        right = done.row is None and done.file in told and done.words in told and _is_line(told)
        return None if right else f"{KINDS[seed % len(KINDS)].__name__}: {done.told}: {told}"
    hits = [fault for fault in faults if _is_it(fault, done) and _is_line(str(fault))]
    if hits or (done.may_pass and not faults):
        return None
    return f"{KINDS[seed % len(KINDS)].__name__}: {done.told}: {[str(fault) for fault in faults[:5]]}"


def _is_it(fault: Any, done: Damage) -> bool:
    return fault.file == done.file and done.row in (None, fault.row) and done.words in fault.reason


def _is_line(told: str) -> bool:
    return 0 < len(told) < 2000 and "\n" not in told.strip()


def source_case(whole: Path, case: Path, seed: int) -> str | None:
    """What an import gets wrong about a damaged source, or None: refused with a line, or quarantined and sound."""
    name = list(SOURCES)[seed % len(SOURCES)]
    shutil.copytree(whole / "sources" / name, case / name)
    done = spoil(case / name, name, seed)
    try:
        dataset = SOURCES[name][1](case / name, case / "set")
    except DataError as error:
        told = str(error)
        left = sorted(path.name for path in case.iterdir())
        right = done.source in told and not done.rows and _is_line(told) and left == [name]
        return None if right else f"{name}: {done.told}: {told} (left: {left})"
    return (
        None
        if (wrong := _judged(dataset.folder, done, dict(dataset.quarantined))) is None
        else f"{name}: {done.told}: {wrong}"
    )


def _judged(folder: Path, done: Spoiled, counted: dict[str, int]) -> str | None:
    if done.refused:
        return "was not refused"
    path = folder / "quarantine.parquet"
    noted = pl.read_parquet(path).rows() if path.exists() else []
    if sum(counted.values()) != len(noted) or not all(reason for *_, reason in noted):
        return f"{counted} were counted, {len(noted)} noted"
    if missing := [row for row in done.rows if (done.source, row) not in {entry[1:3] for entry in noted}]:
        return f"rows {missing} of {done.source} are not in the quarantine: {noted[:3]}"
    # A source of thirty movies may lose all of a split with its photos: then `check` says so.
    faults = [fault for fault in check(folder) if "is empty" not in fault.reason or not noted]
    return f"does not keep the contract: {faults[0]}" if faults else None


def whole_case(whole: Path, case: Path, seed: int) -> str | None:
    """All that the other kinds do, to what is not damaged; it must be found sound."""
    faults = check(whole / "contract")
    for name, (_, load) in SOURCES.items():
        faults += check(load(whole / "sources" / name, case / name).folder)
    return str(faults[0]) if faults else None


if __name__ == "__main__":
    run(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
