"""Trained weights as safetensors beside their config: what a stage hands to the next."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from moon_jax.models.encoder import EncoderConfig


def _name(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")


def save_encoder(folder: Path, config: EncoderConfig, params: nnx.State, temperature: float) -> None:
    """Write `encoder.safetensors` and `encoder.json` (config and learned temperature)."""
    from safetensors.numpy import save_file

    leaves = jax.tree_util.tree_leaves_with_path(params)
    save_file({_name(path): np.asarray(leaf) for path, leaf in leaves}, folder / "encoder.safetensors")
    described = {"config": dataclasses.asdict(config), "temperature": temperature}
    (folder / "encoder.json").write_text(json.dumps(described, indent=1))


def load_encoder(folder: Path) -> tuple[EncoderConfig, nnx.GraphDef, nnx.State, float]:
    """(config, graph, params, temperature) of `save_encoder`; ValueError names a missing or misshapen tensor."""
    from safetensors.numpy import load_file

    described = json.loads((folder / "encoder.json").read_text())
    config = EncoderConfig(**described["config"])
    graph, abstract = nnx.split(nnx.eval_shape(lambda: config.build(0)))
    tensors = load_file(folder / "encoder.safetensors")

    def take(path: tuple[Any, ...], leaf: Any) -> jax.Array:
        tensor = tensors.get(_name(path))
        if tensor is None or tensor.shape != leaf.shape:
            found = "is missing" if tensor is None else f"has shape {tensor.shape}, expected {leaf.shape}"
            raise ValueError(f"{folder / 'encoder.safetensors'}: tensor {_name(path)} {found}")
        return jax.numpy.asarray(tensor)

    params = jax.tree_util.tree_map_with_path(take, abstract)
    return config, graph, params, described["temperature"]
