"""MUSE: search by content, then SA-TA and SimTier over what is found."""

import jax
import jax.numpy as jnp
from flax import nnx

from moon_jax.models.behaviour.sa_ta import SaTa
from moon_jax.models.behaviour.seen import Module, Seen, Shape, content_of, keep_top
from moon_jax.models.behaviour.simtier import SimTier

Array = jax.Array


class GsuContent(Module):
    """Multimodal search-based interest (MUSE, arXiv 2512.07216):

    GSU: the K behaviours of the largest R_b = cos(r_b, r_t)
    ESU: [SA-TA over the K; SimTier over the K]
    """

    reads_content = True

    def __init__(self, shape: Shape, rngs: nnx.Rngs):
        self.sa_ta, self.simtier, self.top_k = SaTa(shape, rngs), SimTier(shape, rngs), shape.top_k
        self.features = self.sa_ta.features + self.simtier.features

    def __call__(self, seen: Seen) -> Array:
        kept = keep_top(content_of(seen)[2], seen, self.top_k)
        return jnp.concatenate([self.sa_ta(kept), self.simtier(kept)], axis=1)
