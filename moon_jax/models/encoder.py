"""The MOON encoder: one model that turns text, an image, or both into a unit vector.

MOON (arXiv 2511.11305), Figs 1 and 3: vision encoder -> projector -> LLM with the text through the tokenizer; the
representation is the mean pool of the last layer's states, with attention turned bidirectional in post-training.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from moon_jax.models.layers import HEAD_DIM, DecoderBlock, RMSNorm, Stack, VisionBlock, linear

Array = jax.Array

# One rule: width grows, depth = width / 32 shared evenly by the ViT and the decoder, heads = width / 32.
WIDTHS = {"nano": 64, "micro": 128, "tiny": 256, "small": 384, "base": 768, "large": 1024}


@dataclass(frozen=True)
class EncoderConfig:
    """Shape of an encoder; `size` names a rung of the ladder, the rest comes from the data and the question."""

    size: str = "nano"
    height: int = 32
    width: int = 32
    patch: int = 8
    vocabulary: int = 1024
    embedding: int = 64
    causal: bool = False
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if self.size not in WIDTHS:
            raise ValueError(f"size: unknown size {self.size!r}; one of {', '.join(WIDTHS)}")
        if self.height % self.patch or self.width % self.patch:
            raise ValueError(f"patch: {self.patch} does not divide an image of {self.height} x {self.width} pixels")

    @property
    def hidden(self) -> int:
        return WIDTHS[self.size]

    @property
    def depth(self) -> int:
        """Blocks in each of the two towers."""
        return max(2, self.hidden // HEAD_DIM // 2)

    @property
    def patches(self) -> int:
        """ViT patches an image: its tokens, as training tokens are counted."""
        return (self.height // self.patch) * (self.width // self.patch)

    def build(self, seed: int) -> "Encoder":
        return Encoder(self, nnx.Rngs(jax.random.key(seed)))

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
        # As large as the patches' own signal: a mean pool forgets where things are, so position must count from the start.
        self.position = nnx.Param(0.3 * jax.random.normal(key, (config.patches, hidden), jnp.float32))
        self.vision = Stack(lambda r: VisionBlock(hidden, r), config.depth, rngs)
        self.vision_norm = RMSNorm(hidden)
        self.projector_up = linear(hidden, 2 * hidden, rngs, bias=True)
        self.projector_down = linear(2 * hidden, hidden, rngs, bias=True)
        self.tokens = nnx.Embed(
            config.vocabulary, hidden, rngs=rngs, embedding_init=nnx.initializers.normal(1.0), param_dtype=jnp.float32
        )
        self.decoder = Stack(lambda r: DecoderBlock(hidden, r), config.depth, rngs)
        self.final_norm = RMSNorm(hidden)
        self.head = linear(hidden, config.embedding, rngs)

    def __call__(self, images_BxHxWx3: Array | None, text_BxT: Array | None) -> Array:
        """Encode a batch.

        Args:
            images_BxHxWx3: uint8 or float pixels in 0..255, or None for a text-only form.
            text_BxT: int token ids, 0 = padding at the end, or None for an image-only form.

        Returns:
            float32 unit vectors, B x D.
        """
        dtype = jnp.dtype(self.config.dtype)
        parts, lengths = [], []
        if images_BxHxWx3 is not None:
            parts.append(self.see(images_BxHxWx3.astype(dtype)))
            lengths.append(jnp.full((images_BxHxWx3.shape[0],), self.config.patches, jnp.int32))
        if text_BxT is not None:
            parts.append(self.tokens(text_BxT).astype(dtype))
            lengths.append(jnp.sum(text_BxT != 0, axis=1, dtype=jnp.int32))
        x_BxSxW = jnp.concatenate(parts, axis=1)
        # An empty title still has a first (padding) position to pool.
        lengths_B = jnp.maximum(jnp.sum(jnp.stack(lengths), axis=0), 1)
        x_BxSxW = self.final_norm(self.decoder(x_BxSxW, lengths_B, causal=self.config.causal))
        # Image tokens come first and padding last, so "real" is simply "before the length".
        real_BxSx1 = (jnp.arange(x_BxSxW.shape[1])[None, :] < lengths_B[:, None])[:, :, None]
        pooled_BxW = jnp.sum(x_BxSxW * real_BxSx1, axis=1, dtype=jnp.float32) / lengths_B[:, None]
        vectors_BxD = self.head(pooled_BxW)
        return vectors_BxD * jax.lax.rsqrt(jnp.sum(vectors_BxD**2, axis=-1, keepdims=True) + 1e-12)

    def see(self, images_BxHxWx3: Array) -> Array:
        """Pixels to projected patch tokens, B x P x W."""
        batch, height, width, _ = images_BxHxWx3.shape
        p = self.config.patch
        patches = (images_BxHxWx3 / 127.5 - 1).reshape(batch, height // p, p, width // p, p, 3)
        patches_BxPxC = patches.transpose(0, 1, 3, 2, 4, 5).reshape(batch, self.config.patches, 3 * p * p)
        x_BxPxW = self.patch_embed(patches_BxPxC) + self.position[...].astype(patches_BxPxC.dtype)[None]
        x_BxPxW = self.vision_norm(self.vision(x_BxPxW))
        return self.projector_down(jax.nn.gelu(self.projector_up(x_BxPxW)))
