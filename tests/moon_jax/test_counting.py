"""The realised number of negatives and the masked share, against counting place by place."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moon_jax.engine import Engine
from moon_jax.losses.counting import count_candidates
from moon_jax.sharding import batch_sharding, make_mesh

INT32 = np.iinfo(np.int32)


def by_hand(ids: np.ndarray, window: int, queue: np.ndarray, hard: np.ndarray) -> dict[str, float]:
    """As the definition reads: every query looks at every place."""
    distinct, masked = [], 0
    for query, own in enumerate(ids):
        places = [ids[(query + offset) % len(ids)] for offset in range(1, window + 1)] + [*queue, *hard[query]]
        distinct.append(len({int(each) for each in places} - {int(own)}))
        masked += sum(int(each == own) for each in places)
    places_of_all = len(ids) * (window + len(queue) + hard.shape[1])
    return {"candidates": float(np.mean(distinct)), "masked": masked / max(places_of_all, 1)}


@partial(jax.jit, static_argnames=("has_queue", "has_hard"))
def counted(ids, window, queue, hard, *, has_queue, has_hard):  # type: ignore[no-untyped-def]
    given_ids = {"queue_ids_Q": queue if has_queue else None, "hard_ids_BxH": hard if has_hard else None}
    return count_candidates(ids, window, **given_ids)


# Few shapes, for each is a compilation; ids and windows are drawn freely.
@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.sampled_from([(1, 3, 1), (5, 1, 2), (16, 7, 3)]),
    products=st.integers(1, 40),
    share=st.floats(0, 1),
    has_queue=st.booleans(),
    has_hard=st.booleans(),
)
def test_counts_equal_those_made_by_hand(
    seed: int, shape: tuple[int, int, int], products: int, share: float, has_queue: bool, has_hard: bool
) -> None:
    batch, queued, hards = shape
    rng = np.random.default_rng(seed)
    names = rng.integers(INT32.min, INT32.max, products, endpoint=True).astype(np.int32)
    names[: min(3, products)] = np.array([INT32.min, INT32.max, -1], np.int32)[:products]
    ids, queue, hard = (rng.choice(names, size) for size in (batch, queued, (batch, hards)))
    window = int(share * (batch - 1))
    got = counted(ids, jnp.int32(window), queue, hard, has_queue=has_queue, has_hard=has_hard)
    expected = by_hand(ids, window, queue if has_queue else queue[:0], hard if has_hard else hard[:, :0])
    assert {name: value.dtype for name, value in got.items()} == {"candidates": jnp.float32, "masked": jnp.float32}
    for name, value in expected.items():
        assert float(got[name]) == pytest.approx(value, rel=1e-6, abs=1e-7), name


def test_different_products_are_all_counted_and_the_same_product_never() -> None:
    other = count_candidates(
        jnp.arange(10), 9, queue_ids_Q=jnp.arange(100, 120), hard_ids_BxH=jnp.arange(200, 230).reshape(10, 3)
    )
    assert {name: float(value) for name, value in other.items()} == {"candidates": 9 + 20 + 3, "masked": 0.0}
    same = count_candidates(
        jnp.zeros(10, jnp.int32),
        9,
        queue_ids_Q=jnp.zeros(20, jnp.int32),
        hard_ids_BxH=jnp.zeros((10, 3), jnp.int32),
    )
    assert {name: float(value) for name, value in same.items()} == {"candidates": 0.0, "masked": 1.0}


def test_a_window_beyond_the_batch_is_the_whole_batch_as_in_the_losses() -> None:
    ids = jnp.array([3, 1, 3, 2])
    beyond, whole = count_candidates(ids, 99), count_candidates(ids, 3)
    assert {name: float(value) for name, value in beyond.items()} == {
        name: float(value) for name, value in whole.items()
    }


def test_one_compilation_serves_every_window_and_a_batch_split_over_devices() -> None:
    rng = np.random.default_rng(0)
    ids, queue, hard = (rng.integers(0, 30, size).astype(np.int32) for size in (64, 24, (64, 2)))
    split = batch_sharding(make_mesh(Engine(data=8), 8))
    count = jax.jit(
        lambda ids, window, queue, hard: count_candidates(ids, window, queue_ids_Q=queue, hard_ids_BxH=hard)
    )
    for window in (0, 5, 63):
        got = count(*jax.device_put((ids,), split), jnp.int32(window), *jax.device_put((queue, hard), split))
        for name, value in by_hand(ids, window, queue, hard).items():
            assert float(got[name]) == pytest.approx(value, rel=1e-6), (name, window)
    assert count._cache_size() == 1


def test_a_quarter_million_of_pairs_is_counted_exactly_in_linear_memory() -> None:
    size, copies = 2**18, 4  # every product at distances of size / copies, so the answer is known
    ids = jnp.arange(size, dtype=jnp.int32) % (size // copies)
    hard = jnp.stack([ids, ids + size], axis=1)
    count = jax.jit(
        lambda ids, window, queue, hard: count_candidates(ids, window, queue_ids_Q=queue, hard_ids_BxH=hard)
    )
    compiled = count.lower(ids, jnp.int32(0), ids + size, hard).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 200 * size
    got = compiled(ids, jnp.int32(size - 1), ids + size, hard)
    assert float(got["candidates"]) == size // copies - 1 + size // copies  # the second hard one is in the queue
    assert float(got["masked"]) == pytest.approx((copies - 1 + 1) / (size - 1 + size + 2), rel=1e-6)
