"""CUBE: the paper's content-based user behaviour extractor."""

import jax
import jax.numpy as jnp
from flax import nnx

from moon_jax.models.behaviour.attention import Attention
from moon_jax.models.behaviour.sa_ta import SHARPNESS
from moon_jax.models.behaviour.seen import Module, Recency, Seen, Shape, content_of, softmax_over
from moon_jax.models.behaviour.simtier import SimTier
from moon_jax.models.catalogue import Catalogue
from moon_jax.models.chunks import by_rows
from moon_jax.models.layers import linear

Array = jax.Array


class Cube(Module):
    """Content-based user behaviour extractor (arXiv 2511.11305, Fig 5), with s_b = cos(r_b, r_t):

        ID interest      u  = cross-attention(q = e_t; k = v = e_b)
        similarities     {s_b} themselves, here counted in tiers, since a model of any L has the same parameters
        fusion interest  e' = sum_b w_b e_b
        content interest r' = sum_b w_b r_b
        features         [u; tiers; e'; P r'; cos(r', r_t)]

    r_t itself joins in `CtrModel`. The paper's figure does not show how s_b becomes a weight: here
    w = softmax(g s + recency), g learned and 5 at first.
    """

    reads_content = True

    def __init__(self, shape: Shape, rngs: nnx.Rngs):
        width = shape.id_width
        self.interest, self.tiers = Attention(shape, rngs), SimTier(shape, rngs)
        self.gain, self.recency = nnx.Param(jnp.float32(SHARPNESS)), Recency(shape)
        self.project = linear(shape.content, width, rngs)
        self.features = self.interest.features + self.tiers.features + 2 * width + 1
        self.places = shape.places

    def __call__(self, seen: Seen) -> Array:
        catalogue, target_BxD, similarity_BxL = content_of(seen)
        scores_BxL = self.gain[...] * similarity_BxL + self.recency(seen.band_BxL)
        weights_BxL = softmax_over(scores_BxL, seen.real_BxL)
        fusion_BxW = jnp.einsum("bl,blw->bw", weights_BxL, seen.history_BxLxW)

        def content(catalogue: Catalogue, rows_RxL: Array, weights_RxL: Array) -> Array:
            return jnp.einsum("rl,rld->rd", weights_RxL, catalogue.vectors(rows_RxL))

        content_BxD = by_rows(content, catalogue, seen.rows_BxL, weights_BxL, places=self.places)
        length_B = jnp.sqrt(jnp.sum(content_BxD**2, axis=1) + 1e-12)
        like_B = jnp.einsum("bd,bd->b", content_BxD, target_BxD) / length_B
        parts = [self.interest(seen), self.tiers(seen), fusion_BxW, self.project(content_BxD), like_B[:, None]]
        return jnp.concatenate(parts, axis=1)
