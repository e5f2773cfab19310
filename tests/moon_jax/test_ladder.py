"""The ladder: one rule for depth and heads, sizes that are what they are called, rates that shrink as muP says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from moon_jax.models.encoder import EncoderConfig
from moon_jax.models.shapes import WIDTHS, DecoderShape, VisionShape, towers
from moon_jax.optimisation import width_shares
from moon_jax.sharding import dotted
from moon_jax.stages.contrastive_step import graph_of, initial_parameters, shares_of


def test_sizes_are_what_they_are_called() -> None:
    parameters = {
        size: EncoderConfig(size, height=224, width=224, patch=16, vocabulary=151_936, embedding=1024).parameters()
        for size in WIDTHS
    }
    assert sorted(parameters.values()) == list(parameters.values())
    assert parameters["1b"] == pytest.approx(1.2e9, rel=0.1)
    assert parameters["4b"] == pytest.approx(4e9, rel=0.1)


@pytest.mark.parametrize("size", [*WIDTHS])
def test_one_rule_gives_depth_and_heads(size: str) -> None:
    vision, decoder = towers(size)
    width = WIDTHS[size]
    assert vision.width == decoder.width == decoder.heads * decoder.head == width
    assert vision.depth == decoder.depth == max(2, width // 64)
    assert decoder.heads == 2 * decoder.kv_heads
    assert decoder.head == (32 if width < 768 else 64)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: towers("160x2"), "2 heads of keys do not divide 5"),
        (lambda: VisionShape(64, 2, 3, 256), "3 heads do not divide a width of 64"),
        (lambda: DecoderShape(64, 2, 2, 1, 33, 168), "a head of 33 cannot be rotated"),
        (lambda: EncoderConfig(vision=VisionShape(64, 2, 2, 256)), "of both towers, or of neither"),
    ],
)
def test_shapes_that_cannot_be_are_told(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]


def test_towers_of_any_shape_work_together() -> None:
    config = EncoderConfig(
        height=16,
        width=16,
        embedding=16,
        vocabulary=50,
        vision=VisionShape(48, 1, 4, 96, norm="layer"),
        decoder=DecoderShape(32, 1, 4, 2, 16, 40, rope_base=1e6),
    )
    graph, params = graph_of(config), jax.jit(lambda: nnx.split(config.build(0))[1])()
    shapes = {dotted(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    assert shapes["decoder.blocks.q.kernel"] == (1, 32, 64)
    assert shapes["projector_up.kernel"] == (48, 64)
    images, text = jnp.zeros((2, 16, 16, 3), jnp.uint8), jnp.ones((2, 3), jnp.int32)
    vectors = jax.jit(lambda params: nnx.merge(graph, params)(images, text))(params)
    np.testing.assert_allclose(jnp.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert config.parameters() == sum(leaf.size for leaf in jax.tree.leaves(params))


def test_rates_of_kernels_shrink_with_their_width_and_no_others() -> None:
    params = jax.eval_shape(lambda: initial_parameters(EncoderConfig("128x2"), 0, "sigmoid"))
    shares = {
        dotted(path): share for path, share in jax.tree_util.tree_leaves_with_path(width_shares(params, 128, 256))
    }
    assert shares["encoder.vision.blocks.qkv.kernel"] == shares["encoder.projector_up.kernel"] == 0.5
    assert shares["encoder.decoder.blocks.down.kernel"] == shares["encoder.head.kernel"] == 0.25
    kept = [name for name, share in shares.items() if share == 1]
    assert {"encoder.patch_embed.kernel", "encoder.tokens.embedding", "encoder.position", "log_scale", "bias"} <= set(
        kept
    )
    assert all(name.endswith(("scale", "bias", "embedding", "position")) or "patch_embed" in name for name in kept)


def test_the_smallest_rung_and_no_transfer_keep_one_rate() -> None:
    nano, micro = EncoderConfig("nano"), EncoderConfig("micro")
    assert shares_of(nano, {}, "mup") is None
    assert shares_of(micro, {}, "none") is None
    assert graph_of(nano) != graph_of(micro)


@pytest.mark.proof
def test_an_update_moves_outputs_as_much_at_any_width() -> None:
    """muP's promise: after one step of Adam's size a tower's output changes by about as much, wide or narrow."""
    narrow, wide = (changes_at(width) for width in (64, 512))
    assert 0.4 < wide["mup"] / narrow["mup"] < 2.5
    assert wide["none"] / narrow["none"] > 1.7 * wide["mup"] / narrow["mup"]


def changes_at(width: int) -> dict[str, float]:
    """Under each rule, root mean square of the change of the vision tower's states after a step against the gradient's sign."""
    config = EncoderConfig(f"{width}x1", height=16, width=16, patch=8, vocabulary=64, embedding=16)
    graph, params = nnx.split(config.build(0))
    images = jax.random.randint(jax.random.key(1), (16, 16, 16, 3), 0, 256)
    target = jax.random.normal(jax.random.key(2), (width,))
    seen = jax.jit(lambda params: nnx.merge(graph, params).vision_states(images))
    gradient = jax.jit(jax.grad(lambda params: jnp.mean(seen(params) @ target)))(params)
    shares, before, out = width_shares({"encoder": params}, width, width)["encoder"], seen(params), {}
    for rule in ("mup", "none"):
        rates = shares if rule == "mup" else jax.tree.map(lambda _: 1.0, shares)
        moved = jax.tree.map(lambda p, g, rate: p - 1e-3 * rate * jnp.sign(g), params, gradient, rates)
        out[rule] = float(jnp.sqrt(jnp.mean((seen(moved) - before) ** 2)))
    return out
