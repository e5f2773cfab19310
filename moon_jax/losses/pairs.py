"""What a tile of the similarity matrix is made of: vectors with their indices and ids, which pairs stand in it, and logits."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array


class Side(NamedTuple):
    """Vectors with what the mask asks of them: their place in the global batch (-1: padding) and the ids of products.

    vectors n x D, bfloat16 or float32; place int32 n; ids int32 n.
    """

    vectors: Array
    place: Array
    ids: Array

    @property
    def size(self) -> int:
        return self.place.size


class Scalars(NamedTuple):
    """What is traced: float32 scale (1 / temperature) and shift (a bias, or circle loss's margin), int32 window."""

    scale: Array
    shift: Array
    window: Array


@dataclass(frozen=True)
class Rule:
    """What is static of a pairing of rows (queries) with columns (keys, or a queue).

    Attributes:
        logit: "cosine": scale * s + shift, or "circle": scale * [s + shift]_+ * (s - shift), whose weight [.]_+ has no
            gradient (Sun et al. 2020, eqs. 5 and 6 with O_n = -m and delta_n = m).
        statistic: of the logits of a row: "lse" (log-sum-exp) or "softplus" (sum of softplus, for the sigmoid loss).
        columns: whether columns get statistics, too.
        batch: size of the batch whose rows and columns these are, pair by pair (the diagonal is the positive and never
            a negative); 0 where the columns are a queue.
        windowed: whether a query sees only the keys at circular offsets 1..window.
        ids: whether pairs of one product are masked.
        padded: whether some places are -1.
        key_gradient: whether columns get gradients.
    """

    logit: Literal["cosine", "circle"]
    statistic: Literal["lse", "softplus"]
    columns: bool = False
    batch: int = 0
    windowed: bool = False
    ids: bool = False
    padded: bool = False
    key_gradient: bool = True


def product(a: Array, b: Array, contract: tuple[tuple[int, ...], tuple[int, ...]]) -> Array:
    """A matrix product that is summed in float32; float32 factors are multiplied as such, never as TF32."""
    precision = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    return jax.lax.dot_general(a, b, (contract, ((), ())), precision=precision, preferred_element_type=jnp.float32)


@jax.custom_vjp
def similarities(rows_RxD: Array, columns_CxD: Array) -> Array:
    """Inner products, float32 R x C; their gradients take the dtype of the vectors before both backward products."""
    return product(rows_RxD, columns_CxD, ((1,), (1,)))


def _similarities_forward(rows_RxD: Array, columns_CxD: Array) -> tuple[Array, tuple[Array, Array]]:
    return similarities(rows_RxD, columns_CxD), (rows_RxD, columns_CxD)


def _similarities_backward(kept: tuple[Array, Array], pull_RxC: Array) -> tuple[Array, Array]:
    rows_RxD, columns_CxD = kept
    pull_RxC = pull_RxC.astype(rows_RxD.dtype)
    of_rows_RxD = product(pull_RxC, columns_CxD, ((1,), (0,)))
    of_columns_CxD = product(pull_RxC, rows_RxD, ((0,), (0,)))
    return of_rows_RxD.astype(rows_RxD.dtype), of_columns_CxD.astype(columns_CxD.dtype)


similarities.defvjp(_similarities_forward, _similarities_backward)


def allowed(rule: Rule, rows: Side, columns: Side, window: Array) -> Array | None:
    """bool R x C: which columns are negatives of which rows; None where all are."""
    conditions = []
    row_Rx1, column_1xC = rows.place[:, None], columns.place[None, :]
    if rule.batch and rule.windowed:
        offset_RxC = column_1xC - row_Rx1
        offset_RxC = jnp.where(offset_RxC < 0, offset_RxC + rule.batch, offset_RxC)
        # 1 <= offset <= window in one comparison: the diagonal's -1 becomes the largest number
        conditions.append((offset_RxC - 1).astype(jnp.uint32) < window.astype(jnp.uint32))
    elif rule.batch:
        conditions.append(column_1xC != row_Rx1)
    if rule.ids:
        conditions.append(rows.ids[:, None] != columns.ids[None, :])
    if rule.padded:
        conditions += [jnp.broadcast_to(row_Rx1 >= 0, (row_Rx1.size, column_1xC.size)), column_1xC >= 0]
    if not conditions:
        return None
    mask_RxC = conditions[0]
    for condition in conditions[1:]:
        mask_RxC = mask_RxC & condition
    return mask_RxC


def logit(rule: Rule, similarity: Array, scalars: Scalars) -> Array:
    """Logits of similarities, float32, to be differentiated as they stand."""
    if rule.logit == "circle":
        return circle_slope(similarity, scalars) * (similarity - scalars.shift)
    scaled = similarity * scalars.scale
    return scaled + scalars.shift if rule.statistic == "softplus" else scaled


def circle_slope(similarity: Array, scalars: Scalars) -> Array:
    """d logit / d similarity of circle loss's negatives: the further from its optimum a pair is, the harder it is pushed."""
    return jax.lax.stop_gradient(scalars.scale * jax.nn.relu(similarity + scalars.shift))


def logits(rule: Rule, rows: Side, columns: Side, scalars: Scalars) -> tuple[Array, Array]:
    """(similarities, logits with -inf where a pair is none), float32 R x C."""
    similarity_RxC = similarities(rows.vectors, columns.vectors)
    logits_RxC = logit(rule, similarity_RxC, scalars)
    mask_RxC = allowed(rule, rows, columns, scalars.window)
    return similarity_RxC, logits_RxC if mask_RxC is None else jnp.where(mask_RxC, logits_RxC, -jnp.inf)
