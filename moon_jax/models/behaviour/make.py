"""MAKE: a DIN over frozen representations."""

import jax
import jax.numpy as jnp
from flax import nnx

from moon_jax.models.behaviour.din import ActivationUnit
from moon_jax.models.behaviour.seen import Module, Recency, Seen, Shape, content_of, sum_in_chunks
from moon_jax.models.layers import linear

Array = jax.Array


class Make(Module):
    """Multimodal knowledge extractor (arXiv 2407.19467):

        z = P r,   v = sum_b a(z_t, z_b) z_b,   features [z_t; v; z_t * v]

    with DIN's activation unit a. In the paper this part is trained for several epochs on its own, since
    representations take longer than IDs, and its outputs then join the ID model. Here all trains together, in one run.
    """

    reads_content = True

    def __init__(self, shape: Shape, rngs: nnx.Rngs):
        width = shape.id_width
        self.features = 3 * width
        self.project = linear(shape.content, width, rngs)
        self.unit = ActivationUnit(width, shape.hidden, rngs)
        self.recency, self.chunk = Recency(shape), shape.chunk

    def __call__(self, seen: Seen) -> Array:
        catalogue, target_BxD, _ = content_of(seen)
        target_BxW = self.project(target_BxD)
        weigh = self.unit.towards(target_BxW)

        def knowledge(rows_BxC: Array, bias_BxC: Array, real_BxC: Array) -> Array:
            history_BxCxW = self.project(catalogue.vectors(rows_BxC))
            weights_BxC = (weigh(history_BxCxW) + bias_BxC) * real_BxC
            return jnp.einsum("bl,blw->bw", weights_BxC, history_BxCxW)

        bias_BxL = jnp.broadcast_to(self.recency(seen.band_BxL), seen.real_BxL.shape)
        known_BxW = sum_in_chunks(knowledge, seen.rows_BxL, bias_BxL, seen.real_BxL, chunk=self.chunk)
        return jnp.concatenate([target_BxW, known_BxW, target_BxW * known_BxW], axis=1)
