"""What a file system does to a sweep: full, read-only, a folder deleted, a worker asleep. Nothing wrong is ever published."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sweeps import Cell, Ledger, Step, SweepError, run_local, work

pytestmark = pytest.mark.proof
Make = Callable[..., Step]
WORK = "import sys; from sweeps import work; work(sys.argv[1], patience=0.5)"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of 2 MB; skipped, visibly, where none may be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def plan(ledger: Ledger, *steps: Step) -> None:
    ledger.write_plan("q", [Cell({"x": index}, {"count": step}) for index, step in enumerate(steps)])


def fill(path: Path) -> None:
    """Until the last byte."""
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as stream:
        while True:
            stream.write(bytes(4096))


def test_a_full_disk_is_told_and_once_there_is_room_the_run_goes_on(disk: Path, counting: Make) -> None:
    ledger = Ledger(disk / "runs")
    steps = [counting(number) for number in range(3)]
    plan(ledger, *steps)
    fill(disk / "ballast")
    with pytest.raises(SweepError, match=r"workers do not start: .*(?i:no space left)") as told:
        run_local(ledger, ["q"], workers=1)
    assert "\n" not in str(told.value)
    assert [ledger.result(step) for step in steps] == [None] * 3
    (disk / "ballast").unlink()
    assert run_local(ledger, ["q"], workers=1).counts == {"done": 3}


def test_a_step_that_fills_the_disk_crashes_and_publishes_nothing(disk: Path, counting: Make) -> None:
    ledger = Ledger(disk / "runs")
    step, other = counting(1, behave="fill"), counting(2)
    plan(ledger, step, other)
    last = run_local(ledger, ["q"], workers=1)
    assert last.counts == {"crashed": 1, "done": 1}
    assert "No space left" in last.failed[0].message


def test_a_read_only_folder_is_told_in_a_line(disk: Path, counting: Make) -> None:
    ledger = Ledger(disk / "runs")
    plan(ledger, counting(1))
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    with pytest.raises((SweepError, OSError), match="Read-only file system"):
        run_local(ledger, ["q"], workers=1)
    with pytest.raises(SweepError, match="cannot be made or written"):
        Ledger(disk / "others")


def test_a_step_whose_folder_is_deleted_under_it_ends_and_can_be_planned_again(
    ledger: Ledger, counting: Make, traces: Path
) -> None:
    step, other = counting(1, units=10, pause=0.1), counting(2)
    plan(ledger, step, other)

    def delete() -> None:
        while not (traces / "1.1").exists():
            time.sleep(0.01)
        time.sleep(0.2)
        shutil.rmtree(ledger.step_folder(step))

    deleter = threading.Thread(target=delete)
    deleter.start()
    with pytest.raises(SweepError, match=rf"{step.name}: no such step"):
        run_local(ledger, ["q"], workers=1)
    deleter.join()
    plan(ledger, step, other)
    assert run_local(ledger, ["q"], workers=1).counts == {"done": 2}


def test_a_worker_that_slept_beyond_its_lease_publishes_nothing(ledger: Ledger, counting: Make, traces: Path) -> None:
    step = counting(1, units=10, pause=0.2)
    plan(ledger, step)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    sleeper = subprocess.Popen([sys.executable, "-c", WORK, str(ledger.root)], env=env)
    while not (traces / "1.1").exists():
        time.sleep(0.01)
    time.sleep(0.3)
    sleeper.send_signal(signal.SIGSTOP)
    assert work(ledger.root, patience=0.5)  # takes over, and publishes
    result = ledger.result(step)
    stamp = (ledger.step_folder(step) / "result.json").stat()
    sleeper.send_signal(signal.SIGCONT)
    assert sleeper.wait(timeout=60) == 0
    after = (ledger.step_folder(step) / "result.json").stat()
    assert ledger.result(step) == result
    assert (after.st_ino, after.st_mtime_ns) == (stamp.st_ino, stamp.st_mtime_ns)
    assert len(list((ledger.step_folder(step) / "attempts").iterdir())) == 1
