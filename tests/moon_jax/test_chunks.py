"""A walk over the rows of a batch gives what the whole batch gives, on any mesh, and gradients meet once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec

from moon_jax.engine import Engine
from moon_jax.models.chunks import by_rows, rows_at_once
from moon_jax.sharding import make_mesh, place_batch

BATCH, LENGTH, WIDTH, FEATURES, ITEMS = 16, 6, 4, 5, 32


def scored(shared: dict[str, jax.Array], rows_RxL: jax.Array, states_RxLxW: jax.Array) -> jax.Array:
    return jnp.tanh((states_RxLxW + shared["table"][rows_RxL]) @ shared["kernel"]).sum(axis=1)


def arrays() -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    shared = {"table": rng.normal(size=(ITEMS, WIDTH)), "kernel": rng.normal(size=(WIDTH, FEATURES))}
    rows, states = rng.integers(0, ITEMS, (BATCH, LENGTH)), rng.normal(size=(BATCH, LENGTH, WIDTH))
    return jax.tree.map(np.float32, shared), rows.astype(np.int32), states.astype(np.float32)


@pytest.mark.parametrize(
    "engine", [Engine(), Engine(data=2), Engine(data=2, fsdp=2, model=2), Engine(data=1, fsdp=4)], ids=str
)
@pytest.mark.parametrize("places", [1, 12, 1000])
def test_values_and_gradients_are_those_of_the_whole_batch(engine: Engine, places: int) -> None:
    shared, rows, states = arrays()
    mesh = make_mesh(engine, BATCH)
    split = NamedSharding(mesh, PartitionSpec(("model", "fsdp")))
    placed = {"table": jax.device_put(shared["table"], split), "kernel": shared["kernel"]}

    def loss(shared: dict[str, jax.Array], rows: jax.Array, states: jax.Array, walk: bool) -> jax.Array:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            seen = by_rows(scored, shared, rows, states, places=places) if walk else scored(shared, rows, states)
        return jnp.sum(seen**2)

    both = jax.jit(jax.value_and_grad(loss, argnums=(0, 2)), static_argnums=3)
    walked = both(placed, *place_batch(mesh, (rows, states)), True)
    whole = both(shared, rows, states, False)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-4), walked, whole)


def test_devices_meet_once_and_not_at_each_step_of_the_walk() -> None:
    shared, rows, states = arrays()
    mesh = make_mesh(Engine(data=2), BATCH)

    def loss(shared: dict[str, jax.Array], rows: jax.Array, states: jax.Array) -> jax.Array:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return jnp.sum(by_rows(scored, shared, rows, states, places=LENGTH) ** 2)

    compiled = jax.jit(jax.grad(loss)).lower(shared, *place_batch(mesh, (rows, states))).compile().as_text()
    assert compiled is not None
    computations = compiled.split("\n\n")
    meeting = [text for text in computations if " all-reduce(" in text]
    assert meeting
    assert all(text.lstrip().startswith("ENTRY") for text in meeting)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 512), st.integers(1, 4096), st.integers(1, 10_000))
def test_rows_at_once_divide_the_batch_and_keep_within_the_places(batch: int, length: int, places: int) -> None:
    rows = rows_at_once(batch, length, places)
    assert batch % rows == 0
    assert rows * length <= places or rows == 1
