"""GradCache: the same vectors and gradients as the direct call, memory by the chunk, and rows that stay where they are."""

import re
from math import prod

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from moon_jax.engine import Engine
from moon_jax.gradcache import in_chunks
from moon_jax.models.encoder import EncoderConfig
from moon_jax.sharding import batch_sharding, make_mesh, place_batch, replicated

CONFIG = EncoderConfig("32x1", height=32, width=32, patch=8, vocabulary=64, embedding=16, backbone="dual")
GRAPH, SHAPES = nnx.split(nnx.eval_shape(lambda: CONFIG.build(0)))


def encode(params: nnx.State, images: jax.Array | None, text: jax.Array | None) -> jax.Array:
    return nnx.merge(GRAPH, params)(images, text)


def contrast(params: nnx.State, images: jax.Array, text: jax.Array, chunk: int) -> jax.Array:
    """Image against text, over the whole batch."""
    chunked = in_chunks(encode, chunk)
    logits = chunked(params, images, None) @ chunked(params, None, text).T / 0.07
    return -jnp.mean(jnp.diagonal(jax.nn.log_softmax(logits)))


STEP = jax.jit(jax.value_and_grad(contrast), static_argnums=3)


def shown(batch: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (batch, 32, 32, 3)).astype(np.uint8)
    return images, rng.integers(1, 64, (batch, 5)).astype(np.int32)


@pytest.fixture(scope="module")
def params() -> nnx.State:
    return nnx.split(CONFIG.build(0))[1]


@pytest.mark.parametrize("chunk", [2, 12])
def test_value_and_gradient_are_those_of_the_direct_call(params: nnx.State, chunk: int) -> None:
    images, text = shown(24)
    value, gradient = STEP(params, images, text, chunk)
    expected, direct = STEP(params, images, text, 0)
    assert float(value) == pytest.approx(float(expected), rel=1e-5)
    for ours, theirs in zip(jax.tree.leaves(gradient), jax.tree.leaves(direct), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6 + 1e-4 * float(jnp.abs(theirs).max()))


def test_vectors_keep_the_order_of_the_batch() -> None:
    numbered = in_chunks(lambda scale, rows: scale * rows[:, None], 3)
    np.testing.assert_array_equal(numbered(2.0, jnp.arange(12.0))[:, 0], 2 * np.arange(12.0))


@pytest.mark.parametrize("chunk", [0, 8, 100])
def test_a_chunk_of_everything_is_a_direct_call(chunk: int) -> None:
    jaxpr = jax.make_jaxpr(in_chunks(lambda scale, rows: scale * rows[:, None], chunk))(2.0, jnp.ones(8))
    assert "scan" not in str(jaxpr)


def test_a_chunk_that_does_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="5 does not divide a batch of 24"):
        in_chunks(encode, 5)(SHAPES, *shown(24))


def perceptron(weights: tuple[jax.Array, jax.Array], images: jax.Array) -> jax.Array:
    """A small encoder that compiles at once."""
    hidden_BxPxW = jnp.tanh(images.reshape(images.shape[0], 32, -1).astype(jnp.float32) @ weights[0])
    return jnp.mean(jnp.tanh(hidden_BxPxW @ weights[1]), axis=1)


def compiled(batch: int, chunk: int) -> jax.stages.Compiled:
    """Its contrastive step over eight devices; nothing is run."""
    mesh = make_mesh(Engine(data=8), batch)
    weights = [jax.ShapeDtypeStruct(x, np.float32, sharding=replicated(mesh)) for x in ((96, 256), (256, 16))]
    images = jax.ShapeDtypeStruct((batch, 32, 32, 3), np.uint8, sharding=batch_sharding(mesh))

    def loss(weights: list[jax.Array], images: jax.Array) -> jax.Array:
        vectors_BxD = in_chunks(perceptron, chunk)(weights, images)
        return -jnp.mean(jnp.diagonal(jax.nn.log_softmax(vectors_BxD @ vectors_BxD.T)))

    return jax.jit(jax.grad(loss)).lower(weights, images).compile()


def test_memory_grows_with_the_chunk_and_not_with_the_batch() -> None:
    temporary = {
        (batch, chunk): compiled(batch, chunk).memory_analysis().temp_size_in_bytes
        for batch, chunk in [(256, 0), (512, 0), (256, 64), (512, 64), (512, 128)]
    }
    assert temporary[512, 0] > 1.8 * temporary[256, 0]  # without chunks it does grow
    assert temporary[512, 64] < 1.25 * temporary[256, 64]
    assert 1.5 * temporary[512, 64] < temporary[512, 128] < 0.5 * temporary[512, 0]


def test_each_device_keeps_its_own_rows() -> None:
    """Nothing but vectors moves between devices: no images, no tokens, no activations."""
    program = compiled(64, 16).as_text()
    moved = re.findall(r"= \(?(\w+)\[([\d,]*)\].* (?:all-gather|all-to-all|collective-permute)(?:-start)?\(", program)
    assert moved
    assert {(kind, prod(map(int, shape.split(",")))) for kind, shape in moved} == {("f32", 64 * 16)}


def test_eight_devices_give_the_gradient_of_one(params: nnx.State) -> None:
    images, text = shown(32)
    mesh = make_mesh(Engine(data=8), 32)
    value, gradient = STEP(jax.device_put(params, replicated(mesh)), *place_batch(mesh, (images, text)), 16)
    expected, alone = STEP(params, images, text, 16)
    assert float(value) == pytest.approx(float(expected), rel=1e-5)
    for ours, theirs in zip(jax.tree.leaves(gradient), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6 + 1e-4 * float(jnp.abs(theirs).max()))
