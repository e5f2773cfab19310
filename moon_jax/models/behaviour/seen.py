"""What a behaviour module sees of a batch of impressions, and how it walks over a long history.

Every module is built as `Module(shape, rngs)` and called as `module(seen)`; it returns float32 B x `module.features`.
Memory: what stands whole is B x L numbers of the scores and B x L x W of the ID embeddings; whatever is wider is
computed for some rows of the batch at a time, and again for the gradient (`models.chunks.by_rows`).
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from moon_jax.models.catalogue import Catalogue

Array = jax.Array


@dataclass(frozen=True)
class Shape:
    """Sizes that all modules of a model share.

    Attributes:
        id_width: W, of ID embeddings; content: D, of frozen representations, 0 for none.
        heads: of target attentions that have several.
        hidden: width of activation units (DIN, MAKE).
        top_k: K, behaviours that a general search unit (GSU) lets through.
        tiers: equal bins of cosines in -1..1 (SimTier).
        bands: dyadic recency bands (lag 1, 2, 3-4, 5-8, ...; the last takes all that is older): as many at every L, so
            that models of all lengths have the same parameters.
        places: behaviours that are worked on at a time, where something wide stands beside each: 64 numbers each are
            a MiB, about a core's second cache.
    """

    id_width: int = 16
    content: int = 0
    heads: int = 2
    hidden: int = 32
    top_k: int = 50
    tiers: int = 20
    bands: int = 12
    places: int = 4_096


class Seen(NamedTuple):
    """A batch of B impressions with the last L behaviours of each, newest first.

    target_BxW: ID embedding of the target; history_BxLxW: of the behaviours, that of the action added; real_BxL: False
    where the history is shorter; band_BxL int32: recency band of each; rows_BxL int32: their item rows, 0 where not real.
    With representations, all at unit length: catalogue, target_BxD, similarity_BxL = cos(r_b, r_t); else None.
    """

    target_BxW: Array
    history_BxLxW: Array
    real_BxL: Array
    band_BxL: Array
    rows_BxL: Array
    catalogue: Catalogue | None = None
    target_BxD: Array | None = None
    similarity_BxL: Array | None = None


class Module(nnx.Module):
    """What a behaviour module is. `features` is the width of what it returns; `reads_content` says what it cannot do without."""

    features: int
    reads_content = False

    def __init__(self, shape: Shape, rngs: nnx.Rngs):
        raise NotImplementedError

    def __call__(self, seen: Seen) -> Array:
        raise NotImplementedError


class Recency(nnx.Module):
    """A learned number for each recency band that is added to the score of a behaviour; 0 at first."""

    def __init__(self, shape: Shape):
        self.bias = nnx.Param(jnp.zeros((shape.bands,), jnp.float32))

    def __call__(self, band_BxL: Array) -> Array:
        return self.bias[...][band_BxL]


def lag_bands(length: int, bands: int) -> Array:
    """int32 L: the dyadic recency band of lags 1..L (0 for lag 1, 1 for 2, 2 for 3-4, ..., at most bands - 1)."""
    return jnp.array([min((lag - 1).bit_length(), bands - 1) for lag in range(1, length + 1)], jnp.int32)


def content_of(seen: Seen) -> tuple[Catalogue, Array, Array]:
    """(catalogue, target_BxD, similarity_BxL) of a batch that has them."""
    if seen.catalogue is None or seen.target_BxD is None or seen.similarity_BxL is None:
        raise ValueError("this module reads representations, and the model was given none")
    return seen.catalogue, seen.target_BxD, seen.similarity_BxL


def softmax_over(scores_BxL: Array, real_BxL: Array) -> Array:
    """Weights over the real behaviours; all 0 for an empty history."""
    return jax.nn.softmax(jnp.where(real_BxL, scores_BxL, -1e9), axis=1) * real_BxL


def keep_top(scores_BxL: Array, seen: Seen, k: int) -> Seen:
    """The K behaviours of the highest scores, best first, as a `Seen` of length min(K, L).

    The choice itself has no gradient: a general search unit (GSU) of SIM (arXiv 2006.05639, sec. 3.1).
    """
    scores_BxL = jax.lax.stop_gradient(jnp.where(seen.real_BxL, scores_BxL, -jnp.inf))
    at_BxK = jax.lax.top_k(scores_BxL, min(k, scores_BxL.shape[1]))[1]

    def kept(x_BxL: Array) -> Array:
        return jnp.take_along_axis(jnp.broadcast_to(x_BxL, scores_BxL.shape), at_BxK, axis=1)

    return seen._replace(
        history_BxLxW=jnp.take_along_axis(seen.history_BxLxW, at_BxK[:, :, None], axis=1),
        real_BxL=kept(seen.real_BxL),
        band_BxL=kept(seen.band_BxL),
        rows_BxL=kept(seen.rows_BxL),
        similarity_BxL=None if seen.similarity_BxL is None else kept(seen.similarity_BxL),
    )
