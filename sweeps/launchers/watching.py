"""What launchers on other engines share: watch the ledger until no job is left, and start jobs anew where steps are left."""

import time
from collections.abc import Callable, Sequence
from typing import Protocol

from sweeps import attempts, leases
from sweeps.errors import SweepError
from sweeps.ledger import Ledger
from sweeps.outcomes import Rules, may_try_again
from sweeps.snapshots import Snapshot, take_snapshot

TICK = 1.0  # seconds between two looks: engines are asked over a network
FRUITLESS = 3  # rounds of jobs in a row that end without any step having been touched


class Crew(Protocol):
    """Jobs of an engine, each of them a worker."""

    def start(self) -> None:
        """Start all of them, once more where they have been."""

    def alive(self) -> bool:
        """Whether one of them runs, or waits to."""

    def stop(self) -> None:
        """End them, each saving its step."""

    def last_words(self) -> str:
        """What one of them said at its end, in a line."""


def watch(
    ledger: Ledger,
    questions: Sequence[str],
    workers: int,
    crew: Crew,
    on_tick: Callable[[Snapshot], None],
    rules: Rules,
) -> Snapshot:
    """Run a crew until nothing is left that may be tried within this run; what it did is in the ledger.

    Whatever interrupts this ends the crew, and passes. Raises SweepError where jobs end without touching any step.
    """
    names, fruitless = ledger.planned(questions), 0
    try:
        while left := _left(ledger, names, rules):
            before = _touched(ledger, left)
            crew.start()
            while crew.alive():
                looked = time.monotonic()
                on_tick(take_snapshot(ledger, names, workers))
                time.sleep(max(TICK, 4 * (time.monotonic() - looked)))
            fruitless = 0 if _touched(ledger, left) != before else fruitless + 1
            if fruitless == FRUITLESS:
                raise SweepError(f"workers do not start: {crew.last_words()}")
    except BaseException:
        crew.stop()
        raise
    leases.sweep(map(ledger.step_folder, names))
    last = take_snapshot(ledger, names, workers)
    on_tick(last)
    return last


def _left(ledger: Ledger, names: Sequence[str], rules: Rules) -> list[str]:
    """Steps whose needs are done, that have no result and may be tried."""
    return [
        name
        for name in names
        if ledger.result(name) is None
        and ledger.needs_done(name)
        and may_try_again(attempts.failures_of(ledger.step_folder(name)), rules)
    ]


def _touched(ledger: Ledger, names: Sequence[str]) -> list[tuple[str, ...]]:
    return [tuple(attempts.attempts_of(ledger.step_folder(name))) for name in names]
