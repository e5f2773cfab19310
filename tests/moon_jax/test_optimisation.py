"""Schedules end at zero with their budget and branches share their trunk; decay knows its parameters; averages."""

import functools
from typing import Any

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from hypothesis import given, settings

from moon_jax.models.behaviour import Shape
from moon_jax.models.ctr import CtrConfig
from moon_jax.models.encoder import EncoderConfig
from moon_jax.optimisation import branch_point, decayed, descend, learning_rate, optimiser

ENCODER = EncoderConfig(height=16, width=16, patch=8, vocabulary=20, embedding=8)
CTR = CtrConfig(10, 2, ("attention", "simtier"), Shape(content=4))


LONGEST = 5_000  # steps: one shape, one compilation


@functools.partial(jax.jit, static_argnames="schedule")
def all_rates(steps: jax.Array, traced: dict[str, jax.Array], schedule: str) -> jax.Array:
    at = lambda step: learning_rate(step, steps, jnp.float32(3), schedule=schedule, **traced)  # noqa: E731
    return jax.vmap(at)(jnp.arange(LONGEST))


def rates(steps: int, *, first: int | None = None, schedule: str = "cosine", **traced: float) -> np.ndarray:
    """Rates of the first steps (the whole budget) with a peak of 3."""
    found = all_rates(jnp.int32(steps), {name: jnp.float32(value) for name, value in traced.items()}, schedule)
    return np.asarray(found)[: first or steps]


@pytest.mark.parametrize("schedule", ["cosine", "wsd"])
def test_a_rate_rises_to_its_peak_and_reaches_zero_with_the_budget(schedule: str) -> None:
    found = rates(200, schedule=schedule)
    np.testing.assert_allclose(found[:20], 3 * np.arange(1, 21) / 20, rtol=1e-6)
    assert found.max() == pytest.approx(3.0)
    assert (np.diff(found[19:]) <= 0).all()
    assert (found[19:-1] > 0).all()
    assert found[-1] == 0


def test_a_cosine_is_a_cosine() -> None:
    x = np.arange(1, 181) / 180
    np.testing.assert_allclose(rates(200)[20:], 3 * (1 + np.cos(np.pi * x)) / 2, atol=1e-6)


def test_wsd_is_flat_and_falls_as_one_minus_a_square_root() -> None:
    found = rates(200, schedule="wsd")
    assert (found[19:160] == 3).all()
    np.testing.assert_allclose(found[160:], 3 * (1 - np.sqrt(np.arange(1, 41) / 40)), atol=1e-6)
    assert branch_point(200) == 160


@settings(max_examples=40, deadline=None)
@given(
    steps=st.integers(1, LONGEST),
    trunk=st.integers(1, LONGEST),
    warmup=st.integers(1, 50),
    decay=st.sampled_from([0.05, 0.1, 0.2, 0.3, 1 / 3, 0.7]),
)
def test_a_branch_is_its_trunk_until_it_leaves_and_falls_from_there(
    steps: int, trunk: int, warmup: int, decay: float
) -> None:
    """Bit by bit, whatever budget the trunk itself was planned for; a checkpoint of `branch_point` steps is shared."""
    leaves = branch_point(steps, decay)
    branch = rates(steps, schedule="wsd", warmup=warmup, decay=decay)
    shared = rates(trunk, first=steps, schedule="trunk", warmup=warmup)
    assert 0 <= leaves < steps
    assert abs((steps - leaves) - max(1, decay * steps)) <= 0.51
    assert branch[:leaves].tobytes() == shared[:leaves].tobytes()
    assert branch[leaves] < shared[leaves]
    assert branch[-1] == 0


@given(steps=st.integers(1, 30), schedule=st.sampled_from(["cosine", "wsd"]), warmup=st.sampled_from([0.0, 0.1, 0.5]))
@settings(max_examples=25, deadline=None)
def test_the_smallest_budgets_end_at_zero_too(steps: int, schedule: str, warmup: float) -> None:
    found = rates(steps, schedule=schedule, warmup=warmup)
    assert np.isfinite(found).all()
    assert (found >= 0).all()
    assert found[-1] == 0
    assert found.max() <= 3


def test_a_warm_up_is_a_share_below_one_and_a_number_of_steps_from_one() -> None:
    for schedule in ("cosine", "wsd", "trunk"):
        np.testing.assert_array_equal(
            rates(80, schedule=schedule, warmup=0.25), rates(80, schedule=schedule, warmup=20)
        )
    assert rates(80, schedule="trunk", warmup=1)[0] == 3


def named(tree: Any) -> dict[str, Any]:
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


@pytest.mark.parametrize("config", [ENCODER, CTR], ids=["encoder", "ctr"])
@pytest.mark.parametrize("plain", [False, True])
def test_kernels_and_embeddings_decay_and_nothing_else(config: Any, plain: bool) -> None:
    """In an nnx.State as in nested dicts; scales that are stacked by layer have two axes and still do not."""
    params = nnx.split(nnx.eval_shape(lambda: config.build(0)))[1]
    tree = {
        "encoder": nnx.to_pure_dict(params) if plain else params,
        "log_scale": jax.ShapeDtypeStruct((), jnp.float32),
    }
    told = named(decayed(tree))
    assert set(told) == set(named(tree))
    for name, shape in named(tree).items():
        leaf = name.removesuffix("/value").split("/")[-1]
        assert told[name] == (leaf in ("kernel", "embedding")), name
        assert told[name] <= (len(shape.shape) > 1)
    stacked = [name for name, shape in named(tree).items() if "scale" in name and len(shape.shape) == 2]
    assert bool(stacked) == (config is ENCODER)


def test_without_gradients_only_what_decays_moves() -> None:
    params = {"a": {"kernel": jnp.ones((2, 2)), "scale": jnp.ones((2, 2))}, "position": jnp.ones((2, 2))}
    adam = optimiser(weight_decay=0.5)
    state = {"params": params, "opt": adam.init(params), "step": jnp.int32(0)}
    moved = descend(state, jax.tree.map(jnp.zeros_like, params), rate=jnp.float32(0.1), adam=adam)["params"]
    np.testing.assert_allclose(moved["a"]["kernel"], 0.95)
    np.testing.assert_array_equal(moved["a"]["scale"], 1)
    np.testing.assert_array_equal(moved["position"], 1)


def test_a_step_is_adamw_of_optax_with_the_gradient_clipped() -> None:
    """Against optax's own, over ten steps of changing rate."""
    rng = np.random.default_rng(0)
    params = {"kernel": jnp.asarray(rng.normal(size=(3, 4)), jnp.float32), "bias": jnp.zeros(4)}
    theirs, adam = params, optimiser(clip=0.5, weight_decay=0.1)
    reference = optax.inject_hyperparams(optax.adamw, static_args="mask")(
        0.0, b2=0.98, weight_decay=0.1, mask={"kernel": True, "bias": False}
    )
    their_state = reference.init(theirs)
    state = {"params": params, "opt": adam.init(params), "step": jnp.int32(0), "key": jnp.uint32(5)}
    for step in range(10):
        gradients = {name: jnp.asarray(rng.normal(size=p.shape), jnp.float32) for name, p in params.items()}
        norm = np.sqrt(sum(float(jnp.sum(g**2)) for g in gradients.values()))
        clipped = jax.tree.map(lambda g, norm=norm: g * min(1.0, 0.5 / norm), gradients)
        their_state.hyperparams["learning_rate"] = jnp.float32(0.01 * (step + 1))
        updates, their_state = reference.update(clipped, their_state, theirs)
        theirs = optax.apply_updates(theirs, updates)
        state = descend(state, gradients, rate=jnp.float32(0.01 * (step + 1)), adam=adam)
    assert int(state["step"]) == 10
    assert int(state["key"]) == 5  # what else a state holds stays
    for name in params:
        np.testing.assert_allclose(state["params"][name], theirs[name], atol=1e-6)


def test_an_average_starts_from_the_initial_parameters() -> None:
    params = {"kernel": jnp.full((2, 2), 4.0)}
    adam = optimiser(weight_decay=0.0)
    state = {"params": params, "opt": adam.init(params), "step": jnp.int32(0), "ema": params}
    average, path = 4.0, []

    @jax.jit
    def step(state: Any, ema: jax.Array) -> Any:
        return descend(state, {"kernel": jnp.ones((2, 2))}, rate=jnp.float32(0.5), adam=adam, ema=ema)

    for _ in range(5):
        state = step(state, jnp.float32(0.9))
        path.append(float(state["params"]["kernel"][0, 0]))
        average = 0.9 * average + 0.1 * path[-1]
        np.testing.assert_allclose(state["ema"]["kernel"], average, rtol=1e-6)
    assert np.ptp(path) > 1
    assert all(p < average < 4.0 for p in path[2:])


def test_a_state_keeps_its_shardings_and_dtypes() -> None:
    from jax.sharding import AxisType, NamedSharding, PartitionSpec

    mesh = jax.make_mesh((8,), ("fsdp",), axis_types=(AxisType.Auto,))
    split = NamedSharding(mesh, PartitionSpec("fsdp"))
    params = {"kernel": jax.device_put(jnp.ones((16, 4)), split)}
    adam = optimiser()
    state = {"params": params, "opt": adam.init(params), "step": jnp.int32(0), "ema": params}
    gradients = {"kernel": jax.device_put(jnp.ones((16, 4)), split)}
    moved = jax.jit(lambda state: descend(state, gradients, rate=jnp.float32(0.1), adam=adam, ema=0.9))(state)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), moved) == jax.tree.map(lambda x: (x.shape, x.dtype), state)
    for tree in (moved["params"], moved["ema"], moved["opt"][1].mu):
        assert tree["kernel"].sharding.is_equivalent_to(split, 2)
