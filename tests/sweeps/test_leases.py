"""Leases: free, held, given up. They only save work."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sweeps import Cell, Ledger, Step, attempts, leases, run_local, work
from sweeps.files import read_json, write_json
from sweeps.outcomes import Rules
from sweeps.owners import surely_dead, this_process
from sweeps.running import run_step

Make = Callable[..., Step]


def foreign(folder: Path, attempt: str = "theirs", counter: str = "1") -> None:
    """A lease that a process of another host holds: nobody here can tell whether it lives."""
    write_json(folder / leases.LEASE, {"attempt": attempt, "owner": {**this_process(), "host": "elsewhere"}})
    (folder / "attempts" / attempt).mkdir(parents=True, exist_ok=True)
    (folder / "attempts" / attempt / leases.COUNTER).write_text(counter)


def dead_process() -> dict[str, object]:
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    return {**this_process(), "pid": int(ended.stdout), "started": "1"}


def test_one_lease_at_a_time(tmp_path: Path) -> None:
    observer = leases.Observer()
    assert observer.take(tmp_path, "mine")
    assert not observer.take(tmp_path, "another")
    assert not leases.Observer().take(tmp_path, "another")
    leases.release(tmp_path, "another")  # not the holder: nothing happens
    assert leases.read(tmp_path) is not None
    leases.release(tmp_path, "mine")
    assert os.listdir(tmp_path) == []
    assert leases.Observer().take(tmp_path, "another")


def test_the_lease_of_a_dead_process_of_this_host_is_free_at_once(tmp_path: Path) -> None:
    write_json(tmp_path / leases.LEASE, {"attempt": "theirs", "owner": dead_process()})
    assert leases.holder(tmp_path) is None
    assert leases.Observer(patience=1e9).take(tmp_path, "mine")
    lease = leases.read(tmp_path)
    assert lease is not None
    assert lease["attempt"] == "mine"


def test_a_process_is_told_from_a_later_one_with_its_number() -> None:
    me = this_process()
    assert not surely_dead(me)
    assert surely_dead({**me, "started": "0"})
    assert not surely_dead({**dead_process(), "host": "elsewhere"})
    assert not surely_dead({**dead_process(), "boot": "another"})


def test_a_lease_expires_when_its_counter_stands_still_and_not_before(tmp_path: Path) -> None:
    foreign(tmp_path, counter="1")
    observer = leases.Observer(patience=3.0)
    assert not observer.take(tmp_path, "mine")
    time.sleep(0.5)
    foreign(tmp_path, counter="2")  # it lives
    assert not observer.take(tmp_path, "mine")
    time.sleep(0.5)
    assert not observer.take(tmp_path, "mine")
    time.sleep(3.0)
    assert observer.take(tmp_path, "mine")
    assert not leases.Observer(patience=0.3).given_up(tmp_path)  # a new observer has seen nothing yet


def test_a_lease_cut_short_expires_too(tmp_path: Path) -> None:
    (tmp_path / leases.LEASE).write_text('{"att')
    observer = leases.Observer(patience=0.1)
    assert not observer.take(tmp_path, "mine")
    time.sleep(0.15)
    assert observer.take(tmp_path, "mine")


def test_the_counter_moves_while_the_heart_beats(tmp_path: Path) -> None:
    (tmp_path / "attempts" / "mine").mkdir(parents=True)
    with leases.Heartbeat(tmp_path, "mine", patience=0.12):
        deadline = time.monotonic() + 60
        while int(leases.read_counter(tmp_path, "mine") or 0) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
    after = leases.read_counter(tmp_path, "mine")
    assert int(after) >= 2
    time.sleep(0.1)
    assert leases.read_counter(tmp_path, "mine") == after


def test_a_busy_step_is_passed_by_and_taken_over_once_it_is_given_up(
    ledger: Ledger, counting: Make, traces: Path
) -> None:
    busy, free = counting(1), counting(2)
    ledger.register([busy, free])
    ledger.write_plan("q", [])
    foreign(ledger.step_folder(busy))
    assert ledger.state(busy) == "running"
    assert work(ledger.root, patience=0.4)
    assert sorted(path.name for path in traces.iterdir()) == ["1.1", "2.1"]
    began = [read_json(ledger.folder(step) / "owner.json")["began"] for step in (busy, free)]
    assert began[0] > began[1]


def test_an_owner_that_wakes_after_its_lease_was_taken_publishes_nothing(ledger: Ledger, counting: Make) -> None:
    """A paused process goes on with its attempt: the first to publish has won, and the sleeper's folder goes."""
    step = counting(1)
    ledger.register([step])
    folder = ledger.step_folder(step)
    sleeper = attempts.begin(folder, "sleeper", "run", "digest")
    write_json(folder / leases.LEASE, {"attempt": "sleeper", "owner": dead_process()})
    observer = leases.Observer()
    status = run_step(ledger, ledger.record(step), rules=Rules("r"), observer=observer, stopping=lambda: False)
    assert status == "done"
    result = ledger.result(step)
    assert sleeper.folder.is_dir()  # its process lives: nothing of it was touched
    assert not sleeper.publish({"status": "done", "metrics": {"value": -1}, "inputs": {}}, 1.0)
    assert Ledger(ledger.root).result(step) == result
    assert not sleeper.folder.exists()
    again = run_step(ledger, ledger.record(step), rules=Rules("r"), observer=observer, stopping=lambda: False)
    assert again is None


def test_a_late_attempt_leaves_the_published_folder_of_a_dead_winner_whole(ledger: Ledger, counting: Make) -> None:
    """A process paused between its last look and its first step finds the winner published and gone."""
    step = counting(1)
    ledger.write_plan("q", [Cell({}, {"count": step})])
    assert run_local(ledger, ["q"], workers=1).counts == {"done": 1}
    before = attempts.published_files(ledger.folder(step))
    late = attempts.begin(ledger.step_folder(step), "late", "run", (ledger.result(step) or {})["source_digest"])
    assert not late.publish({"status": "done", "metrics": {}, "inputs": {}}, 1.0)
    assert attempts.published_files(ledger.folder(step)) == before == (ledger.result(step) or {})["files"]
    assert (ledger.step_folder(step) / "checkpoints" / "state.json").is_file()


def test_a_checkpoint_that_cannot_be_copied_is_kept(
    ledger: Ledger, counting: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = counting(1)
    ledger.register([step])
    former = attempts.begin(ledger.step_folder(step), "old", "run", "digest")
    (former.folder / "checkpoints").mkdir()
    (former.folder / "checkpoints" / "state.json").write_text("saved")
    former.fail("preempted", "asked to stop", 5.0)

    def full_disk(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copytree", full_disk)
        assert attempts.begin(ledger.step_folder(step), "new", "run", "digest").adopted is None
    assert attempts.begin(ledger.step_folder(step), "newer", "run", "digest").adopted == "old"


def test_the_checkpoints_of_other_sources_are_not_gone_on_from(ledger: Ledger, counting: Make) -> None:
    step = counting(1, units=3)
    ledger.register([step])
    folder = ledger.step_folder(step)
    for name, digest in (("old", "other sources"), ("older", "the same")):
        former = attempts.begin(folder, name, "run", digest)
        (former.folder / "checkpoints").mkdir()
        (former.folder / "checkpoints" / "state.json").write_text(name)
        former.fail("preempted", "asked to stop", 5.0)
    assert attempts.begin(folder, "new", "run", "third").adopted is None
    shutil.rmtree(folder / "attempts")
    former = attempts.begin(folder, "old", "run", "the same")
    (former.folder / "checkpoints").mkdir()
    (former.folder / "checkpoints" / "state.json").write_text("saved")
    former.fail("preempted", "asked to stop", 5.0)
    new = attempts.begin(folder, "new", "run", "the same")
    assert (new.adopted, new.adopted_seconds) == ("old", 5.0)
    assert (new.folder / "checkpoints" / "state.json").read_text() == "saved"
    assert not (former.folder / "checkpoints").exists()  # it was over: its space is freed, its failure kept
    assert read_json(former.folder / "failure.json")["status"] == "preempted"
