"""TWIN: the same target attention in both stages."""

import jax
import jax.numpy as jnp
from flax import nnx

from moon_jax.models.behaviour.seen import Module, Recency, Seen, Shape, keep_top, softmax_over
from moon_jax.models.layers import linear

Array = jax.Array


class Twin(Module):
    """Two-stage interest network (arXiv 2302.02352), H heads of width W:

        a_b  = (W_k e_b) . (W_q e_t) / sqrt(W) + recency(b)                              (eq. 6; recency for its cross features)
        GSU: the K behaviours of the largest sum of a_b over the heads
        ESU: u = concat_h sum_{b in top K} softmax(a^h)_b W_v^h e_b, the same a          (eq. 7-8)

    Search and attention agree, because they are one formula with one set of parameters.
    """

    def __init__(self, shape: Shape, rngs: nnx.Rngs):
        width, self.heads, self.top_k = shape.id_width, shape.heads, shape.top_k
        self.features = width * self.heads
        self.query, self.key, self.value = (linear(width, self.features, rngs) for _ in range(3))
        self.recency = Recency(shape)

    def __call__(self, seen: Seen) -> Array:
        batch, width = seen.target_BxW.shape
        query_BxHxW = self.query(seen.target_BxW).reshape(batch, self.heads, width)
        key_WxHxW = self.key.kernel[...].reshape(width, self.heads, width)
        asked_BxHxW = jnp.einsum("bhk,whk->bhw", query_BxHxW, key_WxHxW) / jnp.sqrt(1.0 * width)
        # the search needs the sum over heads alone, and no gradient
        found_BxL = jnp.einsum("bw,blw->bl", asked_BxHxW.sum(axis=1), seen.history_BxLxW)
        kept = keep_top(found_BxL + self.heads * self.recency(seen.band_BxL), seen, self.top_k)
        scores_BxHxK = jnp.einsum("bhw,bkw->bhk", asked_BxHxW, kept.history_BxLxW)
        scores_BxHxK += self.recency(kept.band_BxL)[:, None, :]
        weights_BxHxK = jax.vmap(softmax_over, (1, None), 1)(scores_BxHxK, kept.real_BxL)
        interest_BxHxW = jnp.einsum("bhk,bkw->bhw", weights_BxHxK, kept.history_BxLxW)
        value_WxHxW = self.value.kernel[...].reshape(width, self.heads, width)
        return jnp.einsum("bhw,whv->bhv", interest_BxHxW, value_WxHxW).reshape(batch, -1)
