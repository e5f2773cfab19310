"""Worker processes and the local launcher: killed, interrupted, crashing, orphaned, and nothing is lost or done
twice.
"""

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from sweeps import Cell, Ledger, Snapshot, Step, SweepError, run_local
from sweeps.launchers.cores import device_share, nvidia_devices, shares, usable_cores
from sweeps.progress import duration, status_table, view
from sweeps.snapshots import Failed, Finished, Running

Make = Callable[..., Step]
LAUNCH = """
import sys
from sweeps import Ledger, run_local
run_local(Ledger(sys.argv[1]), ["q"], workers=int(sys.argv[2]))
"""


def plan(ledger: Ledger, *steps: Step) -> None:
    ledger.write_plan("q", [Cell({"x": index}, {"count": step}) for index, step in enumerate(steps)])


def launch(ledger: Ledger, workers: int = 1) -> subprocess.Popen[bytes]:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        [sys.executable, "-c", LAUNCH, str(ledger.root), str(workers)], env=env, stderr=subprocess.PIPE
    )


def wait_for(condition: Callable[[], object], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def checkpointed(ledger: Ledger, step: Step) -> bool:
    return any((ledger.step_folder(step) / "attempts").glob("*/checkpoints/state.json"))


def pid_of_call(traces: Path, call: str) -> int:
    wait_for(lambda: (traces / call).exists() and (traces / call).read_text())
    return int((traces / call).read_text())


def gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return True
    return state in "ZX"


def test_workers_share_the_work_and_report(ledger: Ledger, counting: Make, traces: Path) -> None:
    steps = [counting(number, units=10, pause=0.2) for number in range(4)]
    plan(ledger, *steps)
    seen: list[Snapshot] = []
    last = run_local(ledger, ["q"], workers=2, env={"MARK": "1"}, on_tick=seen.append)
    assert last.counts == {"done": 4}
    assert last.seconds_left == 0.0
    assert len({trace.read_text() for trace in traces.iterdir()}) == 2  # both took part, each its own steps
    assert sorted(trace.name for trace in traces.iterdir()) == ["0.1", "1.1", "2.1", "3.1"]
    running = [now for snapshot in seen for now in snapshot.running if now.total is not None]
    assert any(now.total == 10 and now.info.keys() == {"unit"} for now in running)
    assert all(snapshot.total == 4 for snapshot in seen)
    began = time.monotonic()
    assert run_local(ledger, ["q"], workers=1).counts == {"done": 4}
    assert time.monotonic() - began < 60
    assert len(list(traces.iterdir())) == 4


def test_after_kill_9_of_all_a_new_run_finishes_from_the_checkpoint(
    ledger: Ledger, counting: Make, traces: Path
) -> None:
    step = counting(1, units=30, pause=0.15)
    plan(ledger, step)
    launcher = launch(ledger)
    worker = pid_of_call(traces, "1.1")
    wait_for(lambda: checkpointed(ledger, step))
    time.sleep(0.2)
    os.kill(launcher.pid, signal.SIGKILL)
    os.killpg(worker, signal.SIGKILL)
    launcher.communicate()
    wait_for(lambda: gone(worker))
    assert ledger.state(step) == "preempted"
    assert ledger.result(step) is None
    began = time.monotonic()
    assert run_local(ledger, ["q"], workers=1).counts == {"done": 1}
    assert time.monotonic() - began < 50  # the dead worker's lease is not waited for
    result = ledger.result(step)
    assert result is not None
    assert result["metrics"]["begun"] > 0
    assert result["metrics"]["value"] == 1
    assert result["adopted"]["attempt"] != result["attempt"]
    assert (ledger.folder(step) / "log.txt").read_text().startswith("goes on from the checkpoints")
    assert len(list((ledger.step_folder(step) / "attempts").iterdir())) == 1


def test_a_worker_killed_mid_step_is_replaced_and_the_step_goes_on(
    ledger: Ledger, counting: Make, traces: Path
) -> None:
    step, other = counting(1, units=4, pause=0.1, behave="kill", until=1), counting(2)
    plan(ledger, step, other)
    assert run_local(ledger, ["q"], workers=1).counts == {"done": 2}
    assert sorted(trace.name for trace in traces.iterdir()) == ["1.1", "1.2", "2.1"]
    assert (traces / "1.1").read_text() != (traces / "1.2").read_text()


def test_a_step_that_kills_its_worker_twice_is_crashed(ledger: Ledger, counting: Make, traces: Path) -> None:
    step, other = counting(1, behave="kill"), counting(2)
    plan(ledger, step, other)
    last = run_local(ledger, ["q"], workers=2)
    assert last.counts == {"crashed": 1, "done": 1}
    assert last.failed == (
        Failed(
            step.name,
            "crashed",
            "its worker died of signal SIGKILL (out of memory, or killed by hand); its log ends: counting 1 from 0",
        ),
    )
    assert sorted(trace.name for trace in traces.iterdir()) == ["1.1", "1.2", "2.1"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_lets_steps_save_and_the_next_run_goes_on(
    ledger: Ledger, counting: Make, traces: Path, number: signal.Signals
) -> None:
    step = counting(1, units=80, pause=0.15)  # long enough for a machine that stalls
    plan(ledger, step)
    launcher = launch(ledger)
    worker = pid_of_call(traces, "1.1")
    wait_for(lambda: checkpointed(ledger, step))
    began = time.monotonic()
    launcher.send_signal(number)
    _, error = launcher.communicate(timeout=120)
    assert time.monotonic() - began < 60
    assert launcher.returncode != 0
    assert (b"KeyboardInterrupt" if number == signal.SIGINT else b"Preempted") in error
    assert gone(worker)
    failure = ledger.failure(step)
    assert failure is not None
    assert (failure["status"], failure["message"]) == ("preempted", "Preempted: asked to stop")
    assert not (ledger.step_folder(step) / "lease.json").exists()
    assert run_local(ledger, ["q"], workers=1).counts == {"done": 1}
    result = ledger.result(step)
    assert result is not None
    assert result["metrics"]["begun"] > 0
    assert result["seconds"] > result["adopted"]["seconds"] > 0


def test_workers_end_when_their_launcher_is_killed(ledger: Ledger, counting: Make, traces: Path) -> None:
    step = counting(1, units=1000, pause=0.1)
    plan(ledger, step)
    launcher = launch(ledger)
    worker = pid_of_call(traces, "1.1")
    os.kill(launcher.pid, signal.SIGKILL)
    launcher.communicate()
    wait_for(lambda: gone(worker), 60)
    assert ledger.state(step) == "preempted"


def test_two_runs_at_once_do_each_step_once(ledger: Ledger, counting: Make, traces: Path) -> None:
    plan(ledger, *(counting(number, pause=0.1) for number in range(8)))
    both = [launch(ledger, workers=1) for _ in range(2)]
    for launcher in both:
        _, error = launcher.communicate(timeout=60)
        assert launcher.returncode == 0, error
    assert sorted(trace.name for trace in traces.iterdir()) == [f"{number}.1" for number in range(8)]
    assert all(row["status"] == "done" for row in ledger.rows(ledger.read_plan("q").cells))


def test_workers_that_cannot_start_are_not_started_for_ever(ledger: Ledger, counting: Make) -> None:
    plan(ledger, counting(1))
    with pytest.raises(SweepError, match=r"workers do not start: .* \(exit code -?[0-9]+, see .*workers/0\.txt\)"):
        run_local(ledger, ["q"], workers=1, env={"PYTHONHASHSEED": "nonsense"})
    with pytest.raises(SweepError, match="0 workers"):
        run_local(ledger, ["q"], workers=0)
    with pytest.raises(SweepError, match="question 'nothing' has no plan"):
        run_local(ledger, ["nothing"], workers=1)


def test_a_worker_as_a_program(ledger: Ledger, counting: Make, traces: Path, tmp_path: Path) -> None:
    plan(ledger, counting(1))
    ledger.register([counting(2)])
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONWARNINGS": "error"}

    def worker(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "sweeps.worker", *arguments]
        return subprocess.run(command, env=env, capture_output=True, text=True, check=False)

    assert worker("--out", str(ledger.root), "--plan", "q").returncode == 0
    assert [trace.name for trace in traces.iterdir()] == ["1.1"]
    assert worker("--out", str(ledger.root)).returncode == 0
    assert sorted(trace.name for trace in traces.iterdir()) == ["1.1", "2.1"]
    lost = worker("--out", str(tmp_path / "typo"))
    assert (lost.returncode, lost.stderr.count("\n")) == (2, 1)


def test_sweeps_starts_without_heavy_libraries() -> None:
    code = (
        "import sweeps.worker, sweeps.progress, sys; print(sorted({*sys.modules} & {'jax', 'numpy', 'rich', 'polars'}))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    assert answer.stdout.strip() == "[]"


@pytest.mark.parametrize("workers", [1, 2, 3, 7])
def test_workers_share_all_cores(workers: int) -> None:
    given = shares(workers)
    assert len(given) == workers
    assert all(given)
    if workers <= len(usable_cores()):
        assert sorted(core for share in given for core in share) == usable_cores()


@pytest.mark.parametrize(
    ("workers", "devices", "expected"),
    [
        (1, ["0", "1"], [None]),
        (2, ["0", "1"], ["0", "1"]),
        (2, ["4", "5", "6", "7"], ["4,5", "6,7"]),
        (3, ["0"], [None] * 3),
    ],
)
def test_workers_share_devices_where_there_is_one_for_each(
    workers: int, devices: list[str], expected: list[str | None]
) -> None:
    given = [device_share(place, workers, devices).get("CUDA_VISIBLE_DEVICES") for place in range(workers)]
    assert given == expected


def test_devices_are_those_that_may_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    assert nvidia_devices() == ["2", "5"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert nvidia_devices() == []


def snapshots() -> list[Snapshot]:
    now = Running("count-aa", 3.0, 10.0, {"loss": 0.123456, "unit": 3}, 61.0, 142.0, 1, "x")
    first = Snapshot({"done": 1, "running": 1, "pending": 1}, (now,), (Finished("echo-old", "done", 1.0),), (), None)
    done = (Finished("count-aa", "done", 203.0), Finished("echo-old", "done", 1.0))
    failed = Failed("echo-bb", "crashed", "RuntimeError: [it] broke")
    return [first, Snapshot({"done": 2, "crashed": 1}, (), done, (failed,), 0.0)]


def test_plain_progress_tells_of_each_step_once() -> None:
    out = io.StringIO()
    with view(Console(file=out, width=60)) as on_tick:
        for snapshot in [*snapshots(), *snapshots()[1:]]:
            on_tick(snapshot)
    assert out.getvalue().splitlines() == [
        "1/3 steps are done already",
        "[2/3] count-aa 3m23s",
        "crashed: echo-bb: RuntimeError: [it] broke",
    ]


def test_live_progress_shows_bars_and_failures() -> None:
    out = io.StringIO()
    with view(Console(file=out, width=120, force_terminal=True, color_system=None)) as on_tick:
        for snapshot in snapshots():
            on_tick(snapshot)
            time.sleep(0.3)
    shown = out.getvalue()
    for part in (
        "1/3 steps",
        "count-aa",
        "3/10",
        "1m01s",
        "2m22s left",
        "loss 0.1235",
        "RuntimeError: [it] broke",
        "1 crashed",
    ):
        assert part in shown


def test_the_status_table_counts_states_by_question(ledger: Ledger, counting: Make) -> None:
    plan(ledger, counting(1), counting(2, behave="bad input"))
    ledger.write_plan("later", [Cell({}, {"count": counting(3)})])
    run_local(ledger, ["q"], workers=1)
    out = io.StringIO()
    Console(file=out, width=150).print(status_table(ledger))
    head, later, q, failed = out.getvalue().rstrip().splitlines()
    assert head.split() == ["question", "done", "bad_input", "pending", "steps", "left"]  # only states that occur
    assert later.split() == ["later", ".", ".", "1", "1", "?"]
    assert q.split()[:4] == ["q", "1", "1", "."]
    assert failed.startswith("bad_input count-")
    assert "no picture" in failed


def test_durations_read_well() -> None:
    assert [duration(seconds) for seconds in (None, 0.04, 59.9, 61, 7625)] == ["?", "0.0s", "59.9s", "1m01s", "2h07m"]
