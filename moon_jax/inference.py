"""An exported encoder in use: images and texts to vectors, without any of the training."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from moon_jax.data.contract import DataError
from moon_jax.data.images import decode_image
from moon_jax.models.encoder import EncoderConfig

Array = np.ndarray
Image = Path | str | bytes


@dataclass(frozen=True)
class Embedder:
    """What `load` gives. Vectors are those of the embed step that the encoder was exported from."""

    config: EncoderConfig
    tokenizer: Any
    encode: Any
    resample: str

    def embed(
        self, images: Sequence[Image] | None = None, texts: Sequence[str] | None = None, *, dim: int | None = None
    ) -> Array:
        """Unit vectors, float32 N x D, of images, of texts, or of both together, row by row.

        Args:
            images: paths, or the bytes of JPEG, PNG or WebP files.
            texts: titles or queries.
            dim: keep the first so many dimensions, at unit length again (Matryoshka).

        Raises:
            DataError: neither is given, their numbers differ, or an image does not decode (which one is said).
        """
        if images is None and texts is None:
            raise DataError("nothing to embed; give images, texts or both")
        if images is not None and texts is not None and len(images) != len(texts):
            raise DataError(f"{len(images)} images and {len(texts)} texts; give as many of both, or one of them")
        pixels = None if images is None else np.stack([self._decode(n, image) for n, image in enumerate(images)])
        vectors = self.encode(pixels, None if texts is None else self._tokenise(texts))[:, :dim]
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)

    def _decode(self, number: int, image: Image) -> Array:
        try:
            encoded = image if isinstance(image, bytes) else Path(image).read_bytes()
            return decode_image(encoded, self.config.height, self.config.width, self.resample)
        except OSError as error:
            raise DataError(f"image {number}: {image!s}: {(error.strerror or str(error)).lower()}") from None
        except DataError as error:
            raise DataError(f"image {number} {error}") from None

    def _tokenise(self, texts: Sequence[str]) -> Array:
        ids = [encoded.ids for encoded in self.tokenizer.encode_batch(list(texts))]
        out = np.zeros((len(ids), max(1, *map(len, ids)) if ids else 1), np.int32)
        for row, found in enumerate(ids):
            out[row, : len(found)] = found
        return out


def load(folder: Path | str) -> Embedder:
    """The encoder of a folder that `moon export` wrote; DataError where a file is missing, truncated or does not fit."""
    from tokenizers import Tokenizer

    from moon_jax.stages.embed import encoder_of
    from moon_jax.weights import CONFIG, load_encoder

    folder = Path(folder)
    config = load_encoder(folder)[0]
    resample = json.loads((folder / CONFIG).read_text()).get("resample", "bilinear")
    path = folder / "tokenizer.json"
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises plain Exception
        raise DataError(f"{path}: not readable as a tokenizer ({error})") from None
    highest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=0)
    if highest >= config.vocabulary:
        raise DataError(
            f"{path}: has ids up to {highest}, the encoder {config.vocabulary} rows; they do not belong together"
        )
    return Embedder(config, tokenizer, encoder_of(folder), resample)
