"""A step: one unit of work, known by the hash of all that decides its result. A cell: one point of a grid."""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from sweeps.errors import SweepError
from sweeps.identity import encode, text_of

FORMAT = 1  # of the identity; to raise it is to forget every result
_FUNCTION = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


@dataclass(frozen=True)
class DataFile:
    """A file or folder that a step reads: where it lies now, and the digest of its logical content.

    The digest (SHA-256, computed by the caller) is part of the identity of the step, the path is not.
    """

    path: Path
    digest: str


@dataclass(frozen=True, eq=False)
class Step:
    """One call of `function` ("package.module:function"), decided by version, config, files and needed steps.

    Two steps with the same id are equal: the work is done once, whichever cells share it.
    Raises SweepError when made with a bad function name or version, and on `.id` when the config has no stable form.
    """

    function: str
    version: int
    config: Any
    files: Mapping[str, DataFile] = field(default_factory=dict)
    needs: Mapping[str, "Step"] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not _FUNCTION.fullmatch(self.function):
            raise SweepError(f"step function {self.function!r}: write it as 'package.module:function'")
        if type(self.version) is not int:
            raise SweepError(f"step {self.function}: version {self.version!r} is not an int")

    @cached_property
    def form(self) -> dict[str, Any]:
        """The canonical form that the id is the hash of."""
        return {
            "format": FORMAT,
            "function": self.function,
            "version": self.version,
            "config": encode(self.config),
            "files": {name: file.digest for name, file in self.files.items()},
            "needs": {name: step.id for name, step in self.needs.items()},
        }

    @cached_property
    def id(self) -> str:
        """SHA-256 of the canonical form, in hex."""
        return hashlib.sha256(text_of(self.form).encode("ascii")).hexdigest()

    @property
    def name(self) -> str:
        """The name of the step's folder: the function and the first 12 digits of the id."""
        return f"{self.function.partition(':')[2]}-{self.id[:12]}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Step) and self.id == other.id

    def __hash__(self) -> int:
        return hash(self.id)


@dataclass(frozen=True)
class Cell:
    """One point of a grid: its coordinates, and the steps that measure it, named, in order.

    `steps` holds Step objects, or step names (str) where the cell was read back from a plan.
    """

    coordinates: Mapping[str, Any]
    steps: Mapping[str, Any]


def in_order(work: Iterable[Cell | Step]) -> list[Step]:
    """All steps of cells and steps with all that they need, each once, what is needed first; else as given."""
    ordered: dict[str, Step] = {}

    def visit(step: Step) -> None:
        if step.name in ordered:
            return
        for needed in step.needs.values():
            visit(needed)
        ordered[step.name] = step

    for entry in work:
        for step in entry.steps.values() if isinstance(entry, Cell) else (entry,):
            visit(step)
    return list(ordered.values())
