"""The sections of the page of a planted world, one function each."""

from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.report import Section
from experiments import world_figures as figures
from moon_jax.data.contract import Dataset
from moon_jax.data.coverage import unseen_mass
from moon_jax.data.tables import shards
from moon_jax.data.world import Products, WorldConfig, config_of, draw_products

if TYPE_CHECKING:
    import polars as pl

Array = np.ndarray
_DAY = 86_400


@dataclass(frozen=True)
class World:
    """A planted world with its causes."""

    dataset: Dataset

    @cached_property
    def config(self) -> WorldConfig:
        return config_of(self.dataset)

    @cached_property
    def causes(self) -> Products:
        return draw_products(self.config)

    @property
    def facts(self) -> dict[str, Any]:
        return dict(self.dataset.facts)

    def scan(self, file: str) -> "pl.LazyFrame":
        """A table that need not fit in memory."""
        import polars as pl

        return pl.scan_parquet(shards(self.dataset.path(file)), glob=False)

    def photos(self, items: Array) -> dict[int, Array]:
        """Decoded catalogue photos by item id."""
        import polars as pl

        rows = self.scan("items").filter(pl.col("item_id").is_in(np.unique(items))).select("item_id", "image").collect()
        return {item: _decoded(image) for item, image in rows.iter_rows()}


def products(world: World) -> Section:
    import polars as pl

    variants = min(world.config.variants, 3)
    chosen = _examples(world, 3)
    queries = world.scan("pairs").join(world.scan("queries"), on="query_id", how="inner")
    of = pl.col("item_id") // world.config.variants
    asked = (
        queries.filter(of.is_in(chosen)).select("query_id", "text", "image", product=of).unique().sort("query_id")
    ).collect()
    items = world.scan("items").filter(pl.col("product_id").is_in(chosen)).sort("item_id").collect()
    shown = []
    for product in chosen:
        mine = asked.filter(pl.col("product") == product)
        own = items.filter(pl.col("product_id") == product).head(variants)
        by_photo = mine.filter(pl.col("text").is_null())["image"].drop_nulls().head(3)
        by_text = mine.filter(pl.col("image").is_null())["text"].drop_nulls().head(4)
        shown.append(
            {
                "variants": [(_decoded(image), title) for image, title in own.select("image", "title").iter_rows()],
                "photos": [_decoded(image) for image in by_photo],
                "queries": by_text.to_list(),
            }
        )
    return Section(
        "Products, their variants, and how they are searched for",
        text="The photo shows category, colour, pattern and accent. Background, light, tint, position, size, shear, "
        "noise and clutter are nuisance, stronger in the users' photos than in the catalogue's.\n\n"
        "The title names the category and, in one of several spellings, brand, material, use and model; "
        f"{100 * world.config.missing:.0f} % of these words are left out, and filler is added. No word ever tells "
        "colour or pattern, and no photo tells brand or material. Variants of a product share all causes.",
        figure=figures.products_figure(shown),
        alt="catalogue photos with titles, users' photos and text queries of three products",
    )


def _examples(world: World, count: int) -> list[int]:
    """Products of the training split of different categories."""
    train = np.flatnonzero(world.causes.split == "train")
    _, first = np.unique(world.causes.category[train], return_index=True)
    return np.sort(train[first])[:count].tolist()


def frequencies(world: World) -> Section:
    shares, words = world.causes.shares, world.causes.words
    values = {"brand": words[:, 0], "model": words[:, 3], "hidden": world.causes.hidden}
    values |= {} if "look" in shares else {"colour": world.causes.colour, "category": world.causes.category}
    observed = {name: np.bincount(value, minlength=len(shares[name])) for name, value in values.items()}
    return Section(
        "Attributes",
        text=f"The values of every attribute have Zipf frequencies, exponent {world.config.zipf:g}, each attribute by "
        "itself"
        + (
            f"; whole looks (category, colour, accent, pattern) are drawn together, exponent {world.config.zipf_looks:g}"
            if world.config.zipf_looks is not None
            else ""
        )
        + ". Categories have three levels: division, department and type.",
        figure=figures.frequencies_figure(
            {name: count / count.sum() for name, count in observed.items()}, shares, world.config.zipf
        ),
    )


def searches(world: World) -> Section:
    import polars as pl

    counted = dict(world.scan("pairs").group_by("action").len().collect().iter_rows())
    bought = counted.get("purchase", 0)
    carted = bought + counted.get("cart", 0)
    best = [{"search": kind} | facts for kind, facts in world.facts["best_recall"].items()]
    users = world.scan("pairs").select(pl.col("user_id").n_unique()).collect().item()
    return Section(
        "Searches, and what came of them",
        text=f"The search log has {world.dataset.rows['queries']:,} searches of {users:,} users, by photo, text or "
        "product (and by photo and text together, where asked for). A pair tells the furthest that came of it: what "
        "was bought was put into the cart, and clicked.\n\n"
        "The table gives the best recall and hit rate to expect in the test split, over the full gallery: of an "
        "oracle that reads all causes that are shown without error, and orders at random what it cannot tell apart "
        "(variants, products of the same look, titles that leave out the word asked for).",
        figure=figures.funnel_figure({"clicked": sum(counted.values()), "put into the cart": carted, "bought": bought}),
        table=best,
    )


def history(world: World) -> Section:
    import polars as pl

    stop, weight_L = world.facts["stop"], np.array(world.facts["weights"])
    style_P = world.causes.style(world.config.drives)
    test = world.scan("impressions").filter(pl.col("split") == "test").head(200).collect()
    events = world.scan("events").filter(pl.col("user_id").is_in(test["user_id"].unique().implode())).collect()
    asks = _products_of_queries(world, events)
    best: tuple[dict[str, Any], Array, list[int | None]] | None = None
    for row in test.sort("impression_id").iter_rows(named=True):
        past = events.filter((pl.col("user_id") == row["user_id"]) & (pl.col("timestamp") < row["timestamp"]))
        last = past.reverse().head(stop)
        items = last["item_id"].to_list()
        queries = last["query_id"].to_list() if "query_id" in last.columns else [None] * len(items)
        product = [
            asks[query] if item is None else item // world.config.variants
            for item, query in zip(items, queries, strict=True)
        ]
        match = style_P[np.array(product, int)] == style_P[row["item_id"] // world.config.variants]
        if best is None or abs(match.sum() - 9) < abs(best[1].sum() - 9):  # neither bare nor all
            best = (row, match, items)
    assert best is not None
    row, match, items = best
    photos = world.photos(np.array([row["item_id"], *(item for item in items if item is not None)]))
    told = world.scan("truth").filter(pl.col("impression_id") == row["impression_id"]).collect().row(0, named=True)
    s = int((match * weight_L[: len(match)]).sum())
    text = (
        "A user's events are drawn from its persona, a known distribution over styles, one by one. An impression "
        "that is examined is clicked with p = sigmoid(bias + effect of the item + gain * s), where s adds the "
        f"weight of every one of the last {stop} events that has the style of what is shown.\n\n"
        f"Here user {row['user_id']} has {match.sum()} such events: s = {s}, "
        f"p = {told['probability']:.3f}; whoever sees only the last 4 events can say at best {told['bayes_4']:.3f}."
    )
    if not weight_L.any():
        text = "Here clicks follow the popularity of the items; no event tells anything, so nothing has a weight."
    return Section(
        "A user's history, and what it tells",
        text=text,
        figure=figures.history_figure(
            photos[row["item_id"]], [None if item is None else photos[item] for item in items], match, weight_L
        ),
        alt="the item shown and the last events before it; those of its style are framed, with their weight",
    )


def weights(world: World) -> Section | None:
    weights = np.array(world.facts["weights"])
    if not weights.any():
        return None
    half = int(np.searchsorted(np.cumsum(weights), weights.sum() / 2)) + 1
    return Section(
        "How much the event at each lag tells",
        text="The weights are integers, the same from lag 2^(k-1) + 1 to 2^k. Half of all weight stands within "
        f"the last {half} events; whoever looks back {world.facts['stop']} has seen all that tells.",
        figure=figures.weights_figure(weights),
    )


def _products_of_queries(world: World, events: "pl.DataFrame") -> dict[int, int]:
    """The product that each search among the events asks for."""
    import polars as pl

    if "query_id" not in events.columns:
        return {}
    ids = events["query_id"].drop_nulls().unique()
    pairs = world.scan("pairs").filter(pl.col("query_id").is_in(ids.implode())).select("query_id", "item_id")
    return {query: item // world.config.variants for query, item in pairs.collect().iter_rows()}


def best_predictions(world: World) -> Section:
    bayes = world.facts["bayes"]
    curves = {"all test impressions": bayes["expected_auc"]}
    curves |= {name.replace("_", " "): values["expected_auc"] for name, values in bayes["slices"].items()}
    kept = [
        {"slice": name, "impressions": values["impressions"]}
        | {f"AUC, L = {length}": values["auc"][length] for length in ("0", "8", "64")}
        | ({f"GAUC, L = {length}": values["gauc"][length] for length in ("0", "8", "64")} if "gauc" in values else {})
        for name, values in {"all": bayes, **bayes["slices"]}.items()
    ]
    names = set.intersection(*(set(row) for row in kept))
    return Section(
        "The best possible prediction at each history length",
        text="Whoever sees the last L events, and knows all that was planted, can predict no better than the mean of "
        "the click probability over all that was not seen, computed exactly. A model above this line, beyond chance, has "
        f"seen what it should not; beyond L = {world.facts['stop']} nothing is left to gain.\n\n"
        "The figure shows the AUC to expect for what is examined, the table AUC and GAUC on the clicks as drawn. "
        "Tail items are the less popular half of their style, new items came while the log ran, cold users have "
        "fewer than 16 events behind them.",
        figure=figures.bayes_figure(curves, "best possible AUC"),
        table=[{name: row[name] for name in row if name in names} for row in kept],
    )


def positions(world: World) -> Section | None:
    import polars as pl

    if "examination" not in world.facts:
        return None
    rates = (
        world.scan("impressions").group_by("position").agg(pl.col("clicked").mean(), rows=pl.len()).collect()
    ).sort("position")
    rate, rows = rates["clicked"].to_numpy(), rates["rows"].to_numpy()
    error = np.sqrt(rate * (1 - rate) / rows) / rate[0]
    return Section(
        "Positions",
        text=f"Items stand on pages of {world.facts['page']} in random order. Position k is examined with probability "
        f"k^-{world.facts['position_bias']:g}, and only what is examined can be clicked. The truth keeps the "
        "probability without this bias, and the examination beside it.",
        figure=figures.positions_figure(np.array(world.facts["examination"]), rate / rate[0], error),
    )


def arrivals(world: World) -> Section | None:
    import polars as pl

    if not world.config.new_items:
        return None
    start = world.facts["log_start"]
    new = world.scan("items").select("item_id", new=pl.col("available_from") > start)
    shown = world.scan("impressions").select("item_id", day=(pl.col("timestamp") - start) // _DAY)
    daily = shown.join(new, on="item_id").group_by("day").agg(pl.col("new").mean(), rows=pl.len()).collect()
    daily = daily.filter(pl.col("rows") >= 100).sort("day")
    arrived = world.scan("items").select("available_from").collect()["available_from"].to_numpy()
    days = daily["day"].to_numpy() + 0.5
    share = [
        ((arrived > start) & (arrived <= start + day * _DAY)).sum() / (arrived <= start + day * _DAY).sum()
        for day in days
    ]
    return Section(
        "New items",
        text=f"{100 * float((arrived > start).mean()):.0f} % of the items arrive while the log runs "
        "(available_from); nothing happens to them before. Days with fewer than 100 impressions are left out.",
        figure=figures.arrivals_figure(days, np.array(share), daily["new"].to_numpy()),
    )


def coverage(world: World) -> Section:
    law, shares = world.facts["token_law"], world.causes.look_shares()
    samples = np.unique(np.round(np.geomspace(1, 1e6, 80)))
    valid = law.get("valid")
    line, said = None, "Here looks have no exponent above 1, so the curve bends all the way: it is no power law."
    if law.get("exponent") is not None and valid:
        n = np.array(valid, float)
        line = n, law["amplitude"] * n ** -law["exponent"]
        said = (
            f"For looks of Zipf exponent a = {law['zipf']:g} the error falls as n^-(1 - 1/a) = n^-{law['exponent']:.3f}"
            f" for n from {valid[0]:,} to {valid[1]:,}; it then bends, as there are only {law['looks']:,} looks."
        )
    return Section(
        "A scaling law with a known exponent",
        text="A learner that remembers every look it has seen, and nothing else, errs as often as a look comes that "
        f"it has not seen: sum of p (1 - p)^n over all looks. {said}",
        figure=figures.coverage_figure(samples, unseen_mass(shares, samples), line),
    )


def files(world: World) -> Section:
    rows = [
        {"file": f"{file}.parquet", "rows": count, "columns": ", ".join(world.scan(file).collect_schema().names())}
        for file, count in world.dataset.rows.items()
    ]
    return Section("Files", text="What is planted and what is known stands in dataset.json under facts.", table=rows)


def _decoded(image: bytes) -> Array:
    from PIL import Image

    with Image.open(BytesIO(image)) as opened:
        return np.asarray(opened.convert("RGB"))
