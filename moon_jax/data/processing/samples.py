"""A few of the rows that went, in words: what a person looks at to see whether a transformation is right."""

from typing import TYPE_CHECKING

from moon_jax.data.processing.material import Material
from moon_jax.data.processing.transformation import Decision

if TYPE_CHECKING:
    import polars as pl

SHOWN = 4  # of each kind


def in_words(decision: Decision, gone: "pl.DataFrame", material: Material) -> tuple[str, ...]:
    """Sentences on some items and queries that went or were replaced, and some pairs that went, spread over them all.

    gone: was_query, was_item of the pairs that went.
    """
    import polars as pl

    said = []
    moves = {}
    for kind, frame in (("item", decision.items), ("query", decision.queries)):
        moves[kind] = _spread(frame.sort(f"{kind}_id")) if frame is not None else pl.DataFrame()
    pairs = _spread(gone.unique().sort("was_query", "was_item"))
    added = _spread(decision.negatives) if decision.negatives is not None else pl.DataFrame()
    wanted = {
        "item": [*_ids(moves["item"], "item_id", "kept"), *_ids(pairs, "was_item"), *_ids(added, "item_id")],
        "query": [*_ids(moves["query"], "query_id", "kept"), *_ids(pairs, "was_query"), *_ids(added, "query_id")],
    }
    queries = _queries(material, wanted["query"])
    wanted["item"] += [item for _, _, item in queries.values() if item is not None]
    titles = _titles(material, wanted["item"])
    words = {"item": titles, "query": {key: _asked(query, titles) for key, query in queries.items()}}
    for kind in ("item", "query"):
        for key, kept in moves[kind].rows():
            stands = "" if kept is None else f", for which stands {words[kind].get(kept, kept)}"
            said.append(f"{words[kind].get(key, key)}: {decision.why}{stands}")
    said += [f"pair of {words['query'].get(q, q)} and {words['item'].get(i, i)}" for q, i in pairs.rows()]
    for query, item in added.select("query_id", "item_id").rows() if len(added) else ():
        said.append(f"{words['item'].get(item, item)} is a hard negative of {words['query'].get(query, query)}")
    return tuple(said)


def _spread(frame: "pl.DataFrame") -> "pl.DataFrame":
    return frame.gather_every(max(1, frame.height // SHOWN)).head(SHOWN)


def _ids(frame: "pl.DataFrame", *columns: str) -> list[int]:
    return [value for column in columns if column in frame.columns for value in frame[column].drop_nulls().to_list()]


def _titles(material: Material, ids: list[int]) -> dict[int, str]:
    import polars as pl

    found = material.read("items", ["item_id", "title"], pl.Series("item_id", ids, pl.Int64))
    return {item: f"item {item} ({title!r})" for item, title in found.rows()}


def _queries(material: Material, ids: list[int]) -> dict[int, tuple[int, str | None, int | None]]:
    import polars as pl

    there = [column for column in ("text", "item_id") if material.has_column("queries", column)]
    found = material.read("queries", ["query_id", *there], pl.Series("query_id", ids, pl.Int64))
    return {row["query_id"]: (row["query_id"], row.get("text"), row.get("item_id")) for row in found.rows(named=True)}


def _asked(query: tuple[int, str | None, int | None], titles: dict[int, str]) -> str:
    key, text, item = query
    if text is not None:
        return f"query {key} ({text!r})"
    return f"query {key}" if item is None else f"query {key} (of {titles.get(item, f'item {item}')})"
