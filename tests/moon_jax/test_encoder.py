"""The encoder: what it must not depend on, and that its counts are exact."""

from collections.abc import Iterator
from dataclasses import replace

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load, save

from moon_jax.data.contract import DataError
from moon_jax.flops import count_flops
from moon_jax.models.dual import DualEncoder
from moon_jax.models.encoder import Encoder, EncoderConfig
from moon_jax.models.layers import SHALLOW, product
from moon_jax.models.shapes import WIDTHS
from moon_jax.weights import load_encoder, save_encoder

CONFIG = EncoderConfig(height=16, width=16, patch=8, vocabulary=64, embedding=16)


DUAL = replace(CONFIG, backbone="dual", text_length=9)
Shown = tuple[jax.Array, jax.Array]


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return CONFIG.build(0)


@pytest.fixture(scope="module", params=[CONFIG, DUAL], ids=["generative", "dual"])
def either(request: pytest.FixtureRequest) -> Encoder | DualEncoder:
    return request.param.build(0)


@pytest.fixture(scope="module")
def shown() -> tuple[jax.Array, jax.Array]:
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.integers(0, 256, (3, 16, 16, 3)), jnp.uint8)
    text = jnp.asarray([[5, 6, 7, 0, 0], [8, 9, 0, 0, 0], [3, 2, 5, 7, 9]], jnp.int32)
    return images, text


def test_any_modality_gives_unit_vectors(either: Encoder | DualEncoder, shown: tuple[jax.Array, jax.Array]) -> None:
    images, text = shown
    vectors = [either(images, None), either(None, text), either(images, text)]
    for v in vectors:
        assert v.shape == (3, 16)
        assert v.dtype == jnp.float32
        np.testing.assert_allclose(jnp.linalg.norm(v, axis=1), 1, atol=1e-5)
    assert all(float(jnp.abs(a - b).max()) > 1e-2 for a, b in [(vectors[0], vectors[1]), (vectors[1], vectors[2])])


def test_padding_and_neighbours_in_the_batch_change_nothing(either: Encoder | DualEncoder, shown: tuple) -> None:
    images, text = shown
    together = either(images, text)
    longer = either(images, jnp.pad(text, ((0, 0), (0, 4))))
    np.testing.assert_allclose(together, longer, atol=1e-5)
    for row in range(3):
        alone = either(images[row : row + 1], text[row : row + 1])
        np.testing.assert_allclose(together[row : row + 1], alone, atol=1e-5)


def test_an_empty_title_is_allowed(either: Encoder | DualEncoder) -> None:
    assert bool(jnp.isfinite(either(None, jnp.zeros((2, 5), jnp.int32))).all())


def test_causal_and_bidirectional_attention_differ_as_they_should() -> None:
    """Causal: the first token's state does not see the last token; bidirectional: it does."""
    from moon_jax.models.layers import DecoderBlock

    block = DecoderBlock(CONFIG.decoder_shape, nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(0), (1, 6, 64))
    changed = x.at[0, 5].add(1.0)
    lengths = jnp.array([6])
    first = {
        c: jnp.abs(block(x, lengths, causal=c) - block(changed, lengths, causal=c))[0, 0].max() for c in (True, False)
    }
    assert float(first[True]) == 0.0
    assert float(first[False]) > 1e-4


@pytest.mark.parametrize("size", [*WIDTHS])
def test_parameters_are_counted_exactly(size: str) -> None:
    config = EncoderConfig(size=size, vocabulary=512)
    w, d, head = WIDTHS[size], max(2, WIDTHS[size] // 64), 32 if WIDTHS[size] < 768 else 64
    hidden, kv = 8 * w // 3 // 8 * 8, 2 * (w // head // 2) * head
    vision = d * (4 * w * w + 8 * w * w + 2 * w)
    decoder = d * (2 * w * w + w * kv + 3 * w * hidden + 2 * w + 2 * head)
    rest = (192 * w + w) + 16 * w + w + (2 * w * w + 2 * w) + (2 * w * w + w) + 512 * w + w + 64 * w
    assert config.parameters() == vision + decoder + rest


def test_nano_is_about_a_quarter_of_a_million() -> None:
    assert 150_000 < EncoderConfig(size="nano", vocabulary=512).parameters() < 300_000


def test_encoder_flops_equal_the_formula(encoder: Encoder, shown: tuple) -> None:
    """Dense layers: 2 x parameters x tokens; attention: 4 x length^2 x width; the table look-up is free."""
    graph, params = nnx.split(encoder)
    images, text = shown
    counted = count_flops(lambda p, i, t: nnx.merge(graph, p)(i, t), params, images, text)
    w, d, batch, patches, words = 64, 2, 3, 4, 5
    kv, hidden, length = 64, 8 * w // 3 // 8 * 8, patches + words
    vision = patches * (d * (2 * 12 * w * w + 4 * patches * w) + 2 * 192 * w + 2 * 4 * w * w)
    decoder = length * d * (2 * (2 * w * w + w * kv + 3 * w * hidden) + 4 * length * w)
    assert counted == batch * (vision + decoder + 2 * w * 16)


def test_weights_round_trip_and_a_wrong_tensor_is_named(tmp_path, encoder: Encoder, shown: tuple) -> None:  # type: ignore[no-untyped-def]
    graph, params = nnx.split(encoder)
    save_encoder(tmp_path, CONFIG, params, 0.05)
    config, graph, loaded, temperature = load_encoder(tmp_path)
    assert (config, temperature) == (CONFIG, 0.05)
    np.testing.assert_array_equal(nnx.merge(graph, loaded)(*shown), encoder(*shown))
    whole = (tmp_path / "encoder.safetensors").read_bytes()
    (tmp_path / "encoder.safetensors").write_bytes(whole[:-9])
    with pytest.raises(DataError, match=r"encoder\.safetensors: not readable"):
        load_encoder(tmp_path)
    half = {name: tensor.astype(np.float16) for name, tensor in load(whole).items()}
    (tmp_path / "encoder.safetensors").write_bytes(save(half))
    with pytest.raises(DataError, match=r"tensor decoder\.blocks\.down\.kernel.* has float16 .* expected float32"):
        load_encoder(tmp_path)
    (tmp_path / "encoder.safetensors").write_bytes(whole)
    text = (tmp_path / "encoder.json").read_text().replace('"embedding": 16', '"embedding": 8')
    (tmp_path / "encoder.json").write_text(text)
    with pytest.raises(ValueError, match=r"head.*of shape \(64, 16\), expected .*\(64, 8\)"):
        load_encoder(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": "huge"}, "unknown size"),
        ({"size": "384x0"}, "unknown size"),
        ({"size": "100x2"}, "no multiple of 16"),
        ({"patch": 7}, "does not divide"),
        ({"backbone": "triple"}, "one of generative, dual"),
        ({"backbone": "dual", "causal": True}, "no causal form"),
    ],
)
def test_impossible_shapes_are_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EncoderConfig(**change)


def test_a_size_may_be_given_as_width_and_depth() -> None:
    config = EncoderConfig("96x3")
    assert (config.vision_shape.width, config.decoder_shape.depth) == (96, 3)
    assert config.build(0).vision.blocks.qkv.kernel.shape == (3, 96, 288)


def test_parameters_of_two_towers_are_counted_exactly() -> None:
    w, d = 96, 3
    blocks = 2 * d * (12 * w * w + 2 * w)
    rest = (192 * w + w) + 16 * w + 9 * w + 512 * w + 2 * w + 2 * 64 * w
    assert EncoderConfig("96x3", vocabulary=512, backbone="dual", text_length=9).parameters() == blocks + rest


def test_both_towers_together_are_the_normalised_sum(shown: Shown) -> None:
    encoder, (images, text) = DUAL.build(0), shown
    total = encoder(images, None) + encoder(None, text)
    np.testing.assert_allclose(encoder(images, text), total / jnp.linalg.norm(total, axis=1, keepdims=True), atol=1e-6)


def test_the_order_of_words_and_of_patches_counts_in_two_towers(shown: Shown) -> None:
    encoder, (images, text) = DUAL.build(0), shown
    assert float(jnp.abs(encoder(None, text[2:, ::-1]) - encoder(None, text[2:])).max()) > 1e-3
    assert float(jnp.abs(encoder(images[:, ::-1], None) - encoder(images, None)).max()) > 1e-3


def test_a_text_longer_than_the_positions_is_refused() -> None:
    with pytest.raises(ValueError, match="texts of 10 tokens are longer than text_length = 9"):
        DUAL.build(0)(None, jnp.ones((1, 10), jnp.int32))


@pytest.mark.parametrize(("wide", "narrow"), [(12, 5), (5, 12), (8, 8)])
def test_a_product_has_the_gradient_of_a_product(wide: int, narrow: int) -> None:
    keys = jax.random.split(jax.random.key(0), 3)
    x, kernel = jax.random.normal(keys[0], (2, 3, wide)), jax.random.normal(keys[1], (wide, narrow))
    ct = jax.random.normal(keys[2], (2, 3, narrow))
    ours, theirs = (jax.vjp(f, x, kernel)[1](ct) for f in (product, jnp.matmul))
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


# Where float32 is a promise: none of these may take or give bfloat16. XLA:CPU hides what a GPU would then lose.
DELICATE = {"exp", "log", "rsqrt", "div", "reduce_sum", "sin", "cos"}


def equations(jaxpr: jax.extend.core.Jaxpr) -> Iterator[jax.extend.core.JaxprEqn]:
    """All of a jaxpr, those of its inner ones too."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.tree.leaves(
            [*equation.params.values()], is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")
        ):
            if hasattr(inner, "jaxpr") or hasattr(inner, "eqns"):
                yield from equations(getattr(inner, "jaxpr", inner))


@pytest.mark.parametrize("config", [CONFIG, DUAL], ids=["generative", "dual"])
def test_products_are_bfloat16_and_what_is_delicate_is_float32(config: EncoderConfig, shown: Shown) -> None:
    graph, params = nnx.split(nnx.eval_shape(lambda: replace(config, dtype="bfloat16").build(0)))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    forward = jax.make_jaxpr(lambda params, *shown: nnx.merge(graph, params)(*shown))(params, *shown)
    assert forward.out_avals[0].dtype == jnp.float32
    products = {"bfloat16": 0, "float32": 0}
    for equation in equations(forward.jaxpr):
        kinds = {str(x.aval.dtype) for x in (*equation.invars, *equation.outvars)}
        if equation.primitive.name in DELICATE:
            assert "bfloat16" not in kinds, equation
        if equation.primitive.name == "dot_general":
            products[str(equation.invars[0].aval.dtype)] += 1
            assert equation.invars[0].aval.dtype == equation.invars[1].aval.dtype
            # logits of attention come out as float32, for the softmax
            if equation.outvars[0].aval.dtype == jnp.float32 and "bfloat16" in kinds:
                assert equation.params["dimension_numbers"][1][0], equation
    heads = 2 if config.backbone == "dual" else 1
    assert products["float32"] == heads  # the head, and nothing else
    assert products["bfloat16"] >= 13


def test_the_gradient_of_a_bfloat16_product_is_summed_in_float32() -> None:
    x, kernel = jnp.ones((4, 8), jnp.bfloat16), jnp.ones((8, 3), jnp.float32)
    towards_x, towards_kernel = jax.vjp(product, x, kernel)[1](jnp.ones((4, 3), jnp.bfloat16))
    assert (towards_x.dtype, towards_kernel.dtype) == (jnp.bfloat16, jnp.float32)
    # 257 ones: bfloat16 would say 256
    _, towards_kernel = jax.vjp(product, jnp.ones((257, 8), jnp.bfloat16), kernel)[1](jnp.ones((257, 3), jnp.bfloat16))
    assert float(towards_kernel.max()) == 257


def test_bfloat16_is_near_float32(either: Encoder | DualEncoder, shown: Shown) -> None:
    config = replace(either.config, dtype="bfloat16")
    graph, _ = nnx.split(nnx.eval_shape(lambda: config.build(0)))
    half = nnx.merge(graph, nnx.split(either)[1])(*shown)
    assert 0 < float(jnp.abs(half - either(*shown)).max()) < 0.03


def gradient_of(config: EncoderConfig, remat: str) -> tuple:
    graph, abstract = nnx.split(nnx.eval_shape(lambda: config.build(0)))

    def loss(params: nnx.State, images: jax.Array, text: jax.Array) -> jax.Array:
        encoder = nnx.merge(graph, params)
        return jnp.sum(encoder(images, None, remat=remat) * jnp.sin(encoder(None, text, remat=remat)))

    return jax.jit(jax.grad(loss)), abstract


@pytest.mark.parametrize(
    "config",
    [pytest.param(replace(CONFIG, size="32x1"), marks=pytest.mark.proof), replace(DUAL, size="32x1")],
    ids=["generative", "dual"],
)
def test_recomputing_changes_no_gradient(config: EncoderConfig, shown: Shown) -> None:
    params = nnx.split(config.build(0))[1]
    stored, *others = (gradient_of(config, remat)[0](params, *shown) for remat in ("none", "dots", "full"))
    for other in others:
        for a, b in zip(jax.tree.leaves(stored), jax.tree.leaves(other), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("depth", [3, pytest.param(SHALLOW + 1, marks=pytest.mark.proof)], ids=["unrolled", "scanned"])
def test_recomputing_saves_memory(depth: int) -> None:
    """Compiled only. What is left with "full" is a block's input a layer, and the work of one block."""
    config = EncoderConfig(f"32x{depth}", height=64, width=64, patch=8, backbone="dual")
    images, text = jax.ShapeDtypeStruct((32, 64, 64, 3), np.uint8), jax.ShapeDtypeStruct((32, 8), np.int32)
    memory = {}
    for remat in ("none", "dots", "full"):
        step, params = gradient_of(config, remat)
        memory[remat] = step.lower(params, images, text).compile().memory_analysis().temp_size_in_bytes
    assert memory["full"] < memory["dots"] < memory["none"]
    assert memory["full"] < 0.6 * memory["none"]


def test_the_last_pool_is_the_state_of_the_last_real_token(encoder: Encoder, shown: Shown) -> None:
    """Causal and read at its end, so what stands before counts and padding does not."""
    images, text = shown
    last = replace(CONFIG, pool="last", causal=True).build(0)
    states, lengths = last.states(images, text, causal=True)
    assert lengths.tolist() == [4 + 3, 4 + 2, 4 + 5]
    read = jnp.stack([states[row, length - 1] for row, length in enumerate(lengths)])
    vectors = read @ last.head.kernel[...]
    np.testing.assert_allclose(last(images, text), vectors / jnp.linalg.norm(vectors, axis=1, keepdims=True), atol=1e-5)
    with pytest.raises(ValueError, match="pool: the dual backbone has the mean alone"):
        replace(DUAL, pool="last")
