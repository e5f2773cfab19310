"""Snapshots: how far the steps of some questions are, at one moment."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sweeps import attempts, leases
from sweeps.files import read_json
from sweeps.ledger import Ledger
from sweeps.outcomes import FAILURES, RESULTS


@dataclass(frozen=True)
class Running:
    """A step under way. `done` and `total` are None until it reports; seconds are of work, with what it adopted."""

    name: str
    done: float | None
    total: float | None
    info: Mapping[str, Any]
    seconds: float
    seconds_left: float | None
    pid: int
    attempt: str


@dataclass(frozen=True)
class Finished:
    """A step with a result ("done" or "diverged"), or one that diverged with a step that it needs (0 seconds)."""

    name: str
    status: str
    seconds: float


@dataclass(frozen=True)
class Failed:
    """A step whose last attempt failed, and why, in one line."""

    name: str
    status: str
    message: str


@dataclass(frozen=True)
class Snapshot:
    """Steps by state (`counts`), the running ones, those finished and failed, and the seconds to the end (None:
    unknown).
    """

    counts: Mapping[str, int]
    running: tuple[Running, ...]
    finished: tuple[Finished, ...]
    failed: tuple[Failed, ...]
    seconds_left: float | None

    @property
    def total(self) -> int:
        """Number of steps in all."""
        return sum(self.counts.values())


def take_snapshot(ledger: Ledger, names: Sequence[str], workers: int | None = None) -> Snapshot:
    """Look at these steps now. `workers` (None: as many as run) share what is left when the end is estimated."""
    counts: Counter[str] = Counter()
    running, finished, failed, pending = [], [], [], []
    for name, state in ledger.states(names).items():
        counts[state] += 1
        if state in RESULTS:
            finished.append(Finished(name, state, float((ledger.result(name) or {}).get("seconds", 0.0))))
        elif state == "running":
            running.append(_running(ledger, name))
        elif state in FAILURES:
            failed.append(Failed(name, state, str((ledger.failure(name) or {}).get("message", ""))))
        else:
            pending.append(name)
    left = _seconds_left(finished, running, pending, workers or max(1, len(running)))
    return Snapshot(dict(counts), tuple(running), tuple(finished), tuple(failed), left)


def _running(ledger: Ledger, name: str) -> Running:
    folder = ledger.step_folder(name)
    lease = leases.holder(folder) or {"attempt": "", "owner": {"pid": 0}}
    said = read_json(folder / attempts.ATTEMPTS / lease["attempt"] / attempts.PROGRESS) if lease["attempt"] else None
    said = said or {"done": None, "total": None, "info": {}, "seconds": 0.0, "seconds_left": None}
    pid = lease["owner"]["pid"]
    return Running(name, pid=pid, attempt=lease["attempt"], **said)


def _seconds_left(finished: list[Finished], running: list[Running], pending: list[str], workers: int) -> float | None:
    """From the mean of the steps of the same function; None while nothing is known of a function that is still to
    run.
    """
    known: dict[str, list[float]] = {}
    for step in finished:
        if step.seconds > 0:
            known.setdefault(_function(step.name), []).append(step.seconds)
    for now in running:
        if now.seconds_left is not None:
            known.setdefault(_function(now.name), []).append(now.seconds + now.seconds_left)
    mean = {function: sum(seconds) / len(seconds) for function, seconds in known.items()}
    left = [
        now.seconds_left if now.seconds_left is not None else mean.get(_function(now.name), float("nan"))
        for now in running
    ] + [mean.get(_function(name), float("nan")) for name in pending]
    if not left:
        return 0.0
    estimate = max(sum(left) / workers, *(left[: len(running)] or [0.0]))
    return None if estimate != estimate else estimate


def _function(name: str) -> str:
    return name.rpartition("-")[0]
