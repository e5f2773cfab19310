"""SimTier: how many behaviours look how much like the target."""

import jax
import jax.numpy as jnp
from flax import nnx

from moon_jax.models.behaviour.seen import Module, Seen, Shape, content_of

Array = jax.Array


class SimTier(Module):
    """Counts of cosines in tiers (arXiv 2407.19467), by recency band:

        n_{j,k} = |{b : s_b = cos(r_b, r_t) in tier j, lag of b in band k}|,    features log(1 + n)

    The paper counts over the whole history; the bands (12 by lag, 20 tiers) are an addition of ours, since what happened
    yesterday tells more.
    """

    reads_content = True

    def __init__(self, shape: Shape, rngs: nnx.Rngs):
        self.tiers, self.bands = shape.tiers, shape.bands
        self.features = shape.tiers * shape.bands

    def __call__(self, seen: Seen) -> Array:
        _, _, similarity_BxL = content_of(seen)
        tier_BxL = jnp.clip(jnp.floor((similarity_BxL + 1) / 2 * self.tiers), 0, self.tiers - 1).astype(jnp.int32)
        cell_BxL = jnp.broadcast_to(seen.band_BxL, tier_BxL.shape) * self.tiers + tier_BxL
        # one pass over B x L: a one-hot of tiers would be B x L x 20
        row_Bx1 = jnp.arange(len(cell_BxL))[:, None]
        counts_BxF = jnp.zeros((len(cell_BxL), self.features)).at[row_Bx1, cell_BxL].add(1.0 * seen.real_BxL)
        return jnp.log1p(counts_BxF)
