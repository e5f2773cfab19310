"""How a step can end, told apart: two results, and the failures, each retried by its own rule."""

from typing import Any

from sweeps.errors import Preempted

RESULTS = ("done", "diverged")
FAILURES = ("oom", "preempted", "crashed", "bad_input", "timed_out")
STATES = (*RESULTS, *FAILURES, "running", "pending")
LOST = "lost"  # of an attempt whose process died and nobody saw why; to the user it is preempted
STOPPED = 75  # exit code of a worker that was asked to stop (EX_TEMPFAIL: worth starting again)
TRIES = 2  # of a step that crashes, within one run
_BAD_INPUT_ENDINGS = ("DataError", "TableError")


def status_of(error: BaseException) -> str:
    """The status that an exception means. A step's own exception classes may say `bad_input = True`."""
    if isinstance(error, Preempted | KeyboardInterrupt):
        return "preempted"
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
        return "oom"
    named_so = any(kind.__name__.endswith(_BAD_INPUT_ENDINGS) for kind in type(error).__mro__)
    if getattr(error, "bad_input", False) is True or (isinstance(error, ValueError) and named_so):
        return "bad_input"
    return "crashed"


def may_try_again(failures: list[dict[str, Any]], run: str) -> bool:
    """Whether a step with these failures may be tried again within this run.

    Crashes have two tries, and so has a step whose worker died, for it may be the step that killed it. What was
    preempted has any number of tries; the rest waits for another run, when the user may have mended it.
    """
    here = [failure["status"] for failure in failures if failure.get("run") == run and failure["status"] != "preempted"]
    return len(here) < TRIES and all(status in ("crashed", LOST) for status in here)


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
