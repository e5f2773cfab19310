"""Carrying a decision out in all that refers to it, so that no table is left with an id that is gone.

In train scope the tables of items and queries stay; training pairs are dropped or turned to the item or query that
stands for theirs. In scope "all" rows leave the tables, too: what refers to a replaced item or query is turned to the
one that stands for it; what refers to a dropped one is dropped. A search by photo or text outlives the item it is of:
it only forgets it, unless the one that stands for it has the same photo.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from moon_jax.data.contract import DataError
from moon_jax.data.processing.transformation import Decision
from moon_jax.data.processing.working import Working

if TYPE_CHECKING:
    import polars as pl

ITSELF = "pairs whose query shows the item itself"
REPEATED = "pairs that repeat another after items or queries were replaced"


@dataclass(frozen=True)
class Settled:
    """The ids that are left, how many rows went or were replaced by reason, and the pairs that went (query, item)."""

    working: Working
    why: dict[str, int]
    gone: "pl.DataFrame"


def settle(working: Working, decision: Decision, scope: str) -> Settled:
    """`working` after the decision. Raises DataError where a split would lose its last pair."""
    import polars as pl

    items = _moves(decision.items, "item_id")
    queries = _moves(decision.queries, "query_id")
    shows = _shows(working.queries, items, decision)
    if scope == "all":
        orphans = shows.filter((pl.col("kind") == "item") & pl.col("owner").is_null() & pl.col("item_id").is_not_null())
        gone = orphans.select("query_id", kept=pl.lit(None, pl.Int64)).join(queries, on="query_id", how="anti")
        queries = pl.concat([queries, gone])
    why = {
        f"{kind} {decision.why}": moves.height for kind, moves in (("items", items), ("queries", queries)) if len(moves)
    }
    pairs = _pairs(working, decision, scope, items, queries, shows)
    reasons = pairs.filter(pl.col("why").is_not_null())
    why |= dict(reasons.group_by("why").len().sort("why").iter_rows())
    left = pairs.filter(pl.col("why").is_null())
    for split in working.pairs["split"].unique():
        if not (left["split"] == split).any():
            raise DataError(
                f"no {split} pair would be left ({decision.why}); loosen the transformation or leave it out"
            )
    changed = replace(working, pairs=left.select(working.pairs.columns))
    changed = _tables(changed, scope, items, queries, shows)
    return Settled(_negatives(changed, decision, items, queries), why, reasons.select("was_query", "was_item"))


def _moves(moves: "pl.DataFrame | None", key: str) -> "pl.DataFrame":
    import polars as pl

    if moves is None:
        return pl.DataFrame(schema={key: pl.Int64, "kept": pl.Int64})
    return moves.select(pl.col(key).cast(pl.Int64), pl.col("kept").cast(pl.Int64))


def _shows(queries: "pl.DataFrame", items: "pl.DataFrame", decision: Decision) -> "pl.DataFrame":
    """Queries with `owner`, the item that they are, show or name after the decision; `moved`: it is no longer itself."""
    import polars as pl

    owned = queries.join(items, on="item_id", how="left", maintain_order="left")
    moved = pl.col("item_id").is_in(items["item_id"].implode()).fill_null(False)
    follows = pl.col("kept") if decision.same_photo else pl.when(pl.col("kind") == "item").then(pl.col("kept"))
    owned = owned.select(*queries.columns, owner=pl.when(moved).then(follows).otherwise(pl.col("item_id")), moved=moved)
    if decision.shown is None:
        return owned.with_columns(seen=pl.lit(None, pl.Int64))
    seen = decision.shown.select("query_id", seen=pl.col("item_id").cast(pl.Int64))
    return owned.join(seen, on="query_id", how="left", maintain_order="left")


def _pairs(
    working: Working,
    decision: Decision,
    scope: str,
    items: "pl.DataFrame",
    queries: "pl.DataFrame",
    shows: "pl.DataFrame",
) -> "pl.DataFrame":
    """All pairs with the ids of those that now stand for theirs, and `why` they go (null: they stay)."""
    import polars as pl

    eligible = working.eligible_pairs(scope)
    mask = pl.Series([False]).new_from_index(0, working.pairs.height) if decision.pairs is None else decision.pairs
    pairs = working.pairs.with_columns(
        was_item="item_id", was_query="query_id", eligible=eligible, picked=pl.Series(mask, dtype=pl.Boolean)
    )
    for key, moves in (("item", items), ("query", queries)):
        moves = moves.with_columns(found=pl.lit(True)).rename({"kept": f"{key}_kept", "found": f"{key}_moved"})
        pairs = pairs.join(moves, on=f"{key}_id", how="left", maintain_order="left")
        moved = pl.col(f"{key}_moved").fill_null(False) & pl.col("eligible")
        pairs = pairs.with_columns(moved.alias(f"{key}_moved")).with_columns(
            pl.when(f"{key}_moved").then(f"{key}_kept").otherwise(f"{key}_id").alias(f"{key}_id")
        )
    moved = pl.col("item_moved") | pl.col("query_moved")
    # The query that asked, not the one that stands for it: a photo shows what it shows.
    # A text may name its item and find it.
    own = pl.when(pl.col("kind") != "text").then("owner")
    owners = shows.select(was_query="query_id", owner=own, seen="seen")
    pairs = pairs.join(owners, on="was_query", how="left", maintain_order="left")
    shown_by = ["owner", "seen"]
    if decision.same_photo:  # then what stands for the query shows the same, and may be known to be the item's
        now = shows.select("query_id", owner_now=own, seen_now="seen")
        pairs = pairs.join(now, on="query_id", how="left", maintain_order="left")
        shown_by += ["owner_now", "seen_now"]
    itself = pl.any_horizontal((pl.col(name) == pl.col("item_id")).fill_null(False) for name in shown_by)
    pairs = pairs.with_columns(
        why=pl.when(pl.col("picked") & pl.col("eligible"))
        .then(pl.lit(f"pairs {decision.why}"))
        .when(pl.col("item_id").is_null() | pl.col("query_id").is_null())
        .then(pl.lit(f"pairs of items or queries {decision.why}"))
        .when(itself & pl.col("eligible"))
        .then(pl.lit(ITSELF)),
        changed=moved,
    )
    return _without_repeats(pairs)


def _without_repeats(pairs: "pl.DataFrame") -> "pl.DataFrame":
    """Of pairs made equal, those stay that were so from the start, else those of the lowest former ids.

    Rows that were equal before (one user's second click, say) stay or go together.
    """
    import polars as pl

    if not pairs["changed"].any():
        return pairs
    keys = ["query_id", "item_id", "action", "split", *(["search_id"] if "search_id" in pairs.columns else [])]
    origin = pl.struct("changed", "was_item", "was_query")
    open_rows = pairs.filter(pl.col("why").is_null())
    touched = open_rows.filter("changed").select(keys).unique()
    among = open_rows.join(touched, on=keys, how="semi", nulls_equal=True)
    first = among.group_by(keys).agg(pl.struct("changed", "was_item", "was_query").sort().first().alias("first"))
    repeats = (
        among.join(first, on=keys, how="left", nulls_equal=True).filter("changed").filter(origin != pl.col("first"))
    )
    repeated = pl.col("row").is_in(repeats["row"].implode())
    return pairs.with_columns(why=pl.when(repeated).then(pl.lit(REPEATED)).otherwise("why"))


def _tables(
    working: Working, scope: str, items: "pl.DataFrame", queries: "pl.DataFrame", shows: "pl.DataFrame"
) -> Working:
    import polars as pl

    if scope == "train":
        out = pl.col("item_id").is_in(items["item_id"].implode())
        return replace(working, items=working.items.with_columns(in_training=pl.col("in_training") & ~out))
    owned = shows.with_columns(item_id=pl.when("moved").then("owner").otherwise("item_id"))
    return replace(
        working,
        items=working.items.join(items, on="item_id", how="anti", maintain_order="left"),
        queries=owned.select(working.queries.columns).join(queries, on="query_id", how="anti", maintain_order="left"),
        moved_items=_composed(working.moved_items, items),
        moved_queries=_composed(working.moved_queries, queries),
    )


def _composed(before: "pl.DataFrame", moves: "pl.DataFrame") -> "pl.DataFrame":
    """Former moves followed by these."""
    import polars as pl

    key = before.columns[0]
    after = moves.select(kept=key, then="kept", moved=pl.lit(True))
    followed = before.join(after, on="kept", how="left", maintain_order="left")
    kept = pl.when(pl.col("moved").fill_null(False)).then("then").otherwise("kept").alias("kept")
    return pl.concat([followed.select(key, kept), moves])


def _negatives(working: Working, decision: Decision, items: "pl.DataFrame", queries: "pl.DataFrame") -> Working:
    """Hard negatives with the ids that are left and those that are new; none is also a positive of its query."""
    import polars as pl

    negatives = working.negatives
    for key, moves in (("item_id", items), ("query_id", queries)):
        moves = moves.with_columns(moved=pl.lit(True))
        negatives = negatives.join(moves, on=key, how="left", maintain_order="left").select(
            pl.when(pl.col("moved").fill_null(False)).then("kept").otherwise(key).alias(key),
            *(column for column in negatives.columns if column != key),
        )
    negatives = negatives.select("query_id", "item_id", "kind").drop_nulls()
    if decision.negatives is not None:
        negatives = pl.concat([negatives, decision.negatives.select("query_id", "item_id", "kind")])
    negatives = negatives.unique(["query_id", "item_id"], keep="first", maintain_order=True)
    negatives = negatives.join(working.pairs, on=["query_id", "item_id"], how="anti", maintain_order="left")
    owned = working.queries.filter(pl.col("item_id").is_not_null()).select("query_id", "item_id")
    return replace(
        working, negatives=negatives.join(owned, on=["query_id", "item_id"], how="anti", maintain_order="left")
    )
