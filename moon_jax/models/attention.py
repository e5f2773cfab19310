"""Attention over padded rows: `jax.nn.dot_product_attention`, and on CPUs the same with its gradient written out.

XLA:CPU runs a product with two batch axes (rows, heads) at a fraction of the speed of one with a single axis, and JAX's own
attention has two, forwards and backwards.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array
LOWEST = -1e30  # a masked logit: finite, for a difference of infinities is no number


def attend(
    q_BxSxHxK: Array, k_BxTxGxK: Array, v_BxTxGxK: Array, *, lengths_B: Array | None = None, causal: bool = False
) -> Array:
    """softmax(q k^T / sqrt(K)) v, B x S x H x K; logits and softmax in float32.

    Args:
        k_BxTxGxK, v_BxTxGxK: G heads that divide H: H / G neighbouring heads of queries share one (Ainslie et al. 2023).
        lengths_B: int32; keys from there on are not attended to. Each at least 1.
        causal: a query sees keys up to its own place.
    """
    if jax.default_backend() == "cpu":
        return _on_cpu(q_BxSxHxK, k_BxTxGxK, v_BxTxGxK, lengths_B, causal)
    # lengths instead of a mask: a shared mask breaks cuDNN attention under vmap
    return jax.nn.dot_product_attention(
        q_BxSxHxK, k_BxTxGxK, v_BxTxGxK, is_causal=causal, key_value_seq_lengths=lengths_B
    )


def _on_cpu(q_BxSxHxK: Array, k_BxTxGxK: Array, v_BxTxGxK: Array, lengths_B: Array | None, causal: bool) -> Array:
    batch, length, heads, width = q_BxSxHxK.shape
    shared = heads // k_BxTxGxK.shape[2]
    q_NxMxK = _rows_first(q_BxSxHxK.reshape(batch, length, -1, shared * width), shared)
    k_NxTxK, v_NxTxK = _rows_first(k_BxTxGxK), _rows_first(v_BxTxGxK)
    hidden_NxMxT = _hidden(lengths_B, causal, length, k_BxTxGxK.shape[1], shared, heads // shared)
    out_NxMxK = _attention(q_NxMxK, k_NxTxK, v_NxTxK, hidden_NxMxT)
    out = out_NxMxK.reshape(batch, heads // shared, length, shared * width)
    return out.transpose(0, 2, 1, 3).reshape(batch, length, heads, width)


def _rows_first(x_BxSxGxW: Array, shared: int = 1) -> Array:
    """B x S x G x (shared K) -> (B G) x (S shared) x K: one batch axis; heads that share keys are further queries of them."""
    batch, length, groups, width = x_BxSxGxW.shape
    return x_BxSxGxW.transpose(0, 2, 1, 3).reshape(batch * groups, length * shared, width // shared)


def _hidden(lengths_B: Array | None, causal: bool, queries: int, keys: int, shared: int, groups: int) -> Array | None:
    """bool, broadcastable to N x M x T: what is not attended to; None for nothing."""
    hidden = None
    if lengths_B is not None:
        beyond_BxT = jnp.arange(keys)[None, :] >= lengths_B[:, None]
        hidden = jnp.repeat(beyond_BxT, groups, axis=0)[:, None, :]
    if causal:
        later_MxT = jnp.asarray(np.arange(keys)[None, :] > np.repeat(np.arange(queries), shared)[:, None])
        hidden = later_MxT[None] if hidden is None else hidden | later_MxT[None]
    return hidden


@functools.partial(jax.custom_vjp)
def _attention(q_NxMxK: Array, k_NxTxK: Array, v_NxTxK: Array, hidden_NxMxT: Array | None) -> Array:
    return _forward(q_NxMxK, k_NxTxK, v_NxTxK, hidden_NxMxT)[0]


def _forward(q: Array, k: Array, v: Array, hidden: Array | None) -> tuple[Array, tuple[Any, ...]]:
    logits = _product(q, k, 2, 2).astype(jnp.float32) / math.sqrt(q.shape[-1])
    if hidden is not None:
        logits = jnp.where(hidden, LOWEST, logits)
    # the barriers keep XLA from folding element-wise work into the products, which then leave its fast path
    shares = jax.lax.optimization_barrier(jax.nn.softmax(logits, axis=-1).astype(q.dtype))
    return _product(shares, v, 2, 1), (q, k, v, shares)


def _backward(kept: tuple[Any, ...], ct: Array) -> tuple[Array, Array, Array, None]:
    q, k, v, shares = kept
    ct = jax.lax.optimization_barrier(ct)
    towards_v = _product(shares, ct, 1, 1)
    towards_shares = _product(ct, v, 2, 2).astype(jnp.float32)
    shares32 = shares.astype(jnp.float32)
    inner = jnp.sum(towards_shares * shares32, axis=-1, keepdims=True)
    towards_logits = shares32 * (towards_shares - inner) / math.sqrt(q.shape[-1])
    towards_logits = jax.lax.optimization_barrier(towards_logits.astype(q.dtype))
    return _product(towards_logits, k, 2, 1), _product(towards_logits, q, 1, 1), towards_v, None


_attention.defvjp(_forward, _backward)


def _product(a: Array, b: Array, along_a: int, along_b: int) -> Array:
    """Row by row of the leading axis, the sum over axis `along_a` of a and `along_b` of b."""
    return jax.lax.dot_general(a, b, (((along_a,), (along_b,)), ((0,), (0,))))
