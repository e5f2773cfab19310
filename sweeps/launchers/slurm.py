"""SLURM: an array of workers, submitted by submitit. Each is a job of one process, or a gang of several.

A job that runs out of its time, or that the cluster preempts with SIGUSR2, saves its step and goes back into the queue; what ends
otherwise while steps are left is submitted anew. Ctrl-C cancels the jobs, each saving its step.
"""

import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from sweeps import leases
from sweeps.errors import SweepError
from sweeps.launchers.programs import same_modules
from sweeps.launchers.watching import watch
from sweeps.ledger import Ledger
from sweeps.outcomes import Rules
from sweeps.snapshots import Snapshot

EVERY = 2.0  # seconds between two looks at the queue
REQUEUED = 1_000  # times that a job may run out of its time; each goes on where the one before stopped


def run_slurm(
    ledger: Ledger,
    questions: Sequence[str],
    *,
    workers: int,
    resources: Mapping[str, Any] | None = None,
    env: Mapping[str, str] | None = None,
    setup: str | None = None,
    on_tick: Callable[[Snapshot], None] = lambda snapshot: None,
    patience: float = leases.PATIENCE,
    rules: Rules | None = None,
) -> Snapshot:
    """Run the questions' plans as an array of `workers` jobs, and return how it ended. The ledger must lie where nodes see it.

    resources: of one job, by the names that submitit gives them: partition, account, timeout_min, nodes, tasks_per_node,
        cpus_per_task, gpus_per_node, mem_gb, and slurm_... for whatever else sbatch knows. More than one task makes a gang.
    env: added to the jobs' environment. setup: "package.module:function", called first in each process.

    Raises SweepError without submitit or sbatch, or where they refuse what is asked.
    """
    rules = rules or Rules()
    task = Task(str(ledger.root), tuple(questions), rules, patience, setup)
    crew = _Crew(ledger.root, workers, task, dict(resources or {}), dict(env or {}))
    return watch(ledger, questions, workers, crew, on_tick, rules)


@dataclass(frozen=True)
class Task:
    """What a job runs: submitit pickles it, and asks `checkpoint` for what is to run after a requeue."""

    root: str
    questions: tuple[str, ...]
    rules: Rules
    patience: float
    setup: str | None

    def __call__(self) -> bool:
        """Work; where submitit's signal came, let its own handler requeue the job once the step has saved itself."""
        from sweeps.worker import set_up, work

        requeue, asked = signal.getsignal(signal.SIGUSR2), threading.Event()

        def note(number: int, frame: FrameType | None) -> None:
            asked.set()

        signal.signal(signal.SIGUSR2, note)
        set_up(self.setup)
        finished = work(self.root, self.questions, rules=self.rules, patience=self.patience, stopping=asked.is_set)
        if asked.is_set() and not finished:
            signal.signal(signal.SIGUSR2, requeue)
            signal.raise_signal(signal.SIGUSR2)
        return finished

    def checkpoint(self) -> Any:
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


class _Crew:
    """The jobs of one run."""

    def __init__(self, root: Path, workers: int, task: Task, resources: dict[str, Any], env: dict[str, str]):
        try:
            import submitit
        except ImportError:
            raise SweepError("--launcher slurm needs submitit: pip install 'moon-jax[slurm]'") from None
        self._logs, self._workers, self._task = root / "workers" / "slurm", workers, task
        exports = [f"export {name}={shlex.quote(value)}" for name, value in {**same_modules(), **env}.items()]
        asked = {"timeout_min": 60, "name": "moon", **resources}
        asked["slurm_setup"] = [*exports, *asked.get("slurm_setup", [])]
        asked.setdefault("slurm_srun_args", ["--kill-on-bad-exit=1"])  # a gang ends as a whole
        try:
            self._executor = submitit.AutoExecutor(self._logs, cluster="slurm", slurm_max_num_timeout=REQUEUED)
            self._executor.update_parameters(**asked)
        except (RuntimeError, TypeError, NameError, ValueError) as error:
            raise SweepError(f"--launcher slurm: {' '.join(str(error).split())[:300]}") from None
        self._jobs: list[Any] = []
        self._next = 0.0

    def start(self) -> None:
        from submitit.core.utils import FailedJobError

        self._jobs, submitted = [], []
        try:
            with self._executor.batch():
                submitted = [self._executor.submit(self._task) for _ in range(self._workers)]
        except FailedJobError as error:
            raise SweepError(f"sbatch refuses: {' '.join(str(error).split())[:300]}") from None
        self._jobs = submitted

    def alive(self) -> bool:
        """By the queue itself: accounting (`sacct`), which submitit asks, is not kept everywhere."""
        if time.monotonic() < self._next:
            return True
        self._next = time.monotonic() + EVERY
        asked = subprocess.run(["squeue", "-h", "--me", "-o", "%F"], capture_output=True, text=True, check=False)
        mine = {job.job_id.partition("_")[0] for job in self._jobs}
        return asked.returncode != 0 or not mine.isdisjoint(asked.stdout.split())  # no answer is no news

    def stop(self) -> None:
        for job in self._jobs:
            job.cancel(check=False)

    def last_words(self) -> str:
        said = [text for job in self._jobs for text in (job.stderr(), job.stdout()) if text and text.strip()]
        line = said[0].strip().splitlines()[-1] if said else "they end, and say nothing"
        return f"{line} (see {self._logs})"
