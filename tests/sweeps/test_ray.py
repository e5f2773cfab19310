"""A real Ray of two nodes on this machine: workers as its actors, killed and stopped, and nothing is lost."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import clusters
import pytest

from sweeps import Cell, Ledger, Snapshot, Step, SweepError
from sweeps.launchers.ray import run_ray

pytestmark = [pytest.mark.proof, pytest.mark.filterwarnings("ignore")]  # ray's own
Make = Callable[..., Step]


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    with clusters.ray() as address:
        yield address


def plan(ledger: Ledger, *steps: Step) -> None:
    ledger.write_plan("q", [Cell({"x": index}, {"count": step}) for index, step in enumerate(steps)])


def run(ledger: Ledger, cluster: str, workers: int = 1, **resources: object) -> Snapshot:
    return run_ray(ledger, ["q"], workers=workers, resources={"address": cluster, **resources})


def test_actors_on_both_nodes_share_the_steps(cluster: str, ledger: Ledger, counting: Make, traces: Path) -> None:
    plan(ledger, *(counting(number, units=4, pause=0.5) for number in range(6)))
    assert run(ledger, cluster, workers=2).counts == {"done": 6}
    assert sorted(trace.name for trace in traces.iterdir()) == [f"{number}.1" for number in range(6)]
    assert len({trace.read_text() for trace in traces.iterdir()}) == 2


def test_a_killed_actor_is_started_anew_and_its_step_goes_on(
    cluster: str, ledger: Ledger, counting: Make, traces: Path
) -> None:
    step = counting(1, units=20, pause=0.3)
    plan(ledger, step)

    def kill() -> None:
        while not (traces / "1.1").exists() or not (traces / "1.1").read_text():
            time.sleep(0.05)
        time.sleep(1.0)
        os.kill(int((traces / "1.1").read_text()), 9)

    killer = threading.Thread(target=kill)
    killer.start()
    assert run(ledger, cluster, large=1).counts == {"done": 1}
    killer.join()
    result = ledger.result(step)
    assert result is not None
    assert result["metrics"]["begun"] > 0
    assert sorted(trace.name for trace in traces.iterdir()) == ["1.1", "1.2"]


def test_an_interrupt_lets_the_steps_save(cluster: str, ledger: Ledger, counting: Make, traces: Path) -> None:
    step = counting(1, units=100, pause=0.3)
    plan(ledger, step)

    def on_tick(snapshot: Snapshot) -> None:
        if any((ledger.step_folder(step) / "attempts").glob("*/checkpoints/state.json")):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_ray(ledger, ["q"], workers=1, resources={"address": cluster}, on_tick=on_tick)
    assert ledger.state(step) == "preempted"
    assert [trace.name for trace in traces.iterdir()] == ["1.1"]


def test_a_cluster_that_is_not_there_is_one_line(
    ledger: Ledger, counting: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = pytest.importorskip("ray")

    def init(*given: object, **named: object) -> None:
        raise ConnectionError("Could not find any running Ray instance.\nPlease start one.")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)  # asking an address where nothing listens takes minutes
    plan(ledger, counting(1))
    with pytest.raises(SweepError, match="--launcher ray: Could not find any running Ray instance") as refused:
        run(ledger, "127.0.0.1:1")
    assert "\n" not in str(refused.value)
