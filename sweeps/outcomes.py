"""How a step can end, told apart: two results, and the failures, each retried by its own rule."""

import math
import uuid
from dataclasses import dataclass, field
from typing import Any

from sweeps.errors import Preempted, TimedOut

RESULTS = ("done", "diverged")
FAILURES = ("oom", "preempted", "crashed", "bad_input", "timed_out")
STATES = (*RESULTS, *FAILURES, "running", "pending")
LOST = "lost"  # of an attempt whose process died and nobody saw why; to the user it is preempted
STOPPED = 75  # exit code of a worker that was asked to stop (EX_TEMPFAIL: worth starting again)
TRIES = 2  # of a step that crashes, within one run
SHRINKS = 4  # tries of a step that runs out of memory, within one run: each may take less of it (SHRINK)
SHRINK = "SWEEPS_SHRINK"  # environment variable that tells a step how many attempts at it ran out of memory before
_BAD_INPUT_ENDINGS = ("DataError", "TableError")


@dataclass(frozen=True)
class Rules:
    """How one run deals with steps, the same in all of its workers.

    run: its name, within which tries are counted. retry: of what failed in earlier runs, the statuses that are tried anew.
    seconds: how long one attempt may work.
    """

    run: str = field(default_factory=lambda: uuid.uuid4().hex)
    retry: tuple[str, ...] = FAILURES
    seconds: float = math.inf


def status_of(error: BaseException) -> str:
    """The status that an exception means. A step's own exception classes may say `bad_input = True` or `preempted = True`."""
    if isinstance(error, TimedOut):
        return "timed_out"
    if isinstance(error, Preempted | KeyboardInterrupt) or getattr(error, "preempted", False) is True:
        return "preempted"
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
        return "oom"
    named_so = any(kind.__name__.endswith(_BAD_INPUT_ENDINGS) for kind in type(error).__mro__)
    if getattr(error, "bad_input", False) is True or (isinstance(error, ValueError) and named_so):
        return "bad_input"
    return "crashed"


def may_try_again(failures: list[dict[str, Any]], rules: Rules) -> bool:
    """Whether a step with these failures, oldest first, may be tried again within this run.

    Crashes have two tries, and so has a step whose worker died, for it may be the step that killed it. Out of memory has
    four, each with less to hold (`shrinks_of`). What was preempted has any number of tries. Bad input and what took too
    long wait for another run, when the user may have mended it; that one tries what `rules.retry` names.
    """
    ended = [failure for failure in failures if failure["status"] != "preempted"]
    here = [failure["status"] for failure in ended if failure.get("run") == rules.run]
    if not here:
        return not ended or ended[-1]["status"] in (*rules.retry, LOST)
    crashes = sum(status in ("crashed", LOST) for status in here)
    return crashes < TRIES and here.count("oom") < SHRINKS and crashes + here.count("oom") == len(here)


def shrinks_of(failures: list[dict[str, Any]]) -> int:
    """How many attempts at a step ran out of memory: as often should the next one take less of it."""
    return sum(failure["status"] == "oom" for failure in failures)


def plain_metrics(metrics: Any) -> dict[str, Any]:
    """A step's metrics as plain JSON scalars; scalars of array libraries are turned into numbers.

    Raises TypeError, with the metric's name, for what is not a flat mapping of names to scalars.
    """
    if not isinstance(metrics, dict):
        raise TypeError(f"the step returned {type(metrics).__name__}; it must return a dict of metrics")
    return {_checked_name(name): plain_scalar(value, f"metric {name!r}") for name, value in metrics.items()}


def plain_scalar(value: Any, what: str) -> Any:
    """A JSON scalar (None, bool, int, float, str) of a value, or TypeError."""
    if value is None or type(value) in (bool, int, float, str):
        return value
    if getattr(value, "shape", None) == () and callable(getattr(value, "item", None)):
        return plain_scalar(value.item(), what)
    if isinstance(value, str):
        return str(value)
    raise TypeError(f"{what} is {type(value).__name__}; only numbers, strings, booleans and None are kept")


def _checked_name(name: Any) -> str:
    if isinstance(name, str) and not name.startswith("$"):
        return name
    raise TypeError(f"metric name {name!r} is not a string, or begins with '$'")
