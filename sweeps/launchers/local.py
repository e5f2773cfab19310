"""The local launcher: worker processes on this machine, each on its own cores and devices, watched until all is done."""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType

from sweeps import attempts, leases
from sweeps.errors import Preempted, SweepError
from sweeps.launchers.cores import device_share, nvidia_devices, shares, thread_limits
from sweeps.launchers.programs import program, same_modules
from sweeps.ledger import Ledger
from sweeps.outcomes import STOPPED, Rules
from sweeps.snapshots import Snapshot, take_snapshot

TICK = 0.25  # seconds between two looks
GRACE = 15.0  # seconds that a step has to save itself after SIGTERM
_STILLBORN = 3  # workers in a row that end without having touched a step: no step is at fault then
_KILLED = 0.1  # counts less: somebody killed it


def run_local(
    ledger: Ledger,
    questions: Sequence[str],
    *,
    workers: int,
    env: Mapping[str, str] | None = None,
    on_tick: Callable[[Snapshot], None] = lambda snapshot: None,
    patience: float = leases.PATIENCE,
    rules: Rules | None = None,
) -> Snapshot:
    """Run the questions' plans with so many worker processes, and return how it ended.

    Steps that failed are tried anew as `rules` have it (None: all), those that crash (or take their worker down with
    them) at most twice. A worker that died is replaced. `env` is added to the workers' environment. `on_tick` sees how
    far it is, several times a second. Ctrl-C and SIGTERM stop the workers, each step saving itself for at most 15 s (a
    second Ctrl-C: not at all), and raise KeyboardInterrupt or Preempted. Raises SweepError where workers cannot even
    start.
    """
    if workers < 1:
        raise SweepError(f"{workers} workers can do nothing; give at least 1")
    names = ledger.planned(questions)
    crew = _Crew(ledger, questions, workers, dict(env or {}), [*program(ledger, questions, patience, rules or Rules())])
    with _sigterm_raises():
        try:
            while crew.tend(names):
                looked = time.monotonic()
                on_tick(take_snapshot(ledger, names, workers))
                time.sleep(max(TICK, 20 * (time.monotonic() - looked)))  # looking takes a twentieth of a core at most
        except BaseException:
            crew.stop()
            raise
    leases.sweep(map(ledger.step_folder, names))
    last = take_snapshot(ledger, names, workers)
    on_tick(last)
    return last


class _Crew:
    """The worker processes of one run."""

    def __init__(
        self, ledger: Ledger, questions: Sequence[str], workers: int, env: dict[str, str], command: list[str]
    ) -> None:
        self._ledger, self._env = ledger, env
        self._logs = ledger.root / "workers"
        self._logs.mkdir(exist_ok=True)
        self._cores = shares(workers)
        devices = nvidia_devices()
        self._devices = [device_share(place, workers, devices) for place in range(workers)]
        self._command = [*command, "--parent", str(os.getpid())]
        self._stillborn = 0.0
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        for place in range(workers):
            self._start(place)

    def tend(self, names: Sequence[str]) -> bool:
        """Replace workers that died. False once all have ended because nothing is left to do."""
        for place, process in list(self._processes.items()):
            code = process.poll()
            if code is None:
                continue
            del self._processes[place]
            if code == 0:
                continue
            worked = self._record_death(names, process.pid, code) or code == STOPPED
            self._stillborn = 0 if worked else self._stillborn + (1 if code > 0 else _KILLED)
            if self._stillborn >= _STILLBORN:
                log = self._log(place)
                full = "; no space left on its disk" if shutil.disk_usage(log.parent).free < 2**12 else ""
                raise SweepError(f"workers do not start: {_last_line(log)} (exit code {code}, see {log}{full})")
            self._start(place)
        return bool(self._processes)

    def stop(self) -> None:
        """End all workers and what they started: SIGTERM, then, after the grace or at a second Ctrl-C, SIGKILL."""
        for process in self._processes.values():
            _signal_group(process, signal.SIGTERM)
        deadline = time.monotonic() + GRACE
        with contextlib.suppress(KeyboardInterrupt):
            while time.monotonic() < deadline and any(process.poll() is None for process in self._processes.values()):
                time.sleep(0.05)
        for process in self._processes.values():
            _signal_group(process, signal.SIGKILL)  # also what a worker left behind in its group
            process.wait()

    def _start(self, place: int) -> None:
        cores = self._cores[place]
        env = {**os.environ, **same_modules(), **thread_limits(len(cores)), **self._devices[place], **self._env}
        command = [*self._command, "--cores", ",".join(map(str, cores))]
        with self._log(place).open("wb") as log:
            self._processes[place] = subprocess.Popen(
                command, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def _record_death(self, names: Sequence[str], pid: int, code: int) -> bool:
        """Write down what became of the step that a dead worker was running. False where it ran none."""
        for name in names:
            folder = self._ledger.step_folder(name)
            attempt = None if self._ledger.result(name) else attempts.left_by(folder, pid)
            if attempt is not None:
                cause = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
                hint = " (out of memory, or killed by hand)" if code == -signal.SIGKILL else ""
                hint += attempts.log_tail(folder, attempt)
                spent = attempts.spent(folder, attempt)
                attempts.record_failure(
                    folder / attempts.ATTEMPTS / attempt, "crashed", f"its worker died of {cause}{hint}", spent
                )
                return True
        return False

    def _log(self, place: int) -> Path:
        return self._logs / f"{place}.txt"


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def _last_line(path: Path) -> str:
    lines = path.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "they say nothing"


@contextlib.contextmanager
def _sigterm_raises() -> Iterator[None]:
    """SIGTERM to the launcher ends it as Ctrl-C does."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Preempted("SIGTERM")

    try:
        former = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)
