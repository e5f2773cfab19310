"""A worker: takes the next ready step, runs it, and ends when nothing is left that it could do.

Any number of workers may share a ledger, on any number of hosts; they know nothing of one another. As a program:
`python -m sweeps.worker --out RUNS [--plan QUESTION ...]`.
"""

import argparse
import contextlib
import faulthandler
import importlib
import math
import os
import signal
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from sweeps import attempts, leases
from sweeps.errors import SweepError
from sweeps.gangs import Company, Place, follow
from sweeps.launchers.cores import pin
from sweeps.ledger import Ledger
from sweeps.outcomes import FAILURES, STOPPED, Rules, may_try_again
from sweeps.running import run_step

LONGEST_NAP = 0.5  # seconds between two looks while others hold what is left
_GRACE = 15.0  # seconds for a step to save, once the launcher is gone


def work(
    root: str | os.PathLike[str],
    questions: Sequence[str] | None = None,
    *,
    rules: Rules | None = None,
    patience: float = leases.PATIENCE,
    stopping: Callable[[], bool] = lambda: False,
) -> bool:
    """Do what can be done of the questions' plans (None: of all plans, then of every other registered step).

    `rules` are those of the run that this worker belongs to (None: of a new one); `patience` is how many seconds a lease of
    another host may stand still. SIGTERM and SIGINT, and `stopping`, end the work after the step has saved itself. Returns
    False where it was stopped so. What failed is in the ledger; steps may have failed though it returns True.

    Of several processes that are one worker (`gangs.Place`) the first decides all that, the others follow it.
    """
    ledger, rules, place = Ledger(root, create=False), rules or Rules(), Place.from_environment()
    with _signals() as signalled:

        def stop() -> bool:
            return signalled() or stopping()

        if place is not None and place.rank:
            follow(ledger, place, stop)
            return not stop()
        with Company(ledger.root, place) if place else contextlib.nullcontext() as company:
            return _work(ledger, questions, rules, leases.Observer(patience), stop, company)


def _work(
    ledger: Ledger,
    questions: Sequence[str] | None,
    rules: Rules,
    observer: leases.Observer,
    stop: Callable[[], bool],
    company: Company | None,
) -> bool:
    remaining = dict.fromkeys(ledger.planned(questions))
    nap = 0.01
    while not stop():
        ran, busy = _next_step(ledger, remaining, rules, observer, stop, company)
        if ran:
            nap = 0.01
        elif not busy:
            return True
        else:
            time.sleep(nap)
            nap = min(LONGEST_NAP, 2 * nap)
    return False


def _next_step(
    ledger: Ledger,
    remaining: dict[str, None],
    rules: Rules,
    observer: leases.Observer,
    stop: Callable[[], bool],
    company: Company | None,
) -> tuple[bool, bool]:
    """Run the first step that can be run. Returns whether one ran, and whether others hold steps to be waited for.

    Steps that have their results leave `remaining`.
    """
    busy = False
    for name in list(remaining):
        if ledger.result(name) is not None:
            del remaining[name]
            continue
        if not ledger.needs_done(name):
            continue
        step_folder = ledger.step_folder(name)
        if not observer.given_up(step_folder):
            busy = True  # passed by, not waited for
            continue
        if not may_try_again(attempts.failures_of(step_folder), rules):
            continue
        record = ledger.record(name)
        if run_step(ledger, record, rules=rules, observer=observer, stopping=stop, company=company) is not None:
            return True, busy
        busy = True  # another process was quicker
    return False, busy


def set_up(function: str | None) -> None:
    """Call "package.module:function" without arguments; None: nothing."""
    if function is not None:
        module, _, name = function.partition(":")
        getattr(importlib.import_module(module), name)()


@contextmanager
def _signals() -> Iterator[Callable[[], bool]]:
    """Note SIGTERM and SIGINT for as long as the block runs; a second SIGINT interrupts at once.

    Only a main thread can.
    """
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return

    def note(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and came:
            raise KeyboardInterrupt
        came.append(number)

    former = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _follow(parent: int) -> None:
    """End with the launcher, however it ended: ask the step to save, then take the whole process group down."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_GRACE)
        os.killpg(os.getpgrp(), signal.SIGKILL)

    threading.Thread(target=watch, name="launcher watch", daemon=True).start()


def main(arguments: Sequence[str] | None = None) -> int:
    """The program. Exit code 0 when nothing is left to do, 2 for bad input, 75 when it was asked to stop."""
    parser = argparse.ArgumentParser(
        prog="python -m sweeps.worker", description="Run steps of a ledger until none is left."
    )
    parser.add_argument("--out", required=True, help="folder of the ledger")
    parser.add_argument(
        "--plan", action="append", metavar="QUESTION", help="only this question's steps (may be repeated)"
    )
    parser.add_argument("--run", help="name of the run within which tries are counted")
    parser.add_argument(
        "--retry", nargs="*", choices=FAILURES, default=FAILURES, help="what failed in earlier runs and is tried anew"
    )
    parser.add_argument("--seconds", type=float, default=math.inf, help="that one attempt at a step may work")
    parser.add_argument("--setup", metavar="MODULE:FUNCTION", help="called first, as one that joins other processes")
    parser.add_argument("--patience", type=float, default=leases.PATIENCE, help="seconds a lease may stand still")
    parser.add_argument("--cores", help="processor cores to keep to, as in 0,1")
    parser.add_argument("--parent", type=int, help="process whose end ends this worker; the worker leads its own group")
    given = parser.parse_args(arguments)
    faulthandler.enable()  # a worker that dies of a fault in native code says where, in the log of the step
    if given.cores:
        pin([int(core) for core in given.cores.split(",")])
    if given.parent:
        _follow(given.parent)
    try:
        set_up(given.setup)
        rules = Rules(given.run or uuid.uuid4().hex, tuple(given.retry), given.seconds)
        return 0 if work(given.out, given.plan, rules=rules, patience=given.patience) else STOPPED
    except SweepError as error:
        print(f"worker: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
