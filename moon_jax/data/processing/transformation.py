"""What a transformation is: a frozen config that decides which rows go and who stands for them, and its report."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from moon_jax.data.contract import DataError

if TYPE_CHECKING:
    import polars as pl

    from moon_jax.data.processing.material import Material
    from moon_jax.data.processing.working import Working

SCOPES = ("train", "all")


@dataclass(frozen=True)
class Decision:
    """What a transformation decides; `settling.settle` carries it out in every table that refers to it.

    Attributes:
        why: the reason in words, of the rows that go or are replaced.
        items: columns item_id, kept: the item that stands for it, or null where it is to go. Only rows that change.
        queries: likewise with query_id. The same query is never asked for by two rows here.
        pairs: bool P, which pairs go; None for none.
        shown: columns query_id, item_id: queries found to show an item's own photo.
        same_photo: an item and the one that stands for it share a photo, so a query by it shows both.
        negatives: columns query_id, item_id, kind: hard negatives to add.
        facts: numbers worth telling.
    """

    why: str
    items: "pl.DataFrame | None" = None
    queries: "pl.DataFrame | None" = None
    pairs: np.ndarray | None = None
    shown: "pl.DataFrame | None" = None
    same_photo: bool = False
    negatives: "pl.DataFrame | None" = None
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Transformation(ABC):
    """The config of a transformation; its canonical form is its fields.

    Attributes:
        scope: "train" changes training pairs alone: items stay in the gallery and valid and test keep their queries and
            answers, so that two datasets can be compared on one test set. An item that is in train scope dropped or
            replaced stays in `items` with `in_training` false. Items and queries that valid or test ask about are
            neither dropped nor replaced nor stood for by others. "all" changes every table and every split.
    """

    name: ClassVar[str]
    does: ClassVar[str]
    scope: str = "train"

    def __post_init__(self) -> None:
        if self.scope not in SCOPES:
            raise DataError(f"{self.name}: scope {self.scope!r} must be one of {', '.join(SCOPES)}")
        for key, value in asdict(self).items():
            if isinstance(value, float):
                self.require(math.isfinite(value), f"{key} {value} must be a finite number")

    @abstractmethod
    def decide(self, working: "Working", material: "Material") -> Decision:
        """What is to change, from the ids as they stand and the columns that it reads. Raises DataError."""

    def require(self, sound: bool, rule: str) -> None:
        """DataError with this rule where the config breaks it."""
        if not sound:
            raise DataError(f"{self.name}: {rule}")


@dataclass(frozen=True)
class Report:
    """What one transformation did.

    `rows` gives (before, after) for pairs of each split, items, items in training, queries and hard negatives; `why`
    the rows that went or were replaced, by reason; `samples` a few of them in words.
    """

    name: str
    config: Mapping[str, Any]
    rows: Mapping[str, tuple[int, int]]
    why: Mapping[str, int]
    samples: tuple[str, ...]
    facts: Mapping[str, Any]

    @classmethod
    def read(cls, described: Mapping[str, Any]) -> "Report":
        """The report of its JSON form."""
        rows = {name: (int(before), int(after)) for name, (before, after) in described["rows"].items()}
        return cls(**{**described, "rows": rows, "samples": tuple(described["samples"])})

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def lines(self) -> list[str]:
        """The report as text."""
        changed = [f"{name} {a:,} -> {b:,}" for name, (a, b) in self.rows.items() if a != b]
        told = [f"{self.name}: {', '.join(changed) or 'nothing changed'}"]
        told += [f"  {count:,} {reason}" for reason, count in self.why.items()]
        told += [f"  {name}: {value}" for name, value in self.facts.items()]
        return told + [f"    e.g. {sample}" for sample in self.samples]
