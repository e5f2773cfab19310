"""The contrastive losses and their gradients in numpy float64, as their definitions read: whole matrices, no tricks.

A query's logits are its positive's, those of the other keys of the batch, of the queue, and of its own hard negatives;
what is no candidate is left out by a mask. Gradients are written out by hand; a test holds them against differences.
"""

from dataclasses import dataclass

import numpy as np

Array = np.ndarray


@dataclass(frozen=True)
class Case:
    """What a loss is asked: unit vectors, ids, and what is traced. None where a loss is not given it.

    queries, keys B x D; queue Q x D; hard B x H x D; positive_ids B; queue_ids Q; hard_ids B x H.
    """

    queries: Array
    keys: Array
    queue: Array | None = None
    hard: Array | None = None
    positive_ids: Array | None = None
    queue_ids: Array | None = None
    hard_ids: Array | None = None
    window: int | None = None
    temperature: float = 0.1
    bias: float = -10.0
    symmetric: bool = True


@dataclass(frozen=True)
class Answer:
    """The loss, its gradients by name, and their sizes: norms, and of scalars the sum of what cancels in them."""

    value: float
    gradients: dict[str, Array]
    sizes: dict[str, float]


def oracle(loss: str, case: Case, margin: float = 0.25) -> Answer:
    """The answer of "info_nce", "circle_loss" or "sigmoid_loss"."""
    q, k = case.queries.astype(np.float64), case.keys.astype(np.float64)
    batch, width = q.shape
    z = np.zeros((0, width)) if case.queue is None else case.queue.astype(np.float64)
    h = np.zeros((batch, 0, width)) if case.hard is None else case.hard.astype(np.float64)

    offset = (np.arange(batch)[None, :] - np.arange(batch)[:, None]) % batch
    in_batch = (offset >= 1) & (offset <= (batch - 1 if case.window is None else case.window))
    in_queue, in_hard = np.ones((batch, len(z)), bool), np.ones(h.shape[:2], bool)
    if case.positive_ids is not None:
        own = case.positive_ids[:, None]
        in_batch &= own != case.positive_ids[None, :]
        in_queue &= True if case.queue_ids is None else own != case.queue_ids[None, :]
        in_hard &= True if case.hard_ids is None else own != case.hard_ids

    positive = np.sum(q * k, axis=1)
    similarity = np.concatenate([q @ k.T, q @ z.T, np.einsum("bd,bhd->bh", q, h)], axis=1)
    row = LOSSES[loss](similarity, positive, np.concatenate([in_batch, in_queue, in_hard], axis=1), case, margin)
    of_batch, of_queue, of_hard = np.split(row.pull, [batch, batch + len(z)], axis=1)
    of_positive, total, scalars, sizes = row.positive_pull, row.value, row.scalars, row.sizes
    if loss != "sigmoid_loss" and case.symmetric:  # each key against the queries that meet it
        column = LOSSES[loss]((q @ k.T).T, positive, in_batch.T, case, margin)
        total = (total + column.value) / 2
        of_batch = (of_batch + column.pull.T) / 2
        of_positive = (of_positive + column.positive_pull) / 2
        of_queue, of_hard = of_queue / 2, of_hard / 2
        scalars = {name: (each + column.scalars[name]) / 2 for name, each in scalars.items()}
        sizes = {name: (each + column.sizes[name]) / 2 for name, each in sizes.items()}

    along = of_positive[:, None]
    gradients = {
        "queries": (of_batch @ k + of_queue @ z + np.einsum("bh,bhd->bd", of_hard, h) + along * k) / batch,
        "keys": (of_batch.T @ q + along * q) / batch,
        "hard": of_hard[:, :, None] * q[:, None, :] / batch,
        **scalars,
    }
    norms = {name: float(np.linalg.norm(gradients[name])) for name in ("queries", "keys", "hard")}
    return Answer(float(total), gradients, norms | sizes)


@dataclass(frozen=True)
class _Direction:
    """The mean loss of one direction; d (loss of a row) / d similarity; gradients of scalars with their sizes."""

    value: float
    pull: Array
    positive_pull: Array
    scalars: dict[str, Array]
    sizes: dict[str, float]


def _softmax_loss(logits: Array, positive: Array, mask: Array) -> tuple[float, Array, Array]:
    """Mean of -log of the positive's share, and the shares of negatives and positives."""
    everything = np.concatenate([positive[:, None], np.where(mask, logits, -np.inf)], axis=1)
    most = everything.max(axis=1, keepdims=True)
    exponentials = np.exp(everything - most)
    sums = exponentials.sum(axis=1, keepdims=True)
    shares = exponentials / sums
    return float(np.mean(np.log(sums[:, 0]) + most[:, 0] - positive)), shares[:, 1:], shares[:, 0]


def _info_nce(similarity: Array, positive: Array, mask: Array, case: Case, margin: float) -> _Direction:
    scale = 1 / case.temperature
    value, shares, own = _softmax_loss(scale * similarity, scale * positive, mask)
    terms = np.concatenate([shares * similarity, ((own - 1) * positive)[:, None]], axis=1)
    return _Direction(value, scale * shares, scale * (own - 1), *_of_temperature(terms, case))


def _circle_loss(similarity: Array, positive: Array, mask: Array, case: Case, margin: float) -> _Direction:
    """The weights of similarities are constants to the gradient, and so is the scale."""
    weight = np.maximum(similarity + margin, 0) / case.temperature
    positive_weight = np.maximum(1 + margin - positive, 0) / case.temperature
    value, shares, own = _softmax_loss(
        weight * (similarity - margin), positive_weight * (positive - (1 - margin)), mask
    )
    nothing = {"temperature": np.float64(0)}
    return _Direction(value, weight * shares, positive_weight * (own - 1), nothing, {"temperature": 0.0})


def _sigmoid_loss(similarity: Array, positive: Array, mask: Array, case: Case, margin: float) -> _Direction:
    scale = 1 / case.temperature
    logits, of_positive = scale * similarity + case.bias, scale * positive + case.bias
    value = np.logaddexp(0, -of_positive) + np.sum(np.where(mask, np.logaddexp(0, logits), 0), axis=1)
    pull, positive_pull = np.where(mask, _sigmoid(logits), 0), -_sigmoid(-of_positive)
    terms = np.concatenate([pull * similarity, (positive_pull * positive)[:, None]], axis=1)
    gradients, sizes = _of_temperature(terms, case)
    pulls = np.concatenate([pull, positive_pull[:, None]], axis=1)
    gradients["bias"] = np.mean(np.sum(pulls, axis=1))
    sizes["bias"] = float(np.mean(np.sum(np.abs(pulls), axis=1)))
    return _Direction(float(np.mean(value)), scale * pull, scale * positive_pull, gradients, sizes)


def _of_temperature(terms: Array, case: Case) -> tuple[dict[str, Array], dict[str, float]]:
    """d loss / d temperature from d loss / d scale; scale = 1 / temperature."""
    inner = -1 / case.temperature**2
    size = float(np.mean(np.sum(np.abs(terms), axis=1))) * abs(inner)
    return {"temperature": inner * np.mean(np.sum(terms, axis=1))}, {"temperature": size}


def _sigmoid(x: Array) -> Array:
    return np.exp(-np.logaddexp(0, -x))


LOSSES = {"info_nce": _info_nce, "circle_loss": _circle_loss, "sigmoid_loss": _sigmoid_loss}
