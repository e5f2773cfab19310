"""Gangs: several processes that run each step together, as one jax program over several hosts does.

The first of them leads: it takes leases, calls the others to an attempt through a file, and alone reports and publishes. The
others follow: they call the step function in the same folder. How they talk within a step is the step's own affair. Only
functions with `runs_together = True` are called by all; the leader runs the others alone.
"""

import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from sweeps.errors import Preempted
from sweeps.files import read_json, write_json

if TYPE_CHECKING:
    from sweeps.ledger import Ledger

LOOK = 0.05  # seconds between two looks for the next call
ALONE = 10.0  # seconds that a leader has to fail, too, once one of the others has


@dataclass(frozen=True)
class Place:
    """Which of `size` processes this one is; `name` is of the gang, and never that of another."""

    name: str
    rank: int
    size: int

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self | None:
        """What SWEEPS_GANG=name:rank:size says, or a SLURM step of several tasks; None for a process alone."""
        if told := environment.get("SWEEPS_GANG"):
            name, place, processes = told.split(":")
            return cls(name, int(place), int(processes)) if int(processes) > 1 else None
        size = int(environment.get("SLURM_NTASKS", "1"))
        if size == 1 or "SLURM_PROCID" not in environment:
            return None
        again = environment.get("SLURM_RESTART_COUNT", "0")
        step = environment.get("SLURM_STEP_ID", "0")
        return cls(f"{environment['SLURM_JOB_ID']}.{again}.{step}", int(environment["SLURM_PROCID"]), size)


class Company:
    """What a leader knows of the others. On leaving the `with` block it sends them home."""

    def __init__(self, root: Path, place: Place):
        self._root, self._folder, self._calls = root, root / "workers" / f"gang-{place.name}", 0
        self._folder.mkdir(parents=True, exist_ok=True)
        self._watch = threading.Thread(target=self._end_with_others, name="gang watch", daemon=True)

    def __enter__(self) -> Self:
        self._watch.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        write_json(self._folder / f"{self._calls}.json", {"step": None, "attempt": None, "shrink": None})

    def call(self, step: str, attempt: str) -> None:
        """Have the others run this attempt, too."""
        from sweeps.outcomes import SHRINK

        told = {"step": step, "attempt": attempt, "shrink": os.environ.get(SHRINK, "0")}
        write_json(self._folder / f"{self._calls}.json", told)
        self._calls += 1

    def _end_with_others(self) -> None:
        """Where another process failed, and this one did not within a while, it waits for one that is gone: end it."""
        while True:
            time.sleep(1.0)
            calls = self._calls
            if not any(self._folder.glob(f"{calls - 1}.failed.*")):
                continue
            time.sleep(ALONE)
            if self._calls == calls:
                self._give_up(read_json(self._folder / f"{calls - 1}.json") or {})

    def _give_up(self, told: dict[str, Any]) -> None:
        from sweeps.attempts import ATTEMPTS, record_failure

        failed = next(self._folder.glob(f"{self._calls - 1}.failed.*"))
        message = f"process {failed.suffix[1:]} of the gang failed: {failed.read_text()}"
        record_failure(self._root / "steps" / told["step"] / ATTEMPTS / told["attempt"], "crashed", message, 0.0)
        os.kill(os.getpid(), signal.SIGKILL)


def follow(ledger: "Ledger", place: Place, stopping: Callable[[], bool]) -> None:
    """Run what the leader calls to, until it sends this process home."""
    from sweeps.attempts import ATTEMPTS
    from sweeps.outcomes import SHRINK
    from sweeps.running import call, logged

    folder = ledger.root / "workers" / f"gang-{place.name}"
    log = ledger.root / "workers" / f"gang-{place.name}.{place.rank}.txt"
    calls = 0
    log.parent.mkdir(parents=True, exist_ok=True)

    def report(done: float, total: float, **info: Any) -> None:
        if stopping():
            raise Preempted("asked to stop")

    while True:
        told = read_json(folder / f"{calls}.json")
        if told is None:
            time.sleep(LOOK)
            continue
        if told["step"] is None:
            return
        os.environ[SHRINK] = told["shrink"]
        with logged(log):
            try:
                call(
                    ledger,
                    ledger.record(told["step"]),
                    ledger.step_folder(told["step"]) / ATTEMPTS / told["attempt"],
                    report,
                )
            except BaseException as error:
                traceback.print_exc()
                (folder / f"{calls}.failed.{place.rank}").write_text(f"{type(error).__name__}: {error}")
        calls += 1
