"""Row-wise updates: a batch moves the rows that it names as Adam would, and no other; the table's size changes nothing."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from moon_jax.engine import Engine
from moon_jax.models.behaviour import Shape
from moon_jax.models.catalogue import Catalogue, place_catalogue
from moon_jax.models.ctr import CtrConfig
from moon_jax.row_updates import named, put, take
from moon_jax.sharding import data_mesh, make_mesh
from moon_jax.stages.application import build_initial, build_update, graph_of

BATCH, LENGTH, ITEMS = 8, 6, 30
HYPER = {"steps": jnp.int32(20), "peak_lr": jnp.float32(0.01)}


def config(rows: int) -> CtrConfig:
    return CtrConfig(rows, 2, ("din",), Shape(id_width=4, hidden=4), hidden=(8,))


def batches(seed: int, items: int = ITEMS, steps: int = 4) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    out = []
    for _ in range(steps):
        history = rng.integers(0, items, (BATCH, LENGTH))
        history[:, 4:] = -1
        out.append(
            {
                "target": rng.integers(0, items, BATCH),
                "history": history,
                "action": rng.integers(0, 2, (BATCH, LENGTH)),
                "clicked": (rng.random(BATCH) < 0.5).astype(np.float32),
            }
        )
    return out


def trained(rows: int, updates: str, shown: list[dict[str, np.ndarray]], mesh: Any = None) -> Any:
    """The state after these batches, and the losses."""
    mesh = mesh or data_mesh(1)
    graph = graph_of(config(rows))
    catalogue, _ = place_catalogue(np.ones(ITEMS, bool), None, "float32", mesh)
    state, losses = build_initial(config(rows), 0.1, mesh)(jnp.uint32(0)), []
    update = build_update(graph, 0.1, mesh, updates)
    for batch in shown:
        state, metrics, _ = update(state, {k: jnp.asarray(v) for k, v in batch.items()}, HYPER, catalogue)
        losses.append(float(metrics["loss"]))
    return state, losses


def ids_of(state: Any) -> dict[str, np.ndarray]:
    """The ID table and its two moments."""
    adam = state["opt"][1]
    return {
        name: np.asarray(tree["ids"]["embedding"][...])
        for name, tree in (("table", state["params"]), ("mean", adam.mu), ("square", adam.nu))
    }


@pytest.mark.parametrize("rows", [ITEMS, 1000])  # worked on whole, and by the rows that are named
def test_rows_that_no_impression_names_stand_still(rows: int) -> None:
    shown = batches(1, items=5)
    before = ids_of(build_initial(config(rows), 0.1, data_mesh(1))(jnp.uint32(0)))
    after = ids_of(trained(rows, "rows", shown)[0])
    for name in before:
        assert np.array_equal(after[name][5:], before[name][5:])
    assert (np.abs(after["table"][:5] - before["table"][:5]).max(axis=1) > 0).all()


@pytest.mark.parametrize("rows", [ITEMS, 1000])
def test_padding_names_no_row(rows: int) -> None:
    """Where a history ends the first row of the catalogue is looked up; it must not move for it."""
    shown = batches(2, items=4)
    for batch in shown:
        batch["target"] += 1
        batch["history"] = np.where(batch["history"] >= 0, batch["history"] + 1, -1)
    before = ids_of(build_initial(config(rows), 0.1, data_mesh(1))(jnp.uint32(0)))
    after = ids_of(trained(rows, "rows", shown)[0])
    assert np.array_equal(after["table"][0], before["table"][0])


@pytest.mark.parametrize("rows", [ITEMS, 1000])
def test_against_a_dense_step_that_is_undone_where_nothing_is_named(rows: int) -> None:
    """Step for step, in numpy's hands: dense, then rows that the batch does not name are put back, moments too."""
    mesh, graph = data_mesh(1), graph_of(config(rows))
    catalogue, _ = place_catalogue(np.ones(ITEMS, bool), None, "float32", mesh)
    shown = batches(3)
    state = build_initial(config(rows), 0.1, mesh)(jnp.uint32(0))
    dense = build_update(graph, 0.1, mesh)
    for batch in shown:
        before = ids_of(state)
        state, _, _ = dense(state, {k: jnp.asarray(v) for k, v in batch.items()}, HYPER, catalogue)
        moved = ids_of(state)
        still = np.ones(moved["table"].shape[0], bool)
        still[np.unique(np.concatenate([batch["target"], batch["history"][batch["history"] >= 0]]))] = False
        kept = {name: np.where(still[:, None], before[name], moved[name]) for name in before}
        adam = state["opt"][1]
        for tree, name in ((state["params"], "table"), (adam.mu, "mean"), (adam.nu, "square")):
            tree["ids"]["embedding"] = type(tree["ids"]["embedding"])(jnp.asarray(kept[name]))
    ours, _ = trained(rows, "rows", shown)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(state), strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), atol=1e-6)


def test_where_every_row_is_named_it_is_the_dense_step() -> None:
    shown = batches(4, items=3)
    for batch in shown:
        batch["target"][:] = np.arange(BATCH) % 3
        batch["history"] = np.where(batch["history"] >= 0, batch["history"] % 3, -1)
    rows = 3
    # The table has some more rows than that, so only the three are compared.
    (ours, losses), (dense, expected) = (trained(rows, how, shown) for how in ("rows", "dense"))
    np.testing.assert_allclose(losses, expected, rtol=1e-6)
    for name, values in ids_of(dense).items():
        np.testing.assert_allclose(ids_of(ours)[name][:3], values[:3], atol=1e-6)


@pytest.mark.parametrize("engine", [Engine(data=2, fsdp=2, model=2), Engine(data=8)])
@pytest.mark.parametrize("rows", [ITEMS, 1000])
def test_on_any_mesh(rows: int, engine: Engine) -> None:
    shown = batches(5)
    (ours, losses), (alone, expected) = (
        trained(rows, "rows", shown, mesh) for mesh in (make_mesh(engine, BATCH), data_mesh(1))
    )
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    for name, values in ids_of(alone).items():
        np.testing.assert_allclose(ids_of(ours)[name], values, atol=1e-5)


def test_what_is_taken_is_put_back() -> None:
    state = {"params": {"ids": {"embedding": jnp.arange(40.0).reshape(20, 2)}, "logit": {"kernel": jnp.ones((2, 1))}}}
    of = named(jnp.array([3, 20, 7, 3], jnp.int32), 20)  # 20: names none
    taken = take(state, of)
    at = np.asarray(of.lookup())
    table = np.asarray(taken["params"]["ids"]["embedding"])
    assert table.shape == (4, 2)
    assert table[at[[0, 2, 3]]].tolist() == [[6, 7], [14, 15], [6, 7]]
    moved = jax.tree.map(lambda x: x + 100, taken)
    whole = np.asarray(put(state, moved, of)["params"]["ids"]["embedding"])
    expected = np.arange(40.0).reshape(20, 2)
    expected[[3, 7]] += 100
    assert np.array_equal(whole, expected)


def test_fresh_tables_begin_each_pass_and_nothing_else_is_drawn() -> None:
    mesh, rows = data_mesh(1), ITEMS
    graph, hyper = graph_of(config(rows)), HYPER | {"pass_steps": jnp.int32(2), "seed": jnp.uint32(7)}
    catalogue: Catalogue = place_catalogue(np.ones(ITEMS, bool), None, "float32", mesh)[0]
    fresh, kept = (build_update(graph, 0.1, mesh, "rows", how) for how in ("fresh", "kept"))
    states = [build_initial(config(rows), 0.1, mesh)(jnp.uint32(0)) for _ in range(2)]
    shown = [{k: jnp.asarray(v) for k, v in batch.items()} for batch in batches(6, items=5, steps=3)]
    for step, batch in enumerate(shown):
        before = ids_of(states[0])
        states[0], states[1] = fresh(states[0], batch, hyper, catalogue)[0], kept(states[1], batch, HYPER, catalogue)[0]
        if step < 2:
            for a, b in zip(jax.tree.leaves(states[0]), jax.tree.leaves(states[1]), strict=True):
                assert np.array_equal(a, b)
    after = ids_of(states[0])
    assert (after["table"][5:ITEMS] != before["table"][5:ITEMS]).all()  # drawn anew, though no batch named them
    assert 0.03 < after["table"][5:].std() < 0.07
    assert not after["mean"][5:].any()
    others = [nnx.to_pure_dict(s["params"])["layers"][0]["bias"] for s in states]
    assert np.abs(others[0] - others[1]).max() < 0.02
