"""What a set-up costs: FLOPs of training the encoder, of its contrastive loss, and of the model that reads histories."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any

import numpy as np

from analysis.table import TableError

CostFunction = Callable[[Mapping[str, float]], float]
AXES = ("tokens", "params", "negatives", "length")
FARTHEST = 1e12  # an axis is multiplied by at most this much in search of a cost or a metric


@dataclass(frozen=True)
class Cost:
    """FLOPs of one set-up, a call away: `Cost(...)({"tokens": 1e7, "negatives": 1023})`.

        encoder      6 params tokens                             forward 2, backward 4 (Kaplan et al. 2020)
        loss         tokens / tokens_per_pair * (8 B + 6 Q) D    a pair against B candidates of its batch in tiles
                                                                 (forward 2, again 2, backward 4) and Q of the queue
        application  impressions * length * event_flops          the CTR model over histories, forward and backward

    B and Q follow from `negatives`: B = negatives + 1 where all come from the batch (`batch` None), else B = `batch`
    and the queue holds the rest, Q = negatives - (batch - 1). So more negatives cost what their scores cost, and no
    encoder pass: at a fixed number of tokens a larger batch takes fewer steps.

    Attributes:
        tokens, params, negatives, length: where the set-up stands now; an axis that a call does not name stays there.
        tokens_per_pair: tokens of both sides of a pair.
        embedding: D, the width of the embedding that the loss compares.
        batch: pairs a step, where a queue gives the other negatives.
        impressions: training examples of the CTR model, all passes counted.
        event_flops: training FLOPs of the CTR model for one event of one history.

    Example:
        >>> cost = Cost(tokens=3e6, params=1e6, negatives=255, tokens_per_pair=40, embedding=64)
        >>> {name: f"{flops:.3g}" for name, flops in cost.parts({}).items()}
        {'encoder': '1.8e+13', 'loss': '9.83e+09', 'application': '0'}
    """

    tokens: float
    params: float
    tokens_per_pair: float
    embedding: int
    negatives: float = 0.0
    length: float = 0.0
    batch: float | None = None
    impressions: float = 0.0
    event_flops: float = 0.0

    def __post_init__(self) -> None:
        for name in ("tokens", "params", "tokens_per_pair", "embedding"):
            if not (np.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise TableError(f"Cost: {name} must be finite and above 0, not {getattr(self, name)}")
        for name in ("negatives", "length", "impressions", "event_flops"):
            if not (np.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise TableError(f"Cost: {name} must be finite and not under 0, not {getattr(self, name)}")
        if self.batch is not None and not self.batch >= 1:
            raise TableError(f"Cost: batch must be at least 1, not {self.batch}")

    @property
    def at(self) -> dict[str, float]:
        """Where the set-up stands now, by axis."""
        return {name: float(getattr(self, name)) for name in AXES}

    def parts(self, values: Mapping[str, float]) -> dict[str, float]:
        """FLOPs by part: encoder, loss, application.

        Raises:
            TableError: `values` names what this cost does not know.
        """
        unknown = sorted(set(values) - set(AXES))
        if unknown:
            raise TableError(
                f"Cost knows {', '.join(AXES)}, not {', '.join(unknown)}; name the laws so, or give a function as cost"
            )
        point = {**self.at, **values}
        negatives = point["negatives"]
        batch = negatives + 1 if self.batch is None else self.batch
        queue = max(negatives - (batch - 1), 0.0)
        pairs = point["tokens"] / self.tokens_per_pair
        return {
            "encoder": 6 * point["params"] * point["tokens"],
            "loss": pairs * (8 * batch + 6 * queue) * self.embedding,
            "application": self.impressions * point["length"] * self.event_flops,
        }

    def __call__(self, values: Mapping[str, float]) -> float:
        return sum(self.parts(values).values())


def cost_at(values: Mapping[str, float]) -> Cost:
    """A Cost from its fields by name.

    Raises:
        TableError: a field is missing or unknown.
    """
    known = {field.name: field for field in fields(Cost)}
    missing = [name for name, field in known.items() if field.default is MISSING and name not in values]
    if missing or (unknown := sorted(set(values) - set(known))):
        what = f"missing: {', '.join(missing)}" if missing else f"unknown: {', '.join(unknown)}"
        raise TableError(f"the FLOPs of a set-up follow from {', '.join(known)}; {what}. Or give a cost of your own")
    given: dict[str, Any] = {
        name: int(value) if name == "embedding" else float(value) for name, value in values.items()
    }
    return Cost(**given)


def price(cost: CostFunction, point: Mapping[str, float]) -> float:
    """The cost of a point.

    Raises:
        TableError: the function does not give a finite number above 0, or it reads an axis that is not there.
    """
    try:
        value = float(cost(point))
    except KeyError as error:
        raise TableError(f"the cost reads {error}; the laws and `at` give {', '.join(point)}") from error
    if not (np.isfinite(value) and value > 0):
        where = ", ".join(f"{name} = {x:.4g}" for name, x in point.items())
        raise TableError(f"the cost at {where} is {value}; it must be finite and above 0")
    return value


def afford(cost: CostFunction, point: Mapping[str, float], axis: str, budget: float) -> float:
    """How far one axis goes alone, the others kept, until the cost reaches `budget`.

    Raises:
        TableError: the cost stays under the budget however much the axis grows, so the axis has no price.
    """
    low, high = 0.0, float(np.log(FARTHEST))
    if price(cost, {**point, axis: point[axis] * FARTHEST}) < budget:
        raise TableError(
            f"the cost hardly depends on {axis!r}: {FARTHEST:.0e} times as much of it does not reach {budget:.4g}; "
            "give the cost a term for it, or leave the axis out"
        )
    for _ in range(80):  # halves the bracket in log x down to the last bits
        middle = 0.5 * (low + high)
        below = price(cost, {**point, axis: point[axis] * float(np.exp(middle))}) < budget
        low, high = (middle, high) if below else (low, middle)
    return point[axis] * float(np.exp(0.5 * (low + high)))
