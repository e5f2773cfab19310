"""What the commands share: exit codes, printing, a progress bar."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

OUT = Path("runs")
BAD_INPUT, SOME_FAILED, DONE = 2, 1, 0


def say(text: str) -> None:
    print(text, flush=True)


def is_users(error: ValueError) -> bool:
    """The floors' own errors for what a user gave; anything else is ours and keeps its traceback."""
    return any(k.__name__ in ("DataError", "TableError", "SweepError", "QuestionError") for k in type(error).__mro__)


@contextmanager
def bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar, gone when done, as a callback (done, total); none where nobody looks (a pipe, a log)."""
    from rich.progress import Progress

    with Progress(transient=True, disable=not sys.stdout.isatty()) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
