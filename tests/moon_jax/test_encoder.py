"""The encoder: what it must not depend on, and that its counts are exact."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from moon_jax.flops import count_flops
from moon_jax.models.encoder import WIDTHS, Encoder, EncoderConfig
from moon_jax.weights import load_encoder, save_encoder

CONFIG = EncoderConfig(height=16, width=16, patch=8, vocabulary=64, embedding=16)


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return CONFIG.build(0)


@pytest.fixture(scope="module")
def shown() -> tuple[jax.Array, jax.Array]:
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.integers(0, 256, (3, 16, 16, 3)), jnp.uint8)
    text = jnp.asarray([[5, 6, 7, 0, 0], [8, 9, 0, 0, 0], [3, 2, 5, 7, 9]], jnp.int32)
    return images, text


def test_any_modality_gives_unit_vectors(encoder: Encoder, shown: tuple[jax.Array, jax.Array]) -> None:
    images, text = shown
    vectors = [encoder(images, None), encoder(None, text), encoder(images, text)]
    for v in vectors:
        assert v.shape == (3, 16)
        assert v.dtype == jnp.float32
        np.testing.assert_allclose(jnp.linalg.norm(v, axis=1), 1, atol=1e-5)
    assert all(float(jnp.abs(a - b).max()) > 1e-2 for a, b in [(vectors[0], vectors[1]), (vectors[1], vectors[2])])


def test_padding_and_neighbours_in_the_batch_change_nothing(encoder: Encoder, shown: tuple) -> None:
    images, text = shown
    together = encoder(images, text)
    longer = encoder(images, jnp.pad(text, ((0, 0), (0, 4))))
    np.testing.assert_allclose(together, longer, atol=1e-5)
    for row in range(3):
        alone = encoder(images[row : row + 1], text[row : row + 1])
        np.testing.assert_allclose(together[row : row + 1], alone, atol=1e-5)


def test_an_empty_title_is_allowed(encoder: Encoder) -> None:
    assert bool(jnp.isfinite(encoder(None, jnp.zeros((2, 5), jnp.int32))).all())


def test_causal_and_bidirectional_attention_differ_as_they_should() -> None:
    """Causal: the first token's state does not see the last token; bidirectional: it does."""
    from moon_jax.models.layers import DecoderBlock

    block = DecoderBlock(64, nnx.Rngs(0))
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
    w, d, hidden = config.hidden, config.depth, 8 * config.hidden // 3 // 8 * 8
    kv = 2 * max(1, w // 64) * 32
    vision = d * (4 * w * w + 8 * w * w + 2 * w)
    decoder = d * (2 * w * w + w * kv + 3 * w * hidden + 2 * w + 2 * 32)
    rest = (192 * w + w) + 16 * w + w + (2 * w * w + 2 * w) + (2 * w * w + w) + 512 * w + w + 64 * w
    assert config.parameters() == vision + decoder + rest


def test_nano_is_about_a_quarter_of_a_million() -> None:
    assert 150_000 < EncoderConfig(size="nano", vocabulary=512).parameters() < 300_000


def test_flops_are_counted_exactly_through_scan_and_gradient() -> None:
    a, b = jnp.ones((3, 4)), jnp.ones((4, 5))
    assert count_flops(lambda a, b: a @ b, a, b) == 2 * 3 * 4 * 5
    grad = count_flops(jax.grad(lambda a, b: ((a @ b) ** 2).sum(), argnums=(0, 1)), a, b)
    assert grad == 3 * 2 * 3 * 4 * 5  # the product, and one more for the gradient of each side
    square = jnp.ones((4, 4))
    scanned = count_flops(lambda x: jax.lax.scan(lambda c, _: (c @ square, None), x, None, length=7)[0], square)
    assert scanned == 7 * 2 * 4**3


def test_encoder_flops_equal_the_formula(encoder: Encoder, shown: tuple) -> None:
    """Dense layers: 2 x parameters x tokens; attention: 4 x length^2 x width; the table look-up is free."""
    graph, params = nnx.split(encoder)
    images, text = shown
    counted = count_flops(lambda p, i, t: nnx.merge(graph, p)(i, t), params, images, text)
    w, d, batch, patches, words = CONFIG.hidden, CONFIG.depth, 3, 4, 5
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
    text = (tmp_path / "encoder.json").read_text().replace('"embedding": 16', '"embedding": 8')
    (tmp_path / "encoder.json").write_text(text)
    with pytest.raises(ValueError, match=r"head.*has shape"):
        load_encoder(tmp_path)


@pytest.mark.parametrize(("change", "message"), [({"size": "huge"}, "unknown size"), ({"patch": 7}, "does not divide")])
def test_impossible_shapes_are_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EncoderConfig(**change)
