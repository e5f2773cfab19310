"""SA-TA: target attention over IDs that similarity of content joins."""

import jax
import jax.numpy as jnp
from flax import nnx

from moon_jax.models.behaviour.attention import Attention
from moon_jax.models.behaviour.seen import Module, Seen, Shape, content_of, softmax_over

Array = jax.Array
SHARPNESS = 5.0  # of cosines at first: they lie closer together than scores do


class SaTa(Module):
    """Semantic-aware target attention (MUSE, arXiv 2512.07216):

        a_b = g1 a^ID_b + g2 R_b + g3 a^ID_b R_b,   R_b = cos(r_b, r_t),   u = sum_b softmax(a)_b e_b

    a^ID as in `Attention`. g1 = 1, g2 = 5, g3 = 0 at first.
    """

    reads_content = True

    def __init__(self, shape: Shape, rngs: nnx.Rngs):
        self.attention = Attention(shape, rngs)
        self.gains = nnx.Param(jnp.array([1.0, SHARPNESS, 0.0]))
        self.features = self.attention.features

    def __call__(self, seen: Seen) -> Array:
        _, _, similarity_BxL = content_of(seen)
        by_id_BxL = self.attention.scores(seen)
        of_id, of_content, of_both = self.gains[...]
        scores_BxL = of_id * by_id_BxL + of_content * similarity_BxL + of_both * by_id_BxL * similarity_BxL
        return jnp.einsum("bl,blw->bw", softmax_over(scores_BxL, seen.real_BxL), seen.history_BxLxW)
