"""What the commands share: the name of a question, exit codes, printing, a progress bar."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

OUT = Path("runs")
BAD_INPUT, SOME_FAILED, DONE = 2, 1, 0
QuestionName = Positional[
    Annotated[
        str,
        arg(
            metavar="QUESTION",
            help="training_tokens, negatives, sequence_length, exchange_rate, funnel, next_gpu_hour (these are `core`), "
            "model_size, compute_optimal, ablations, iterations (with these `all`), ctr_model, pixel_floor, processing, "
            "pretraining, embedding, size_ladder, published_laws, or a .py file",
        ),
    ]
]


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
