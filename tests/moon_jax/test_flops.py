"""Counts by hand: loops, devices, branches, recomputation, custom derivatives; and the compiler's own count."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec as P

from moon_jax.engine import Engine
from moon_jax.flops import count_flops
from moon_jax.gradcache import in_chunks
from moon_jax.models.encoder import EncoderConfig
from moon_jax.sharding import BATCH, make_mesh

SQUARE = jnp.ones((4, 4))
ONCE = 2 * 4**3


def test_a_product_and_its_gradients() -> None:
    a, b = jnp.ones((3, 4)), jnp.ones((4, 5))
    assert count_flops(lambda a, b: a @ b, a, b) == 2 * 3 * 4 * 5
    grad = count_flops(jax.grad(lambda a, b: ((a @ b) ** 2).sum(), argnums=(0, 1)), a, b)
    assert grad == 3 * 2 * 3 * 4 * 5  # the product, and one more for the gradient of each side
    batched = count_flops(lambda a, b: jnp.einsum("nij,njk->nik", a, b), jnp.ones((7, 3, 4)), jnp.ones((7, 4, 5)))
    assert batched == 7 * 2 * 3 * 4 * 5


def test_a_convolution() -> None:
    images, kernel = jnp.ones((2, 8, 8, 3)), jnp.ones((4, 4, 3, 16))

    def convolve(images: jax.Array, kernel: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(images, kernel, (4, 4), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    assert count_flops(convolve, images, kernel) == 2 * (2 * 2 * 2) * 16 * (4 * 4 * 3)


def test_loops_within_loops() -> None:
    def inner(x: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda c, _: (c @ SQUARE, None), x, None, length=5)[0]

    def outer(x: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda c, _: (inner(c) @ SQUARE, None), x, None, length=3)[0]

    assert count_flops(outer, SQUARE) == 3 * (5 + 1) * ONCE
    assert count_flops(lambda x: jax.lax.fori_loop(0, 6, lambda _, c: c @ SQUARE, x), SQUARE) == 6 * ONCE
    assert count_flops(jax.vmap(inner), jnp.ones((2, 4, 4))) == 2 * 5 * ONCE


def test_a_loop_of_unknown_length_is_refused_only_where_it_multiplies() -> None:
    def loop(n: int, x: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, n, lambda _, c: c @ SQUARE, x)

    with pytest.raises(ValueError, match="while_loop"):
        count_flops(loop, 3, SQUARE)
    assert count_flops(lambda n, x: jax.lax.fori_loop(0, n, lambda _, c: c + 1, x @ SQUARE), 3, SQUARE) == ONCE


@pytest.mark.parametrize("engine", [Engine(data=8), Engine(data=2, fsdp=2, model=2), Engine(data=1)])
def test_a_shard_map_counts_on_all_its_devices(engine: Engine) -> None:
    """Each device multiplies its own rows by everything, so all of them do one product of the whole."""
    mesh = make_mesh(engine, 16)
    rows, table = jnp.ones((16, 4)), jnp.ones((4, 32))
    sharded = jax.shard_map(
        lambda a, b: a @ b, mesh=mesh, in_specs=(P(BATCH), P()), out_specs=P(BATCH), axis_names={*BATCH}
    )
    assert count_flops(jax.jit(sharded), rows, table) == count_flops(lambda a, b: a @ b, rows, table)
    everywhere = jax.shard_map(lambda b: b @ b.T, mesh=mesh, in_specs=P(), out_specs=P())
    assert count_flops(everywhere, table) == mesh.size * 2 * 4 * 4 * 32  # all do the same work: it runs, it counts


def test_a_branch_counts_at_its_most_expensive() -> None:
    branches = [lambda x: x @ SQUARE @ SQUARE, lambda x: x @ SQUARE, lambda x: x]
    assert count_flops(lambda i, x: jax.lax.switch(i, branches, x), 0, SQUARE) == 2 * ONCE


def test_what_is_recomputed_counts_again() -> None:
    def twice(x: jax.Array) -> jax.Array:
        return jnp.sum(jnp.tanh(jnp.tanh(x @ SQUARE) @ SQUARE))

    plain = count_flops(jax.value_and_grad(twice), SQUARE)
    assert plain == 4 * ONCE
    assert (
        count_flops(jax.value_and_grad(jax.checkpoint(twice)), SQUARE) == 6 * ONCE
    )  # both products of the forward pass again
    keep = jax.checkpoint(twice, policy=jax.checkpoint_policies.dots_saveable)
    assert count_flops(jax.value_and_grad(keep), SQUARE) == plain


def test_what_nothing_reads_is_left_out() -> None:
    @jax.jit
    def both(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        return x @ SQUARE, x @ SQUARE @ SQUARE

    assert count_flops(lambda x: both(x)[0], SQUARE) == ONCE
    assert count_flops(both, SQUARE) == 3 * ONCE


def test_custom_derivatives_count_what_they_do() -> None:
    @jax.custom_vjp
    def square(x: jax.Array) -> jax.Array:
        return x @ x

    square.defvjp(lambda x: (x @ x, x), lambda x, ct: (ct @ x.T @ x @ x,))
    assert count_flops(square, SQUARE) == ONCE
    assert count_flops(jax.value_and_grad(lambda x: square(x).sum()), SQUARE) == (1 + 3) * ONCE

    @jax.custom_jvp
    def product(x: jax.Array) -> jax.Array:
        return x @ SQUARE

    product.defjvp(lambda primals, tangents: (product(*primals), tangents[0] @ SQUARE @ SQUARE))
    assert count_flops(product, SQUARE) == ONCE
    assert count_flops(jax.value_and_grad(lambda x: product(x).sum()), SQUARE) == (1 + 2) * ONCE


@pytest.mark.parametrize("backbone", ["generative", "dual"])
def test_the_compiler_counts_the_same_products(backbone: str) -> None:
    """XLA's cost analysis has element-wise work as well: a few per cent at this width. It counts a loop's body once, so
    the stack here is a shallow one, which is unrolled."""
    config = EncoderConfig("256x1", height=16, width=16, patch=8, vocabulary=64, embedding=64, backbone=backbone)
    graph, params = nnx.split(nnx.eval_shape(lambda: config.build(0)))
    images = jax.ShapeDtypeStruct((8, 16, 16, 3), np.uint8)
    text = jax.ShapeDtypeStruct((8, 16), np.int32)

    def loss(params: nnx.State, images: jax.Array, text: jax.Array) -> jax.Array:
        encoder = nnx.merge(graph, params)
        return jnp.sum(encoder(images, None) @ encoder(None, text).T)

    step = jax.jit(jax.value_and_grad(loss))
    ours = count_flops(step, params, images, text)
    theirs = step.lower(params, images, text).compile().cost_analysis()["flops"]
    assert 0.97 < theirs / ours < 1.15


def test_an_encoder_in_chunks_encodes_twice() -> None:
    config = EncoderConfig(height=16, width=16, patch=8, vocabulary=64, embedding=16)
    graph, params = nnx.split(nnx.eval_shape(lambda: config.build(0)))
    images = jax.ShapeDtypeStruct((8, 16, 16, 3), np.uint8)

    def step(chunk: int) -> int:
        encode = in_chunks(lambda params, images: nnx.merge(graph, params)(images, None), chunk)
        return count_flops(jax.value_and_grad(lambda params, images: encode(params, images).sum()), params, images)

    forward = count_flops(lambda params, images: nnx.merge(graph, params)(images, None), params, images)
    assert step(2) == step(0) + forward
