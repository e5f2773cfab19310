"""The contrastive losses in all their forms, against the float64 oracle (`loss_oracle.py`), and at their extremes."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from moon_jax.losses import circle_loss, info_nce, sigmoid_loss
from tests.moon_jax.loss_oracle import Answer, Case, oracle

LOSSES: dict[str, Callable[..., jax.Array]] = {
    "info_nce": info_nce,
    "circle_loss": circle_loss,
    "sigmoid_loss": sigmoid_loss,
}
WIDTH = 8
# Norm-wise. In float32, and in bfloat16 for values: bfloat16 factors are exact in float32, where all else is computed.
EXACT = 1e-5
# Gradients of bfloat16 vectors are rounded to 8 bits, by 2^-8 at most and 0.4 x 2^-8 on average, some four times: d loss /
# d logit before the products, and what comes of positive, batch, queue and hard negatives, and their sums. The errors are
# independent, so they add up to about sqrt(4) x 0.4 x 2^-8 = 2^-8.3 in norm; twice 2^-8 is allowed.
ROUNDED = 2.0**-7


@dataclass(frozen=True)
class Layout:
    """A form on a mesh (data, fsdp, model); () for one device without a mesh."""

    form: str
    axes: tuple[int, ...] = ()

    @property
    def mesh(self) -> Mesh | None:
        if not self.axes:
            return None
        devices = jax.devices()[: math.prod(self.axes)]
        return jax.make_mesh(self.axes, ("data", "fsdp", "model"), axis_types=(AxisType.Auto,) * 3, devices=devices)

    def __str__(self) -> str:
        return f"{self.form} on {'x'.join(map(str, self.axes)) or 1}"


@dataclass(frozen=True)
class Kind:
    """What is compiled: sizes, what is given beside queries and keys, whether arrays come split over the mesh."""

    batch: int
    queue: int
    hard: int
    tile: int
    ids: bool
    windowed: bool
    symmetric: bool
    split: bool = False


DENSE, TILED, RING = Layout("dense"), Layout("tiled"), Layout("ring", (8, 1, 1))
DENSE_ON_8, TILED_ON_8 = Layout("dense", (4, 2, 1)), Layout("tiled", (2, 2, 2))
LAYOUTS = [DENSE, DENSE_ON_8, TILED, Layout("tiled", (2, 1, 1)), TILED_ON_8, Layout("ring", (1, 2, 1)), RING]
# Nothing divides anything; all divides; fewer pairs than devices and a queue smaller than a tile.
RAGGED = Kind(37, 21, 3, tile=7, ids=True, windowed=True, symmetric=True)
EVEN = Kind(24, 16, 0, tile=8, ids=True, windowed=False, symmetric=False, split=True)
SMALL = Kind(5, 3, 1, tile=64, ids=False, windowed=True, symmetric=True)

each_loss = pytest.mark.parametrize("loss", LOSSES)
each_form = pytest.mark.parametrize("layout", [DENSE, TILED, RING], ids=str)


def unit(rng: np.random.Generator, *shape: int) -> np.ndarray:
    x = rng.normal(size=shape)
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def draw(kind: Kind, seed: int, *, products: int = 30, share: float = 1.0, temperature: float = 0.1) -> Case:
    """Random unit vectors and ids of so many products; `share` of the batch is the window."""
    rng = np.random.default_rng(seed)
    batch, queue, hard = kind.batch, kind.queue, kind.hard
    ids = [rng.integers(0, products, size).astype(np.int32) for size in (batch, queue, (batch, hard))]
    return Case(
        unit(rng, batch, WIDTH),
        unit(rng, batch, WIDTH),
        queue=unit(rng, queue, WIDTH) if queue else None,
        hard=unit(rng, batch, hard, WIDTH) if hard else None,
        positive_ids=ids[0] if kind.ids else None,
        queue_ids=ids[1] if kind.ids and queue else None,
        hard_ids=ids[2] if kind.ids and hard else None,
        window=1 + int(share * (batch - 2)) if kind.windowed else None,
        temperature=float(np.float32(temperature)),
        bias=float(rng.uniform(-10, 0)),
        symmetric=kind.symmetric,
    )


LEARNED = ("queries", "keys", "hard", "temperature", "bias")


@functools.cache
def compiled(loss: str, layout: Layout, kind: Kind) -> Any:
    """Value and gradients of what is learned: a function of (learned, the rest), compiled once for each dtype."""

    def value(learned: dict[str, Any], rest: dict[str, Any]) -> jax.Array:
        own = {"bias": learned["bias"]} if loss == "sigmoid_loss" else {"symmetric": kind.symmetric}
        return LOSSES[loss](
            learned["queries"],
            learned["keys"],
            queue_QxD=rest["queue"],
            hard_BxHxD=learned.get("hard"),
            num_negatives=rest["window"],
            positive_ids_B=rest["positive_ids"],
            queue_ids_Q=rest["queue_ids"],
            hard_ids_BxH=rest["hard_ids"],
            temperature=learned["temperature"],
            tile=kind.tile,
            mesh=layout.mesh,
            form=layout.form,
            **own,
        )

    return jax.jit(jax.value_and_grad(value))


def given_to(case: Case, layout: Layout, kind: Kind, dtype: Any = jnp.float32) -> tuple[dict[str, Any], dict[str, Any]]:
    """(learned, rest) of a case, as arrays of a dtype, split over the mesh where the kind says so."""
    mesh = layout.mesh

    def place(array: Any) -> Any:
        if array is None or np.ndim(array) == 0:
            return None if array is None else jnp.asarray(array, jnp.int32 if isinstance(array, int) else jnp.float32)
        array = array if array.dtype == np.int32 else jnp.asarray(array, dtype)
        return jax.device_put(array, NamedSharding(mesh, P(("data", "fsdp")))) if mesh and kind.split else array

    everything = {name: place(each) for name, each in vars(case).items() if name != "symmetric"}
    learned = {name: everything.pop(name) for name in LEARNED}
    return {name: each for name, each in learned.items() if each is not None}, everything


def require_equal(loss: str, got: tuple[Any, Any], expected: Answer, bound: float) -> None:
    """The value within EXACT, each gradient within the bound, norm-wise, of the oracle's."""
    value, gradients = got
    assert float(value) == pytest.approx(expected.value, rel=EXACT)
    for name, gradient in gradients.items():
        if name == "bias" and loss != "sigmoid_loss":
            continue
        distance = np.linalg.norm(np.asarray(gradient, np.float64) - expected.gradients[name])
        assert distance <= bound * expected.sizes[name], (name, distance / max(expected.sizes[name], 1e-300))


@pytest.mark.parametrize(
    ("loss", "layout", "kind"),
    [
        *[(loss, layout, RAGGED) for loss in LOSSES for layout in LAYOUTS],
        *[(loss, layout, EVEN) for loss in ("info_nce", "sigmoid_loss") for layout in (DENSE_ON_8, TILED_ON_8, RING)],
        *[(loss, layout, SMALL) for loss in ("info_nce", "sigmoid_loss") for layout in (DENSE, TILED_ON_8, RING)],
    ],
    ids=lambda each: f"{each.batch} pairs" if isinstance(each, Kind) else str(each),
)
@settings(max_examples=6, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(15, 60), st.floats(0, 1), st.floats(0.05, 1.0))
def test_value_and_gradients_equal_the_oracle(
    loss: str, layout: Layout, kind: Kind, seed: int, products: int, share: float, temperature: float
) -> None:
    case = draw(kind, seed, products=products, share=share, temperature=temperature)
    expected = oracle(loss, case)
    assume(expected.value >= 1)
    got = compiled(loss, layout, kind)(*given_to(case, layout, kind))
    require_equal(loss, got, expected, EXACT)


@each_form
@each_loss
@settings(max_examples=6, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0, 1), st.floats(0.05, 1.0))
def test_bfloat16_vectors_lose_nothing_but_their_own_bits(
    loss: str, layout: Layout, seed: int, share: float, temperature: float
) -> None:
    case = draw(RAGGED, seed, share=share, temperature=temperature)
    rounded = {
        name: np.asarray(jnp.asarray(getattr(case, name), jnp.bfloat16), np.float32)
        for name in ("queries", "keys", "queue", "hard")
    }
    expected = oracle(loss, replace(case, **rounded))
    assume(expected.value >= 1)
    got = compiled(loss, layout, RAGGED)(*given_to(case, layout, RAGGED, jnp.bfloat16))
    require_equal(loss, got, expected, ROUNDED)


def test_the_oracle_has_the_values_of_closed_forms_and_its_gradients_are_its_slopes() -> None:
    ones = Case(np.ones((6, 1)), np.ones((6, 1)), queue=np.ones((4, 1)), hard=np.ones((6, 2, 1)), window=3, bias=-5.0)
    assert oracle("info_nce", replace(ones, symmetric=False)).value == pytest.approx(np.log(1 + 3 + 4 + 2))
    assert oracle("info_nce", ones).value == pytest.approx((np.log(1 + 3 + 4 + 2) + np.log(1 + 3)) / 2)
    assert oracle("sigmoid_loss", ones).value == pytest.approx(np.log1p(np.exp(-5)) + 9 * np.log1p(np.exp(5)))
    # similarities of 1: a_p = m, a_n = 1 + m, so logits are g m^2 and g (1 + m)(1 - m)
    assert oracle("circle_loss", ones).value == pytest.approx(
        (np.log1p(9 * np.exp(10 * (0.9375 - 0.0625))) + np.log1p(3 * np.exp(10 * (0.9375 - 0.0625)))) / 2
    )
    case, rng, step = draw(RAGGED, 0), np.random.default_rng(1), 1e-6
    for loss in ("info_nce", "sigmoid_loss"):  # circle loss's gradient is, by its weights, no slope of its value
        answer = oracle(loss, case)
        for name, gradient in answer.gradients.items():
            at = np.asarray(getattr(case, name), np.float64)
            along = rng.normal(size=at.shape)
            ahead, behind = (oracle(loss, replace(case, **{name: at + side * step * along})) for side in (1, -1))
            slope = (ahead.value - behind.value) / (2 * step)
            assert np.sum(gradient * along) == pytest.approx(slope, rel=1e-5, abs=1e-7), (loss, name)


@each_form
@each_loss
def test_a_query_whose_candidates_are_all_masked_loses_nothing_and_pulls_at_nothing(loss: str, layout: Layout) -> None:
    case = draw(RAGGED, 0, products=1)
    value, gradients = compiled(loss, layout, RAGGED)(*given_to(case, layout, RAGGED))
    if loss == "sigmoid_loss":  # its positive is a task by itself
        require_equal(loss, (value, gradients), oracle(loss, case), EXACT)
        np.testing.assert_array_equal(gradients["hard"], 0)
        return
    assert float(value) == 0
    for name, gradient in gradients.items():
        np.testing.assert_array_equal(gradient, 0, err_msg=name)


@each_form
@each_loss
def test_opposite_vectors_at_a_low_temperature_neither_overflow_nor_vanish(loss: str, layout: Layout) -> None:
    case = draw(RAGGED, 0, temperature=0.01)
    case = replace(case, queries=-case.keys, queue=np.repeat(-case.keys[:1], RAGGED.queue, axis=0))
    expected = oracle(loss, case)
    assert expected.value > 50
    got = compiled(loss, layout, RAGGED)(*given_to(case, layout, RAGGED))
    assert all(np.isfinite(each).all() for each in jax.tree.leaves(got))
    require_equal(loss, got, expected, EXACT)


@each_form
@pytest.mark.parametrize("loss", ["info_nce", "sigmoid_loss"])
def test_one_pair_has_its_queue_alone(loss: str, layout: Layout) -> None:
    kind = Kind(1, 3, 0, tile=64, ids=True, windowed=False, symmetric=True)
    case = draw(kind, 0)
    expected = oracle(loss, case)
    got = compiled(loss, layout, kind)(*given_to(case, layout, kind))
    assert float(got[0]) == pytest.approx(expected.value, rel=EXACT, abs=EXACT)
    for name in ("queries", "keys"):
        np.testing.assert_allclose(got[1][name], expected.gradients[name], atol=EXACT * max(1, expected.sizes[name]))


@each_form
@each_loss
def test_products_of_one_id_are_no_negatives_wherever_they_stand(loss: str, layout: Layout) -> None:
    """Masked places may hold any vector: value and gradients stay, and hard ones get no gradient."""
    case = draw(RAGGED, 0, products=5)
    one_product = replace(case, positive_ids=np.full(RAGGED.batch, 2, np.int32))
    false_queue, false_hard = np.asarray(case.queue_ids) == 2, np.asarray(case.hard_ids) == 2
    assert 0 < false_queue.sum() < RAGGED.queue
    moved = replace(
        one_product,
        queue=np.where(false_queue[:, None], -1, 1) * case.queue,
        hard=np.where(false_hard[:, :, None], -1, 1) * case.hard,
    )
    run = compiled(loss, layout, RAGGED)
    (value, gradients), (same, same_gradients) = (run(*given_to(each, layout, RAGGED)) for each in (one_product, moved))
    assert float(same) == float(value)
    np.testing.assert_array_equal(same_gradients["keys"], gradients["keys"])
    np.testing.assert_array_equal(gradients["hard"][false_hard], 0)
    assert np.linalg.norm(gradients["hard"][~false_hard]) > 0


@each_form
def test_a_queue_gets_no_gradient(layout: Layout) -> None:
    case = draw(RAGGED, 0)

    @jax.jit
    @jax.value_and_grad
    def of_queue(queue: jax.Array) -> jax.Array:
        given_form = {"form": layout.form, "mesh": layout.mesh, "tile": RAGGED.tile}
        return info_nce(case.queries, case.keys, queue_QxD=queue, temperature=0.1, **given_form)

    (value, gradient), (other, _) = of_queue(case.queue), of_queue(-np.asarray(case.queue))
    np.testing.assert_array_equal(gradient, 0)
    assert float(value) != float(other)


@pytest.mark.parametrize("where", ["queue", "hard"])
@each_form
@each_loss
def test_a_nan_among_negatives_shows_in_the_loss(loss: str, layout: Layout, where: str) -> None:
    case = draw(RAGGED, 0)
    spoilt = getattr(case, where).copy()
    spoilt[0] = np.nan
    value, _ = compiled(loss, layout, RAGGED)(*given_to(replace(case, **{where: spoilt}), layout, RAGGED))
    assert np.isnan(float(value))


@each_form
@each_loss
def test_another_window_temperature_or_bias_does_not_recompile(loss: str, layout: Layout) -> None:
    run = compiled(loss, layout, RAGGED)

    def value(share: float, temperature: float) -> float:
        return float(run(*given_to(draw(RAGGED, 0, share=share, temperature=temperature), layout, RAGGED))[0])

    first, programs = value(0.1, 0.1), run._cache_size()
    assert len({first, value(0.9, 0.1), value(0.9, 0.3)}) == 3
    assert run._cache_size() == programs


def test_more_candidates_make_the_task_harder_and_all_of_them_are_as_none_said() -> None:
    case = draw(replace(RAGGED, ids=False), 0)
    loss = jax.jit(lambda n: info_nce(case.queries, case.keys, num_negatives=n, temperature=0.1))
    values = [float(loss(jnp.int32(n))) for n in (0, 1, 5, 36)]
    assert values[0] == 0
    assert values == sorted(set(values))
    assert values[-1] == pytest.approx(float(info_nce(case.queries, case.keys, temperature=0.1)), rel=1e-6)
    assert loss._cache_size() == 1


def test_float16_is_computed_in_float32_for_its_range_is_too_small_for_gradients() -> None:
    case = draw(replace(SMALL, batch=8), 0)
    q, k = (jnp.asarray(each, jnp.float16) for each in (case.queries, case.keys))

    def gradient(q: jax.Array, k: jax.Array, weight: float) -> jax.Array:
        return jax.grad(lambda q: weight * info_nce(q, k, temperature=0.1, form="tiled", tile=4))(q)

    tiny = gradient(q.astype(jnp.float32), k.astype(jnp.float32), 1e-4)
    np.testing.assert_allclose(np.asarray(gradient(q, k, 1e-4), np.float32), tiny, rtol=2e-3, atol=6e-8)


def equations(jaxpr: Any) -> list[Any]:
    """Those of a jaxpr and of all that it calls."""
    found = []
    for equation in jaxpr.eqns:
        found.append(equation)
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            if hasattr(inner, "eqns"):
                found += equations(getattr(inner, "jaxpr", inner))
    return found


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32], ids=["bfloat16", "float32"])
@each_form
@each_loss
def test_products_and_statistics_are_float32_whatever_the_vectors_are(loss: str, layout: Layout, dtype: Any) -> None:
    learned, rest = given_to(draw(RAGGED, 0), layout, RAGGED, dtype)
    found = equations(jax.make_jaxpr(compiled(loss, layout, RAGGED))(learned, rest).jaxpr)
    dots = [each for each in found if each.primitive.name == "dot_general"]
    assert (
        len(dots) >= 2 + 3
    )  # similarities of batch and queue; both gradients of the batch, that of queries from the queue
    for dot in dots:
        assert [each.aval.dtype for each in dot.invars] == [dtype, dtype], "d loss / d logit takes the vectors' dtype"
        assert dot.outvars[0].aval.dtype == jnp.float32, "sums are float32"
        if dtype == jnp.float32:
            assert dot.params["precision"] == (jax.lax.Precision.HIGHEST,) * 2, "no TF32"
    exponentials = [each for each in found if each.primitive.name in ("exp", "log", "log1p", "logistic", "reduce_max")]
    assert exponentials
    assert {each.invars[0].aval.dtype for each in exponentials} == {jnp.dtype(jnp.float32)}


@each_loss
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"keys_BxD": np.ones((3, 2))}, "keys_BxD has shape"),
        ({"queue_QxD": np.ones((3, 5))}, "queue_QxD has shape"),
        ({"hard_BxHxD": np.ones((4, 2))}, "hard_BxHxD has shape"),
        ({"positive_ids_B": np.ones(3, int)}, "positive_ids_B has shape"),
        ({"queue_QxD": np.ones((3, 2)), "queue_ids_Q": np.ones(3, int)}, "queue_ids_Q is given without"),
        ({"positive_ids_B": np.ones(4, int), "hard_ids_BxH": np.ones((4, 1), int)}, "hard_ids_BxH is given without"),
        ({"form": "square"}, "'square' is unknown; one of auto, dense, tiled, ring"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(loss: str, given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LOSSES[loss](**({"queries_BxD": np.ones((4, 2)), "keys_BxD": np.ones((4, 2)), "temperature": 0.1} | given))
