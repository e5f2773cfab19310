"""Running one step in this process, from taking its lease to publishing what it made."""

import contextlib
import importlib
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from sweeps import attempts, leases
from sweeps.errors import Preempted, SweepError
from sweeps.files import stamp_of, write_json
from sweeps.ledger import Ledger, StepRecord
from sweeps.outcomes import RESULTS, plain_metrics, plain_scalar, status_of
from sweeps.provenance import provenance
from sweeps.sources import source_digest

REPORT_EVERY = 0.5  # seconds between two writes of progress.json
LOG = "log.txt"


def run_step(
    ledger: Ledger, record: StepRecord, *, run: str, observer: leases.Observer, stopping: Callable[[], bool]
) -> str | None:
    """Run a step whose needs are done, if its lease is free. Returns its status, or None where another process has it,
    has done it, or published first. The result or the failure is then on disk; the step's exceptions do not come out.
    """
    step_folder = ledger.step_folder(record.name)
    name = attempts.new_name()
    if not observer.take(step_folder, name):
        return None
    try:
        with leases.Heartbeat(step_folder, name, observer.patience):
            if ledger.result(record.name) is not None:
                return None
            attempt = attempts.begin(step_folder, name, run, _digest_if_found(record))
            return _attempt(ledger, record, attempt, stopping)
    finally:
        leases.release(step_folder, name)


def _attempt(ledger: Ledger, record: StepRecord, attempt: attempts.Attempt, stopping: Callable[[], bool]) -> str | None:
    began = time.monotonic()
    try:
        with _logged(attempt.folder / LOG):
            _say_what_was_adopted(attempt)
            inputs, result = _call(ledger, record, attempt, began, stopping)
        published = attempt.publish(
            {"step": record.name, "id": record.id, "inputs": inputs, **result}, time.monotonic() - began
        )
        return str(result["status"]) if published else None
    except BaseException as error:
        status = status_of(error)
        attempt.fail(status, _line(error), time.monotonic() - began)
        return status


def _call(
    ledger: Ledger, record: StepRecord, attempt: attempts.Attempt, began: float, stopping: Callable[[], bool]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Call the step function: what it read of other steps, and the part of the result that it decides."""
    source_digest(record.function)  # a module that is not found is told as such
    module_name, _, function_name = record.function.partition(":")
    function = getattr(importlib.import_module(module_name), function_name, None)
    if function is None:
        raise SweepError(f"{record.name}: module {module_name} has no function {function_name}")
    config = record.rebuilt_config()
    files = {name: _as_planned(record, name, file) for name, file in record.files.items()}
    inputs = {name: ledger.folder(needed) for name, needed in record.needs.items()}
    read = {name: {"step": record.needs[name], "attempt": folder.name} for name, folder in inputs.items()}
    report = _Report(attempt, began, stopping)
    metrics = plain_metrics(function(config, files=files, inputs=inputs, folder=attempt.folder, report=report))
    status = metrics.pop("status", "done")
    if status not in RESULTS:
        raise ValueError(f"the step returned status {status!r}; a result is one of {', '.join(RESULTS)}")
    return read, {"status": status, "metrics": metrics, "provenance": provenance(record.function)}


class _Report:
    """Progress of a step: cheap to call often, for most calls only look at the clock."""

    def __init__(self, attempt: attempts.Attempt, began: float, stopping: Callable[[], bool]) -> None:
        self._attempt, self._began, self._stopping = attempt, began, stopping
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
def _logged(path: Path) -> Iterator[None]:
    """Send all that this process prints, from Python or from libraries beneath it, to a log; a traceback too."""
    with path.open("a", encoding="utf-8", errors="backslashreplace", buffering=1) as log:
        sys.stdout.flush()
        sys.stderr.flush()
        kept = {descriptor: os.dup(descriptor) for descriptor in (1, 2)}
        try:
            for descriptor in kept:
                os.dup2(log.fileno(), descriptor)
            with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
                try:
                    yield
                except BaseException:
                    traceback.print_exc()
                    raise
        finally:
            for descriptor, former in kept.items():
                os.dup2(former, descriptor)
                os.close(former)


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
