"""What a question is: a hypothesis, cells to run, and a reading of the results."""

import difflib
import functools
import importlib
import importlib.util
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import polars as pl

    from sweeps import Cell

QUESTIONS = (
    "training_tokens",
    "negatives",
    "sequence_length",
    "exchange_rate",
    "funnel",
    "next_gpu_hour",
    "model_size",
    "compute_optimal",
    "ablations",
    "iterations",
    "ctr_model",
    "pixel_floor",
    "processing",
    "pretraining",
    "embedding",
    "size_ladder",
    "published_laws",
)
GROUPS = {"core": QUESTIONS[:6], "all": QUESTIONS[:10]}


class QuestionError(ValueError):
    """A question cannot be asked like this; one clear line."""


@dataclass
class Reading:
    """What the results say.

    Attributes:
        answer: sentences, the first answers the question; each number with its interval. notes: how it was measured.
        fits: name -> a saved fit or rate (anything with `save(path)`), figures: name -> matplotlib Figure.
        tables: name -> polars DataFrame for the report; weak: what speaks against the answer.
        held: of predictions that are no fit's own, name -> (runs within their 95 % prediction interval, runs held out).
    """

    answer: list[str]
    fits: dict[str, Any] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)
    tables: dict[str, "pl.DataFrame"] = field(default_factory=dict)
    weak: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    held: dict[str, tuple[int, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Question:
    """A file of `experiments/`, or a user's own: its docstring is the hypothesis.

    `cells(preset, data)` raises QuestionError where the data lacks what the question needs. One that can branch its budgets
    off a trunk takes `trunk=True` besides; one whose cells depend on what others of its cells measured
    takes `known`, a `tuning.Known`, and is asked again when these have finished. `read(results)` may take `folder_of` besides,
    name of a step -> its folder: for what is no number.
    """

    name: str
    hypothesis: str
    cells: "Callable[..., list[Cell]]"
    read: "Callable[..., Reading]"


def load_question(name: str) -> Question:
    """By name, or by path of a Python file with `cells` and `read`."""
    if name in QUESTIONS:
        return _question(name, importlib.import_module(f"experiments.{name}"))
    if not name.endswith(".py"):
        near = difflib.get_close_matches(name, QUESTIONS, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise QuestionError(
            f"unknown question {name!r}; {hint}there are {', '.join(QUESTIONS)}, or the path of a .py file"
        )
    path = Path(name)
    if not path.is_file():
        raise QuestionError(f"{path}: there is no such file")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise QuestionError(_fault(error, path)) from error
    found = _question(path.stem, module)
    return replace(found, cells=_told(found.cells, path), read=_told(found.read, path))


def _told(function: Callable[..., Any], path: Path) -> Callable[..., Any]:
    """The function of a user's file, whose faults are told in one line; the floors' own lines pass as they are."""

    @functools.wraps(function)
    def call(*args: Any, **named: Any) -> Any:
        try:
            return function(*args, **named)
        except Exception as error:
            if type(error).__name__ in ("DataError", "TableError", "SweepError", "QuestionError"):
                raise
            raise QuestionError(_fault(error, path)) from error

    return call


def _fault(error: Exception, path: Path) -> str:
    """Where in the user's file it went wrong, and what, in one line."""
    here = (str(path), str(path.absolute()))
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename in here]
    if isinstance(error, SyntaxError) and error.filename in here:
        lines.append(error.lineno)
    where = f", line {lines[-1]}" if lines else ""
    return f"{path}{where}: {type(error).__name__}: {' '.join(str(error).split())}"


def _question(name: str, module: ModuleType) -> Question:
    for function in ("cells", "read"):
        if not callable(getattr(module, function, None)):
            raise QuestionError(f"{name}: a question needs a function {function}(), and this file has none")
    return Question(name, " ".join((module.__doc__ or "").split()), module.cells, module.read)
