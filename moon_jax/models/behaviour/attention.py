"""Target attention over IDs: CUBE's first branch alone."""

import jax
import jax.numpy as jnp
from flax import nnx

from moon_jax.models.behaviour.seen import Module, Recency, Seen, Shape, softmax_over
from moon_jax.models.layers import linear

Array = jax.Array


class Attention(Module):
    """Cross-attention with q = e_t and k = v = e_b (arXiv 2511.11305, Fig 5, "ID interest"):

    a_b = (W_q e_t) . (W_k e_b) / sqrt(W) + recency(b)
    u   = sum_b softmax(a)_b e_b
    """

    def __init__(self, shape: Shape, rngs: nnx.Rngs):
        self.features = width = shape.id_width
        self.query, self.key = linear(width, width, rngs), linear(width, width, rngs)
        self.recency = Recency(shape)

    def __call__(self, seen: Seen) -> Array:
        weights_BxL = softmax_over(self.scores(seen), seen.real_BxL)
        return jnp.einsum("bl,blw->bw", weights_BxL, seen.history_BxLxW)

    def scores(self, seen: Seen) -> Array:
        """a, B x L. The key's matrix is applied to the target: W x W numbers a row, not a behaviour."""
        asked_BxW = self.query(seen.target_BxW) @ self.key.kernel[...].T
        scores_BxL = jnp.einsum("bw,blw->bl", asked_BxW, seen.history_BxLxW) / jnp.sqrt(1.0 * self.features)
        return scores_BxL + self.recency(seen.band_BxL)
