"""Two towers, one for images and one for text, as CLIP (Radford et al. 2021, arXiv 2103.00020): the baseline backbone."""

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from flax import nnx

from moon_jax.models.layers import NORMS, Stack, VisionBlock, linear, patches_of, pool, positions, token_table, unit
from moon_jax.sharding import gathered

if TYPE_CHECKING:
    from moon_jax.models.encoder import EncoderConfig

Array = jax.Array


class DualEncoder(nnx.Module):
    """Each tower: embedding + learned positions -> blocks with full attention -> norm -> mean pool -> projection.

    Blocks are the generative encoder's vision blocks, so that the backbones differ in how they join modalities and not
    in their parts. CLIP's own differ in details: LayerNorm and biases, a class token, causal text read at its end.
    """

    def __init__(self, config: "EncoderConfig", rngs: nnx.Rngs):
        shape = config.vision_shape
        hidden = shape.width
        self.config = config
        self.patch_embed = linear(3 * config.patch**2, hidden, rngs, bias=True)
        self.position = positions(config.patches, hidden, rngs.params())
        self.vision = Stack(lambda r: VisionBlock(shape, r), shape.depth, rngs)
        self.vision_norm = NORMS[shape.norm](hidden)
        self.vision_head = linear(hidden, config.embedding, rngs)
        self.tokens = token_table(config.vocabulary, hidden, rngs)
        self.text_position = positions(config.text_length, hidden, rngs.params())
        self.text = Stack(lambda r: VisionBlock(shape, r), shape.depth, rngs)
        self.text_norm = NORMS[shape.norm](hidden)
        self.text_head = linear(hidden, config.embedding, rngs)

    def __call__(self, images_BxHxWx3: Array | None, text_BxT: Array | None, *, remat: str = "none") -> Array:
        """Encode a batch; arguments and result are those of `Encoder.__call__`.

        An image with a text is the sum of the towers' unit vectors, at length one again. That is ours: CLIP has no
        form of both.

        Raises:
            ValueError: texts are longer than the config's `text_length` (when traced).
        """
        self = gathered(self)
        vectors = []
        if images_BxHxWx3 is not None:
            vectors.append(self.see(images_BxHxWx3, remat))
        if text_BxT is not None:
            vectors.append(self.read(text_BxT, remat))
        return unit(vectors[0] + vectors[1]) if len(vectors) == 2 else vectors[0]

    def see(self, images_BxHxWx3: Array, remat: str) -> Array:
        """Pixels to unit vectors, B x D."""
        patches_BxPxC = patches_of(images_BxHxWx3, self.config.patch, self.config.dtype)
        x_BxPxW = self.patch_embed(patches_BxPxC) + self.position[...].astype(self.config.dtype)[None]
        x_BxPxW = self.vision_norm(self.vision(x_BxPxW, remat=remat))
        return unit(self.vision_head(jnp.mean(x_BxPxW, axis=1, dtype=jnp.float32)))

    def read(self, text_BxT: Array, remat: str) -> Array:
        """Token ids to unit vectors, B x D; padding is neither attended to nor pooled."""
        length = text_BxT.shape[1]
        if length > self.config.text_length:
            raise ValueError(f"texts of {length} tokens are longer than text_length = {self.config.text_length}")
        # An empty title still has a first (padding) position to pool.
        lengths_B = jnp.maximum(jnp.sum(text_BxT != 0, axis=1, dtype=jnp.int32), 1)
        x_BxTxW = (self.tokens(text_BxT) + self.text_position[...][None, :length]).astype(self.config.dtype)
        x_BxTxW = self.text_norm(self.text(x_BxTxW, lengths_B, remat=remat))
        return unit(self.text_head(pool(x_BxTxW, lengths_B)))
