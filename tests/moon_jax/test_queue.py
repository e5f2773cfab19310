"""The queue: first in, first out, lane by lane, wherever its lanes lie."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moon_jax.engine import Engine
from moon_jax.losses.queue import contents, empty_queue, push, staleness
from moon_jax.sharding import batch_sharding, make_mesh, place_batch, replicated

BATCH, SLOTS, WIDTH = 8, 3, 4
pushed = jax.jit(push)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10), st.integers(0, 1000))
def test_it_holds_the_last_batches_and_their_age(pushes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    queue = empty_queue(BATCH, BATCH * SLOTS, WIDTH)
    given_batches = [(rng.normal(size=(BATCH, WIDTH)), rng.integers(-5, 5, BATCH)) for _ in range(pushes)]
    for step, (vectors, ids) in enumerate(given_batches):
        queue = pushed(queue, jnp.asarray(vectors, jnp.float32), jnp.asarray(ids), jnp.int32(step))
    vectors_QxD, ids_Q = (np.asarray(part) for part in contents(queue))
    held = given_batches[-SLOTS:]
    expected = {(int(i), *np.float32(v)) for vectors, ids in held for v, i in zip(vectors, ids, strict=True)}
    filled = np.abs(vectors_QxD).sum(axis=1) > 0
    assert {(int(i), *v) for v, i in zip(vectors_QxD[filled], ids_Q[filled], strict=True)} == expected
    assert int(queue["at"]) == pushes % SLOTS
    if pushes >= SLOTS:
        assert float(staleness(queue, jnp.int32(pushes))) == pytest.approx((SLOTS + 1) / 2)


def test_a_pushed_item_gets_no_gradient() -> None:
    def loss(vectors: jax.Array) -> jax.Array:
        queue = push(empty_queue(BATCH, BATCH, WIDTH), vectors, jnp.zeros(BATCH, jnp.int32), jnp.int32(0))
        return jnp.sum(contents(queue)[0] ** 2)

    assert not np.asarray(jax.grad(loss)(jnp.ones((BATCH, WIDTH)))).any()


@pytest.mark.parametrize("size", [0, 4, 12, -8])
def test_a_size_that_is_no_multiple_of_the_batch_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"queue: {size} must be a positive multiple of the batch of 8"):
        empty_queue(BATCH, size, WIDTH)


def test_every_device_writes_its_own_rows() -> None:
    """No collective in the compiled push, and the contents are those of one device."""
    mesh = make_mesh(Engine(data=2, fsdp=4), BATCH)
    queue = empty_queue(BATCH, BATCH * SLOTS, WIDTH)
    lanes = {name: batch_sharding(mesh) if name in ("vectors", "ids") else replicated(mesh) for name in queue}
    spread = jax.device_put(queue, lanes)
    vectors = place_batch(mesh, np.arange(32, dtype=np.float32).reshape(BATCH, WIDTH))
    ids, step = place_batch(mesh, np.arange(BATCH, dtype=np.int32)), jnp.int32(7)
    compiled = jax.jit(push, out_shardings=lanes).lower(spread, vectors, ids, step).compile()
    for collective in ("all-gather", "all-to-all", "all-reduce", "collective-permute"):
        assert collective not in compiled.as_text()
    for here, there in zip(
        jax.tree.leaves(compiled(spread, vectors, ids, step)),
        jax.tree.leaves(push(queue, vectors, ids, step)),
        strict=True,
    ):
        np.testing.assert_array_equal(here, there)


def test_it_keeps_the_dtype_that_it_was_made_with() -> None:
    queue = functools.reduce(
        lambda q, step: push(q, jnp.ones((BATCH, WIDTH)), jnp.zeros(BATCH, jnp.int32), jnp.int32(step)),
        range(2),
        empty_queue(BATCH, 2 * BATCH, WIDTH, jnp.bfloat16),
    )
    assert queue["vectors"].dtype == jnp.bfloat16
