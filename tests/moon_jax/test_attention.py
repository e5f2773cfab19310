"""Attention as it runs on CPUs is attention."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moon_jax.models.attention import attend


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("lengths", [None, [1, 4, 7]])
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 2), (3, 1)])
def test_value_and_gradients_are_those_of_jax(
    causal: bool, lengths: list[int] | None, heads: int, kv_heads: int
) -> None:
    keys = jax.random.split(jax.random.key(0), 4)
    q, k, v, ct = (
        jax.random.normal(key, (3, 7, count, 8))
        for key, count in zip(keys, (heads, kv_heads, kv_heads, heads), strict=True)
    )
    lengths_B = None if lengths is None else jnp.array(lengths)
    ours, gradients = jax.vjp(lambda q, k, v: attend(q, k, v, lengths_B=lengths_B, causal=causal), q, k, v)
    theirs, their_gradients = jax.vjp(
        lambda q, k, v: jax.nn.dot_product_attention(q, k, v, is_causal=causal, key_value_seq_lengths=lengths_B),
        q,
        k,
        v,
    )
    np.testing.assert_allclose(ours, theirs, atol=2e-6)
    for one, other in zip(gradients(ct), their_gradients(ct), strict=True):
        np.testing.assert_allclose(one, other, atol=5e-6)


def test_logits_and_softmax_are_float32() -> None:
    q = jax.ShapeDtypeStruct((1, 4, 2, 8), jnp.bfloat16)
    traced = str(jax.make_jaxpr(attend)(q, q, q))
    assert "exp" in traced
    assert all("bf16" not in line for line in traced.splitlines() if " exp " in line or "reduce_sum" in line)
