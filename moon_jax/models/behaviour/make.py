"""MAKE: a DIN over frozen representations."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from moon_jax.models.behaviour.din import ActivationUnit
from moon_jax.models.behaviour.seen import Module, Recency, Seen, Shape, content_of
from moon_jax.models.chunks import by_rows
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
        self.recency, self.places = Recency(shape), shape.places

    def __call__(self, seen: Seen) -> Array:
        catalogue, target_BxD, _ = content_of(seen)
        target_BxW = self.project(target_BxD)

        def knowledge(shared: Any, rows_RxL: Array, target_RxW: Array, bias_RxL: Array, real_RxL: Array) -> Array:
            catalogue, project, unit = shared
            history_RxLxW = project(catalogue.vectors(rows_RxL))
            weights_RxL = (unit(target_RxW, history_RxLxW) + bias_RxL) * real_RxL
            return jnp.einsum("rl,rlw->rw", weights_RxL, history_RxLxW)

        bias_BxL = jnp.broadcast_to(self.recency(seen.band_BxL), seen.real_BxL.shape)
        known_BxW = by_rows(
            knowledge,
            (catalogue, self.project, self.unit),
            seen.rows_BxL,
            target_BxW,
            bias_BxL,
            seen.real_BxL,
            places=self.places,
        )
        return jnp.concatenate([target_BxW, known_BxW, target_BxW * known_BxW], axis=1)
