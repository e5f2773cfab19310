"""Contrastive losses over in-batch, cross-device, queued and hard negatives: InfoNCE, sigmoid, circle.

Each is a statistic of a query's logits over its negatives (`negatives.py`), joined with its positive. With a mesh the
batch is global: other devices' keys are candidates like the query's own.
"""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from moon_jax.losses.choice import choose_form
from moon_jax.losses.negatives import Spread, over_negatives, reduce
from moon_jax.losses.pairs import Rule, Scalars, Side, logit

Array = jax.Array


def info_nce(
    queries_BxD: Array,
    keys_BxD: Array,
    *,
    queue_QxD: Array | None = None,
    hard_BxHxD: Array | None = None,
    num_negatives: Array | int | None = None,
    positive_ids_B: Array | None = None,
    queue_ids_Q: Array | None = None,
    hard_ids_BxH: Array | None = None,
    symmetric: bool = True,
    temperature: Array | float,
    tile: int | None = None,
    mesh: Mesh | None = None,
    form: str = "auto",
) -> Array:
    """InfoNCE (van den Oord et al. 2018), as MOON's post-training uses it (arXiv 2511.11305, Fig 1).

    -log of the positive's share in exp(cosine / temperature) among the positive and the negatives; queries against keys,
    and, when symmetric, keys against queries (queue and hard negatives stand in the queries' direction only).

    Args:
        queries_BxD: unit vectors, any float dtype; B is the global batch.
        keys_BxD: unit vectors of the interacted items; row b belongs to query b.
        queue_QxD: unit vectors of past items, negatives of every query; they get no gradient.
        hard_BxHxD: unit vectors of hard negatives, each of its own query alone; they get gradients.
        num_negatives: in-batch negatives of a query, 0..B-1, the keys at circular offsets 1..n, in both directions alike
            (batches are shuffled, so these are a uniform sample, and every key meets n queries); None for all. It may
            be traced: grids over it share one compilation.
        positive_ids_B, queue_ids_Q, hard_ids_BxH: int ids of products. A negative with the id of a query's positive is a
            false one and is masked. Queue and hard ids need positive ids.
        symmetric: the average of both directions, (rows + columns) / 2.
        temperature: the divisor of cosines; a traced one gets its gradient.
        tile: rows and columns of a tile; None leaves it to `choose_form`.
        mesh: where the batch is split over devices; None for one device, or to leave the dense form to the partitioner.
        form: "dense", "tiled", "ring", or "auto": `choose_form` picks by size.

    Returns:
        float32 scalar mean. Logits and log-sum-exp are float32 whatever the inputs are.

    Raises:
        ValueError: shapes that do not fit one another, ids of a queue without positive ids, an unknown form.
    """
    given = _given(queries_BxD, keys_BxD, queue_QxD, hard_BxHxD, positive_ids_B, queue_ids_Q, hard_ids_BxH)
    scalars = Scalars(1.0 / _float(temperature), jnp.float32(0), _window(num_negatives))
    rule = Rule("cosine", "lse", columns=symmetric, windowed=num_negatives is not None)
    rows, columns = given.statistics(rule, given.spread(form, tile, mesh), scalars)
    return _share_loss(rows, columns, given.positives() * scalars.scale)


def circle_loss(
    queries_BxD: Array,
    keys_BxD: Array,
    *,
    queue_QxD: Array | None = None,
    hard_BxHxD: Array | None = None,
    num_negatives: Array | int | None = None,
    positive_ids_B: Array | None = None,
    queue_ids_Q: Array | None = None,
    hard_ids_BxH: Array | None = None,
    symmetric: bool = True,
    temperature: Array | float,
    margin: float = 0.25,
    tile: int | None = None,
    mesh: Mesh | None = None,
    form: str = "auto",
) -> Array:
    """Circle loss (Sun et al. 2020, arXiv 2002.10857, eqs. 4 to 8) with one positive a query; arguments as `info_nce`.

    log(1 + sum over negatives of exp(g a_n (s_n - m)) * exp(-g a_p (s_p - (1 - m)))), a_n = [s_n + m]_+,
    a_p = [1 + m - s_p]_+, where the weights a have no gradient: the further a similarity is from its optimum, the
    harder it is pulled. g = 1 / temperature and m get no gradient either: they are no scales that the loss could learn.
    (MOON's second stage uses circle loss according to a third party; the paper's Fig 1 shows InfoNCE.)

    Args:
        margin: m, 0..1; the paper's default is 0.25.
    """
    given = _given(queries_BxD, keys_BxD, queue_QxD, hard_BxHxD, positive_ids_B, queue_ids_Q, hard_ids_BxH)
    scalars = jax.lax.stop_gradient(Scalars(1.0 / _float(temperature), _float(margin), _window(num_negatives)))
    rule = Rule("circle", "lse", columns=symmetric, windowed=num_negatives is not None)
    rows, columns = given.statistics(rule, given.spread(form, tile, mesh), scalars)
    similarity_B = given.positives()
    weight_B = jax.lax.stop_gradient(jax.nn.relu(1 + scalars.shift - similarity_B))
    return _share_loss(rows, columns, scalars.scale * weight_B * (similarity_B - (1 - scalars.shift)))


def sigmoid_loss(
    queries_BxD: Array,
    keys_BxD: Array,
    *,
    queue_QxD: Array | None = None,
    hard_BxHxD: Array | None = None,
    num_negatives: Array | int | None = None,
    positive_ids_B: Array | None = None,
    queue_ids_Q: Array | None = None,
    hard_ids_BxH: Array | None = None,
    temperature: Array | float,
    bias: Array | float = -10.0,
    tile: int | None = None,
    mesh: Mesh | None = None,
    form: str = "auto",
) -> Array:
    """SigLIP's sigmoid loss (Zhai et al. 2023, arXiv 2303.15343, Algorithm 1); arguments as `info_nce`.

    -log sigmoid(z (cosine / temperature + bias)) summed over all pairs, z = 1 for positives and -1 for negatives, and
    divided by B. It has no direction: each pair counts once.

    Args:
        bias: learned in the paper, from -10; a traced one gets its gradient.
    """
    given = _given(queries_BxD, keys_BxD, queue_QxD, hard_BxHxD, positive_ids_B, queue_ids_Q, hard_ids_BxH)
    scalars = Scalars(1.0 / _float(temperature), _float(bias), _window(num_negatives))
    rule = Rule("cosine", "softplus", windowed=num_negatives is not None)
    rows, _ = given.statistics(rule, given.spread(form, tile, mesh), scalars)
    positive_B = given.positives() * scalars.scale + scalars.shift
    return jnp.mean(jax.nn.softplus(-positive_B) + sum(rows))


def _float(value: Array | float) -> Array:
    return jnp.asarray(value, jnp.float32)


def _window(num_negatives: Array | int | None) -> Array:
    return jnp.asarray(0 if num_negatives is None else num_negatives, jnp.int32)


def _share_loss(rows: list[Array], columns: Array | None, positive_B: Array) -> Array:
    """Mean of -log of the positives' shares, from log-sum-exps of negatives, each B; of both directions where there are two."""
    rows_loss = jnp.mean(_log_one_plus([part - positive_B for part in rows]))
    if columns is None:
        return rows_loss
    return (rows_loss + jnp.mean(_log_one_plus([columns - positive_B]))) / 2


def _log_one_plus(parts: list[Array]) -> Array:
    """log(1 + sum of exp) over parts, each B; of nothing (-inf) it is 0 and pulls at nothing."""
    return jax.nn.logsumexp(jnp.stack([jnp.zeros_like(parts[0]), *parts]), axis=0)


def _cosines(a: Array, b: Array) -> Array:
    """Inner products along the last axis, float32."""
    return jnp.sum(a.astype(jnp.float32) * b.astype(jnp.float32), axis=-1)


@dataclass(frozen=True)
class _Given:
    """The vectors, of one dtype, and the ids of a loss; see `info_nce`."""

    queries_BxD: Array
    keys_BxD: Array
    queue_QxD: Array | None
    hard_BxHxD: Array | None
    positive_ids_B: Array | None
    queue_ids_Q: Array | None
    hard_ids_BxH: Array | None

    def positives(self) -> Array:
        """Cosines of queries with their own keys, float32 B."""
        return _cosines(self.queries_BxD, self.keys_BxD)

    def spread(self, form: str, tile: int | None, mesh: Mesh | None) -> Spread:
        """How it is computed: as asked for, or by size."""
        batch, width = self.queries_BxD.shape
        chosen = choose_form(
            batch,
            width,
            queue=0 if self.queue_QxD is None else self.queue_QxD.shape[0],
            devices=1 if mesh is None else mesh.size,
            itemsize=self.queries_BxD.dtype.itemsize,
            form=form,
            tile=tile or 0,
        )
        return Spread(chosen.form, chosen.tile, mesh)

    def statistics(self, rule: Rule, spread: Spread, scalars: Scalars) -> tuple[list[Array], Array | None]:
        """(of each query over its batch, its queue, its hard negatives; of each key over the batch, if the rule asks)."""
        queries = _side(self.queries_BxD, self.positive_ids_B)
        keys = _side(self.keys_BxD, self.positive_ids_B)
        in_batch = replace(rule, batch=queries.size, ids=self.positive_ids_B is not None)
        of_rows, of_columns = over_negatives(in_batch, spread, queries, keys, scalars)
        parts = [of_rows]
        if self.queue_QxD is not None:
            queue = _side(self.queue_QxD, self.queue_ids_Q)
            in_queue = Rule(rule.logit, rule.statistic, ids=self.queue_ids_Q is not None, key_gradient=False)
            parts.append(over_negatives(in_queue, spread, queries, queue, scalars)[0])
        if self.hard_BxHxD is not None:
            parts.append(self._over_hard(rule, scalars))
        return parts, of_columns if rule.columns else None

    def _over_hard(self, rule: Rule, scalars: Scalars) -> Array:
        """The statistic of each query over its own hard negatives, float32 B."""
        assert self.hard_BxHxD is not None
        logits_BxH = logit(rule, _cosines(self.queries_BxD[:, None, :], self.hard_BxHxD), scalars)
        if self.hard_ids_BxH is not None and self.positive_ids_B is not None:
            false_BxH = self.hard_ids_BxH == self.positive_ids_B[:, None]
            logits_BxH = jnp.where(false_BxH, -jnp.inf, logits_BxH)
        return reduce(rule, logits_BxH, axis=1)


def _given(
    queries_BxD: Array,
    keys_BxD: Array,
    queue_QxD: Array | None,
    hard_BxHxD: Array | None,
    positive_ids_B: Array | None,
    queue_ids_Q: Array | None,
    hard_ids_BxH: Array | None,
) -> _Given:
    """What is given, checked against one another (ValueError), vectors in one dtype: the wider of queries and keys.

    float16 becomes float32: the gradients of a million logits, 1e-9 and less, are below its range.
    """
    size, width = queries_BxD.shape
    expected = {
        "keys_BxD": (keys_BxD, (size, width)),
        "positive_ids_B": (positive_ids_B, (size,)),
        "queue_QxD": (queue_QxD, (None, width)),
        "queue_ids_Q": (queue_ids_Q, (None if queue_QxD is None else queue_QxD.shape[0],)),
        "hard_BxHxD": (hard_BxHxD, (size, None, width)),
        "hard_ids_BxH": (hard_ids_BxH, (size, None if hard_BxHxD is None else hard_BxHxD.shape[1])),
    }
    for name, (array, shape) in expected.items():
        if array is None:
            continue
        fits = [wanted in (None, found) for found, wanted in zip(array.shape, shape, strict=False)]
        if array.ndim != len(shape) or not all(fits):
            raise ValueError(f"{name} has shape {array.shape}, which does not fit queries of {(size, width)}")
    for name, ids, vectors in (
        ("queue_ids_Q", queue_ids_Q, queue_QxD),
        ("hard_ids_BxH", hard_ids_BxH, hard_BxHxD),
    ):
        if ids is not None and (positive_ids_B is None or vectors is None):
            raise ValueError(f"{name} is given without positive_ids_B, or without the vectors that it names")
    dtype = jnp.result_type(queries_BxD, keys_BxD)
    dtype = jnp.dtype(jnp.float32) if dtype == jnp.float16 else dtype
    return _Given(
        jnp.asarray(queries_BxD, dtype),
        jnp.asarray(keys_BxD, dtype),
        None if queue_QxD is None else jnp.asarray(queue_QxD, dtype),
        None if hard_BxHxD is None else jnp.asarray(hard_BxHxD, dtype),
        positive_ids_B,
        queue_ids_Q,
        hard_ids_BxH,
    )


def _side(vectors: Array, ids: Array | None) -> Side:
    size = vectors.shape[0]
    return Side(vectors, jnp.arange(size, dtype=jnp.int32), jnp.zeros(size, jnp.int32) if ids is None else ids)
