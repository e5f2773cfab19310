"""The MOON encoder: one model that turns text, an image, or both into a unit vector.

MOON (arXiv 2511.11305), Figs 1 and 3: vision encoder -> projector -> LLM with the text through the tokenizer; the
representation is the mean pool of the last layer's states, with attention turned bidirectional in post-training.
"""

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from flax import nnx

from moon_jax.models.layers import (
    HEAD_DIM,
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
from moon_jax.sharding import gathered

if TYPE_CHECKING:
    from moon_jax.models.dual import DualEncoder

Array = jax.Array

# One rule: width grows, depth = width / 32 shared evenly by the two towers, heads = width / 32.
WIDTHS = {"nano": 64, "micro": 128, "tiny": 256, "small": 384, "base": 768, "large": 1024}
BACKBONES = ("generative", "dual")
_EXPLICIT = re.compile(r"([1-9]\d*)x([1-9]\d*)")


@dataclass(frozen=True)
class EncoderConfig:
    """Shape of an encoder.

    Attributes:
        size: a rung of the ladder (`WIDTHS`), or width x blocks of each tower as in "384x6" (width a multiple of 32).
        height, width, patch: of images, in pixels.
        vocabulary: token ids, 0 is padding.
        embedding: D, width of the unit vectors.
        causal: the generative backbone's attention.
        dtype: of the products; parameters stay float32.
        backbone: "generative" (ViT -> projector -> LLM) or "dual" (two towers, as CLIP).
        text_length: longest text; read by "dual" alone, whose positions are learned.
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

    def __post_init__(self) -> None:
        explicit = _EXPLICIT.fullmatch(self.size)
        if self.size not in WIDTHS and not explicit:
            raise ValueError(f"size: unknown size {self.size!r}; one of {', '.join(WIDTHS)}, or as in 384x6")
        if self.hidden % HEAD_DIM:
            raise ValueError(f"size: a width of {self.hidden} is no multiple of {HEAD_DIM}, the width of a head")
        if self.height % self.patch or self.width % self.patch:
            raise ValueError(f"patch: {self.patch} does not divide an image of {self.height} x {self.width} pixels")
        if self.backbone not in BACKBONES:
            raise ValueError(f"backbone: {self.backbone!r} is unknown; one of {', '.join(BACKBONES)}")
        if self.backbone == "dual" and self.causal:
            raise ValueError("causal: the dual backbone has no causal form")

    @property
    def hidden(self) -> int:
        return WIDTHS[self.size] if self.size in WIDTHS else int(self.size.partition("x")[0])

    @property
    def depth(self) -> int:
        """Blocks in each of the two towers."""
        return max(2, self.hidden // HEAD_DIM // 2) if self.size in WIDTHS else int(self.size.partition("x")[2])

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
    """ViT -> projector -> decoder blocks -> masked mean pool -> projection -> unit norm."""

    def __init__(self, config: EncoderConfig, rngs: nnx.Rngs):
        hidden, key = config.hidden, rngs.params()
        self.config = config
        self.patch_embed = linear(3 * config.patch**2, hidden, rngs, bias=True)
        self.position = positions(config.patches, hidden, key)
        self.vision = Stack(lambda r: VisionBlock(hidden, r), config.depth, rngs)
        self.vision_norm = RMSNorm(hidden)
        self.projector_up = linear(hidden, 2 * hidden, rngs, bias=True)
        self.projector_down = linear(2 * hidden, hidden, rngs, bias=True)
        self.tokens = token_table(config.vocabulary, hidden, rngs)
        self.decoder = Stack(lambda r: DecoderBlock(hidden, r), config.depth, rngs)
        self.final_norm = RMSNorm(hidden)
        self.head = linear(hidden, config.embedding, rngs)

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
        parts, lengths = [], []
        if images_BxHxWx3 is not None:
            parts.append(self.see(images_BxHxWx3, remat))
            lengths.append(jnp.full((images_BxHxWx3.shape[0],), self.config.patches, jnp.int32))
        if text_BxT is not None:
            parts.append(self.tokens(text_BxT).astype(self.config.dtype))
            lengths.append(jnp.sum(text_BxT != 0, axis=1, dtype=jnp.int32))
        x_BxSxW = jnp.concatenate(parts, axis=1)
        # An empty title still has a first (padding) position to pool.
        lengths_B = jnp.maximum(jnp.sum(jnp.stack(lengths), axis=0), 1)
        x_BxSxW = self.final_norm(self.decoder(x_BxSxW, lengths_B, causal=self.config.causal, remat=remat))
        # Image tokens come first and padding last, so "real" is simply "before the length".
        return unit(self.head(pool(x_BxSxW, lengths_B)))

    def see(self, images_BxHxWx3: Array, remat: str) -> Array:
        """Pixels to projected patch tokens, B x P x W."""
        patches_BxPxC = patches_of(images_BxHxWx3, self.config.patch, self.config.dtype)
        x_BxPxW = self.patch_embed(patches_BxPxC) + self.position[...].astype(self.config.dtype)[None]
        x_BxPxW = self.vision_norm(self.vision(x_BxPxW, remat=remat))
        return self.projector_down(jax.nn.gelu(self.projector_up(x_BxPxW)))
