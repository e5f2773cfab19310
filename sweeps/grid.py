"""Grids of coordinates."""

from collections.abc import Iterable
from itertools import product
from typing import Any


def grid(**axes: Iterable[Any]) -> list[dict[str, Any]]:
    """The product of the axes as coordinates, the last axis running fastest: `grid(tokens=(1, 2), seed=(0, 1))`."""
    return [dict(zip(axes, point, strict=True)) for point in product(*axes.values())]
