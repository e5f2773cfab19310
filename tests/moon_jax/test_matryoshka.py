"""Nested dimensions: the mean of losses over beginnings of vectors, against the oracle at each beginning."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moon_jax.losses import info_nce, matryoshka
from tests.moon_jax.loss_oracle import Case, oracle
from tests.moon_jax.test_contrastive import DENSE, EXACT, LOSSES, RAGGED, RING, TILED, TILED_ON_8, WIDTH, Layout, draw

DIMS = (3, WIDTH)


def beginning(vectors: Any, dim: int) -> np.ndarray:
    """In float64, brought to unit length."""
    cut = np.asarray(vectors, np.float64)[..., :dim]
    return cut / np.linalg.norm(cut, axis=-1, keepdims=True)


def backwards(gradient: np.ndarray, vectors: Any, dim: int) -> np.ndarray:
    """The gradient of whole vectors from that of their beginnings: what lies along a unit vector does not move it."""
    unit, length = beginning(vectors, dim), np.linalg.norm(np.asarray(vectors, np.float64)[..., :dim], axis=-1)
    across = gradient - unit * np.sum(gradient * unit, axis=-1, keepdims=True)
    whole = np.zeros(np.shape(vectors))
    whole[..., :dim] = across / length[..., None] if dim < WIDTH else gradient  # whole vectors are taken as they are
    return whole


@pytest.mark.parametrize(
    ("loss", "layout"), [*[(loss, TILED_ON_8) for loss in LOSSES], ("info_nce", DENSE), ("info_nce", RING)], ids=str
)
def test_value_and_gradients_equal_the_weighted_oracles_of_the_beginnings(loss: str, layout: Layout) -> None:
    case, weights = draw(RAGGED, 0, share=0.5), (1.0, 3.0)

    @jax.jit
    @jax.value_and_grad
    def compiled(learned: dict[str, Any]) -> jax.Array:
        return matryoshka(
            LOSSES[loss],
            learned["queries"],
            learned["keys"],
            dims=DIMS,
            weights=weights,
            queue_QxD=case.queue,
            hard_BxHxD=learned["hard"],
            num_negatives=case.window,
            positive_ids_B=case.positive_ids,
            queue_ids_Q=case.queue_ids,
            hard_ids_BxH=case.hard_ids,
            temperature=case.temperature,
            form=layout.form,
            mesh=layout.mesh,
            tile=RAGGED.tile,
            **({"bias": case.bias} if loss == "sigmoid_loss" else {}),
        )

    learned = {name: getattr(case, name) for name in ("queries", "keys", "hard")}
    value, gradients = compiled(learned)
    cut = [
        Case(**vars(case) | {name: beginning(getattr(case, name), dim) for name in (*learned, "queue")}) for dim in DIMS
    ]
    answers, shares = [oracle(loss, each) for each in cut], np.array(weights) / sum(weights)
    assert float(value) == pytest.approx(
        sum(share * each.value for share, each in zip(shares, answers, strict=True)), rel=EXACT
    )
    for name, gradient in gradients.items():
        expected = sum(
            share * backwards(each.gradients[name], learned[name], dim)
            for share, each, dim in zip(shares, answers, DIMS, strict=True)
        )
        assert np.linalg.norm(gradient - expected) <= EXACT * np.linalg.norm(expected), name


def test_the_whole_width_alone_is_the_loss_itself_and_widths_weigh_alike() -> None:
    case = draw(RAGGED, 0)

    def of(*dims: int) -> float:
        return float(matryoshka(info_nce, case.queries, case.keys, dims=dims, temperature=0.1, form=TILED.form))

    assert of(WIDTH) == float(info_nce(case.queries, case.keys, temperature=0.1, form=TILED.form))
    assert of(2, WIDTH) == pytest.approx((of(2) + of(WIDTH)) / 2, rel=1e-6)


def test_beginnings_keep_the_dtype_of_the_vectors() -> None:
    q, k = (jnp.asarray(each, jnp.bfloat16) for each in (draw(RAGGED, 0).queries, draw(RAGGED, 0).keys))
    seen = []

    def loss(queries_BxD: jax.Array, keys_BxD: jax.Array, **given: Any) -> jax.Array:
        seen.append((queries_BxD.dtype, queries_BxD.shape[1], keys_BxD.dtype, given["queue_QxD"].shape))
        return jnp.float32(0)

    assert matryoshka(loss, q, k, dims=DIMS, queue_QxD=k[:5]).dtype == jnp.float32
    assert seen == [(jnp.bfloat16, dim, jnp.bfloat16, (5, dim)) for dim in DIMS]


@pytest.mark.parametrize(
    ("dims", "weights", "message"),
    [
        ((), (), r"dims \(\) must be some widths among 1..8"),
        ((0, 4), (), "must be some widths"),
        ((4, 9), (), "must be some widths"),
        ((4, 8), (1.0,), "one for each of 2 widths"),
        ((4, 8), (0.0, 0.0), "some above"),
        ((4, 8), (-1.0, 2.0), "none below 0"),
    ],
)
def test_widths_and_weights_that_make_no_sense_are_refused(
    dims: tuple[int, ...], weights: tuple[float, ...], message: str
) -> None:
    case = draw(RAGGED, 0)
    with pytest.raises(ValueError, match=message):
        matryoshka(info_nce, case.queries, case.keys, dims=dims, weights=weights, temperature=0.1)
