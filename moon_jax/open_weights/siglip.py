"""SigLIP and SigLIP 2 vision towers (arXiv 2303.15343, 2502.14786) as our ViT.

What agrees with `transformers` is the last hidden state after the final norm; the pooling head is left out, as in MOON the
language model reads every patch.
"""

import functools
from pathlib import Path

import numpy as np

from moon_jax.data.contract import DataError
from moon_jax.models.shapes import VisionShape
from moon_jax.open_weights.tensors import Folder, Tower, read_json

Array = np.ndarray
KINDS = ("siglip_vision_model", "siglip")
RESAMPLE = {2: "bilinear", 3: "bicubic"}  # PIL's numbers, as preprocessor_config.json writes them


def read_siglip(folder: Path) -> Tower:
    """The vision tower of a folder with a SigLIP model, or of one with its vision tower alone.

    Raises:
        DataError: another model, a shape, activation or normalisation that is not supported, or a tensor that is missing,
            misshapen or no float; file and tensor or field are named.
    """
    source = Folder(folder)
    kind = source.require(source.config, "model_type", *KINDS)
    config = source.config if kind == KINDS[0] else source.require(source.config, "vision_config")
    width, depth = source.require(config, "hidden_size"), source.require(config, "num_hidden_layers")
    heads, mlp = source.require(config, "num_attention_heads"), source.require(config, "intermediate_size")
    side, patch = source.require(config, "image_size"), source.require(config, "patch_size")
    if config.get("hidden_act", "gelu_pytorch_tanh") != "gelu_pytorch_tanh":
        source.require(config, "hidden_act", "gelu_pytorch_tanh")
    if config.get("layer_norm_eps", 1e-6) != 1e-6:
        source.require(config, "layer_norm_eps", 1e-6)
    if config.get("num_channels", 3) != 3:
        source.require(config, "num_channels", 3)
    facts = {"height": side, "width": side, "patch": patch, "resample": _preprocessing(folder, side)}
    shape = VisionShape(width, depth, heads, mlp, norm="layer")
    return Tower(shape, facts, functools.partial(_parameters, source, shape, side, patch))


def _parameters(source: Folder, shape: VisionShape, side: int, patch: int) -> dict[str, Array]:
    width, mlp = shape.width, shape.mlp
    start = "vision_model." if any(name.startswith("vision_model.") for name in source.files) else ""

    def take(name: str, *shape: int) -> Array:
        return source.take(f"{start}{name}", *shape)

    def linear(name: str, n_out: int, n_in: int) -> tuple[Array, Array]:
        return take(f"{name}.weight", n_out, n_in).T, take(f"{name}.bias", n_out)

    pixels = take("embeddings.patch_embedding.weight", width, 3, patch, patch)
    out = {
        # a convolution's kernel: channel, row, column; our patches are row, column, channel
        "patch_embed.kernel": pixels.transpose(2, 3, 1, 0).reshape(3 * patch**2, width),
        "patch_embed.bias": take("embeddings.patch_embedding.bias", width),
        "position": take("embeddings.position_embedding.weight", (side // patch) ** 2, width),
        "vision_norm.scale": take("post_layernorm.weight", width),
        "vision_norm.bias": take("post_layernorm.bias", width),
    }
    layers: dict[str, list[Array]] = {}
    for n in range(shape.depth):
        layer = f"encoder.layers.{n}"
        q, k, v = (linear(f"{layer}.self_attn.{part}_proj", width, width) for part in "qkv")
        parts = {
            "qkv": tuple(np.concatenate(three, axis=-1) for three in zip(q, k, v, strict=True)),
            "out": linear(f"{layer}.self_attn.out_proj", width, width),
            "up": linear(f"{layer}.mlp.fc1", mlp, width),
            "down": linear(f"{layer}.mlp.fc2", width, mlp),
        }
        for name, (kernel, bias) in parts.items():
            layers.setdefault(f"{name}.kernel", []).append(kernel)
            layers.setdefault(f"{name}.bias", []).append(bias)
        for ours, theirs in (("norm1", "layer_norm1"), ("norm2", "layer_norm2")):
            layers.setdefault(f"{ours}.scale", []).append(take(f"{layer}.{theirs}.weight", width))
            layers.setdefault(f"{ours}.bias", []).append(take(f"{layer}.{theirs}.bias", width))
    out |= {f"vision.blocks.{name}": np.stack(each) for name, each in layers.items()}
    return out


def _preprocessing(folder: Path, side: int) -> str:
    """How images are resized; DataError where they are normalised otherwise than to -1..1, or to another size."""
    path = folder / "preprocessor_config.json"
    if not path.exists():
        return "bicubic"
    told = read_json(path)
    for field in ("image_mean", "image_std"):
        if any(abs(value - 0.5) > 1e-6 for value in told.get(field, [0.5])):
            raise DataError(f"{path}: {field} is {told[field]}; only 0.5 is supported, pixels in -1..1")
    size = told.get("size", {})
    if isinstance(size, dict) and {size.get("height", side), size.get("width", side)} != {side}:
        raise DataError(f"{path}: size is {size}, config.json says {side} x {side}")
    resample = told.get("resample", 3)
    if resample not in RESAMPLE:
        raise DataError(f"{path}: resample is {resample}; supported: 2 (bilinear) or 3 (bicubic)")
    return RESAMPLE[resample]
