"""A Hugging Face folder: its config, and its tensors one at a time."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from moon_jax.data.contract import DataError
from moon_jax.models.shapes import DecoderShape, VisionShape

Array = np.ndarray
ONE, INDEX = "model.safetensors", "model.safetensors.index.json"
FLOATS = ("float32", "float16", "bfloat16")


@dataclass(frozen=True)
class Tower:
    """A tower as its config.json tells it; its tensors are read when they are asked for.

    Attributes:
        facts: for a vision tower `height`, `width`, `patch` and `resample`; for a language model `vocabulary`.
        read: gives its parameters, float32, by our names.
    """

    shape: VisionShape | DecoderShape
    facts: Mapping[str, Any]
    read: Callable[[], dict[str, Array]]


class Folder:
    """Reads config and tensors of one folder; every fault is a DataError that names file and field or tensor."""

    def __init__(self, folder: Path, config: str = "config.json"):
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder; give a local copy of a model (config.json and *.safetensors)")
        self.path = folder
        self.config_path = folder / config
        self.config = read_json(self.config_path)

    def require(self, section: Mapping[str, Any], field: str, *allowed: Any) -> Any:
        """A field of the config; DataError where it is missing, or none of the values that are supported."""
        if field not in section:
            raise DataError(f"{self.config_path}: lacks the field {field!r}")
        if allowed and section[field] not in allowed:
            told = " or ".join(map(repr, allowed))
            raise DataError(f"{self.config_path}: {field} is {section[field]!r}; supported: {told}")
        return section[field]

    @cached_property
    def files(self) -> dict[str, Path]:
        """tensor -> the file that holds it."""
        if (self.path / INDEX).exists():
            listed = read_json(self.path / INDEX).get("weight_map")
            if not isinstance(listed, dict):
                raise DataError(f"{self.path / INDEX}: has no weight_map")
            return {name: self.path / file for name, file in listed.items()}
        return dict.fromkeys(self._open(self.path / ONE).keys(), self.path / ONE)

    def take(self, name: str, *shape: int) -> Array:
        """A tensor as float32; DataError where it is missing, misshapen, or not of floats."""
        if name not in self.files:
            raise DataError(f"{self.path}: tensor {name} is missing; is this the model that config.json describes?")
        tensor = self._read(self.files[name], name)
        if str(tensor.dtype) not in FLOATS:
            raise DataError(
                f"{self.files[name]}: tensor {name} is {tensor.dtype}; {', '.join(FLOATS)} are read, quantised weights are not"
            )
        if tensor.shape != shape:
            raise DataError(f"{self.files[name]}: tensor {name} has shape {tensor.shape}, config.json says {shape}")
        return tensor.astype(np.float32)

    def _read(self, file: Path, name: str) -> Array:
        opened = self._open(file)
        if name not in set(opened.keys()):
            raise DataError(f"{file}: tensor {name} is missing, though {INDEX} names this file for it")
        try:
            return opened.get_tensor(name)
        except Exception as error:  # a mapped file that ends early, an unknown dtype: the reader has its own classes
            raise DataError(f"{file}: tensor {name} is not readable ({error}); download it again") from None

    def _open(self, file: Path) -> Any:
        import ml_dtypes  # noqa: F401  numpy learns bfloat16 by it
        from safetensors import SafetensorError, safe_open

        if file not in self._opened:
            try:
                self._opened[file] = safe_open(file, framework="numpy")
            except (OSError, SafetensorError) as error:
                raise DataError(f"{file}: not readable as safetensors ({error}); download it again") from None
        return self._opened[file]

    @cached_property
    def _opened(self) -> dict[Path, Any]:
        return {}


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; DataError where the file is missing or holds none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: {(error.strerror or str(error)).lower()}") from None
    except ValueError as error:
        raise DataError(f"{path}: not JSON ({error})") from None
    if not isinstance(content, dict):
        raise DataError(f"{path}: must hold one JSON object")
    return content
