"""Adopt: open towers as an encoder to begin from; what they lack is random: the projector, the head, a missing tower."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import nnx

from moon_jax.data.contract import DataError
from moon_jax.models.encoder import EncoderConfig
from moon_jax.models.shapes import DecoderShape, VisionShape, towers
from moon_jax.open_weights import Tower, read_qwen3, read_siglip, read_tokenizer
from moon_jax.sharding import dotted
from moon_jax.weights import save_encoder


@dataclass(frozen=True)
class AdoptConfig:
    """What the open towers do not say.

    Attributes:
        encoder: embedding width and dtype; the shape of a tower that is not given, by its `size`; images' size and patch
            where no vision tower says them, the vocabulary where no language model does.
        seed: of what is random.
    """

    encoder: EncoderConfig
    seed: int = 0

    def __post_init__(self) -> None:
        if self.encoder.backbone != "generative":
            raise ValueError("encoder: open towers become the generative backbone")


def adopt(
    config: AdoptConfig,
    *,
    files: Mapping[str, Path],
    inputs: Mapping[str, Path],
    folder: Path,
    report: Callable[..., None],
) -> dict[str, Any]:
    """Step function: folders of open models, files "vision" (SigLIP) and "language" (Qwen3), either or both -> an encoder
    to begin from (`encoder.safetensors`), and the language model's `tokenizer.json` with padding as id 0.

    Raises:
        DataError: a folder is not what it says; file and tensor or field are named.
    """
    if not files:
        raise DataError('nothing to adopt; give a folder of a SigLIP model as "vision", of a Qwen3 model as "language"')
    report(0, len(files) + 1, doing="reading open weights")
    vision = read_siglip(files["vision"]) if "vision" in files else None
    language = read_qwen3(files["language"]) if "language" in files else None
    if language is not None:
        tokenizer = read_tokenizer(files["language"], language.facts["vocabulary"])
        (folder / "tokenizer.json").write_text(tokenizer, encoding="utf-8")
    encoder, params = assemble(config, vision, language)
    save_encoder(folder, encoder, params, None)
    for name, source in files.items():
        for licence in ("LICENSE", "LICENSE.txt"):
            if (source / licence).exists():
                shutil.copy2(source / licence, folder / f"{licence}.{name}")
    return {"adopt_params": encoder.parameters()}


def encoder_of(config: AdoptConfig, vision: Tower | None, language: Tower | None) -> EncoderConfig:
    """The encoder's config with the open towers' shapes in it."""
    ours_vision, ours_decoder = towers(config.encoder.size)
    seen = vision.facts if vision else {}
    told = language.facts if language else {}
    return replace(
        config.encoder,
        vision=cast(VisionShape, vision.shape) if vision else ours_vision,
        decoder=cast(DecoderShape, language.shape) if language else ours_decoder,
        height=seen.get("height", config.encoder.height),
        width=seen.get("width", config.encoder.width),
        patch=seen.get("patch", config.encoder.patch),
        vocabulary=told.get("vocabulary", config.encoder.vocabulary),
    )


def assemble(config: AdoptConfig, vision: Tower | None, language: Tower | None) -> tuple[EncoderConfig, nnx.State]:
    """(config, parameters) of an encoder that has the open towers' weights, and random ones elsewhere."""
    encoder = encoder_of(config, vision, language)
    given = {name: array for tower in (vision, language) if tower for name, array in tower.read().items()}
    abstract = nnx.split(nnx.eval_shape(lambda: encoder.build(0)))[1]
    # only what is not given is made: a table of open weights may be most of the memory
    fresh = jax.jit(lambda seed: _fresh(encoder, seed, frozenset(given)))(jnp.uint32(config.seed))

    def choose(path: tuple[Any, ...], leaf: Any) -> jax.Array:
        name = dotted(path)
        return jnp.asarray(given.pop(name)) if name in given else fresh[name]

    params = jax.tree_util.tree_map_with_path(choose, abstract)
    assert not given, f"the encoder has no parameter {next(iter(given))}"
    return encoder, params


def _fresh(encoder: EncoderConfig, seed: jax.Array, given: frozenset[str]) -> dict[str, jax.Array]:
    """The random parameters that are not among those given."""
    leaves = jax.tree_util.tree_leaves_with_path(nnx.split(encoder.build(seed))[1])
    return {dotted(path): leaf for path, leaf in leaves if dotted(path) not in given}
