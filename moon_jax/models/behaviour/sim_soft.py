"""SIM with soft search: a general search unit over IDs, an exact one over what it lets through."""

import jax
import jax.numpy as jnp
from flax import nnx

from moon_jax.models.behaviour.attention import Attention
from moon_jax.models.behaviour.seen import Module, Seen, Shape, keep_top

Array = jax.Array


class SimSoft(Module):
    """Search-based interest (arXiv 2006.05639):

        GSU: r_b = (W_b e_b) . (W_t e_t); the K behaviours of the largest r_b           (eq. 1, soft search)
        ESU: u   = sum_{b in top K} softmax(a)_b e_b, target attention with time        (eq. 4-5)

    In the paper an auxiliary loss trains the search's own matrices. Here search and attention share the embeddings and
    the search is their plain inner product, trained by the one loss of the click.
    """

    def __init__(self, shape: Shape, rngs: nnx.Rngs):
        self.exact, self.top_k = Attention(shape, rngs), shape.top_k
        self.features = self.exact.features

    def __call__(self, seen: Seen) -> Array:
        relevance_BxL = jnp.einsum("bw,blw->bl", seen.target_BxW, seen.history_BxLxW)
        return self.exact(keep_top(relevance_BxL, seen, self.top_k))
