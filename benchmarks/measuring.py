"""What the timing benchmarks share: a clock that sees other work on the machine, the matmul peak, and results that are kept.

A time means little without the machine it was taken on: every result names its cores, versions and load, and how many
cores *other* processes kept busy meanwhile. Above `DISTURBED` of them it is marked as disturbed.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from common import goal, show

DISTURBED = 0.1  # cores
SIZES = (1024, 2048)  # sides of the square products whose best is the peak


class Clock:
    """Seconds by the clock, of this process's processor time, and cores that other processes kept busy meanwhile."""

    def __init__(self) -> None:
        self.cpu = self.others = self.seconds = 0.0

    def __enter__(self) -> Clock:
        self._began, self._cpu, self._busy = time.perf_counter(), time.process_time(), busy_seconds()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._began
        self.cpu = time.process_time() - self._cpu
        self.others = max(0.0, busy_seconds() - self._busy - self.cpu) / self.seconds


def busy_seconds() -> float:
    """Core-seconds that this machine has worked since it started; process time alone where the system does not say."""
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    except OSError:
        return time.process_time()
    user, nice, system, _idle, _waiting, *interrupts = map(int, fields[:8])
    return (user + nice + system + sum(interrupts)) / os.sysconf("SC_CLK_TCK")


class TakingTurns:
    """A process that stays: it answers a line of JSON when it is ready, and another for each number of steps it is given."""

    def __init__(self, name: str, command: Sequence[str], environment: dict[str, str]):
        self.name = name
        self.process = subprocess.Popen(
            [sys.executable, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.facts = self._answer()
        self.rounds: list[dict[str, Any]] = []

    def take_turn(self, steps: int) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        self.rounds.append(self._answer())

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{Path(sys.argv[0]).name}: {self.name} ended early; its own message stands above")
        return json.loads(line)

    def close(self) -> None:
        """End the process, whatever it is at."""
        self.process.kill()
        self.process.communicate()


class JaxPeak:
    """FLOP/s of square matrix products on all devices of this process: compiled once, measured as often as is asked."""

    def __init__(self, dtype: str = "float32", sizes: Sequence[int] = SIZES):
        import jax
        import jax.numpy as jnp
        from jax.sharding import NamedSharding, PartitionSpec

        from moon_jax.sharding import data_mesh

        mesh = data_mesh()
        rows, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("data",), ()))
        self.multiply = jax.jit(jnp.matmul)
        self.devices = mesh.size
        self.factors = {
            n: (
                jax.device_put(jnp.ones((mesh.size * n, n), dtype), rows),
                jax.device_put(jnp.ones((n, n), dtype), whole),
            )
            for n in sizes
        }

    def __call__(self, seconds: float = 0.4) -> float:
        calls = {
            2 * self.devices * n**3: lambda factors=factors: self.multiply(*factors).block_until_ready()
            for n, factors in self.factors.items()
        }
        return best_rate(calls, seconds)


def best_rate(calls: dict[int, Callable[[], object]], seconds: float) -> float:
    """FLOP/s of the fastest of some calls, {its FLOPs: the call, which waits for its result}."""
    best = 0.0
    for flops, call in calls.items():
        call()
        until = time.perf_counter() + seconds / len(calls)
        while time.perf_counter() < until:
            began = time.perf_counter()
            call()
            best = max(best, flops / (time.perf_counter() - began))
    return best


def start_as_workers_do() -> None:
    """Start this script anew in the environment of `moon run`'s workers: parts of it are read when a process begins."""
    from experiments.running import worker_environment

    mark = "MOON_BENCHMARK_STARTED"
    if mark not in os.environ:
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | worker_environment() | {mark: "1"})


def told(values: Sequence[float], form: str = ".2f") -> str:
    """Median and range: "1.52 (1.48 to 1.60)"."""
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def versions(*names: str) -> dict[str, str]:
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def processor() -> str:
    """The processor's name as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


class Results:
    """Tables and goals of one script: printed as they come, saved as JSON, from which `page.py` makes the README."""

    def __init__(self, script: str, **provenance: Any):
        self.tables: list[dict[str, Any]] = []
        self.goals: list[dict[str, Any]] = []
        self.notes: list[str] = []
        self.data: dict[str, Any] = {}
        self.others: list[float] = []
        self.provenance: dict[str, Any] = {
            "script": script,
            "began": datetime.now(UTC).isoformat(timespec="seconds"),
            "processor": processor(),
            "cores": len(os.sched_getaffinity(0)),
            "load_at_start": round(os.getloadavg()[0], 2),
            "python": platform.python_version(),
            "versions": versions("jax", "jaxlib", "flax", "optax", "torch", "open-clip-torch"),
        } | provenance

    def table(self, caption: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        print(f"\n{caption}")
        show(header, rows)
        self.tables.append({"caption": caption, "header": list(header), "rows": [[*map(str, row)] for row in rows]})

    def goal(self, what: str, reached: bool, *, timing: bool = True) -> bool:
        """One line; a goal of time is not judged in the README where other work disturbed it."""
        self.goals.append({"what": what, "reached": reached, "timing": timing})
        return goal(what, reached)

    def note(self, text: str) -> None:
        print(text)
        self.notes.append(text)

    def finish(self, save: Path | None) -> None:
        """Say how quiet the machine was, and write the JSON where one is wanted."""
        busy = statistics.median(self.others) if self.others else 0.0
        self.provenance |= {"others_busy_cores": round(busy, 2), "disturbed": busy > DISTURBED}
        kind = "DISTURBED, to be measured again" if busy > DISTURBED else "quiet"
        print(
            f"\n{self.provenance['processor']}, {self.provenance['cores']} cores; load {os.getloadavg()[0]:.1f}; other "
            f"processes kept {busy:.2f} cores busy while we measured (median): {kind}"
        )
        if save is not None:
            save.parent.mkdir(parents=True, exist_ok=True)
            parts = {"provenance": self.provenance, "tables": self.tables, "goals": self.goals}
            save.write_text(json.dumps(parts | {"notes": self.notes, "data": self.data}, indent=1) + "\n")
