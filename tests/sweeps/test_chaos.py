"""Two runs at once over 200 steps, workers killed a hundred times, clocks that lie: every step is published exactly once."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sweeps import Cell, Ledger, Step, leases, run_local

pytestmark = pytest.mark.proof
Make = Callable[..., Step]
STEPS, KILLS, RUNS = 200, 100, 2
LAUNCH = """
import sys
from sweeps import Ledger, run_local
run_local(Ledger(sys.argv[1]), ["q"], workers=2, patience=5.0)
"""
# Each process is off by up to three days, and says so of files that it stamps, too.
SKEW = """
import os, random, time
_off, _true = random.Random(os.getpid()).uniform(-3e5, 3e5), time.time
time.time = lambda: _true() + _off
"""


def dag(counting: Make, traces: Path) -> list[Step]:
    """Each step needs up to three of the twenty before it."""
    dice, steps = random.Random(7), list[Step]()
    for number in range(STEPS):
        near = steps[-20:]
        needs = {f"n{place}": step for place, step in enumerate(dice.sample(near, min(len(near), dice.randint(0, 3))))}
        steps.append(counting(number, units=3, pause=0.05, needs=needs))
    return steps


def planned(root: Path, steps: list[Step]) -> Ledger:
    ledger = Ledger(root)
    ledger.write_plan("q", [Cell({"x": place}, {"count": step}) for place, step in enumerate(steps)])
    return ledger


def workers_of(root: Path) -> list[int]:
    """Processes that work on this ledger."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                arguments = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"sweeps.worker" in arguments and str(root).encode() in arguments:
                found.append(int(entry.name))
    return found


def at_work(ledger: Ledger, steps: list[Step]) -> list[int]:
    """Processes that hold a lease."""
    held = [leases.holder(ledger.step_folder(step)) for step in steps]
    return [lease["owner"]["pid"] for lease in held if lease is not None]


def test_nothing_is_lost_and_nothing_is_published_twice(counting: Make, traces: Path, tmp_path: Path) -> None:
    steps = dag(counting, traces)
    calm = planned(tmp_path / "calm", steps)
    assert run_local(calm, ["q"], workers=2).counts == {"done": STEPS}
    (tmp_path / "skew").mkdir()
    (tmp_path / "skew" / "sitecustomize.py").write_text(SKEW)
    ledger, dice = planned(tmp_path / "wild", steps), random.Random(11)
    kills, published, done = 0, dict[str, tuple[int, int]](), threading.Event()

    def kill() -> None:
        """As many as there are results, however slow the machine is: mostly of workers amid a step, sometimes of any."""
        nonlocal kills
        while kills < KILLS and not done.is_set():
            behind = kills < KILLS * (len(published) + 20) / STEPS
            time.sleep(dice.uniform(0.02, 0.1))
            alive = workers_of(ledger.root) if dice.random() < 0.2 else at_work(ledger, steps)
            if behind and alive:
                with contextlib.suppress(ProcessLookupError):  # it has just ended
                    os.kill(dice.choice(alive), signal.SIGKILL)
                    kills += 1

    def look() -> None:
        """A result that is there is never another: the same file of the same time, for ever."""
        while not done.wait(0.05):
            for step in steps:
                path = ledger.step_folder(step) / "result.json"
                if path.exists():
                    status = path.stat()
                    stamp = (status.st_ino, status.st_mtime_ns)
                    assert published.setdefault(step.name, stamp) == stamp

    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path / "skew"), *sys.path])}
    killer, observer = threading.Thread(target=kill), threading.Thread(target=look)
    began = time.monotonic()
    killer.start()
    observer.start()
    try:
        # Who was killed twice at one step is told that it crashed; the next run tries it again, as a user would.
        while ledger.pending(steps) and time.monotonic() - began < 240:
            launched = [
                subprocess.Popen([sys.executable, "-c", LAUNCH, str(ledger.root)], env=env, stderr=subprocess.PIPE)
                for _ in range(RUNS)
            ]
            for launcher in launched:
                said = launcher.communicate(timeout=240)[1]
                assert launcher.returncode == 0, said
    finally:
        done.set()
        killer.join()
        observer.join()
    assert kills == KILLS, "the steps were done before all kills were"
    assert ledger.pending(steps) == []
    assert len(published) >= STEPS - 2  # the last may come after the last look
    for step in steps:
        ours, theirs = ledger.result(step), calm.result(step)
        assert ours is not None
        assert theirs is not None
        assert ours["metrics"]["value"] == theirs["metrics"]["value"]
        assert (ledger.folder(step) / "value.json").read_text() == (calm.folder(step) / "value.json").read_text()
        folder = ledger.step_folder(step)
        assert not (folder / "lease.json").exists()
        assert not list(folder.glob(".lease.json.*"))
        assert not list(folder.glob("result.stale-*"))
    for path in ledger.root.rglob("*.json"):
        json.loads(path.read_bytes())  # whole, or not there
