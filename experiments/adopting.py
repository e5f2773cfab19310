"""A recipe that begins from open weights, and the digest that such a folder goes by."""

import hashlib
from dataclasses import replace
from pathlib import Path

from experiments import steps
from experiments.recipes import Recipe
from moon_jax.open_weights import read_qwen3, read_siglip
from moon_jax.stages.adopt import AdoptConfig, encoder_of

READ = ("*.json", "*.safetensors")


def beginning_from(recipe: Recipe, vision: Path | None, language: Path | None) -> Recipe:
    """The recipe with the towers of these folders: their shapes, image size, patches and vocabulary.

    Raises:
        DataError: a folder is not what it says; file and field are named. Tensors are read by the step.
    """
    seen = None if vision is None else read_siglip(vision)
    told = None if language is None else read_qwen3(language)
    shape = encoder_of(AdoptConfig(steps.encoder(recipe)), seen, told)
    adopted = steps.adopt(recipe, vision=vision, language=language, digest=folder_digest)
    return replace(
        recipe,
        adopted=adopted,
        shape=shape,
        height=shape.height,
        width=shape.width,
        patch=shape.patch,
        vocabulary=shape.vocabulary,
        resample=recipe.resample if seen is None else seen.facts["resample"],
    )


def folder_digest(folder: Path) -> str:
    """SHA-256 over names and contents of the files that are read of a folder of open weights."""
    whole = hashlib.sha256()
    for file in sorted({path for pattern in READ for path in folder.glob(pattern)}):
        with file.open("rb") as stream:
            whole.update(f"{file.name} {hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode())
    return whole.hexdigest()
