"""Entities in titles and queries: by a lexicon of the catalogue's own words, or by a recogniser of one's own."""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from moon_jax.data.contract import DataError, Dataset
from moon_jax.data.processing.material import Material
from moon_jax.data.processing.transformation import Decision, Transformation
from moon_jax.data.processing.working import Working

if TYPE_CHECKING:
    import polars as pl

SLICE = 1 << 16  # texts read at a time
SHORTEST = 3  # letters of a lexicon's entry: "NA" and sizes are no entities


@dataclass(frozen=True)
class EntityFilter(Transformation):
    """Titles and search texts that name fewer than `least` distinct entities go (paper: an NER filter).

    The lexicon is the catalogue's own: values of attributes ("colour:navy blue" names "navy blue") and names of
    categories at all levels, matched whole words at a time, longest first, whatever their case, hyphens and plural s.
    It is matched by Aho-Corasick, in one pass over a text for all entries. Searches without a text stay; the text of a
    mixed search counts like any other.

    Attributes:
        recogniser: "module:function" of a function text -> list of entities, in place of the lexicon.
    """

    name: ClassVar[str] = "entities"
    does: ClassVar[str] = "titles and texts that name fewer than two entities"
    least: int = 2
    recogniser: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.least >= 0, f"least {self.least} must not be negative")

    def decide(self, working: Working, material: Material) -> Decision:
        import polars as pl

        find, size = self._finder(material)
        count = pl.col("entities").list.n_unique()
        gone = {}
        for table, column, ids in (
            ("items", "title", working.eligible_items(self.scope)["item_id"]),
            ("queries", "text", working.eligible_queries(self.scope)["query_id"]),
        ):
            if not material.has_column(table, column):
                continue

            def entities(frame: "pl.DataFrame", table: str, before: int) -> "pl.DataFrame":
                key, text = frame.columns
                told = frame.filter(pl.col(text).is_not_null())
                return (
                    told.select(pl.col(key).cast(pl.Int64))
                    .with_columns(entities=find(told[text]))
                    .select(key, count.alias("count"))
                )

            # What is counted depends on the config and, by the lexicon, on the whole catalogue: so does the cache.
            seen = material.derived(
                f"entities-{self.recogniser or 'lexicon'}", table, [ids.name, column], entities, SLICE
            )
            few = seen.filter((pl.col("count") < self.least) & pl.col(ids.name).is_in(ids.implode()))
            gone[table] = few.select(ids.name, kept=pl.lit(None, pl.Int64)).collect(engine="streaming").sort(ids.name)
        facts = {"entries of the lexicon": size} if size else {}
        return Decision(
            f"with fewer than {self.least} entities", items=gone.get("items"), queries=gone.get("queries"), facts=facts
        )

    def _finder(self, material: Material) -> "tuple[Callable[[pl.Series], pl.Series], int]":
        if self.recogniser:
            return _recogniser(self.recogniser), 0
        entries = lexicon(material)
        if not entries:
            raise DataError(f"{self.name}: the catalogue has no attributes and no categories; name a recogniser")
        return lambda texts: matches(texts, entries), len(entries)


def named_share(catalogue: "Material | Dataset", least: int = EntityFilter.least, of: int = 2000) -> float:
    """The share of titles, of a sample spread evenly, that name at least so many entities of the catalogue's own lexicon."""
    titles = catalogue.read("items", ["title"])["title"].drop_nulls()
    if not titles.len() or not (entries := lexicon(catalogue)):
        return 0.0
    shown = titles.gather_every(-(-titles.len() // of))
    return float((matches(shown, entries).list.n_unique() >= least).sum()) / shown.len()


def lexicon(material: "Material | Dataset") -> list[str]:
    """The normalised values of attributes and names of categories, longest first (so that they win where both match)."""
    import polars as pl

    frame = material.read("items", ["category", "attributes"])
    value = pl.col("attributes").str.replace(r"^[^:]*:", "")
    names = [frame["category"].explode().drop_nulls().unique()]
    names += (frame.select(pl.col("attributes").explode()).drop_nulls().unique().select(value)["attributes"].unique(),)
    entries = pl.concat([series.cast(pl.String).alias("entry") for series in names]).to_frame().select(normal("entry"))
    lettered = pl.col("entry").str.count_matches(r"\p{L}") >= SHORTEST
    unique = entries.unique().filter(lettered).sort(pl.col("entry").str.len_bytes(), "entry", descending=[True, False])
    return unique["entry"].to_list()


def normal(column: str) -> "pl.Expr":
    """Words in lower case, without apostrophes and plural endings ("T-Shirts", "flip-flops": tshirt, flip and flop).

    Each word has a blank of its own on both sides, so entries next to each other in a text do not share one.
    """
    import polars as pl

    text = pl.col(column).str.normalize("NFKC").str.to_lowercase().str.replace_all("['’]", "")
    text = text.str.replace_all(r"\b(\p{L})-", "${1}")  # one letter belongs to its word, other hyphens part words
    words = text.str.replace_all(r"[^\p{L}\p{N}]+", "  ").str.strip_chars(" ")
    singular = words.str.replace_all(r"(ch|sh|ss|x|z)es\b", "${1}").str.replace_all(r"(\p{L}{2}[^s\s])s\b", "${1}")
    return (" " + singular + " ").alias(column)


def matches(texts: "pl.Series", entries: Sequence[str]) -> "pl.Series":
    """list<string>: the entries (of `lexicon`) in each text, from the left, not overlapping."""
    import polars as pl

    found = pl.col("text").str.extract_many(list(entries), leftmost=True)
    return texts.alias("text").to_frame().select(normal("text")).select(found)["text"]


def _recogniser(name: str) -> "Callable[[pl.Series], pl.Series]":
    import polars as pl

    module, _, function = name.partition(":")
    try:
        call = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise DataError(f"recogniser {name!r}: {error}; write it as module:function") from None
    return lambda texts: pl.Series([[str(entity) for entity in call(text)] for text in texts], dtype=pl.List(pl.String))
