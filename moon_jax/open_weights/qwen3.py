"""Qwen3 dense language models (arXiv 2505.09388) as our decoder; what agrees with `transformers` is the last hidden state."""

import functools
from pathlib import Path

import numpy as np

from moon_jax.data.contract import DataError
from moon_jax.models.shapes import DecoderShape
from moon_jax.open_weights.tensors import Folder, Tower

Array = np.ndarray


def read_qwen3(folder: Path) -> Tower:
    """The decoder of a folder with a Qwen3 model. Its token table gets a row 0 of zeros before it: our id 0 is padding.

    A language-model head of its own is left out: next tokens are read by the token table, as in models that tie the two.

    Raises:
        DataError: another model, a variant that is not supported, or a tensor that is missing, misshapen or no float.
    """
    source = Folder(folder)
    config = source.config
    source.require(config, "model_type", "qwen3")
    for field, value in (
        ("attention_bias", False),
        ("rms_norm_eps", 1e-6),
        ("use_sliding_window", False),
        ("hidden_act", "silu"),
    ):
        if config.get(field, value) != value:
            source.require(config, field, value)
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if rope.get("rope_type", rope.get("type", "default")) != "default":
        raise DataError(
            f"{source.config_path}: rotary positions of type {rope.get('rope_type', rope.get('type'))!r}; supported: 'default'"
        )
    width, depth = source.require(config, "hidden_size"), source.require(config, "num_hidden_layers")
    heads, kv_heads = source.require(config, "num_attention_heads"), source.require(config, "num_key_value_heads")
    head, mlp = config.get("head_dim") or width // heads, source.require(config, "intermediate_size")
    vocabulary = source.require(config, "vocab_size")
    base = rope.get("rope_theta") or config.get("rope_theta") or 10_000.0
    shape = DecoderShape(width, depth, heads, kv_heads, head, mlp, rope_base=float(base), logit_scale=1.0)
    return Tower(shape, {"vocabulary": vocabulary + 1}, functools.partial(_parameters, source, shape, vocabulary))


def _parameters(source: Folder, shape: DecoderShape, vocabulary: int) -> dict[str, Array]:
    width, mlp, head, heads, kv_heads = shape.width, shape.mlp, shape.head, shape.heads, shape.kv_heads
    start = "model." if any(name.startswith("model.") for name in source.files) else ""

    def take(name: str, *shape: int) -> Array:
        return source.take(f"{start}{name}.weight", *shape)

    table = take("embed_tokens", vocabulary, width)
    out = {
        "tokens.embedding": np.concatenate([np.zeros((1, width), np.float32), table]),
        "final_norm.scale": take("norm", width),
    }
    layers: dict[str, list[Array]] = {}
    for n in range(shape.depth):
        layer = f"layers.{n}"
        keys, values = (take(f"{layer}.self_attn.{part}_proj", kv_heads * head, width).T for part in "kv")
        gate, up = (take(f"{layer}.mlp.{part}_proj", mlp, width).T for part in ("gate", "up"))
        parts = {
            "q.kernel": take(f"{layer}.self_attn.q_proj", heads * head, width).T,
            "kv.kernel": np.concatenate([keys, values], axis=1),
            "out.kernel": take(f"{layer}.self_attn.o_proj", width, heads * head).T,
            "gate_up.kernel": np.concatenate([gate, up], axis=1),
            "down.kernel": take(f"{layer}.mlp.down_proj", width, mlp).T,
            "norm1.scale": take(f"{layer}.input_layernorm", width),
            "norm2.scale": take(f"{layer}.post_attention_layernorm", width),
            "norm_q.scale": take(f"{layer}.self_attn.q_norm", head),
            "norm_k.scale": take(f"{layer}.self_attn.k_norm", head),
        }
        for name, array in parts.items():
            layers.setdefault(name, []).append(array)
    out |= {f"decoder.blocks.{name}": np.stack(each) for name, each in layers.items()}
    return out
