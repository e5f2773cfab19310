"""A real SLURM on this machine: workers as its jobs, killed, requeued and in gangs, and nothing is lost."""

import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import clusters
import pytest

from sweeps import Cell, Ledger, Snapshot, Step, SweepError
from sweeps.launchers.slurm import run_slurm
from sweeps.snapshots import Failed

pytestmark = pytest.mark.proof
Make = Callable[..., Step]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with clusters.slurm(tmp_path_factory.mktemp("slurm")) as home:
        yield home


def plan(ledger: Ledger, *steps: Step) -> None:
    ledger.write_plan("q", [Cell({"x": index}, {"count": step}) for index, step in enumerate(steps)])


def run(ledger: Ledger, workers: int = 1, **resources: object) -> Snapshot:
    asked = {"timeout_min": 10, "slurm_mem": "100M", **resources}
    return run_slurm(ledger, ["q"], workers=workers, resources=asked)


def jobs() -> list[str]:
    told = subprocess.run(["squeue", "-h", "-o", "%i %T"], capture_output=True, text=True, check=True)
    return told.stdout.split("\n")[:-1]


def when(condition: Callable[[], object], act: Callable[[], object], seconds: float = 90.0) -> threading.Thread:
    """Act once the condition holds, in a thread."""

    def wait() -> None:
        deadline = time.monotonic() + seconds
        while not condition() and time.monotonic() < deadline:
            time.sleep(0.05)
        act()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def started(traces: Path, call: str) -> Callable[[], bool]:
    return lambda: (traces / call).exists() and bool((traces / call).read_text())


def test_jobs_share_the_steps(cluster: Path, ledger: Ledger, counting: Make, traces: Path) -> None:
    steps = [counting(number, units=4, pause=0.3) for number in range(6)]
    plan(ledger, *steps)
    assert run(ledger, workers=2).counts == {"done": 6}
    assert sorted(trace.name for trace in traces.iterdir()) == [f"{number}.1" for number in range(6)]
    assert len({trace.read_text() for trace in traces.iterdir()}) == 2  # both jobs took part


def test_a_killed_job_is_submitted_anew_and_goes_on(
    cluster: Path, ledger: Ledger, counting: Make, traces: Path
) -> None:
    step = counting(1, units=20, pause=0.3)
    plan(ledger, step)

    def kill() -> None:
        time.sleep(1.0)  # some units, with their checkpoints
        os.kill(int((traces / "1.1").read_text()), 9)

    killer = when(started(traces, "1.1"), kill)
    assert run(ledger).counts == {"done": 1}
    killer.join()
    result = ledger.result(step)
    assert result is not None
    assert result["metrics"]["begun"] > 0
    assert sorted(trace.name for trace in traces.iterdir()) == ["1.1", "1.2"]


def test_a_job_that_the_cluster_signals_saves_its_step_and_is_requeued(
    cluster: Path, ledger: Ledger, counting: Make, traces: Path
) -> None:
    """SIGUSR2 is what SLURM sends before the time is up, and to what it preempts."""
    step = counting(1, units=20, pause=0.3)
    plan(ledger, step)
    seen: list[str] = []

    def signal() -> None:
        time.sleep(1.0)
        seen.append(jobs()[0].split()[0])
        subprocess.run(["scancel", "--signal=USR2", seen[0]], check=True)
        while "PENDING" not in "".join(jobs()):
            time.sleep(0.2)
        subprocess.run(["scontrol", "update", f"jobid={seen[0]}", "starttime=now"], check=True)  # else in two minutes

    signaller = when(started(traces, "1.1"), signal)
    assert run(ledger).counts == {"done": 1}
    signaller.join()
    result = ledger.result(step)
    assert result is not None
    assert result["metrics"]["begun"] > 0
    assert sorted(trace.name for trace in traces.iterdir()) == ["1.1", "1.2"]
    told = subprocess.run(["scontrol", "show", "job", seen[0]], capture_output=True, text=True, check=True)
    assert "Restarts=1" in told.stdout  # the same job, put back into the queue


def test_a_gang_runs_each_step_in_all_of_its_processes_and_publishes_once(
    cluster: Path, ledger: Ledger, counting: Make, traces: Path
) -> None:
    steps = [counting(number, function="together") for number in (1, 2)]
    plan(ledger, *steps)
    assert run(ledger, tasks_per_node=2).counts == {"done": 2}
    for step in steps:
        result = ledger.result(step)
        assert result is not None
        assert result["metrics"]["processes"] == 2
        assert len(list((ledger.step_folder(step) / "attempts").iterdir())) == 1


def test_where_one_of_a_gang_fails_the_step_crashes_and_is_not_waited_for(
    cluster: Path, ledger: Ledger, counting: Make
) -> None:
    step = counting(1, function="together", behave="crash")
    plan(ledger, step)
    last = run(ledger, tasks_per_node=2)
    assert last.failed == (Failed(step.name, "crashed", "process 1 of the gang failed: RuntimeError: it broke"),)


def test_an_interrupt_cancels_the_jobs(cluster: Path, ledger: Ledger, counting: Make, traces: Path) -> None:
    step = counting(1, units=100, pause=0.3)
    plan(ledger, step)

    def on_tick(snapshot: Snapshot) -> None:
        if started(traces, "1.1")():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_slurm(ledger, ["q"], workers=1, resources={"timeout_min": 10, "slurm_mem": "100M"}, on_tick=on_tick)
    deadline = time.monotonic() + 30
    while ledger.state(step) == "running" and time.monotonic() < deadline:
        time.sleep(0.2)
    assert ledger.state(step) == "preempted"
    assert any((ledger.step_folder(step) / "attempts").glob("*/checkpoints/state.json"))


def test_what_sbatch_refuses_is_one_line(cluster: Path, ledger: Ledger, counting: Make) -> None:
    plan(ledger, counting(1))
    with pytest.raises(SweepError, match=r"sbatch refuses: .*partition") as refused:
        run(ledger, slurm_partition="nowhere")
    assert "\n" not in str(refused.value)
    with pytest.raises(SweepError, match=r"--launcher slurm: .*nonsense"):
        run(ledger, nonsense=1)
