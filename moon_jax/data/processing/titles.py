"""Near-duplicate texts by MinHash (Broder 1997): words, shingles, signatures in bands, and the exact Jaccard at last."""

import hashlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from moon_jax.data.processing.grouping import firsts, leaders, mix64, pairs_in_runs
from moon_jax.data.processing.material import Material
from moon_jax.data.processing.transformation import Decision, Transformation
from moon_jax.data.processing.working import Working

if TYPE_CHECKING:
    import polars as pl

Array = np.ndarray
SLICE = 1 << 16  # texts read at a time
SIGNED = 1 << 13  # texts signed at a time
MISSED = 0.002  # of pairs at the threshold, at most
LONGEST = 8  # band; longer ones save nothing any more
COMPARED = 1 << 15  # pairs of texts compared at a time, where they have eight shingles


@dataclass(frozen=True)
class NearTitles(Transformation):
    """Titles that share at least `threshold` of their shingles (Jaccard); likewise the texts of text searches.

    Of alike titles the item of the lowest id stands for the others (a search by their photos stays); of alike texts the
    query of the lowest id asks for all. MinHash finds the candidates, the exact Jaccard decides: a pair at the threshold
    is missed with a probability of at most .002, nothing unlike is taken.

    Attributes:
        shingle: words in a shingle; a shorter text is one shingle.
        bands: of the signature; more bands cost more and propose fewer candidates in vain.
        within: variants of one product may stand for each other, too. They share their title by nature, so without it this
            is a second `variants` wherever titles define products.
    """

    name: ClassVar[str] = "near_titles"
    does: ClassVar[str] = "titles and texts that share most of their words in order (MinHash)"
    threshold: float = 0.8
    shingle: int = 2
    bands: int = 24
    within: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(0 < self.threshold <= 1, f"threshold {self.threshold} must lie in (0, 1]")
        self.require(min(self.shingle, self.bands) >= 1, "shingle and bands must be at least 1")

    @property
    def rows(self) -> int:
        """Minima in a band, as many as `MISSED` allows: two texts become candidates at 1 - (1 - J^rows)^bands."""
        if self.threshold == 1:
            return LONGEST
        agree = 1 - MISSED ** (1 / self.bands)
        return min(LONGEST, max(1, int(math.log(agree) / math.log(self.threshold))))

    def decide(self, working: Working, material: Material) -> Decision:
        import polars as pl

        items = self.moves(working.eligible_items(self.scope)["item_id"], "items", "title", material)
        if not self.within:
            product = working.items.select("item_id", "product_id")
            items = items.join(product, on="item_id", maintain_order="left").join(
                product.rename({"item_id": "kept", "product_id": "other"}), on="kept", maintain_order="left"
            )
            items = items.filter(pl.col("product_id") != pl.col("other")).select("item_id", "kept")
        texts = working.eligible_queries(self.scope).filter(pl.col("kind") == "text")
        queries = pl.DataFrame(schema={"query_id": pl.Int64, "kept": pl.Int64})
        if len(texts):
            queries = pl.concat(
                [
                    self.moves(part["query_id"], "queries", "text", material)
                    for _, part in texts.group_by("split", maintain_order=True)
                ]
            )
        return Decision("with a text near that of another", items=items, queries=queries)

    def moves(self, ids: "pl.Series", table: str, column: str, material: Material) -> "pl.DataFrame":
        """id and kept, for the rows of these sorted ids whose text is near an earlier one's."""
        import polars as pl

        key = ids.name
        words = material.derived("words", table, [key, column], split_words, SLICE)
        chosen = words.filter(pl.col("id").is_in(ids.implode())).collect(engine="streaming").sort("id")
        chosen = chosen.filter(pl.col("words").list.len() > 0)  # an empty text is near nothing
        ids_V = chosen["id"].to_numpy()
        leader_V = self.leaders(chosen["words"])
        other = leader_V != np.arange(leader_V.size)
        return pl.DataFrame(
            {key: ids_V[other], "kept": ids_V[leader_V[other]]}, schema={key: pl.Int64, "kept": pl.Int64}
        )

    def leaders(self, words: "pl.Series") -> Array:
        """int64 V: who stands for each of V texts (lists of word hashes, uint64), in their order."""
        shingle_S, count_V = shingles(words, self.shingle)
        start_V = np.cumsum(count_V) - count_V
        same_V = firsts(_sets(shingle_S, start_V))
        once_U = np.flatnonzero(same_V == np.arange(same_V.size))
        if not once_U.size:
            return same_V
        sets = Sets.of(shingle_S, start_V[once_U], count_V[once_U])
        found = []
        for keys_U in self.band_keys(sets):
            for low, high in pairs_in_runs(keys_U):
                near = sets.jaccard(low, high) >= self.threshold
                found.append(np.stack([low[near], high[near]]))
        low_E, high_E = np.concatenate([np.zeros((2, 0), np.int64), *found], axis=1)
        of_U = leaders(once_U.size, low_E, high_E)
        return np.asarray(once_U[of_U][np.searchsorted(once_U, same_V)])

    def band_keys(self, sets: "Sets") -> Array:
        """uint64 bands x U: one key a band of `rows` minima, for all texts."""
        keys = np.zeros((self.bands, sets.count_U.size), np.uint64)
        for low in range(0, sets.count_U.size, SIGNED):
            high = min(low + SIGNED, sets.count_U.size)
            shingle_s = sets.shingle_S[sets.start_U[low] : sets.start_U[high - 1] + sets.count_U[high - 1]]
            starts = sets.start_U[low:high] - sets.start_U[low]
            for band in range(self.bands):
                for row in range(self.rows):
                    minima = np.minimum.reduceat(mix64(shingle_s, 1 + band * self.rows + row), starts)
                    keys[band, low:high] = mix64(keys[band, low:high] ^ minima)
        return keys


@dataclass(frozen=True)
class Sets:
    """U texts as sets of shingles laid end to end: shingle uint64 S, start and count int64 U."""

    shingle_S: Array
    start_U: Array
    count_U: Array

    @classmethod
    def of(cls, shingle_S: Array, start_U: Array, count_U: Array) -> "Sets":
        """The sets at these places, laid end to end anew."""
        starts = np.cumsum(count_U) - count_U
        at = np.repeat(start_U - starts, count_U) + np.arange(count_U.sum())
        return cls(shingle_S[at], starts, count_U)

    def jaccard(self, low_E: Array, high_E: Array) -> Array:
        """float64 E: |A and B| / |A or B| of each pair."""
        common_E = np.zeros(low_E.size)
        start = 0
        while start < low_E.size:
            # As many pairs as their padded sets allow; the longest of the first ones decides, and what is longer waits.
            block = slice(start, start + COMPARED)
            widest = int(max(self.count_U[low_E[block]].max(), self.count_U[high_E[block]].max()))
            block = slice(start, start + max(1, min(COMPARED, COMPARED * 64 // widest**2)))
            low_ExL, high_ExL = self._padded(low_E[block], widest, 0), self._padded(high_E[block], widest, 1)
            common_E[block] = (low_ExL[:, :, None] == high_ExL[:, None, :]).sum(axis=(1, 2))
            start = block.stop
        return np.asarray(common_E / (self.count_U[low_E] + self.count_U[high_E] - common_E))

    def _padded(self, rows_E: Array, width: int, filler: int) -> Array:
        """uint64 E x width: the sets of these rows; sets padded with other fillers share none of them."""
        inside = np.arange(width) < self.count_U[rows_E, None]
        at = np.where(inside, self.start_U[rows_E, None] + np.arange(width), 0)
        return np.where(inside, self.shingle_S[at], np.uint64(filler))


def split_words(frame: "pl.DataFrame", table: str, before: int) -> "pl.DataFrame":
    """id and the hashes of the words (uint64) of each text: lower-cased, letters and digits of any script."""
    import polars as pl

    key, column = frame.columns
    words = pl.col(column).fill_null("").str.normalize("NFKC").str.to_lowercase().str.extract_all(r"[\p{L}\p{N}]+")
    split = frame.select(pl.col(key).cast(pl.Int64).alias("id"), words.alias("words"))
    known = split["words"].explode(empty_as_null=True).drop_nulls().unique()
    hashes = [int.from_bytes(hashlib.blake2b(w.encode(), digest_size=8).digest(), "little") for w in known]
    return split.with_columns(
        pl.col("words").list.eval(
            pl.element().replace_strict(known, pl.Series(hashes, dtype=pl.UInt64), return_dtype=pl.UInt64)
        )
    )


def shingles(words: "pl.Series", size: int) -> tuple[Array, Array]:
    """(shingle hashes uint64 S, how many int64 V): of each text its distinct runs of `size` words, sorted."""
    count_V = words.list.len().to_numpy().astype(np.int64)
    word_W = words.explode(empty_as_null=False).to_numpy() if count_V.sum() else np.zeros(0, np.uint64)
    text_W = np.repeat(np.arange(count_V.size), count_V)
    place_W = np.arange(word_W.size) - np.repeat(np.cumsum(count_V) - count_V, count_V)
    key_W = mix64(word_W, 1)
    for offset in range(1, size):
        after_W = np.zeros_like(key_W)
        after_W[: max(word_W.size - offset, 0)] = word_W[offset:]
        inside_W = place_W + offset < count_V[text_W]
        key_W = mix64(np.where(inside_W, key_W ^ mix64(after_W, offset + 1), key_W), size)
    # A run must fit into its text, but the first of a short text stands for all of it.
    whole_W = (place_W + size <= count_V[text_W]) | (place_W == 0)
    text_S, key_S = text_W[whole_W], key_W[whole_W]
    order = np.lexsort((key_S, text_S))
    text_S, key_S = text_S[order], key_S[order]
    once = np.ones(key_S.size, bool)
    once[1:] = (text_S[1:] != text_S[:-1]) | (key_S[1:] != key_S[:-1])
    return key_S[once], np.bincount(text_S[once], minlength=count_V.size)


def _sets(shingle_S: Array, start_V: Array) -> Array:
    """uint64 V: one hash of each set of shingles."""
    if not start_V.size:
        return np.zeros(0, np.uint64)
    return np.asarray(np.bitwise_xor.reduceat(mix64(shingle_S, 99), start_V))
