"""The two kinds of transformer block: a SigLIP-2-style vision block and a Qwen3-style decoder block."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

Array = jax.Array
HEAD_DIM = 32


def linear(n_in: int, n_out: int, rngs: nnx.Rngs, *, bias: bool = False) -> nnx.Linear:
    """A dense layer, LeCun-normal; float32 parameters that are cast to the input's dtype when used."""
    return nnx.Linear(n_in, n_out, use_bias=bias, rngs=rngs, dtype=None, param_dtype=jnp.float32)


class RMSNorm(nnx.Module):
    """Root-mean-square norm, computed in float32 (Zhang & Sennrich 2019)."""

    def __init__(self, width: int):
        self.scale = nnx.Param(jnp.ones((width,), jnp.float32))

    def __call__(self, x: Array) -> Array:
        x32 = x.astype(jnp.float32)
        rms = jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + 1e-6)
        scale = self.scale[...].reshape((1,) * (x.ndim - 1) + (-1,))
        return (x32 * rms * scale).astype(x.dtype)


def rotate(x_BxSxHxK: Array, base: float = 10_000.0) -> Array:
    """Rotary position embedding over the sequence axis (Su et al. 2021), half-split form as in Qwen3."""
    length, half = x_BxSxHxK.shape[1], x_BxSxHxK.shape[-1] // 2
    inverse = base ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angle_SxK = jnp.arange(length, dtype=jnp.float32)[:, None] * inverse[None, :]
    cos, sin = jnp.cos(angle_SxK)[None, :, None, :], jnp.sin(angle_SxK)[None, :, None, :]
    a, b = jnp.split(x_BxSxHxK.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x_BxSxHxK.dtype)


class VisionBlock(nnx.Module):
    """Pre-norm transformer block with full attention and a GELU MLP (ViT, as in SigLIP 2)."""

    def __init__(self, width: int, rngs: nnx.Rngs):
        self.heads = width // HEAD_DIM
        self.norm1, self.norm2 = RMSNorm(width), RMSNorm(width)
        self.qkv, self.out = linear(width, 3 * width, rngs), linear(width, width, rngs)
        self.up, self.down = linear(width, 4 * width, rngs), linear(4 * width, width, rngs)

    def __call__(self, x_BxPxW: Array) -> Array:
        batch, patches, width = x_BxPxW.shape
        qkv = self.qkv(self.norm1(x_BxPxW)).reshape(batch, patches, 3, self.heads, HEAD_DIM)
        attended = jax.nn.dot_product_attention(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2])
        x_BxPxW = x_BxPxW + self.out(attended.reshape(batch, patches, width))
        return x_BxPxW + self.down(jax.nn.gelu(self.up(self.norm2(x_BxPxW))))


class DecoderBlock(nnx.Module):
    """Qwen3-style block: RMSNorm, RoPE, grouped-query attention with QK-norm, SwiGLU; causal or bidirectional."""

    def __init__(self, width: int, rngs: nnx.Rngs):
        self.heads = width // HEAD_DIM
        self.kv_heads = max(1, self.heads // 2)
        hidden = 8 * width // 3 // 8 * 8
        self.norm1, self.norm2 = RMSNorm(width), RMSNorm(width)
        self.norm_q, self.norm_k = RMSNorm(HEAD_DIM), RMSNorm(HEAD_DIM)
        self.q = linear(width, width, rngs)
        self.kv = linear(width, 2 * self.kv_heads * HEAD_DIM, rngs)
        self.out = linear(width, width, rngs)
        self.gate_up, self.down = linear(width, 2 * hidden, rngs), linear(hidden, width, rngs)

    def __call__(self, x_BxSxW: Array, lengths_B: Array, *, causal: bool) -> Array:
        batch, length, width = x_BxSxW.shape
        normed = self.norm1(x_BxSxW)
        q = rotate(self.norm_q(self.q(normed).reshape(batch, length, self.heads, HEAD_DIM)))
        kv = self.kv(normed).reshape(batch, length, 2, self.kv_heads, HEAD_DIM)
        # lengths instead of a mask: a shared mask breaks cuDNN attention under vmap
        attended = jax.nn.dot_product_attention(
            q, rotate(self.norm_k(kv[:, :, 0])), kv[:, :, 1], is_causal=causal, key_value_seq_lengths=lengths_B
        )
        x_BxSxW = x_BxSxW + self.out(attended.reshape(batch, length, width))
        gate, up = jnp.split(self.gate_up(self.norm2(x_BxSxW)), 2, axis=-1)
        return x_BxSxW + self.down(jax.nn.silu(gate) * up)


SHALLOW = 4


class Stack(nnx.Module):
    """Equal blocks with their parameters stacked on a leading layer axis and applied by one scan: compiled once.

    Shallow stacks are unrolled: XLA:CPU runs the gradient of a two-layer scan 1.6 times slower than its two layers.
    """

    def __init__(self, make: Callable[[nnx.Rngs], nnx.Module], depth: int, rngs: nnx.Rngs):
        self.unroll = depth if depth <= SHALLOW else 1
        self.blocks = nnx.vmap(make)(rngs.split(depth))

    def __call__(self, x: Array, *args: Array, **kwargs: bool) -> Array:
        graph, params = nnx.split(self.blocks)

        def layer(x: Array, layer_params: nnx.State) -> tuple[Array, None]:
            return nnx.merge(graph, layer_params)(x, *args, **kwargs), None

        return jax.lax.scan(layer, x, params, unroll=self.unroll)[0]
