"""Transformer blocks: one with full attention (ViT, as in SigLIP 2; text towers), one in the style of Qwen3.

Precision: parameters are float32, products run in the dtype of their input (bfloat16 on accelerators), and norms,
rotations, softmax, pooling and the head are float32.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from moon_jax.models.attention import attend
from moon_jax.models.shapes import DecoderShape, VisionShape
from moon_jax.sharding import gathered, split_rows

Array = jax.Array


@jax.custom_vjp
def product(x: Array, kernel: Array) -> Array:
    """x @ kernel, the float32 kernel cast to the dtype of x; its gradient is summed in float32 and stays so.

    The gradient is written out for the sake of CPUs: XLA copies the left operand of x^T ct to transpose it, which for a
    wide one takes as long as the product, and JAX's own rule puts either side there. Here it is the narrower.
    """
    return x @ kernel.astype(x.dtype)


def _product(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return product(x, kernel), (x, kernel)


def _product_gradients(kept: tuple[Array, Array], ct: Array) -> tuple[Array, Array]:
    x, kernel = kept
    towards_x = jax.lax.dot_general(ct, kernel.astype(ct.dtype), (((ct.ndim - 1,), (1,)), ((), ())))
    rows = tuple(range(x.ndim - 1))
    over_rows = functools.partial(
        jax.lax.dot_general, dimension_numbers=((rows, rows), ((), ())), preferred_element_type=kernel.dtype
    )
    if x.shape[-1] <= ct.shape[-1]:
        return towards_x, over_rows(x, ct)
    # without the barrier XLA folds the transpose into the product, and copies the wide side again
    return towards_x, jax.lax.optimization_barrier(over_rows(ct, x)).T


product.defvjp(_product, _product_gradients)


def linear(n_in: int, n_out: int, rngs: nnx.Rngs, *, bias: bool = False) -> "Linear":
    return Linear(n_in, n_out, use_bias=bias, rngs=rngs, param_dtype=jnp.float32)


class Linear(nnx.Linear):
    """A dense layer, LeCun-normal; float32 parameters that are cast to the input's dtype when used.

    Flax's own would promote a bfloat16 input to its float32 kernel.
    """

    def __call__(self, x: Array) -> Array:  # type: ignore[override]
        # named for `remat`: jax's policies do not look into a function with its own gradient
        out = checkpoint_name(product(x, self.kernel[...]), "product")
        if self.bias is None:
            return out
        return out + self.bias[...].astype(x.dtype).reshape((1,) * (x.ndim - 1) + (-1,))


def positions(length: int, width: int, key: Array) -> nnx.Param:
    """Learned positions, length x width.

    As large as the patches' own signal: a mean pool forgets where things are, so position must count from the start.
    """
    return nnx.Param(0.3 * jax.random.normal(key, (length, width), jnp.float32))


def token_table(vocabulary: int, width: int, rngs: nnx.Rngs) -> nnx.Embed:
    init = nnx.initializers.normal(1.0)
    return nnx.Embed(vocabulary, width, rngs=rngs, embedding_init=init, param_dtype=jnp.float32)


class RMSNorm(nnx.Module):
    """Root-mean-square norm, computed in float32 (Zhang & Sennrich 2019)."""

    def __init__(self, width: int):
        self.scale = nnx.Param(jnp.ones((width,), jnp.float32))

    def __call__(self, x: Array) -> Array:
        x32 = x.astype(jnp.float32)
        rms = jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + 1e-6)
        scale = self.scale[...].reshape((1,) * (x.ndim - 1) + (-1,))
        return (x32 * rms * scale).astype(x.dtype)


def rotate(x_BxSxHxK: Array, base: float) -> Array:
    """Rotary position embedding over the sequence axis (Su et al. 2021), half-split form as in Qwen3."""
    length, half = x_BxSxHxK.shape[1], x_BxSxHxK.shape[-1] // 2
    inverse = base ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angle_SxK = jnp.arange(length, dtype=jnp.float32)[:, None] * inverse[None, :]
    cos, sin = jnp.cos(angle_SxK)[None, :, None, :], jnp.sin(angle_SxK)[None, :, None, :]
    a, b = jnp.split(x_BxSxHxK.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x_BxSxHxK.dtype)


class LayerNorm(nnx.Module):
    """Layer norm, computed in float32 (Ba et al. 2016)."""

    def __init__(self, width: int):
        self.scale = nnx.Param(jnp.ones((width,), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((width,), jnp.float32))

    def __call__(self, x: Array) -> Array:
        x32 = x.astype(jnp.float32)
        centred = x32 - jnp.mean(x32, axis=-1, keepdims=True)
        deviation = jax.lax.rsqrt(jnp.mean(centred * centred, axis=-1, keepdims=True) + 1e-6)
        scale, bias = (param[...].reshape((1,) * (x.ndim - 1) + (-1,)) for param in (self.scale, self.bias))
        return (centred * deviation * scale + bias).astype(x.dtype)


NORMS: dict[str, type[RMSNorm] | type[LayerNorm]] = {"rms": RMSNorm, "layer": LayerNorm}


class VisionBlock(nnx.Module):
    """Pre-norm transformer block with full attention and a GELU MLP (ViT, as in SigLIP 2).

    With `lengths_B` only the first so many positions of a row are attended to: the block of a text tower.
    """

    def __init__(self, shape: VisionShape, rngs: nnx.Rngs):
        width, bias, norm = shape.width, shape.norm == "layer", NORMS[shape.norm]
        self.heads = shape.heads
        self.norm1, self.norm2 = norm(width), norm(width)
        self.qkv = linear(width, 3 * width, rngs, bias=bias)
        self.out = linear(width, width, rngs, bias=bias)
        self.up, self.down = linear(width, shape.mlp, rngs, bias=bias), linear(shape.mlp, width, rngs, bias=bias)

    def __call__(self, x_BxPxW: Array, lengths_B: Array | None = None) -> Array:
        batch, patches, width = x_BxPxW.shape
        q, k, v = (
            part.reshape(batch, patches, self.heads, width // self.heads)
            for part in jnp.split(self.qkv(self.norm1(x_BxPxW)), 3, axis=-1)
        )
        attended = attend(q, k, v, lengths_B=lengths_B)
        x_BxPxW = x_BxPxW + self.out(attended.reshape(batch, patches, width))
        return x_BxPxW + self.down(jax.nn.gelu(self.up(self.norm2(x_BxPxW))))


class DecoderBlock(nnx.Module):
    """Qwen3-style block: RMSNorm, RoPE, grouped-query attention with QK-norm, SwiGLU; causal or bidirectional."""

    def __init__(self, shape: DecoderShape, rngs: nnx.Rngs):
        width, inner = shape.width, shape.heads * shape.head
        self.shape = shape
        self.norm1, self.norm2 = RMSNorm(width), RMSNorm(width)
        self.norm_q, self.norm_k = RMSNorm(shape.head), RMSNorm(shape.head)
        self.q = linear(width, inner, rngs)
        self.kv = linear(width, 2 * shape.kv_heads * shape.head, rngs)
        self.out = linear(inner, width, rngs)
        self.gate_up, self.down = linear(width, 2 * shape.mlp, rngs), linear(shape.mlp, width, rngs)

    def __call__(self, x_BxSxW: Array, lengths_B: Array, *, causal: bool) -> Array:
        batch, length, _ = x_BxSxW.shape
        shape, normed = self.shape, self.norm1(x_BxSxW)
        q = self.norm_q(self.q(normed).reshape(batch, length, shape.heads, shape.head))
        kv = self.kv(normed).reshape(batch, length, 2, shape.kv_heads, shape.head)
        q, k = (rotate(part, shape.rope_base) for part in (q, self.norm_k(kv[:, :, 0])))
        attended = attend(q, k, kv[:, :, 1], lengths_B=lengths_B, causal=causal)
        x_BxSxW = x_BxSxW + self.out(attended.reshape(batch, length, shape.heads * shape.head))
        gate, up = jnp.split(self.gate_up(self.norm2(x_BxSxW)), 2, axis=-1)
        return x_BxSxW + self.down(jax.nn.silu(gate) * up)


SHALLOW = 8
# What the backward pass finds stored: everything, the products with weights, or a block's input alone.
POLICIES = {"dots": jax.checkpoint_policies.save_only_these_names("product"), "full": None}


class Stack(nnx.Module):
    """Equal blocks with their parameters stacked on a leading layer axis and applied by one scan: compiled once.

    Shallow stacks are unrolled: XLA:CPU runs the gradient of a two-layer scan 1.6 times slower than its two layers, and
    of six layers 1.1 times slower, with 1.4 times the memory.
    """

    def __init__(self, make: Callable[[nnx.Rngs], nnx.Module], depth: int, rngs: nnx.Rngs):
        self.unroll = depth if depth <= SHALLOW else 1
        self.blocks = nnx.vmap(make)(rngs.split(depth))

    def __call__(self, x: Array, *args: Array, remat: str = "none", **kwargs: bool) -> Array:
        """Apply all blocks; `remat` says what each recomputes in the backward pass ("none", "dots", "full")."""
        graph, params = nnx.split(self.blocks)

        def layer(x: Array, layer_params: nnx.State) -> tuple[Array, None]:
            block = nnx.merge(graph, gathered(layer_params))
            return split_rows(block(x, *args, **kwargs)), None

        if remat == "none":
            return jax.lax.scan(layer, split_rows(x), params, unroll=self.unroll)[0]
        # Never unrolled: only across the loop can the compiler not find recomputed work to be the old one, and keep that.
        layer = jax.checkpoint(layer, policy=POLICIES[remat], prevent_cse=False)
        return jax.lax.scan(layer, split_rows(x), params)[0]


def unit(vectors_BxD: Array) -> Array:
    """Vectors at length one; a zero vector stays zero."""
    return vectors_BxD * jax.lax.rsqrt(jnp.sum(vectors_BxD**2, axis=-1, keepdims=True) + 1e-12)


def pool(x_BxSxW: Array, lengths_B: Array, how: str = "mean") -> Array:
    """float32 mean over the first `lengths_B` positions, or with "last" the state of the last of them, B x W."""
    if how == "last":
        return jnp.take_along_axis(x_BxSxW, lengths_B[:, None, None] - 1, axis=1)[:, 0].astype(jnp.float32)
    real_BxSx1 = (jnp.arange(x_BxSxW.shape[1])[None, :] < lengths_B[:, None])[:, :, None]
    return jnp.sum(x_BxSxW * real_BxSx1, axis=1, dtype=jnp.float32) / lengths_B[:, None]


def patches_of(images_BxHxWx3: Array, patch: int, dtype: str) -> Array:
    """Pixels in 0..255 to flat patches in -1..1, row by row, B x P x 3 patch^2."""
    batch, height, width, _ = images_BxHxWx3.shape
    # scaled in float32: bfloat16 would round pixels off
    scaled = (images_BxHxWx3.astype(jnp.float32) / 127.5 - 1).astype(dtype)
    patches = scaled.reshape(batch, height // patch, patch, width // patch, patch, 3)
    return patches.transpose(0, 1, 3, 2, 4, 5).reshape(batch, -1, 3 * patch * patch)
