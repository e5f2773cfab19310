"""Answers that are saved as JSON and read back equal: what rates, allocations, tables and fits share."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Self

from analysis.table import TableError


class Saved:
    """A frozen dataclass of plain values (numbers, texts, tuples, dicts) with a format's name.

    NaN is saved as null and infinity as "inf", so that any reader of JSON takes the file.
    """

    FORMAT: ClassVar[str]

    def to_dict(self) -> dict[str, Any]:
        """What `save` writes: plain JSON types."""
        fields: dict[str, Any] = asdict(self)  # type: ignore[call-overload]
        document: dict[str, Any] = plain({"format": self.FORMAT, **fields})
        return document

    def save(self, path: str | Path) -> Path:
        """Write the answer as JSON; folders are made."""
        return write_saved(path, self.to_dict())

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a saved answer.

        Raises:
            TableError: the file is missing or holds something else.
        """
        data = read_saved(path, cls.FORMAT)
        with damaged(path):
            return cls(**{name: unplain(value) for name, value in data.items() if name != "format"})

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and json.dumps(self.to_dict()) == json.dumps(other.to_dict())

    __hash__ = None  # type: ignore[assignment]


@contextmanager
def damaged(path: str | Path) -> Iterator[None]:
    """TableError where a document of the right format lacks what belongs into it."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, TableError):
            raise
        raise TableError(f"{path}: damaged, or saved by another version ({type(error).__name__}: {error})") from error


def write_saved(path: str | Path, document: dict[str, Any]) -> Path:
    """Write a document of plain JSON types; folders are made."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, allow_nan=False) + "\n")
    return path


def read_saved(path: str | Path, kind: str) -> dict[str, Any]:
    """A saved JSON document of one format.

    Raises:
        TableError: the file is missing, is not JSON, or is of another format.
    """
    path = Path(path)
    if not path.is_file():
        raise TableError(f"{path}: no such file")
    try:
        data = json.loads(path.read_text())
    except ValueError as error:
        raise TableError(f"{path}: not JSON ({error})") from error
    if not isinstance(data, dict) or data.get("format") != kind:
        raise TableError(f"{path}: not a saved {kind}")
    return data


def plain(value: Any) -> Any:
    """JSON has neither NaN nor infinity: null and "inf" stand for them, in a document of any depth."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and value != value:
        return None
    if isinstance(value, float) and abs(value) == float("inf"):
        return "inf" if value > 0 else "-inf"
    return value


def unplain(value: Any) -> Any:
    """The inverse: null is NaN, "inf" is infinity, a list is a tuple."""
    if isinstance(value, dict):
        return {key: unplain(item) for key, item in value.items()}
    if isinstance(value, list):
        return tuple(unplain(item) for item in value)
    if value is None or value in ("inf", "-inf"):
        return float("nan") if value is None else float(value)
    return value
