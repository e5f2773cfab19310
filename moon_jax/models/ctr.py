"""CTR prediction over a behaviour sequence: ID target attention, and what frozen representations add to it.

The additions follow the paper's CUBE (arXiv 2511.11305, Fig 5) and SimTier (arXiv 2407.19467): similarities of the
target to each behaviour, counted in tiers, and the target's own representation.
"""

import itertools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from moon_jax.models.layers import linear

Array = jax.Array
ROWS = 128  # the table of IDs has a multiple of them


@dataclass(frozen=True)
class CtrConfig:
    """Shape of a CTR model.

    Attributes:
        items: that have an ID; the table has some rows more, so that devices can share it evenly.
        actions: kinds of behaviour.
        length: L, behaviours read.
        id_width: width of ID embeddings.
        content: width D of the frozen representations, 0 for the ID-only baseline.
        tiers: SimTier's equal bins over cosines in -1..1.
        bands: dyadic recency bands (lag 1, 2, 3-4, 5-8, ...; the last takes all that is older). The same number at
            every L: then models of all lengths have the same parameters, and length is all that differs.
        hidden: widths of the top MLP.
    """

    items: int
    actions: int
    length: int
    id_width: int = 16
    content: int = 0
    tiers: int = 20
    bands: int = 12
    hidden: tuple[int, ...] = (64, 32)

    def build(self, seed: Array | int) -> "CtrModel":
        return CtrModel(self, nnx.Rngs(jax.random.key(seed)))


def lag_bands(length: int, bands: int) -> Array:
    """int32 L: the dyadic recency band of lags 1..L (0 for lag 1, 1 for 2, 2 for 3-4, ..., at most bands - 1)."""
    return jnp.array([min((lag - 1).bit_length(), bands - 1) for lag in range(1, length + 1)], jnp.int32)


class CtrModel(nnx.Module):
    """[target ID, ID interest, (SimTier counts, projected target representation)] -> MLP -> click logit."""

    def __init__(self, config: CtrConfig, rngs: nnx.Rngs):
        self.config = config
        small = nnx.initializers.normal(0.05)
        width = config.id_width
        self.ids = nnx.Embed(-(-config.items // ROWS) * ROWS, width, rngs=rngs, embedding_init=small)
        self.actions = nnx.Embed(config.actions, width, rngs=rngs, embedding_init=small)
        self.query, self.key = linear(width, width, rngs), linear(width, width, rngs)
        self.recency = nnx.Param(jnp.zeros((config.bands,), jnp.float32))
        features = 2 * width
        if config.content:
            self.project = linear(config.content, width, rngs)
            features += width + config.bands * config.tiers
        widths = (features, *config.hidden)
        self.layers = nnx.List([linear(a, b, rngs, bias=True) for a, b in itertools.pairwise(widths)])
        self.logit = linear(widths[-1], 1, rngs, bias=True)

    def __call__(
        self,
        target_B: Array,
        history_BxL: Array,
        action_BxL: Array,
        target_BxD: Array | None,
        similarity_BxL: Array | None,
    ) -> Array:
        """Click logits, float32 B.

        Args:
            target_B: item rows.
            history_BxL: item rows of the last L behaviours, newest first, -1 where the history is shorter.
            action_BxL: action ids of the same.
            target_BxD: frozen representation of the target; None for the ID-only baseline.
            similarity_BxL: cosines of target and behaviours; None likewise.
        """
        real_BxL = history_BxL >= 0
        target_BxW = self.ids(target_B)
        parts = [target_BxW, self.interest(target_BxW, history_BxL, action_BxL, real_BxL)]
        if self.config.content:
            if target_BxD is None or similarity_BxL is None:
                raise ValueError("this model reads representations: give target_BxD and similarity_BxL")
            parts += [self.project(target_BxD), self.sim_tier(similarity_BxL, real_BxL)]
        x = jnp.concatenate(parts, axis=1)
        for layer in self.layers:
            x = jax.nn.relu(layer(x))
        return self.logit(x)[:, 0]

    def interest(self, target_BxW: Array, history_BxL: Array, action_BxL: Array, real_BxL: Array) -> Array:
        """ID interest = cross-attention with q = target, k = v = behaviours (CUBE's first branch), B x W."""
        behaviour_BxLxW = self.ids(jnp.maximum(history_BxL, 0)) + self.actions(action_BxL)
        scores_BxL = jnp.einsum("bw,blw->bl", self.query(target_BxW), self.key(behaviour_BxLxW))
        scores_BxL = scores_BxL / jnp.sqrt(1.0 * self.config.id_width)
        scores_BxL += self.recency[...][lag_bands(self.config.length, self.config.bands)][None]
        weights_BxL = jax.nn.softmax(jnp.where(real_BxL, scores_BxL, -1e9), axis=1) * real_BxL
        return jnp.einsum("bl,blw->bw", weights_BxL, behaviour_BxLxW)

    def sim_tier(self, similarity_BxL: Array, real_BxL: Array) -> Array:
        """log(1 + count) of behaviours by (recency band, similarity tier), B x (bands * tiers).

        SimTier counts cosines in equal bins over the whole history; counting them by dyadic recency band as well lets
        the model weigh a match by how long ago it was. Ours: the paper's module has one band.
        """
        tier_BxL = jnp.clip((similarity_BxL + 1) / 2 * self.config.tiers, 0, self.config.tiers - 1).astype(jnp.int32)
        in_tier_BxLxT = jax.nn.one_hot(tier_BxL, self.config.tiers) * real_BxL[:, :, None]
        in_band_LxN = jax.nn.one_hot(lag_bands(self.config.length, self.config.bands), self.config.bands)
        counts_BxNxT = jnp.einsum("blt,ln->bnt", in_tier_BxLxT, in_band_LxN)
        return jnp.log1p(counts_BxNxT).reshape(similarity_BxL.shape[0], -1)
