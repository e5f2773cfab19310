"""From prepared arrays to batches: memory-mapped, shuffled and checkpointable by grain.

`stages/prepare.py` decodes images and tokenises text once; here they are only gathered, or decoded from the bytes where
they were left encoded. A batch has one form, so that its keys cannot be told apart by what they show; forms are
interleaved by weight.
"""

import functools
import math
import sys
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, Self

import grain
import numpy as np

from moon_jax.data.contract import DataError
from moon_jax.data.forms import ACTIONS, OWN, SEARCHES, WORDS, Form
from moon_jax.data.images import EncodedImages

Array = np.ndarray
SPLITS = ("train", "valid", "test")


class Batches(Protocol):
    """Host batches, one after another for ever, with a place that can be saved and gone back to."""

    def __next__(self) -> Any: ...

    def get_state(self) -> dict[str, Any]: ...

    def set_state(self, state: dict[str, Any]) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Prepared:
    """The arrays of a prepared catalogue and its searches; rows of items and queries, not ids.

    item_images uint8 N x H x W x 3; item_text int32 N x T, 0 = padding; item_ids int64 N, product_ids int32 N;
    query_images uint8 I x H x W x 3 for the queries that have one; query_image_row int64 Q (-1: none);
    query_text int32 Q x T; query_item int64 Q, the item a query is or shows (-1: none, as for texts);
    query_search int8 Q, index into SEARCHES; pairs int64 P x 2 (query row, item row); pair_split int8 P.
    pair_action int8 P, index into ACTIONS, or -1 for another. Some have item_rich int32 N x R, the items' rich texts.
    Some have hard negatives: those of query q are the item rows hard_items[hard_offsets[q]:hard_offsets[q + 1]], int64.
    Images that were left encoded are decoded where they are indexed (`data.images.EncodedImages`).
    """

    folder: Path

    def __getattr__(self, name: str) -> Any:
        path = self.folder / f"{name}.npy"
        encoded = self.folder / name
        if name.startswith("_") or not (path.exists() or encoded.is_dir()):
            raise AttributeError(name)
        array = EncodedImages(encoded) if encoded.is_dir() else np.load(path, mmap_mode="r", allow_pickle=False)
        self.__dict__[name] = array  # opened once
        return array

    def __reduce__(self) -> tuple[Any, ...]:
        return Prepared, (self.folder,)  # a worker process opens the arrays itself

    def pairs_of(self, search: str, split: str, actions: tuple[str, ...] = ()) -> Array:
        """(query row, item row) of one search in one split, P x 2; for "own", training items with themselves.

        actions: only pairs of these; none for all.
        """
        if search == OWN:
            return np.stack([self.own_items, self.own_items], axis=1)
        kept = (self.query_search[self.pairs[:, 0]] == SEARCHES.index(search)) & (
            self.pair_split == SPLITS.index(split)
        )
        if actions:
            kept &= np.isin(self.pair_action, [ACTIONS.index(action) for action in actions])
        return self.pairs[kept]

    @cached_property
    def own_items(self) -> Array:
        """Items that take no part in an evaluation, neither as query nor as answer, and that processing left in training."""
        held = self.pairs[self.pair_split != SPLITS.index("train")]
        out = np.zeros(self.item_ids.size, bool)
        out[held[:, 1]] = True
        queried = self.query_item[held[:, 0]]
        out[queried[queried >= 0]] = True
        if (self.folder / "item_in_training.npy").exists():
            out |= ~self.item_in_training
        return np.flatnonzero(~out)

    def gather(self, form: Form, pairs_Bx2: Array) -> dict[str, Array]:
        """What the encoder is shown for these pairs."""
        query_B, item_B = np.asarray(pairs_Bx2).T
        batch = {"product_ids": self.product_ids[item_B]}
        if "image" in form.query:
            batch["query_images"] = self.query_pixels(form.search, query_B)
        if words := words_of(form.query):
            batch["query_text"] = self.query_words(form.search, query_B, words)
        if "image" in form.item:
            batch["item_images"] = self.item_images[item_B]
        if words := words_of(form.item):
            batch["item_text"] = self.item_words(words)[item_B]
        return batch

    def gather_hard(self, form: Form, items_BxH: Array) -> dict[str, Array]:
        """What the encoder is shown of each pair's hard negatives (see `hard_of`), B x H rows."""
        batch = {"hard_product_ids": self.product_ids[items_BxH].astype(np.int32)}
        shown = {"hard_images": self.item_images} if "image" in form.item else {}
        if words := words_of(form.item):
            shown["hard_text"] = self.item_words(words)
        for name, array in shown.items():
            rows = array[items_BxH.ravel()]
            batch[name] = rows.reshape(*items_BxH.shape, *rows.shape[1:])
        return batch

    def hard_of(self, search: str, pairs_Bx2: Array, count: int, seed: int, places_B: Array) -> Array:
        """int64 B x count: item rows of so many hard negatives for each pair's query, without replacement.

        A query that has fewer, and an item's own photo, which has none, get their positive in the places that are left:
        the loss masks it by its id. What is drawn depends on `seed` and the pair's place alone.

        Args:
            places_B: int64, number of each pair in its form's endless sequence.
        """
        query_B, item_B = np.asarray(pairs_Bx2).T
        if search == OWN or not len(self.hard_items):
            return np.repeat(item_B[:, None], count, axis=1)
        starts_B = np.asarray(self.hard_offsets[query_B])
        sizes_B = np.asarray(self.hard_offsets[query_B + 1]) - starts_B
        widest = np.arange(max(count, sizes_B.max(initial=0)))
        there_BxW = widest < sizes_B[:, None]
        lots_BxW = np.where(there_BxW, scattered(seed, places_B[:, None], widest), np.iinfo(np.uint64).max)
        drawn_BxH = np.argsort(lots_BxW, axis=1, kind="stable")[:, :count]
        rows_BxH = np.where(drawn_BxH < sizes_B[:, None], starts_B[:, None] + drawn_BxH, 0)
        return np.where(drawn_BxH < sizes_B[:, None], self.hard_items[rows_BxH], item_B[:, None])

    def query_pixels(self, search: str, query_B: Array) -> Array:
        """A query's own photo; for a product as query, the item's."""
        if search == OWN:
            return self.item_images[query_B]
        if search == "item":
            return self.item_images[self.query_item[query_B]]
        return self.query_images[self.query_image_row[query_B]]

    def query_words(self, search: str, query_B: Array, words: str = "text") -> Array:
        """A query's own text; for a product as query, the item's title or rich text."""
        if search == OWN:
            return self.item_words(words)[query_B]
        if search == "item":
            return self.item_words(words)[self.query_item[query_B]]
        return self.query_text[query_B]

    def item_words(self, words: str) -> Array:
        """int32 N x T: titles ("text") or rich texts ("rich"); DataError where there are no rich texts."""
        if words == "rich" and not (self.folder / "item_rich.npy").exists():
            raise DataError("the arrays were prepared without rich texts; give the recipe a rich_length")
        return self.item_text if words == "text" else self.item_rich

    def tokens_per_pair(
        self, form: Form, patches: int, split: str = "train", actions: tuple[str, ...] = ()
    ) -> tuple[float, int]:
        """(mean training tokens of a pair, number of pairs): ViT patches + non-padding text tokens, both sides."""
        pairs = self.pairs_of(form.search, split, actions)
        if not len(pairs):
            of = f" of {' or '.join(actions)}" if actions else ""
            raise DataError(f"the data has no {split} pairs{of} for {form.search} search")
        tokens = patches * (("image" in form.query) + ("image" in form.item))
        query, item = (tuple(m for m in side if m in WORDS) for side in (form.query, form.item))
        batch = self.gather(Form(form.search, query, item), pairs)
        words = sum(np.count_nonzero(batch[name]) for name in ("query_text", "item_text") if name in batch)
        return tokens + words / len(pairs), len(pairs)


def training_batches(
    prepared: Prepared,
    forms: tuple[Form, ...],
    batch: int,
    seed: int,
    *,
    process: tuple[int, int] | None = None,
    loaders: int = 0,
    hard: int = 0,
    actions: tuple[str, ...] = (),
) -> Batches:
    """Endless, deterministic host batches (dicts of arrays, see `gather` and `gather_hard`).

    Each form's pairs are shuffled anew every pass; a batch holds pairs of one form. The place is the number of batches
    consumed, whatever was prefetched, so that a run may go on with another number of processes or of loaders.

    Args:
        batch: pairs of a global batch.
        process: (index, count): this process gets the index-th of count equal parts of each global batch; by default
            jax's own.
        loaders: worker processes that decode; 0 decodes in threads of this one.
        hard: hard negatives of each pair.
        actions: only pairs of these; none for all.

    Raises:
        DataError: too few pairs for a batch, a batch that processes cannot share equally, a weight that is none, hard
            negatives that the data does not have.
    """
    if process is None:
        import jax

        process = jax.process_index(), jax.process_count()
    index, count = process
    if batch % count:
        raise DataError(f"a batch of {batch} cannot be shared equally by {count} processes; take a multiple of {count}")
    if hard and not hasattr(prepared, "hard_offsets"):
        raise DataError("the prepared data has no hard negatives; process it with a transformation that finds them")
    part = slice(index * batch // count, (index + 1) * batch // count)
    parts = []
    for number, form in enumerate(forms):
        pairs = prepared.pairs_of(form.search, "train", actions)
        if len(pairs) < batch:
            raise DataError(f"{len(pairs)} training pairs for {form.search} search are fewer than a batch of {batch}")
        rows = grain.MapDataset.source(pairs).seed(1000 * seed + number).shuffle().repeat()
        gather = _Gather(prepared, form, part, hard, 1000 * seed + number)
        parts.append(rows.batch(batch, drop_remainder=True).map_with_index(gather))
    mixed = grain.MapDataset.select_from_datasets(parts, Mixture(tuple(form.weight for form in forms)))
    if loaders:
        return _FromProcesses(mixed, loaders)
    # Two batches under way: while one waits for its last image, the cores decode the next.
    return iter(mixed.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=2)))


def words_of(modalities: tuple[str, ...]) -> str:
    """Which words a side shows, "text" or "rich"; "" for none."""
    return next((words for words in WORDS if words in modalities), "")


class _Gather(grain.experimental.MapWithIndexTransform):
    def __init__(self, prepared: Prepared, form: Form, part: slice, hard: int, seed: int):
        self.prepared, self.form, self.part, self.hard, self.seed = prepared, form, part, hard, seed

    def map_with_index(self, index: int, element: Any) -> dict[str, Array]:
        pairs = element[self.part]
        batch = self.prepared.gather(self.form, pairs)
        if self.hard:
            places = (index * len(element) + np.arange(len(element)))[self.part]
            items = self.prepared.hard_of(self.form.search, pairs, self.hard, self.seed, places)
            batch |= self.prepared.gather_hard(self.form, items)
        return batch


class _FromProcesses:
    """The same batches out of worker processes, started at the first one; grain's own place would count each worker's."""

    def __init__(self, batches: grain.MapDataset, loaders: int):
        self._batches, self._loaders, self._place = batches, loaders, 0
        self._running: grain.DatasetIterator | None = None

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> dict[str, Array]:
        if self._running is None:
            from absl import flags

            if not flags.FLAGS.is_parsed():  # grain asks a flag of absl, which only absl's own programs parse
                flags.FLAGS.mark_as_parsed()
            rest = self._batches.slice(slice(self._place, None)).to_iter_dataset(grain.ReadOptions(1, 1))
            self._running = iter(rest.mp_prefetch(grain.MultiprocessingOptions(num_workers=self._loaders)))
        batch = next(self._running)
        self._place += 1
        return batch

    def get_state(self) -> dict[str, Any]:
        return {"next_index": self._place}  # as grain's threads have it

    def set_state(self, state: dict[str, Any]) -> None:
        self.close()
        self._place = state["next_index"]

    def close(self) -> None:
        running, self._running = self._running, None
        if running is not None:
            running.close()


def scattered(seed: int, *numbers: Array) -> Array:
    """uint64 that look random, one for each combination of whole numbers: chained SplitMix64 (Steele et al. 2014)."""
    out = np.zeros((), np.uint64)
    with np.errstate(over="ignore"):  # it is meant to wrap
        for number in (seed, *numbers):
            out = (out ^ np.asarray(number, np.uint64)) + np.uint64(0x9E3779B97F4A7C15)
            out = (out ^ (out >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            out = (out ^ (out >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            out = out ^ (out >> np.uint64(31))
    return out


class Mixture:
    """place of a batch -> (form, place in the form's own batches), by weight, as evenly spread as can be.

    grain's own `mix` rounds weights to hundredths of the smallest (0.3 beside 0.1 becomes 299 to 100); here n shares of a
    whole pass over the mixture are exactly n batches. Where grain is exact the order is grain's.
    """

    def __init__(self, weights: tuple[float, ...]):
        for weight in weights:
            if not (math.isfinite(weight) and weight > 0):
                raise DataError(
                    f"a form of weight {weight} is none of a mixture; take a number above 0, or leave it out"
                )
        exact = [Fraction(weight).limit_denominator(10_000) for weight in weights]
        if 0 in exact:
            raise DataError(f"a form of weight {min(weights)} is too rare for a mixture; the least is 0.0001")
        whole = math.lcm(*(share.denominator for share in exact))
        self.shares = tuple(int(share * whole) for share in exact)

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, place: int) -> tuple[int, int]:
        """Form by form: of the places that earlier forms left, each takes its share, counted up to here and to the next."""
        here, after, left = place, place + 1, sum(self.shares)
        for form, share in enumerate(self.shares):
            rest, rest_after = here * (left - share) // left, after * (left - share) // left
            if after - rest_after > here - rest:
                return form, here - rest
            here, after, left = rest, rest_after, left - share
        raise AssertionError("the last form takes all that is left")


class ShuffledBatches:
    """place of a batch -> its rows, shuffled anew in each pass over them; a source for grain of batches and not of rows.

    grain's own `shuffle` and `batch` look every row up by itself, which takes longer than to read a short history.
    What a place holds depends on the place and the seed alone. A batch may begin in one pass and end in the next.
    """

    def __init__(self, rows: Array, batch: int, seed: int):
        self._rows, self._batch, self._seed = rows, batch, seed
        self._order = functools.lru_cache(maxsize=2)(self._order_of)  # a batch lies in two passes at most

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, place: int) -> Array:
        """Rows, B."""
        passes, at = np.divmod(place * self._batch + np.arange(self._batch), self._rows.size)
        return np.concatenate([self._order(which)[at[passes == which]] for which in np.unique(passes)])

    def _order_of(self, which: int) -> Array:
        return np.random.default_rng((self._seed, which)).permutation(self._rows)
