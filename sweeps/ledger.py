"""The ledger: the directory of steps, done and under way, and the only truth about what has run."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweeps import attempts, leases
from sweeps.errors import SweepError
from sweeps.files import read_json, stamp_of, write_json
from sweeps.identity import canonical, decode, text_of
from sweeps.outcomes import LOST, RESULTS
from sweeps.plans import Plan, questions_in, read_plan, write_plan
from sweeps.rows import row_of
from sweeps.sources import source_digest
from sweeps.step import Cell, Step, in_order

MARKER = "ledger.json"
_MARK = {"format": 1, "kind": "ledger of steps"}


@dataclass(frozen=True)
class StepRecord:
    """A registered step as its `step.json` tells it: enough to run it in another process."""

    name: str
    id: str
    function: str
    version: int
    config: Any  # in canonical form; `rebuilt_config` gives the object
    files: Mapping[str, Mapping[str, str]]  # name -> {"digest", "path", "stamp"}
    needs: Mapping[str, str]  # name -> name of the needed step

    def rebuilt_config(self) -> Any:
        """The config object. Raises SweepError where its classes cannot be imported or have changed."""
        config = decode(self.config)
        if canonical(config) != text_of(self.config):
            raise SweepError(f"{self.name}: its config is no longer rebuilt as it was; plan the question anew")
        return config


class Ledger:
    """The ledger in the directory `root`, made where there is none yet.

    Steps may be given as Step objects or by name. What it tells is read from the disk each time; only results and
    records, which do not change, are kept. Raises SweepError for a folder that holds something else, and with
    `create=False` for none.
    """

    def __init__(self, root: str | os.PathLike[str], *, create: bool = True) -> None:
        self.root = Path(root).absolute()
        self._results: dict[str, tuple[tuple[int, int], dict[str, Any]]] = {}
        self._records: dict[str, StepRecord] = {}
        _open(self.root, create)

    # Plans

    def register(self, work: Iterable[Cell | Step]) -> list[str]:
        """Write `step.json` of each step and of all that it needs. Names in order, what is needed first. Idempotent."""
        ordered = in_order(work)
        for step in ordered:
            self._write_step(step)
            result = self.result(step)
            if result is not None:  # a process killed right after it published has left no links
                attempts.show(self.step_folder(step), result["attempt"])
        return [step.name for step in ordered]

    def write_plan(self, question: str, cells: Sequence[Cell]) -> list[str]:
        """Register the cells' steps and remember them as the question's, in `<question>/plan.json`. Names in order."""
        names = self.register(cells)
        write_plan(self.root, question, names, cells)
        return names

    def read_plan(self, question: str) -> Plan:
        """The question's plan: `.steps` (names in order) and `.cells` (their steps by name).

        SweepError where there is none.
        """
        return read_plan(self.root, question)

    def questions(self) -> list[str]:
        """Questions that have a plan here, sorted."""
        return questions_in(self.root)

    def planned(self, questions: Sequence[str] | None = None) -> list[str]:
        """Names of the steps of these questions' plans, in plan order, each once.

        None means all plans, and after them every other registered step.
        """
        chosen = self.questions() if questions is None else questions
        names = [name for question in chosen for name in self.read_plan(question).steps]
        return list(dict.fromkeys([*names, *(self.steps() if questions is None else ())]))

    def steps(self) -> list[str]:
        """Names of all registered steps, sorted."""
        try:
            return sorted(name for name in os.listdir(self.root / "steps") if not name.startswith("."))
        except FileNotFoundError:
            return []

    def record(self, step: Step | str) -> StepRecord:
        """What `step.json` says of a step. Raises SweepError for a step that is not registered."""
        name = _name(step)
        if name not in self._records:
            content = read_json(self.step_folder(name) / "step.json")
            if content is None:
                raise SweepError(f"{name}: no such step in {self.root}")
            self._records[name] = StepRecord(**{key: content[key] for key in StepRecord.__dataclass_fields__})
        return self._records[name]

    # Results

    def step_folder(self, step: Step | str) -> Path:
        """`steps/<name>`: where the step's record, result and attempts lie."""
        return self.root / "steps" / _name(step)

    def result(self, step: Step | str) -> dict[str, Any] | None:
        """The published result: `status`, `metrics`, `seconds`, `files`, `provenance`, ... None where there is none."""
        name = _name(step)
        path = f"{self.root}/steps/{name}/{attempts.RESULT}"
        try:
            status = os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        identity = (status.st_ino, status.st_mtime_ns)
        known = self._results.get(name)
        if known is None or known[0] != identity:
            content = read_json(Path(path))
            if content is None:
                raise SweepError(f"{path}: not a whole result; delete this file to have the step run again")
            known = self._results[name] = (identity, content)
        return known[1]

    def folder(self, step: Step | str) -> Path:
        """The published folder: the artifacts of the winning attempt lie directly in it.

        SweepError where there is none.
        """
        result = self.result(step)
        if result is None:
            raise SweepError(f"{_name(step)}: has no result yet")
        folder = self.step_folder(step) / attempts.ATTEMPTS / result["attempt"]
        if not folder.is_dir():
            raise SweepError(
                f"{folder}: the folder of a published result is gone; delete its result.json to run it again"
            )
        return folder

    def state(self, step: Step | str) -> str:
        """One of `outcomes.STATES`. A step that needs a diverged one is "diverged" itself, though it has no result."""
        result = self.result(step)
        return str(result["status"]) if result is not None else self._unfinished(step, diverged=True)

    def states(self, names: Sequence[str]) -> dict[str, str]:
        """The state of each of these steps, among which are all that they need: that of many is told faster so."""
        results = {name: self.result(name) for name in names}
        diverged = any(result is not None and result["status"] == "diverged" for result in results.values())
        return {
            name: self._unfinished(name, diverged=diverged) if result is None else str(result["status"])
            for name, result in results.items()
        }

    def failure(self, step: Step | str) -> dict[str, Any] | None:
        """How the last attempt ended without a result: {"status", "message", "seconds"}. None where none failed."""
        failures = attempts.failures_of(self.step_folder(step))
        if not failures:
            return None
        status = failures[-1]["status"]
        return {**failures[-1], "status": "preempted" if status == LOST else status}

    def pending(self, steps: Iterable[Step | str] | None = None) -> list[str]:
        """Names of the steps that have no result and can still get one, in the order given (None: all registered)."""
        names = self.steps() if steps is None else [_name(step) for step in steps]
        return [name for name in names if self.state(name) not in RESULTS]

    def ready(self, steps: Iterable[Step | str] | None = None) -> list[str]:
        """Those of the pending steps that nobody runs and whose needs are done."""
        return [name for name in self.pending(steps) if self.state(name) != "running" and self.needs_done(name)]

    def needs_done(self, step: Step | str) -> bool:
        """Whether all that the step needs is done; never so where one of them diverged."""
        results = [self.result(needed) for needed in self._needs(step).values()]
        return all(result is not None and result["status"] == "done" for result in results)

    def rows(self, cells: Iterable[Cell]) -> list[dict[str, Any]]:
        """One row a cell, finished or not: coordinates, metrics of its steps, `status`, per step `<name>_step` (its
        folder's name) and `<name>_seconds`, `seconds`, `versions`, `device`, `commit`.

        Raises SweepError where two steps of a cell, or a step and a coordinate, give one name two meanings.
        """
        return [row_of(self, cell) for cell in cells]

    # Staleness

    def stale(self, steps: Iterable[Step | str]) -> list[str]:
        """Names of done steps, among these and all that they need, that today's sources, or the results they would read
        today, would not have given; what is needed comes first.

        What rests on a stale step is stale too, so that discarding all of these leaves nothing mixed.
        """
        found: dict[str, bool] = {}

        def visit(step: Step | str) -> bool:
            name = _name(step)
            if name not in found:
                visited = [visit(needed) for needed in self._needs(step).values()]
                found[name] = any(visited) or self._differs(name)
            return found[name]

        for step in steps:
            visit(step)
        return [name for name, stale in found.items() if stale and self.result(name) is not None]

    def discard(self, step: Step | str) -> Path:
        """Move the step's result aside, as `result.stale-N.json`, so that it runs again from its beginning.

        SweepError for none.
        """
        folder = self.step_folder(step)
        if self.result(step) is None:
            raise SweepError(f"{_name(step)}: has no result to discard")
        number = 1
        while True:
            aside = folder / f"result.stale-{number}.json"
            try:
                os.link(folder / attempts.RESULT, aside)
            except FileExistsError:
                number += 1
                continue
            break
        (folder / attempts.RESULT).unlink(missing_ok=True)
        attempts.hide(folder)
        return aside

    # What only this class needs

    def _unfinished(self, step: Step | str, *, diverged: bool) -> str:
        """The state of a step without a result; `diverged`: one that it needs may be so."""
        folder = self.step_folder(step)
        try:
            there = os.listdir(folder)
        except (FileNotFoundError, NotADirectoryError):
            there = []
        if leases.LEASE in there and leases.holder(folder) is not None:
            return "running"
        if diverged and any(self.state(needed) == "diverged" for needed in self._needs(step).values()):
            return "diverged"
        failure = self.failure(step) if attempts.ATTEMPTS in there else None
        return "pending" if failure is None else str(failure["status"])

    def _needs(self, step: Step | str) -> Mapping[str, "Step | str"]:
        return step.needs if isinstance(step, Step) else self.record(step).needs

    def _differs(self, name: str) -> bool:
        result = self.result(name)
        if result is None:
            return False
        record = self.record(name)
        if result["source_digest"] != source_digest(record.function):
            return True
        read = {key: given["attempt"] for key, given in result["inputs"].items()}
        today = {key: (self.result(needed) or {}).get("attempt") for key, needed in record.needs.items()}
        return read != today

    def _write_step(self, step: Step) -> None:
        path = self.step_folder(step) / "step.json"
        known = read_json(path)
        if known is not None and known["id"] != step.id:
            raise SweepError(f"{path}: holds another step of the same short name; use a new --out folder")
        files = {
            name: {"digest": file.digest, "path": os.path.abspath(file.path), "stamp": stamp_of(file.path)}
            for name, file in step.files.items()
        }
        if known is not None and known["files"] == files:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        needs = {name: needed.name for name, needed in step.needs.items()}
        write_json(path, {**step.form, "id": step.id, "name": step.name, "files": files, "needs": needs})
        self._records.pop(step.name, None)


def _name(step: Step | str) -> str:
    return step if isinstance(step, str) else step.name


def _open(root: Path, create: bool) -> None:
    marker = root / MARKER
    mark = read_json(marker) if root.is_dir() else None
    if mark is not None:
        if mark != _MARK:
            raise SweepError(
                f"{root} is not a ledger that this version can read ({MARKER} says {mark}); give a new folder"
            )
        return
    if root.exists() and not root.is_dir():
        raise SweepError(f"{root} is a file; give an empty or new folder")
    if root.is_dir() and any(not entry.startswith(f".{MARKER}") for entry in os.listdir(root)) and not marker.exists():
        raise SweepError(f"{root} is not a ledger of this program; give an empty or new folder")
    if not create:
        raise SweepError(f"{root}: no ledger here; `run` makes one")
    try:
        root.mkdir(parents=True, exist_ok=True)
        write_json(marker, _MARK)
    except OSError as error:
        raise SweepError(f"{root}: cannot be made or written ({error.strerror}); give another folder") from error
