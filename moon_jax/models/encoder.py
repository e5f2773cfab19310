"""The MOON encoder: one model that turns text, an image, or both into a unit vector.

MOON (arXiv 2511.11305), Figs 1 and 3: vision encoder -> projector -> LLM with the text through the tokenizer; the
representation is the mean pool of the last layer's states, with attention turned bidirectional in post-training.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from flax import nnx

from moon_jax.models.layers import (
    NORMS,
    DecoderBlock,
    RMSNorm,
    Stack,
    VisionBlock,
    linear,
    patches_of,
    pool,
    positions,
    token_table,
    unit,
)
from moon_jax.models.shapes import DecoderShape, VisionShape, towers
from moon_jax.sharding import gathered

if TYPE_CHECKING:
    from moon_jax.models.dual import DualEncoder

Array = jax.Array

BACKBONES = ("generative", "dual")
POOLS = ("mean", "last")


@dataclass(frozen=True)
class EncoderConfig:
    """Shape of an encoder.

    Attributes:
        size: a rung of the ladder, or width x blocks of each tower as in "384x6" (`shapes.towers`).
        height, width, patch: of images, in pixels.
        vocabulary: token ids, 0 is padding.
        embedding: D, width of the unit vectors.
        causal: the generative backbone's attention.
        dtype: of the products; parameters stay float32.
        backbone: "generative" (ViT -> projector -> LLM) or "dual" (two towers, as CLIP).
        text_length: longest text; read by "dual" alone, whose positions are learned.
        pool: the representation is the "mean" of the last layer's states, or the state of the "last" token; "dual" has
            the mean alone.
        vision, decoder: shapes of towers that are not the ladder's, as those of open weights; both or neither.
    """

    size: str = "nano"
    height: int = 32
    width: int = 32
    patch: int = 8
    vocabulary: int = 1024
    embedding: int = 64
    causal: bool = False
    dtype: str = "float32"
    backbone: str = field(default="generative", metadata={"added": True})
    text_length: int = field(default=64, metadata={"added": True})
    pool: str = field(default="mean", metadata={"added": True})
    vision: VisionShape | None = field(default=None, metadata={"added": True})
    decoder: DecoderShape | None = field(default=None, metadata={"added": True})

    def __post_init__(self) -> None:
        if (self.vision is None) != (self.decoder is None):
            raise ValueError("vision, decoder: give the shapes of both towers, or of neither")
        towers(self.size)
        if self.height % self.patch or self.width % self.patch:
            raise ValueError(f"patch: {self.patch} does not divide an image of {self.height} x {self.width} pixels")
        if self.backbone not in BACKBONES:
            raise ValueError(f"backbone: {self.backbone!r} is unknown; one of {', '.join(BACKBONES)}")
        if self.backbone == "dual" and self.causal:
            raise ValueError("causal: the dual backbone has no causal form")
        if self.pool not in POOLS:
            raise ValueError(f"pool: {self.pool!r} is unknown; one of {', '.join(POOLS)}")
        if self.backbone == "dual" and self.pool != "mean":
            raise ValueError("pool: the dual backbone has the mean alone")

    @property
    def vision_shape(self) -> VisionShape:
        return self.vision or towers(self.size)[0]

    @property
    def decoder_shape(self) -> DecoderShape:
        return self.decoder or towers(self.size)[1]

    @property
    def patches(self) -> int:
        """ViT patches an image: its tokens, as training tokens are counted."""
        return (self.height // self.patch) * (self.width // self.patch)

    def build(self, seed: Array | int) -> "Encoder | DualEncoder":
        from moon_jax.models.dual import DualEncoder

        kind = DualEncoder if self.backbone == "dual" else Encoder
        return kind(self, nnx.Rngs(jax.random.key(seed)))

    def parameters(self) -> int:
        """Exact number of parameters, without building them."""
        shapes = nnx.state(nnx.eval_shape(lambda: self.build(0)), nnx.Param)
        return sum(leaf.size for leaf in jax.tree.leaves(shapes))


class Encoder(nnx.Module):
    """ViT -> projector -> decoder blocks -> pool -> projection -> unit norm; or, from the same states, the next token."""

    def __init__(self, config: EncoderConfig, rngs: nnx.Rngs):
        see, read, key = config.vision_shape, config.decoder_shape, rngs.params()
        self.config = config
        self.patch_embed = linear(3 * config.patch**2, see.width, rngs, bias=True)
        self.position = positions(config.patches, see.width, key)
        self.vision = Stack(lambda r: VisionBlock(see, r), see.depth, rngs)
        self.vision_norm = NORMS[see.norm](see.width)
        self.projector_up = linear(see.width, 2 * read.width, rngs, bias=True)
        self.projector_down = linear(2 * read.width, read.width, rngs, bias=True)
        self.tokens = token_table(config.vocabulary, read.width, rngs)
        self.decoder = Stack(lambda r: DecoderBlock(read, r), read.depth, rngs)
        self.final_norm = RMSNorm(read.width)
        self.head = linear(read.width, config.embedding, rngs)

    def __call__(self, images_BxHxWx3: Array | None, text_BxT: Array | None, *, remat: str = "none") -> Array:
        """Encode a batch.

        Args:
            images_BxHxWx3: uint8 or float pixels in 0..255, or None for a text-only form.
            text_BxT: int token ids, 0 = padding at the end, or None for an image-only form.
            remat: what the backward pass recomputes in each block: "none", "dots" (all but products) or "full".

        Returns:
            float32 unit vectors, B x D.
        """
        self = gathered(self)
        x_BxSxW, lengths_B = self.states(images_BxHxWx3, text_BxT, causal=self.config.causal, remat=remat)
        return unit(self.head(pool(x_BxSxW, lengths_B, self.config.pool)))

    def states(
        self, images_BxHxWx3: Array | None, text_BxT: Array | None, *, causal: bool, remat: str = "none"
    ) -> tuple[Array, Array]:
        """(the last layer's normed states, B x S x W, image tokens first and padding last; int32 B, how many are real)."""
        seen_BxPxW = None if images_BxHxWx3 is None else self.see(images_BxHxWx3, remat)
        return self.join(seen_BxPxW, text_BxT, causal=causal, remat=remat)

    def join(
        self, seen_BxPxW: Array | None, text_BxT: Array | None, *, causal: bool, remat: str = "none"
    ) -> tuple[Array, Array]:
        """`states` of photos that were seen already (`see`)."""
        parts, lengths = [], []
        if seen_BxPxW is not None:
            parts.append(seen_BxPxW)
            lengths.append(jnp.full((seen_BxPxW.shape[0],), self.config.patches, jnp.int32))
        if text_BxT is not None:
            parts.append(self.tokens(text_BxT).astype(self.config.dtype))
            lengths.append(jnp.sum(text_BxT != 0, axis=1, dtype=jnp.int32))
        x_BxSxW = jnp.concatenate(parts, axis=1)
        # An empty title still has a first (padding) position to pool.
        lengths_B = jnp.maximum(jnp.sum(jnp.stack(lengths), axis=0), 1)
        return self.final_norm(self.decoder(x_BxSxW, lengths_B, causal=causal, remat=remat)), lengths_B

    def next_tokens(self, x_BxSxW: Array) -> Array:
        """float32 logits of the token after each state, B x S x V: products with the token embeddings (tied)."""
        read = self.config.decoder_shape
        logits = jnp.einsum(
            "bsw,vw->bsv", x_BxSxW, self.tokens.embedding[...].astype(x_BxSxW.dtype), preferred_element_type=jnp.float32
        )
        return logits * (read.logit_scale or 8 / read.width)

    def see(self, images_BxHxWx3: Array, remat: str = "none") -> Array:
        """Pixels to projected patch tokens, B x P x W."""
        x_BxPxW = self.vision_states(images_BxHxWx3, remat)
        return self.projector_down(jax.nn.gelu(self.projector_up(x_BxPxW)))

    def vision_states(self, images_BxHxWx3: Array, remat: str = "none") -> Array:
        """Pixels to the vision tower's normed states, B x P x its width."""
        patches_BxPxC = patches_of(images_BxHxWx3, self.config.patch, self.config.dtype)
        x_BxPxW = self.patch_embed(patches_BxPxC) + self.position[...].astype(self.config.dtype)[None]
        return self.vision_norm(self.vision(x_BxPxW, remat=remat))
