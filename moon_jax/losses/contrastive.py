"""InfoNCE with a chosen number of candidates per query."""

import jax
import jax.numpy as jnp

Array = jax.Array


def candidate_mask(batch: int, *, num_negatives: Array | int | None, positive_ids_B: Array | None) -> Array:
    """Which in-batch keys stand in a query's softmax.

    A number of candidates below batch - 1 keeps the keys at circular offsets 0..n: batches are shuffled, so these are
    a uniform sample, every query has exactly n, and so has every key (a symmetric loss subsamples both directions
    alike). The number may be traced: grids over it share one compilation.

    Args:
        batch: B.
        num_negatives: candidates besides the positive, 0..B-1; None keeps all.
        positive_ids_B: int ids of the product behind each pair; other pairs of the same product are no negatives.

    Returns:
        bool B x B, rows are queries; the diagonal (the positive) is always True.
    """
    index_B = jnp.arange(batch)
    mask_BxB = jnp.ones((batch, batch), bool)
    if num_negatives is not None:
        mask_BxB = (index_B[None, :] - index_B[:, None]) % batch <= num_negatives
    if positive_ids_B is None:
        return mask_BxB
    same_BxB = positive_ids_B[:, None] == positive_ids_B[None, :]
    return (mask_BxB & ~same_BxB) | jnp.eye(batch, dtype=bool)


def info_nce(
    queries_BxD: Array,
    keys_BxD: Array,
    *,
    num_negatives: Array | int | None = None,
    positive_ids_B: Array | None = None,
    symmetric: bool = True,
    temperature: Array | float,
) -> Array:
    """InfoNCE (van den Oord et al. 2018), as MOON's post-training uses it (arXiv 2511.11305, Fig 1).

    Args:
        queries_BxD: unit vectors, any float dtype.
        keys_BxD: unit vectors of the interacted items, row b belongs to query b.
        num_negatives: in-batch candidates besides the positive, in both directions; None for all B - 1.
        positive_ids_B: product ids; pairs of the same product are masked as false negatives.
        symmetric: average of query -> key and key -> query.
        temperature: the divisor of cosines.

    Returns:
        float32 scalar mean. Logits and log-sum-exp are float32 whatever the inputs are.
    """
    logits_BxB = (
        jax.lax.dot_general(queries_BxD, keys_BxD, (((1,), (1,)), ((), ())), preferred_element_type=jnp.float32)
        / temperature
    )
    mask_BxB = candidate_mask(queries_BxD.shape[0], num_negatives=num_negatives, positive_ids_B=positive_ids_B)
    logits_BxB = jnp.where(mask_BxB, logits_BxB, -jnp.inf)
    positives_B = jnp.diagonal(logits_BxB)
    rows_B = jax.nn.logsumexp(logits_BxB, axis=1) - positives_B
    if not symmetric:
        return jnp.mean(rows_B)
    columns_B = jax.nn.logsumexp(logits_BxB, axis=0) - positives_B
    return (jnp.mean(rows_B) + jnp.mean(columns_B)) / 2
