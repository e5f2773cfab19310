"""Prepare: decode every image once, train the tokenizer, tokenise; memory-mapped arrays that all cells share."""

import io
import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from moon_jax.data.checking import FORMATS, MAX_PIXELS
from moon_jax.data.contract import DataError, read_table
from moon_jax.data.forms import SEARCHES
from moon_jax.data.loading import SPLITS
from moon_jax.data.tables import one_line
from moon_jax.thumbnails import TWIN_COSINE, thumbnails

if TYPE_CHECKING:
    import polars as pl

Array = np.ndarray


@dataclass(frozen=True)
class PrepareConfig:
    """Image size in pixels, token budget of a text, and size of the vocabulary (BPE, trained on training titles)."""

    height: int = 32
    width: int = 32
    text_length: int = 16
    vocabulary: int = 1024


def prepare(
    config: PrepareConfig,
    *,
    files: Mapping[str, Path],
    inputs: Mapping[str, Path],
    folder: Path,
    report: Callable[..., None],
) -> dict[str, Any]:
    """Step function: items, queries, pairs -> the arrays of `data.loading.Prepared` and `tokenizer.json`.

    The tables are those of the step that is the input "process" where there is one, else the declared files.

    Raises:
        DataError: an image does not decode or is oversized (file and row are named).
    """
    if "process" in inputs:
        files = {name: inputs["process"] / f"{name}.parquet" for name in ("items", "queries", "pairs")}
    items, pairs = read_table(files["items"]), read_table(files["pairs"])
    queries = _with_optional_columns(read_table(files["queries"]))
    item_row = {item: row for row, item in enumerate(items["item_id"].to_list())}
    query_row = {query: row for row, query in enumerate(queries["query_id"].to_list())}
    shown = queries["image"].is_not_null().to_numpy()
    photos = queries.filter(queries["image"].is_not_null())["image"]
    total = len(items) + len(photos)

    decode = _Decoder(config, lambda done: report(done, total, doing="decoding images"))
    decode(items["image"], folder / "item_images.npy", "items", 0)
    decode(photos, folder / "query_images.npy", "queries", len(items))

    pair_item = np.array([item_row[i] for i in pairs["item_id"].to_list()], np.int64)
    pair_query = np.array([query_row[q] for q in pairs["query_id"].to_list()], np.int64)
    pair_split = np.array([SPLITS.index(s) for s in pairs["split"].to_list()], np.int8)
    titles = [title or "" for title in items["title"].to_list()]
    texts = [text or "" for text in queries["text"].to_list()]
    held_items = set(pair_item[pair_split != 0].tolist())
    held_queries = set(pair_query[pair_split != 0].tolist())
    corpus = [t for row, t in enumerate(titles) if row not in held_items]
    corpus += [t for row, t in enumerate(texts) if row not in held_queries]
    tokenizer = train_tokenizer(corpus, config.vocabulary)
    tokenizer.save(str(folder / "tokenizer.json"))

    worded = queries["text"].is_not_null().to_numpy()
    kinds = {"mixed": shown & worded, "image": shown, "text": worded}
    search_Q = np.select(list(kinds.values()), [SEARCHES.index(kind) for kind in kinds], SEARCHES.index("item"))
    arrays: dict[str, Array] = {
        "item_ids": items["item_id"].to_numpy().astype(np.int64),
        "product_ids": np.unique(items["product_id"].to_numpy(), return_inverse=True)[1].astype(np.int32),
        "item_text": tokenise(tokenizer, titles, config.text_length),
        "query_text": tokenise(tokenizer, texts, config.text_length),
        "query_image_row": np.where(shown, np.cumsum(shown) - 1, -1).astype(np.int64),
        "query_item": np.array([item_row[i] if i is not None else -1 for i in queries["item_id"].to_list()], np.int64),
        "query_search": search_Q.astype(np.int8),
        "pairs": np.stack([pair_query, pair_item], axis=1).reshape(-1, 2),
        "pair_split": pair_split,
    }
    if "in_training" in items.columns:  # processing has taken some out, and left them in the gallery
        arrays["item_in_training"] = items["in_training"].to_numpy()
    arrays["query_twin"] = twins(folder, arrays["query_image_row"], arrays["query_item"], pair_query[pair_split != 0])
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    facts = {
        "items": len(items),
        "queries": len(queries),
        "pairs": len(pairs),
        "vocabulary": tokenizer.get_vocab_size(),
    }
    (folder / "prepared.json").write_text(json.dumps(facts, indent=1))
    return facts


def _with_optional_columns(queries: "pl.DataFrame") -> "pl.DataFrame":
    """Queries with null columns for the modalities that their file leaves out, as the contract allows."""
    import polars as pl

    kinds = {"text": pl.String, "image": pl.Binary, "item_id": pl.Int64}
    return queries.with_columns(pl.lit(None, kind).alias(c) for c, kind in kinds.items() if c not in queries.columns)


def twins(folder: Path, image_row_Q: Array, item_Q: Array, held_P: Array) -> Array:
    """bool Q: held-out photo queries whose thumbnail is near-identical to a gallery item's other than their own."""
    item_thumbs = thumbnails(np.load(folder / "item_images.npy", mmap_mode="r", allow_pickle=False))
    photos = np.load(folder / "query_images.npy", mmap_mode="r", allow_pickle=False)
    out = np.zeros(image_row_Q.size, bool)
    asked = np.unique(held_P[image_row_Q[held_P] >= 0])
    for start in range(0, asked.size, 256):
        block = asked[start : start + 256]
        cosine_QxN = thumbnails(photos[image_row_Q[block]]) @ item_thumbs.T
        known = np.flatnonzero(item_Q[block] >= 0)
        cosine_QxN[known, item_Q[block][known]] = 0.0
        out[block] = cosine_QxN.max(axis=1) > TWIN_COSINE
    return out


class _Decoder:
    """Decodes a column of encoded images into a uint8 memory map, in threads (PIL releases the interpreter lock)."""

    def __init__(self, config: PrepareConfig, progress: Callable[[int], None]):
        self.size = (config.width, config.height)
        self.progress = progress

    def __call__(self, encoded: Any, path: Path, file: str, before: int) -> None:
        shape = (len(encoded), self.size[1], self.size[0], 3)
        if not len(encoded):
            np.save(path, np.zeros(shape, np.uint8))
            return
        out = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
        with ThreadPoolExecutor() as pool:
            for start in range(0, len(encoded), 1024):
                block = encoded[start : start + 1024].to_list()
                rows = range(start, start + len(block))
                out[start : start + len(block)] = list(pool.map(self.decode, block, rows, [file] * len(block)))
                self.progress(before + start + len(block))
        out.flush()

    def decode(self, data: bytes | None, row: int, file: str) -> Array:
        from PIL import Image

        if data is None:  # an item may have no photo: mid-grey stands for "nothing to see"
            return np.full((self.size[1], self.size[0], 3), 127, np.uint8)
        place = f"{file}.parquet, row {row}: image"
        try:
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:  # by its header, before anything is decoded
                    raise DataError(f"{place} of {image.width} x {image.height} pixels is oversized")
                resized = image.convert("RGB").resize(self.size, Image.Resampling.BILINEAR)
        except DataError:
            raise
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):
            raise DataError(f"{place} is oversized: at most {MAX_PIXELS:,} pixels are read") from None
        except Exception as error:  # decoders raise many kinds: OSError, SyntaxError, struct.error, ...
            raise DataError(f"{place} does not decode ({one_line(error)}); run `moon data check`") from None
        return np.asarray(resized)


def train_tokenizer(texts: list[str], vocabulary: int) -> Any:
    """A lower-cased byte-pair encoder (`tokenizers`); id 0 is padding, 1 unknown. Deterministic for a given corpus."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=["[PAD]", "[UNK]"], show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def tokenise(tokenizer: Any, texts: list[str], length: int) -> Array:
    """int32 N x length: token ids, cut at the end, padded with 0."""
    out = np.zeros((len(texts), length), np.int32)
    for row, encoded in enumerate(tokenizer.encode_batch(texts)):
        ids = encoded.ids[:length]
        out[row, : len(ids)] = ids
    return out
