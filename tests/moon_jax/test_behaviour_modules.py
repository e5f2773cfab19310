"""Behaviour modules: each is its equation in float64 by hand, some rows at a time as at once, whatever stands in the padding."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from moon_jax.models.behaviour import MODULES, Module, Seen, Shape, lag_bands
from moon_jax.models.catalogue import Catalogue

Array = np.ndarray
BATCH, LENGTH, WIDTH, CONTENT, ITEMS = 16, 11, 4, 6, 20
SHAPE = Shape(id_width=WIDTH, content=CONTENT, hidden=5, top_k=4, tiers=8, bands=5, places=1000)


def seen_by(seed: int = 0, length: int = LENGTH, real: int = LENGTH) -> Seen:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(ITEMS, CONTENT))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    rows = rng.integers(0, ITEMS, (BATCH, length))
    catalogue = Catalogue(jnp.arange(ITEMS), jnp.asarray(vectors, jnp.float32))
    target = catalogue.vectors(jnp.asarray(rng.integers(0, ITEMS, BATCH)))
    return Seen(
        target_BxW=jnp.asarray(rng.normal(size=(BATCH, WIDTH)), jnp.float32),
        history_BxLxW=jnp.asarray(rng.normal(size=(BATCH, length, WIDTH)), jnp.float32),
        real_BxL=jnp.asarray(np.broadcast_to(np.arange(length) < real, (BATCH, length))),
        band_BxL=lag_bands(length, SHAPE.bands)[None],
        rows_BxL=jnp.asarray(rows),
        catalogue=catalogue,
        target_BxD=target,
        similarity_BxL=catalogue.similarities(target, jnp.asarray(rows), 64),
    )


def module_of(name: str, shape: Shape = SHAPE) -> Module:
    """The module with random parameters: some are 0 at first."""
    module, rng = MODULES[name](shape, nnx.Rngs(0)), np.random.default_rng(1)
    for leaf in jax.tree.leaves(nnx.state(module), is_leaf=lambda x: isinstance(x, nnx.Param)):
        leaf[...] = jnp.asarray(rng.normal(size=leaf[...].shape), jnp.float32)
    nnx.update(module, nnx.state(module))
    return module


# The equations, one impression at a time: e L x W, r L x D, s L, bands L


class One:
    """One impression in float64, its real behaviours alone."""

    def __init__(self, seen: Seen, row: int):
        real = np.asarray(seen.real_BxL[row])
        assert seen.catalogue is not None
        self.target = np.asarray(seen.target_BxW[row], np.float64)
        self.history = np.asarray(seen.history_BxLxW[row], np.float64)[real]
        self.band = np.asarray(jnp.broadcast_to(seen.band_BxL, seen.real_BxL.shape)[row])[real]
        self.target_content = np.asarray(seen.target_BxD[row], np.float64)  # type: ignore[index]
        self.content = np.asarray(seen.catalogue.vectors(seen.rows_BxL[row]), np.float64)[real]
        self.cosine = self.content @ self.target_content

    def top(self, scores: Array, k: int = SHAPE.top_k) -> "One":
        kept, out = np.argsort(-scores)[:k], object.__new__(One)
        for name, value in vars(self).items():
            setattr(out, name, value if name.startswith("target") else value[kept])
        return out


def number(leaf: Any) -> Array:
    return np.asarray(leaf[...], np.float64)


def softmax(x: Array) -> Array:
    weights = np.exp(x - x.max(axis=0)) if len(x) else x
    return weights / weights.sum(axis=0) if len(x) else x


def id_scores(module: Any, one: One) -> Array:
    keys = one.history @ number(module.key.kernel)
    return keys @ (one.target @ number(module.query.kernel)) / np.sqrt(WIDTH) + recency(module, one)


def recency(module: Any, one: One) -> Array:
    return number(module.recency.bias)[one.band]


def attention(module: Any, one: One) -> Array:
    return softmax(id_scores(module, one)) @ one.history


def unit(module: Any, target: Array, history: Array) -> Array:
    """DIN's activation unit with its four widths written out."""
    targets = np.broadcast_to(target, history.shape)
    four = np.concatenate([targets, history, targets - history, targets * history], axis=1)
    hidden = np.maximum(four @ number(module.inner.kernel) + number(module.inner.bias), 0)
    return (hidden @ number(module.outer.kernel) + number(module.outer.bias))[:, 0]


def din(module: Any, one: One) -> Array:
    return (unit(module.unit, one.target, one.history) + recency(module, one)) @ one.history


def sim_soft(module: Any, one: One) -> Array:
    return attention(module.exact, one.top(one.history @ one.target))


def twin(module: Any, one: One) -> Array:
    heads = SHAPE.heads
    query, key, value = (
        number(getattr(module, n).kernel).reshape(WIDTH, heads, WIDTH) for n in ("query", "key", "value")
    )

    def scores(one: One) -> Array:
        asked = np.einsum("w,whk->hk", one.target, query)
        keys = np.einsum("lw,whk->lhk", one.history, key)
        return np.einsum("hk,lhk->lh", asked, keys) / np.sqrt(WIDTH) + recency(module, one)[:, None]

    kept = one.top(scores(one).sum(axis=1))
    values = np.einsum("lw,whv->lhv", kept.history, value)
    return np.einsum("lh,lhv->hv", softmax(scores(kept)), values).reshape(-1)


def simtier(module: Any, one: One) -> Array:
    counts = np.zeros((SHAPE.bands, SHAPE.tiers))
    for cosine, band in zip(one.cosine, one.band, strict=True):
        counts[band, min(int((cosine + 1) / 2 * SHAPE.tiers), SHAPE.tiers - 1)] += 1
    return np.log1p(counts).reshape(-1)


def sa_ta(module: Any, one: One) -> Array:
    by_id, (g1, g2, g3) = id_scores(module.attention, one), number(module.gains)
    return softmax(g1 * by_id + g2 * one.cosine + g3 * by_id * one.cosine) @ one.history


def gsu_content(module: Any, one: One) -> Array:
    kept = one.top(one.cosine)
    return np.concatenate([sa_ta(module.sa_ta, kept), simtier(module.simtier, kept)])


def make(module: Any, one: One) -> Array:
    target, history = one.target_content @ number(module.project.kernel), one.content @ number(module.project.kernel)
    known = (unit(module.unit, target, history) + recency(module, one)) @ history
    return np.concatenate([target, known, target * known])


def cube(module: Any, one: One) -> Array:
    weights = softmax(number(module.gain) * one.cosine + recency(module, one))
    content = weights @ one.content
    like = content @ one.target_content / np.sqrt(content @ content + 1e-12)
    parts = [attention(module.interest, one), simtier(module.tiers, one), weights @ one.history]
    return np.concatenate([*parts, content @ number(module.project.kernel), [like]])


EQUATIONS: dict[str, Callable[[Any, One], Array]] = {
    "attention": attention,
    "din": din,
    "sim_soft": sim_soft,
    "twin": twin,
    "simtier": simtier,
    "sa_ta": sa_ta,
    "gsu_content": gsu_content,
    "make": make,
    "cube": cube,
}


def test_every_module_has_its_equation_here() -> None:
    assert set(EQUATIONS) == set(MODULES)


@pytest.mark.parametrize("name", MODULES)
def test_a_module_is_its_equation(name: str) -> None:
    module = module_of(name)
    for real in (LENGTH, 3, 0):
        seen = seen_by(seed=real, real=real)
        found = np.asarray(module(seen))
        assert found.shape == (BATCH, module.features)
        for row in range(BATCH):
            expected = EQUATIONS[name](module, One(seen, row))
            np.testing.assert_allclose(found[row], expected, rtol=2e-4, atol=2e-4, err_msg=f"{real} behaviours")


@pytest.mark.parametrize("name", ["din", "make", "cube"])
def test_some_rows_at_a_time_is_as_at_once_with_its_gradients(name: str) -> None:
    seen = seen_by()

    def slope(places: int) -> Any:
        graph, state = nnx.split(module_of(name, Shape(**{**vars(SHAPE), "places": places})))

        def loss(state: Any, history: jax.Array, target: jax.Array) -> jax.Array:
            out = nnx.merge(graph, state)(seen._replace(history_BxLxW=history, target_BxW=target))
            return jnp.sum(jnp.sin(out))

        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))(state, seen.history_BxLxW, seen.target_BxW)

    for whole, cut in zip(jax.tree.leaves(slope(1000)), jax.tree.leaves(slope(LENGTH)), strict=True):
        np.testing.assert_allclose(cut, whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", MODULES)
def test_what_stands_in_the_padding_changes_nothing(name: str) -> None:
    module, real = module_of(name), 5
    seen, other = seen_by(real=real), seen_by(seed=7)
    padded = seen._replace(
        history_BxLxW=seen.history_BxLxW.at[:, real:].set(other.history_BxLxW[:, real:]),
        rows_BxL=seen.rows_BxL.at[:, real:].set(other.rows_BxL[:, real:]),
        similarity_BxL=seen.similarity_BxL.at[:, real:].set(0.9),  # type: ignore[union-attr]
    )
    np.testing.assert_allclose(module(padded), module(seen), rtol=1e-6)


@pytest.mark.parametrize(("searching", "exact"), [("sim_soft", "attention"), ("gsu_content", "sa_ta")])
def test_a_search_that_lets_all_through_is_none(searching: str, exact: str) -> None:
    wide, seen = Shape(**{**vars(SHAPE), "top_k": LENGTH}), seen_by()
    module = module_of(searching, wide)
    alone = module.exact if searching == "sim_soft" else module.sa_ta  # type: ignore[attr-defined]
    assert isinstance(alone, MODULES[exact])
    np.testing.assert_allclose(module(seen)[:, : alone.features], alone(seen), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", MODULES)
def test_memory_is_linear_in_the_length(name: str) -> None:
    """Compiled only, with gradients: four times the behaviours need at most 4.4 times the memory."""
    shape = Shape(content=64)
    graph, state = nnx.split(nnx.eval_shape(lambda: MODULES[name](shape, nnx.Rngs(0))))

    def needed(length: int) -> int:
        def loss(state: Any, history: jax.Array, target: jax.Array, vectors: jax.Array, rows: jax.Array) -> jax.Array:
            items = Catalogue(jnp.arange(len(vectors)), vectors)
            real, bands = rows >= 0, lag_bands(length, shape.bands)[None]
            cosines = items.similarities(vectors[: len(target)], rows, shape.places)
            seen = Seen(target, history, real, bands, rows, items, vectors[: len(target)], cosines)
            return jnp.sum(nnx.merge(graph, state)(seen))

        floats = jax.ShapeDtypeStruct
        shapes = (floats((32, length, 16), jnp.float32), floats((32, 16), jnp.float32), floats((999, 64), jnp.float32))
        compiled = (
            jax.jit(jax.grad(loss, argnums=(0, 1))).lower(state, *shapes, floats((32, length), jnp.int32)).compile()
        )
        return compiled.memory_analysis().temp_size_in_bytes

    short, long = needed(8_192), needed(32_768)
    assert long <= 4.4 * short
    # at most some copies of the behaviours' ID embeddings, and nothing as wide as representations or hidden units
    assert short <= 8 * 32 * 8_192 * 16 * 4
    assert long <= 8 * 32 * 32_768 * 16 * 4
