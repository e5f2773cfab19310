"""Trained weights as safetensors beside their config: what a stage hands to the next."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from moon_jax.data.contract import DataError
from moon_jax.models.encoder import EncoderConfig
from moon_jax.models.shapes import DecoderShape, VisionShape

WEIGHTS, CONFIG = "encoder.safetensors", "encoder.json"


def _name(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")


def save_encoder(folder: Path, config: EncoderConfig, params: nnx.State, temperature: float | None) -> None:
    """Write `encoder.safetensors` and `encoder.json` (config, and the learned temperature where there is one)."""
    from safetensors.numpy import save_file

    leaves = jax.tree_util.tree_leaves_with_path(params)
    save_file({_name(path): np.asarray(leaf) for path, leaf in leaves}, folder / WEIGHTS)
    described = {"config": dataclasses.asdict(config), "temperature": temperature}
    (folder / CONFIG).write_text(json.dumps(described, indent=1))


def load_encoder(folder: Path) -> tuple[EncoderConfig, nnx.GraphDef, nnx.State, float | None]:
    """(config, graph, params, temperature) of `save_encoder`; DataError names the file or tensor that does not fit."""
    try:
        described = json.loads((folder / CONFIG).read_text())
        told = dict(described["config"])
        shapes = {"vision": VisionShape, "decoder": DecoderShape}
        told |= {name: kind(**told[name]) for name, kind in shapes.items() if told.get(name)}
        config, temperature = EncoderConfig(**told), described["temperature"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder / CONFIG}: describes no encoder ({error})") from None
    params, _ = load_parameters(folder, config)
    return config, nnx.split(nnx.eval_shape(lambda: config.build(0)))[0], params, temperature


def load_parameters(folder: Path, config: EncoderConfig) -> tuple[nnx.State, float | None]:
    """(float32 parameters for an encoder of this config, temperature or None), out of a folder of `save_encoder`.

    The config saved there may differ in what changes no shape: attention, pool, dtype, length of texts.

    Raises:
        DataError: the file is missing, truncated or no safetensors, or a tensor is missing, misshapen or not float32.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    file = folder / WEIGHTS
    try:
        tensors = load_file(file)
        temperature = json.loads((folder / CONFIG).read_text())["temperature"]
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise DataError(f"{file}: not readable ({error})") from None
    abstract = nnx.split(nnx.eval_shape(lambda: config.build(0)))[1]

    def take(path: tuple[Any, ...], leaf: Any) -> jax.Array:
        tensor = tensors.get(_name(path))
        if tensor is None:
            raise DataError(f"{file}: tensor {_name(path)} is missing")
        if tensor.shape != leaf.shape or tensor.dtype != leaf.dtype:
            found, expected = (f"{x.dtype} of shape {tuple(x.shape)}" for x in (tensor, leaf))
            raise DataError(f"{file}: tensor {_name(path)} has {found}, expected {expected}")
        return jax.numpy.asarray(tensor)

    return jax.tree_util.tree_map_with_path(take, abstract), temperature
