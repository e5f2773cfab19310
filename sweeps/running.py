"""Running one step in this process, from taking its lease to publishing what it made."""

import contextlib
import functools
import importlib
import math
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from sweeps import attempts, leases
from sweeps.errors import Preempted, SweepError, TimedOut
from sweeps.files import stamp_of, write_json
from sweeps.gangs import Company
from sweeps.ledger import Ledger, StepRecord
from sweeps.outcomes import RESULTS, SHRINK, STOPPED, Rules, plain_metrics, plain_scalar, shrinks_of, status_of
from sweeps.provenance import provenance
from sweeps.sources import source_digest

REPORT_EVERY = 0.5  # seconds between two writes of progress.json
DEAF = 60.0  # seconds that a step has to hear that its time is up, and to save itself
LOG = "log.txt"
TOGETHER = "runs_together"  # attribute of a step function that all processes of a gang call


def run_step(
    ledger: Ledger,
    record: StepRecord,
    *,
    rules: Rules,
    observer: leases.Observer,
    stopping: Callable[[], bool],
    company: Company | None = None,
) -> str | None:
    """Run a step whose needs are done, if its lease is free. Returns its status, or None where another process has it,
    has done it, or published first. The result or the failure is then on disk; the step's exceptions do not come out.

    Where its time is up it is asked to stop, and where it does not hear, this process ends. `company` are other processes
    that run the step together with this one.
    """
    step_folder = ledger.step_folder(record.name)
    name = attempts.new_name()
    if not observer.take(step_folder, name):
        return None
    try:
        with leases.Heartbeat(step_folder, name, observer.patience):
            if ledger.result(record.name) is not None:
                return None
            shrinks = shrinks_of(attempts.failures_of(step_folder))
            attempt = attempts.begin(step_folder, name, rules.run, _digest_if_found(record))
            with _told(shrinks), _limited(attempt, rules.seconds):
                return _attempt(ledger, record, attempt, stopping, rules.seconds, company)
    finally:
        leases.release(step_folder, name)


def _attempt(
    ledger: Ledger,
    record: StepRecord,
    attempt: attempts.Attempt,
    stopping: Callable[[], bool],
    seconds: float,
    company: Company | None,
) -> str | None:
    began = time.monotonic()
    try:
        with logged(attempt.folder / LOG):
            _say_what_was_adopted(attempt)
            if company is not None and getattr(function_of(record), TOGETHER, False):
                company.call(record.name, attempt.name)
            report = _Report(attempt, began, stopping, seconds)
            inputs, result = call(ledger, record, attempt.folder, report)
        published = attempt.publish(
            {"step": record.name, "id": record.id, "inputs": inputs, **result}, time.monotonic() - began
        )
        return str(result["status"]) if published else None
    except BaseException as error:
        status = status_of(error)
        attempt.fail(status, _line(error), time.monotonic() - began)
        return status


def function_of(record: StepRecord) -> Callable[..., Any]:
    """The step function; SweepError where it cannot be found."""
    source_digest(record.function)  # a module that is not found is told as such
    module_name, _, function_name = record.function.partition(":")
    function: Callable[..., Any] | None = getattr(importlib.import_module(module_name), function_name, None)
    if function is None:
        raise SweepError(f"{record.name}: module {module_name} has no function {function_name}")
    return function


def call(
    ledger: Ledger, record: StepRecord, folder: Path, report: Callable[..., None]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Call the step function: what it read of other steps, and the part of the result that it decides."""
    function = function_of(record)
    config = record.rebuilt_config()
    files = {name: _as_planned(record, name, file) for name, file in record.files.items()}
    inputs = {name: ledger.folder(needed) for name, needed in record.needs.items()}
    read = {name: {"step": record.needs[name], "attempt": folder.name} for name, folder in inputs.items()}
    metrics = plain_metrics(function(config, files=files, inputs=inputs, folder=folder, report=report))
    status = metrics.pop("status", "done")
    if status not in RESULTS:
        raise ValueError(f"the step returned status {status!r}; a result is one of {', '.join(RESULTS)}")
    shrunk = int(os.environ.get(SHRINK) or 0)
    told = {"status": status, "metrics": metrics, "provenance": provenance(record.function), "shrunk": shrunk}
    return read, told


@contextlib.contextmanager
def _told(shrinks: int) -> Iterator[None]:
    """Tell the step by its environment how often it ran out of memory before."""
    os.environ[SHRINK] = str(shrinks)
    try:
        yield
    finally:
        del os.environ[SHRINK]


@contextlib.contextmanager
def _limited(attempt: attempts.Attempt, seconds: float) -> Iterator[None]:
    """End this process, with a word, where the step neither ends nor reports for `DEAF` seconds beyond its time."""
    if seconds == math.inf:
        yield
        return

    def end() -> None:
        message = f"worked for more than {seconds:,.0f} s and did not hear that it should stop"
        attempt.fail("timed_out", message, seconds + DEAF)
        os._exit(STOPPED)

    watch = threading.Timer(seconds + DEAF, end)
    watch.daemon = True
    watch.start()
    try:
        yield
    finally:
        watch.cancel()


class _Report:
    """Progress of a step: cheap to call often, for most calls only look at the clock."""

    def __init__(self, attempt: attempts.Attempt, began: float, stopping: Callable[[], bool], limit: float) -> None:
        self._attempt, self._began, self._stopping, self._limit = attempt, began, stopping, limit
        self._next = 0.0
        # What was done at the first report, and when: a resumed step does not begin at 0.
        self._first: tuple[float, float] | None = None

    def __call__(self, done: float, total: float, **info: Any) -> None:
        """Say how far the step is, with some numbers worth seeing.

        Raises Preempted when the step should save and stop.
        """
        if self._stopping():
            raise Preempted("asked to stop")
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + REPORT_EVERY
        seconds = now - self._began
        if seconds > self._limit:
            raise TimedOut(f"worked for {seconds:,.0f} s; one attempt may work for {self._limit:,.0f}")
        self._first = self._first or (float(done), seconds)
        left = None
        if done > self._first[0]:
            left = (float(total) - float(done)) * (seconds - self._first[1]) / (float(done) - self._first[0])
        content = {
            "done": float(done),
            "total": float(total),
            "info": {name: _shown(value) for name, value in info.items()},
            "seconds": self._attempt.adopted_seconds + seconds,
            "seconds_left": left,
        }
        with contextlib.suppress(OSError):  # a full disk should not end a step for its progress bar
            write_json(self._attempt.folder / attempts.PROGRESS, content)


@contextlib.contextmanager
def logged(path: Path) -> Iterator[None]:
    """Send all that this process prints, from Python or from libraries beneath it, to a log; a traceback too."""
    with path.open("a", encoding="utf-8", errors="backslashreplace", buffering=1) as log:
        sys.stdout.flush()
        sys.stderr.flush()
        kept = {descriptor: os.dup(descriptor) for descriptor in (1, 2)}
        try:
            for descriptor in kept:
                os.dup2(log.fileno(), descriptor)
            with contextlib.redirect_stdout(_stream(1)), contextlib.redirect_stderr(_stream(2)):
                try:
                    yield
                except BaseException:
                    traceback.print_exc()
                    raise
        finally:
            for descriptor, former in kept.items():
                os.dup2(former, descriptor)
                os.close(former)


@functools.cache
def _stream(descriptor: int) -> TextIO:
    """A stream onto whatever the descriptor stands for at the moment. It stays open: loggers that a step makes keep it."""
    return open(descriptor, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)


def _shown(value: Any) -> Any:
    """A value as progress shows it: nothing that a step says of itself may end it."""
    try:
        return plain_scalar(value, "")
    except TypeError:
        return str(value)


def _say_what_was_adopted(attempt: attempts.Attempt) -> None:
    if attempt.adopted:
        print(f"goes on from the checkpoints of attempt {attempt.adopted} ({attempt.adopted_seconds:.1f} s of work)")


def _as_planned(record: StepRecord, name: str, file: Mapping[str, str]) -> Path:
    """Where the file lies. The digest is of its content when it was planned: what was written since has another."""
    path = Path(file["path"])
    if not path.exists():
        raise SweepError(
            f"{record.name}: file {name!r} is not at {path} any more; plan the question again with its data"
        )
    if stamp_of(path) != file["stamp"]:
        raise SweepError(f"{record.name}: {path} was changed after it was planned; plan the question again")
    return path


def _digest_if_found(record: StepRecord) -> str:
    """The digest of the code that is about to run; empty where there is none, which the attempt itself will tell."""
    try:
        return source_digest(record.function)
    except (SweepError, SyntaxError, OSError):
        return ""


def _line(error: BaseException) -> str:
    """One line that says what went wrong."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:500] if text else type(error).__name__
