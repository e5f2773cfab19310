"""Prepare: decode every image once, train the tokenizer, tokenise; memory-mapped arrays that all cells share."""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from moon_jax.data.contract import DataError, read_table
from moon_jax.data.forms import ACTIONS, SEARCHES
from moon_jax.data.images import decode_image, decoding_threads, write_images
from moon_jax.data.loading import SPLITS, Prepared
from moon_jax.data.questions import corpus as question_corpus
from moon_jax.data.questions import products_of
from moon_jax.data.tables import batches, count_rows, read_schema
from moon_jax.thumbnails import TWIN_COSINE, thumbnails

if TYPE_CHECKING:
    import polars as pl

Array = np.ndarray
TABLES = ("items", "queries", "pairs")
END = "[END]"  # of an answer
_ACTION = {action: number for number, action in enumerate(ACTIONS)}


@dataclass(frozen=True)
class PrepareConfig:
    """Image size in pixels, token budget of a text, and size of the vocabulary (BPE, trained on training titles).

    images: "decoded" once, or left "encoded" and decoded whenever they are read, bit by bit the same: slower, for
    catalogues whose decoded images would not fit on the disk. rich_length: tokens of an item's rich text (category and
    attributes); 0 for none. questions: the tokenizer knows questions about products (`data.questions`), ends words and
    answers visibly, so that what a model says can be read. resample: how images are resized; open weights say it.
    """

    height: int = 32
    width: int = 32
    text_length: int = 16
    vocabulary: int = 1024
    images: Literal["decoded", "encoded"] = field(default="decoded", metadata={"added": True})
    rich_length: int = field(default=0, metadata={"added": True})
    questions: bool = field(default=False, metadata={"added": True})
    resample: Literal["bilinear", "bicubic"] = field(default="bilinear", metadata={"added": True})


def prepare(
    config: PrepareConfig,
    *,
    files: Mapping[str, Path],
    inputs: Mapping[str, Path],
    folder: Path,
    report: Callable[..., None],
) -> dict[str, Any]:
    """Step function: items, queries, pairs -> the arrays of `data.loading.Prepared` and `tokenizer.json`.

    The tables are those of the step that is the input "process" where there is one, else the declared files: items,
    queries, pairs and, where there are any, hard_negatives. With an earlier step that left a tokenizer (prepare, adopt) as
    input "tokenizer" texts are tokenised as there, so that an encoder may go from the one to the other.

    Raises:
        DataError: an image does not decode or is oversized (file and row are named), or the disk has no room.
    """
    if "process" in inputs:
        there = {name: inputs["process"] / f"{name}.parquet" for name in (*TABLES, "hard_negatives")}
        files = {name: path for name, path in there.items() if path.exists()}
    items, pairs = _without_images(files["items"]), read_table(files["pairs"])
    queries = _with_optional_columns(_without_images(files["queries"]))
    shown = _have_images(files["queries"])
    item_row = {item: row for row, item in enumerate(items["item_id"].to_list())}
    query_row = {query: row for row, query in enumerate(queries["query_id"].to_list())}

    photos = int(shown.sum())
    decoder = _Decoder(config, folder, lambda done: report(done, len(items) + photos, doing="decoding images"))
    decoder.write(files["items"], "items", "item_images", len(items))
    decoder.write(files["queries"], "queries", "query_images", photos)

    pair_item = np.array([item_row[i] for i in pairs["item_id"].to_list()], np.int64)
    pair_query = np.array([query_row[q] for q in pairs["query_id"].to_list()], np.int64)
    pair_split = np.array([SPLITS.index(s) for s in pairs["split"].to_list()], np.int8)
    titles = [title or "" for title in items["title"].to_list()]
    texts = [text or "" for text in queries["text"].to_list()]
    held_items = set(pair_item[pair_split != 0].tolist())
    held_queries = set(pair_query[pair_split != 0].tolist())
    corpus = [t for row, t in enumerate(titles) if row not in held_items]
    corpus += [t for row, t in enumerate(texts) if row not in held_queries]
    rich = rich_texts(items) if config.rich_length else []
    corpus += [t for row, t in enumerate(rich) if row not in held_items]
    if config.questions:
        corpus += question_corpus([p for row, p in enumerate(products_of(items)) if row not in held_items])
    if "tokenizer" in inputs:
        tokenizer = known_tokenizer(inputs["tokenizer"])
    else:
        tokenizer = train_tokenizer(corpus, config.vocabulary, answers=config.questions)
    tokenizer.save(str(folder / "tokenizer.json"))

    worded = queries["text"].is_not_null().to_numpy()
    kinds = {"mixed": shown & worded, "image": shown, "text": worded}
    search_Q = np.select(list(kinds.values()), [SEARCHES.index(kind) for kind in kinds], SEARCHES.index("item"))
    # A text may name its item, but does not show it: the item is what it should find, not what it may not.
    named = [item_row[i] if i is not None else -1 for i in queries["item_id"].to_list()]
    shown_item_Q = np.where(search_Q == SEARCHES.index("text"), -1, np.array(named, np.int64))
    arrays: dict[str, Array] = {
        "item_ids": items["item_id"].to_numpy().astype(np.int64),
        "product_ids": np.unique(items["product_id"].to_numpy(), return_inverse=True)[1].astype(np.int32),
        "item_text": tokenise(tokenizer, titles, config.text_length),
        "query_text": tokenise(tokenizer, texts, config.text_length),
        "query_image_row": np.where(shown, np.cumsum(shown) - 1, -1).astype(np.int64),
        "query_item": shown_item_Q,
        "query_search": search_Q.astype(np.int8),
        "pairs": np.stack([pair_query, pair_item], axis=1).reshape(-1, 2),
        "pair_split": pair_split,
        "pair_action": np.array([_ACTION.get(action, -1) for action in pairs["action"].to_list()], np.int8),
    }
    if config.rich_length:
        arrays["item_rich"] = tokenise(tokenizer, rich, config.rich_length)
    if "in_training" in items.columns:  # processing has taken some out, and left them in the gallery
        arrays["item_in_training"] = items["in_training"].to_numpy()
    if "hard_negatives" in files:
        arrays |= _hard_negatives(files["hard_negatives"], query_row, item_row)
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


def rich_texts(items: "pl.DataFrame") -> list[str]:
    """Of each item its category from root to leaf and its attributes, as a text: the paper's "rich text" (Table 2).

    "apparel, topwear, shirts, colour navy blue, usage casual"; the title is no part of it, and there are no descriptions.
    """
    there = [items[name].to_list() for name in ("category", "attributes") if name in items.columns]
    parts = (
        [str(part).replace(":", " ") for column in row for part in column or () if part]
        for row in zip(*there, strict=True)
    )
    return [", ".join(part) for part in parts] if there else [""] * len(items)


def _hard_negatives(file: Path, query_row: dict[int, int], item_row: dict[int, int]) -> dict[str, Array]:
    """Item rows of each query's hard negatives, side by side, and where those of each query begin (`Prepared`)."""
    table = read_table(file, ["query_id", "item_id"])
    query_N = np.array([query_row[query] for query in table["query_id"].to_list()], np.int64)
    item_N = np.array([item_row[item] for item in table["item_id"].to_list()], np.int64)
    order = np.argsort(query_N, kind="stable")
    counts_Q = np.bincount(query_N, minlength=len(query_row))
    return {"hard_items": item_N[order], "hard_offsets": np.concatenate([[0], np.cumsum(counts_Q)]).astype(np.int64)}


def _without_images(file: Path) -> "pl.DataFrame":
    return read_table(file, [column for column in read_schema(file) if column != "image"])


def _have_images(file: Path) -> Array:
    """bool N, which rows have an image; none where the file has no such column, as the contract allows."""
    if "image" not in read_schema(file):
        return np.zeros(count_rows(file), bool)
    parts = [frame["image"].is_not_null().to_numpy() for _, frame in batches(file, ["image"])]
    return np.concatenate([np.zeros(0, bool), *parts])


def _with_optional_columns(queries: "pl.DataFrame") -> "pl.DataFrame":
    """Queries with null columns for the modalities that their file leaves out, as the contract allows."""
    import polars as pl

    kinds = {"text": pl.String, "item_id": pl.Int64}
    return queries.with_columns(pl.lit(None, kind).alias(c) for c, kind in kinds.items() if c not in queries.columns)


def twins(folder: Path, image_row_Q: Array, item_Q: Array, held_P: Array) -> Array:
    """bool Q: held-out photo queries whose thumbnail is near-identical to a gallery item's other than their own."""
    prepared = Prepared(folder)
    out = np.zeros(image_row_Q.size, bool)
    asked = np.unique(held_P[image_row_Q[held_P] >= 0])
    if not asked.size:
        return out
    item_thumbs, photos = thumbnails(prepared.item_images), prepared.query_images
    for start in range(0, asked.size, 256):
        block = asked[start : start + 256]
        cosine_QxN = thumbnails(photos[image_row_Q[block]]) @ item_thumbs.T
        known = np.flatnonzero(item_Q[block] >= 0)
        cosine_QxN[known, item_Q[block][known]] = 0.0
        out[block] = cosine_QxN.max(axis=1) > TWIN_COSINE
    return out


class _Decoder:
    """Decodes the images of a table in threads, and keeps pixels (a uint8 memory map) or bytes, as the config says."""

    def __init__(self, config: PrepareConfig, folder: Path, progress: Callable[[int], None]):
        self.config, self.folder, self.progress, self.done = config, folder, progress, 0

    def write(self, file: Path, table: str, name: str, count: int) -> None:
        """The images of `file`: for items a row each, for queries one for each that has a photo."""
        height, width = self.config.height, self.config.width
        blocks = self._blocks(file, table)
        if self.config.images == "encoded":
            encoded = (block for block, _ in blocks)
            write_images(
                self.folder / name,
                encoded,
                height=height,
                width=width,
                table=table,
                resample=self.config.resample,
            )
            return
        path, shape = self.folder / f"{name}.npy", (count, height, width, 3)
        if not count:
            np.save(path, np.zeros(shape, np.uint8))
            return
        self._require_room(count * height * width * 3, table)
        out = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
        start = 0
        for _, decoded in blocks:
            out[start : start + len(decoded)] = decoded
            start += len(decoded)
        out.flush()

    def _blocks(self, file: Path, table: str) -> Iterator[tuple[list[bytes | None], list[Array]]]:
        """(images as they are, the same decoded), 1024 at a time."""

        def decode(encoded: bytes | None, row: int) -> Array:
            try:
                return decode_image(encoded, self.config.height, self.config.width, self.config.resample)
            except DataError as error:
                raise DataError(f"{table}.parquet, row {row}: image {error}; run `moon data check`") from None

        if table == "queries" and "image" not in read_schema(file):  # the contract lets only queries leave it out
            return
        for first, frame in batches(file, ["image"]):
            kept = frame["image"].is_not_null().to_numpy() if table == "queries" else np.ones(len(frame), bool)
            rows = np.flatnonzero(kept)
            for start in range(0, rows.size, 1024):
                block = rows[start : start + 1024]
                encoded = frame["image"].gather(block).to_list()
                yield encoded, list(decoding_threads().map(decode, encoded, (first + block).tolist()))
                self.done += block.size
                self.progress(self.done)

    def _require_room(self, needed: int, table: str) -> None:
        """A memory map grows as it is written: on a full disk the process would be killed, without a word."""
        if needed > (free := shutil.disk_usage(self.folder).free):
            raise DataError(
                f"{table}.parquet: its decoded images take {needed / 2**30:,.1f} GiB, and {free / 2**30:,.1f} GiB are free at "
                f'{self.folder}; make room, or keep them encoded (PrepareConfig(images="encoded"))'
            )


def known_tokenizer(folder: Path) -> Any:
    """The tokenizer of a prepared folder."""
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def train_tokenizer(texts: list[str], vocabulary: int, *, answers: bool = False) -> Any:
    """A lower-cased byte-pair encoder (`tokenizers`); id 0 is padding, 1 unknown. Deterministic for a given corpus.

    answers: id 2 ends an answer, and tokens that end a word say so: what is decoded has its spaces.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    suffix: dict[str, Any] = {"end_of_word_suffix": "</w>"} if answers else {}
    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]", **suffix))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = ["[PAD]", "[UNK]", *([END] if answers else [])]
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=special, show_progress=False, **suffix)
    tokenizer.train_from_iterator(texts, trainer)
    if answers:
        tokenizer.decoder = decoders.BPEDecoder(suffix="</w>")
    return tokenizer


def tokenise(tokenizer: Any, texts: list[str], length: int) -> Array:
    """int32 N x length: token ids, cut at the end, padded with 0."""
    out = np.zeros((len(texts), length), np.int32)
    for row, encoded in enumerate(tokenizer.encode_batch(texts)):
        ids = encoded.ids[:length]
        out[row, : len(ids)] = ids
    return out
