"""InfoNCE against a float64 oracle that is written as the definition reads."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moon_jax.losses import candidate_mask, info_nce
from moon_jax.sharding import data_mesh, split_batch


def oracle(q, k, temperature, negatives, ids, symmetric):  # type: ignore[no-untyped-def]
    """Per query: -log of the positive's share among its own candidates, in loops and float64."""
    size, losses = len(q), []
    logits = q.astype(np.float64) @ k.astype(np.float64).T / temperature

    def allowed(row: int, column: int) -> bool:
        if row == column:
            return True
        return (column - row) % size <= negatives and ids[row] != ids[column]

    for row in range(size):
        candidates = [logits[row, c] for c in range(size) if allowed(row, c)]
        losses.append(np.log(np.exp(candidates).sum()) - logits[row, row])
    if not symmetric:
        return np.mean(losses)
    for column in range(size):
        candidates = [logits[r, column] for r in range(size) if allowed(r, column)]
        losses.append(np.log(np.exp(candidates).sum()) - logits[column, column])
    return np.mean(losses)


def unit(rng: np.random.Generator, size: int, width: int) -> np.ndarray:
    x = rng.normal(size=(size, width))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


@partial(jax.jit, static_argnames="symmetric")
@partial(jax.value_and_grad, argnums=(0, 1))
def compiled(q, k, negatives, ids, temperature, *, symmetric):  # type: ignore[no-untyped-def]
    return info_nce(q, k, num_negatives=negatives, positive_ids_B=ids, symmetric=symmetric, temperature=temperature)


# Few sizes: each is a compilation; everything else is traced.
@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([2, 9]), st.booleans(), st.floats(0.05, 1.0))
def test_value_and_gradients_equal_the_oracle(seed: int, size: int, symmetric: bool, temperature: float) -> None:
    rng = np.random.default_rng(seed)
    q, k = unit(rng, size, 6), unit(rng, size, 6)
    negatives, ids = int(rng.integers(1, size)), rng.integers(0, max(2, size // 2), size)
    value, gradients = compiled(q, k, jnp.int32(negatives), ids, jnp.float32(temperature), symmetric=symmetric)
    args = (temperature, negatives, ids, symmetric)
    assert float(value) == pytest.approx(oracle(q, k, *args), rel=1e-5, abs=1e-6)
    step = 1e-5
    for side, gradient in enumerate(gradients):
        direction = rng.normal(size=q.shape)
        moved = [[q.astype(np.float64), k.astype(np.float64)] for _ in range(2)]
        moved[0][side], moved[1][side] = moved[0][side] + step * direction, moved[1][side] - step * direction
        slope = (oracle(*moved[0], *args) - oracle(*moved[1], *args)) / (2 * step)
        assert np.sum(np.asarray(gradient) * direction) == pytest.approx(slope, rel=1e-3, abs=1e-4)


def test_every_query_and_every_key_meets_the_asked_number_of_candidates() -> None:
    for negatives in (1, 3, 7, 15):
        mask = np.asarray(candidate_mask(16, num_negatives=negatives, positive_ids_B=None))
        assert mask.diagonal().all()
        np.testing.assert_array_equal(mask.sum(axis=1) - 1, negatives)
        np.testing.assert_array_equal(mask.sum(axis=0) - 1, negatives)


def test_the_number_of_candidates_does_not_recompile() -> None:
    rng = np.random.default_rng(0)
    q, k = unit(rng, 8, 4), unit(rng, 8, 4)
    loss = jax.jit(lambda n: info_nce(q, k, num_negatives=n, temperature=0.1))
    values = [float(loss(jnp.int32(n))) for n in (1, 3, 7)]
    assert loss._cache_size() == 1
    assert values == sorted(values)  # more candidates make the same task harder


def test_products_of_one_batch_are_no_false_negatives() -> None:
    rng = np.random.default_rng(0)
    q, k = unit(rng, 6, 4), unit(rng, 6, 4)
    same = info_nce(q, k, positive_ids_B=jnp.zeros(6, jnp.int32), temperature=0.1)
    assert float(same) == pytest.approx(0.0, abs=1e-6)  # nothing is left to tell apart


def test_logits_are_float32_whatever_the_inputs_are() -> None:
    rng = np.random.default_rng(0)
    q, k = (jnp.asarray(unit(rng, 8, 16), jnp.bfloat16) for _ in range(2))
    traced = jax.make_jaxpr(lambda q, k: info_nce(q, k, temperature=0.05))(q, k)
    dots = [eqn for eqn in traced.jaxpr.eqns if eqn.primitive.name == "dot_general"]
    assert [eqn.outvars[0].aval.dtype for eqn in dots] == [jnp.float32]
    assert info_nce(q, k, temperature=0.05).dtype == jnp.float32


@pytest.mark.parametrize("devices", [1, 2, 8])
def test_value_and_gradient_do_not_depend_on_the_mesh(devices: int) -> None:
    rng = np.random.default_rng(0)
    q, k = unit(rng, 32, 16), unit(rng, 32, 16)
    ids = rng.integers(0, 20, 32)

    def loss(q, k, ids):  # type: ignore[no-untyped-def]
        return info_nce(q, k, num_negatives=9, positive_ids_B=ids, temperature=0.07)

    sharding = split_batch(data_mesh(devices))
    value, gradient = jax.jit(jax.value_and_grad(loss))(*jax.device_put((q, k, ids), sharding))
    expected = oracle(q, k, 0.07, 9, ids, True)
    assert float(value) == pytest.approx(expected, rel=1e-5)
    alone = jax.grad(loss)(q, k, ids)
    np.testing.assert_allclose(gradient, alone, atol=1e-6)
