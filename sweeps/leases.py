"""Leases: who is working on a step. They save work; nothing that is published rests on them.

A lease is a file that names its owner and its attempt, made by an exclusive link. Its counter lies in the attempt's
folder, where only the owner writes. No clock of another host is ever read: a lease is taken to be given up when an
observer has seen its counter stand still for `patience` seconds on the observer's own monotonic clock, or at once
when its process is surely dead.
"""

import contextlib
import os
import threading
import time
import uuid
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

from sweeps.files import read_json, write_json
from sweeps.owners import surely_dead, this_process

LEASE = "lease.json"
COUNTER = "heartbeat"
PATIENCE = 60.0  # seconds


class Observer:
    """Sees leases over time. One per process; it takes what is free and what has been given up."""

    def __init__(self, patience: float = PATIENCE) -> None:
        self.patience = patience
        self._seen: dict[Path, tuple[tuple[str, str], float]] = {}  # lease -> ((attempt, counter), when first seen so)

    def given_up(self, step_folder: Path) -> bool:
        """Whether the step's lease may be taken over (or there is none)."""
        return not (step_folder / LEASE).exists() or self._given_up(step_folder, read(step_folder))

    def take(self, step_folder: Path, attempt: str) -> bool:
        """Try to take the step's lease for an attempt; False where someone else holds it or was quicker."""
        path = step_folder / LEASE
        if path.exists():
            lease = read(step_folder)
            if not self._given_up(step_folder, lease) or not _remove(path, lease):
                return False
            self._seen.pop(step_folder, None)
        offer = step_folder / f".{LEASE}.{attempt}"
        write_json(offer, {"attempt": attempt, "owner": this_process()})
        try:
            os.link(offer, path)
        except FileExistsError:
            return False
        finally:
            offer.unlink(missing_ok=True)
        return True

    def _given_up(self, step_folder: Path, lease: dict[str, Any] | None) -> bool:
        if lease is None:  # cut short by a full disk, or just taken away: in doubt it is someone's
            return self._stands_still(step_folder, ("", ""))
        if surely_dead(lease["owner"]):
            return True
        return self._stands_still(step_folder, (lease["attempt"], read_counter(step_folder, lease["attempt"])))

    def _stands_still(self, step_folder: Path, token: tuple[str, str]) -> bool:
        now = time.monotonic()
        seen = self._seen.get(step_folder)
        if seen is None or seen[0] != token:
            self._seen[step_folder] = (token, now)
            return False
        return now - seen[1] > self.patience


def read(step_folder: Path) -> dict[str, Any] | None:
    """The lease on a step, {"attempt", "owner"}; None where there is none."""
    lease: dict[str, Any] | None = read_json(step_folder / LEASE)
    return lease


def holder(step_folder: Path) -> dict[str, Any] | None:
    """The lease on a step, unless there is none or its owner is surely dead."""
    lease = read(step_folder)
    return None if lease is None or surely_dead(lease["owner"]) else lease


def release(step_folder: Path, attempt: str) -> None:
    """Give a lease back, if it is still this attempt's."""
    lease = read(step_folder)
    if lease is not None and lease["attempt"] == attempt:
        _remove(step_folder / LEASE, lease)


def sweep(step_folders: Iterable[Path]) -> None:
    """Take away what processes of this host that are surely dead left of leases, and offers of theirs."""
    for folder in step_folders:
        lease = read(folder)
        if lease is not None and surely_dead(lease["owner"]):
            _remove(folder / LEASE, lease)
        for offer in folder.glob(f".{LEASE}.*"):
            made = read_json(offer)
            if made is not None and surely_dead(made["owner"]):
                offer.unlink(missing_ok=True)


def read_counter(step_folder: Path, attempt: str) -> str:
    """The counter of an attempt as last written; empty where there is none."""
    try:
        return (step_folder / "attempts" / attempt / COUNTER).read_text()
    except OSError:
        return ""


class Heartbeat:
    """Advances the counter of an attempt from a thread of its own, for as long as the `with` block runs."""

    def __init__(self, step_folder: Path, attempt: str, patience: float = PATIENCE) -> None:
        self._path = step_folder / "attempts" / attempt / COUNTER
        self._period = min(10.0, patience / 6)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> "Heartbeat":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _beat(self) -> None:
        count = 0
        while not self._stop.wait(self._period):
            count += 1
            try:
                self._path.write_text(str(count))
            except OSError:  # no folder yet or any more, or a full disk: the lease may lapse, the step goes on
                continue


def _remove(path: Path, expected: dict[str, Any] | None) -> bool:
    """Take a lease file away if it is the expected one. False where another process was quicker."""
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}")
    try:
        os.rename(path, aside)
    except FileNotFoundError:
        return False
    taken = read_json(aside)
    if taken != expected:  # a new lease came between the look and the rename: put it back
        with contextlib.suppress(FileExistsError):
            os.link(aside, path)
    aside.unlink(missing_ok=True)
    return taken == expected
