"""Datasets: make, import, process, simulate, check, picture."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, UseAppendAction, arg, subcommand

from experiments.commands.common import BAD_INPUT, DONE, bar, say

FEW_QUERIES = 300  # with fewer a recall's 95 % interval is wider than +-.05


@dataclass
class WorldCommand:
    """Make a planted world: rendered products, searches and clicks whose probabilities are known.

    A knob that is not given is as the preset has it. `moon data picture DIR` explains what was made.

    Examples: moon data world data/text-world --drives text
              moon data world data/feed --page 10 --position-bias 0.7 --new-items 0.2 --cold-users 0.3
              moon data world data/large --products 100000 --users 1000000
              moon data world data/long --users 1500 --events-before 16384 --weights 8 8 7 6 5 4 3 3 2 2 1 1 1 1 1
    """

    folder: Positional[Annotated[Path, arg(metavar="DIR", help="a contract directory")]]
    drives: Literal["visual", "text", "id", "popularity"] = "visual"
    """What clicks follow: what only images show, only titles show, neither, or how popular an item is."""
    preset: str = "demo"
    products: int | None = None
    """Each with two variants; a world larger than a block is written in shards."""
    users: int | None = None
    impressions: int | None = None
    """Of each user."""
    events_before: int | None = None
    """Events of a user before the first impression; Bayes answers are known for histories of 1, 2, 4, ... up to it."""
    zipf: float | None = None
    """Exponent of the frequencies of every attribute's values."""
    zipf_looks: float | None = None
    """Exponent of whole looks; above 1 it plants a token law of exponent 1 - 1/zipf_looks."""
    missing: float | None = None
    """Share of words that a title leaves out."""
    mixed_queries: int | None = None
    """Searches by photo and text together, for each product of the training split."""
    new_items: float | None = None
    """Share of products that arrive while the log runs."""
    page: int | None = None
    """Impressions shown at a time."""
    position_bias: float | None = None
    """Position k is examined with probability k^-position_bias."""
    cold_users: float | None = None
    """Share of users with hardly any past."""
    query_events: float | None = None
    """Share of a user's events that are searches."""
    cart_events: float | None = None
    """Share of the items in a user's events that went on to the cart, or were bought."""
    weights: tuple[int, ...] | None = None
    """What an event tells at lag 1, 2, 3-4, 5-8, ...: e.g. 8 4 2 1 looks back 8 events."""
    auc: float | None = None
    """AUC of the true click probabilities: signal to noise."""
    click_rate: float | None = None
    seed: int | None = None

    def __call__(self) -> int:
        from experiments.running import require_preset
        from experiments.worlds import with_knobs, world_for
        from moon_jax.data.world import make_world

        require_preset(self.preset)
        knobs = {name: value for name, value in vars(self).items() if name not in ("folder", "drives", "preset")}
        config = with_knobs(world_for(self.preset, self.drives), **knobs)
        with bar("making") as progress:
            dataset = make_world(self.folder, config, progress=progress)
        return told(dataset)


@dataclass
class PictureCommand:
    """Explain a planted world by pictures, on one self-contained page: what is in it, and what is known of it.

    Example: moon data picture data/feed --to feed.html
    """

    folder: Positional[Annotated[Path, arg(metavar="DIR", help="a contract directory")]]
    to: Path = Path("world.html")

    def __call__(self) -> int:
        from experiments.world_page import write_page

        say(str(write_page(self.folder, self.to)))
        return DONE


@dataclass
class ImportCommand:
    """Turn your own catalogue, or a public set as you downloaded it, into a contract directory.

    Yours: a folder with one table (CSV, TSV or Parquet) and images anywhere under it. Say which column is what; columns
    may be joined (category=group,type). Tables named queries, pairs, events or impressions beside it are taken, too;
    impressions (user_id, item_id, timestamp, clicked) alone will do for questions about clicks.
    Rows that cannot be used are named in DIR/quarantine.parquet.

    Examples: moon data import table shop data/shop --map item_id=sku --map title=name --map image=photo
              moon data import fashion fashion-product-images-small data/fashion
              moon data import movielens movielens-posters data/movielens
              moon data import taobao_mm Taobao-MM data/taobao_mm
              moon data import mmctr MicroLens_1M_x1 data/mmctr
              moon data import esci esci-data data/esci --locales us

    Then: moon data check data/shop
    """

    name: Positional[Annotated[str, arg(metavar="NAME", help="table, fashion, movielens, taobao_mm, mmctr or esci")]]
    source: Positional[Annotated[Path, arg(metavar="SOURCE", help="as you have it: a folder or a zip")]]
    folder: Positional[Annotated[Path, arg(metavar="DIR", help="a contract directory")]]
    map: UseAppendAction[tuple[str, ...]] = ()
    """table: NAME=COLUMN, once for each column; names: item_id, title, image, category, attributes, product_id, \
available_from, and those of other tables as pairs.item_id."""
    locales: tuple[str, ...] = ()
    """esci: of us, es, jp (all)."""
    version: Literal["small", "large"] | None = None
    """esci: small (task 1) or large."""
    limit: float | None = None
    """Share of a table's rows that may be left out (0.01)."""

    def __call__(self) -> int:
        import importlib
        import inspect

        from moon_jax.data.adapters import ADAPTERS
        from moon_jax.data.contract import DataError

        if self.name not in ADAPTERS:
            raise DataError(f"unknown set {self.name!r}; there are {', '.join(ADAPTERS)}")
        module, name = ADAPTERS[self.name].split(":")
        function = getattr(importlib.import_module(module), name)
        given = {"mapping": self.map, "locales": self.locales, "version": self.version, "limit": self.limit}
        options = {option: value for option, value in given.items() if value not in ((), None)}
        for option in options:
            if option not in inspect.signature(function).parameters:
                raise DataError(f"--{'map' if option == 'mapping' else option} is not for {self.name}")
        with bar("importing") as progress:
            dataset = function(self.source, self.folder, progress=progress, **options)
        if "events" in dataset.facts and self.name == "table":
            say(f"events: {dataset.facts['events']} (a table of events, or a column 'history', would be read instead)")
        if self.name == "table" and (unread := unread_in(self.source)):
            say(
                f"not read: {', '.join(unread)} (what users did is read from tables named events and impressions, "
                "searches from queries and pairs)"
            )
        return told(dataset)


def unread_in(source: Path) -> list[str]:
    """Tables beside a user's items that have none of the names that are read."""
    from moon_jax.data.adapters.logs import COLUMNS
    from moon_jax.data.adapters.records import SUFFIXES, find_table

    items = source if source.is_file() else find_table(source, "items")
    folder = source.parent if source.is_file() else source
    tables = [path for path in sorted(folder.iterdir()) if path.suffix in SUFFIXES and path != items]
    if items is None:  # then the only table is the items, whatever its name
        return []
    return [path.name for path in tables if path.stem not in COLUMNS]


@dataclass
class ProcessCommand:
    """Process a dataset: named transformations, in the order given, into a new contract directory, each reported.

      exact_images       photos of the same decoded pixels, of items and of queries
      perceptual_images  photos alike to the eye: difference hash, then thumbnails
      near_titles        titles and texts that share most of their words in order (MinHash)
      variants           items of one product are merged into one
      similarity         of several queries for an item the least similar stays (needs --vectors)
      exposure           categories sampled down to their share of what users are shown
      entities           titles and texts that name fewer than two entities
      hard_negatives     hard negatives of each query: kind=category, clicked or mined (mined needs --vectors)

    Training pairs alone change: valid, test and the gallery stay, so that results compare; scope=all changes all.

    Examples: moon data process data/fashion data/clean --with exact_images --with entities:least=3
              moon data process data/fashion data/merged --with variants:scope=all
              moon data process data/fashion data/hard --with hard_negatives:kind=mined,index=hnsw --vectors runs/steps/...
    """

    source: Positional[Annotated[Path, arg(metavar="SRC")]]
    folder: Positional[Annotated[Path, arg(metavar="DIR", help="a contract directory")]]
    transformations: Annotated[
        UseAppendAction[tuple[str, ...]], arg(name="with", metavar="NAME[:SETTING=VALUE,...]")
    ] = ()
    """A transformation, once for each. A killed command goes on where it was when it is called again."""
    vectors: Path | None = None
    """Representations: the folder of a represent step (runs/steps/represent-...), or one with its four arrays."""

    def __call__(self) -> int:
        from moon_jax.data.processing import Report, Vectors, process_dataset
        from moon_jax.data.processing.naming import parse_transformation

        chosen = [parse_transformation(text) for text in self.transformations]
        vectors = None if self.vectors is None else Vectors.read(published(self.vectors))
        with bar("processing") as progress:
            dataset = process_dataset(self.source, self.folder, chosen, vectors=vectors, progress=progress)
        for report in dataset.facts["processing"]["transformations"]:
            say("\n".join(Report.read(report).lines()))
        return told(dataset)


@dataclass
class SimulateCommand:
    """Simulate behaviour over a real catalogue (labelled simulated everywhere): events, impressions, known clicks.

    Examples: moon data simulate data/fashion data/fashion-behaviour --by colour articleType --text-searches
              moon data simulate data/fashion data/feed --by colour --page 10 --position-bias 0.7 --query-events 0.2
    """

    catalogue: Positional[Annotated[Path, arg(metavar="CATALOGUE")]]
    folder: Positional[Annotated[Path, arg(metavar="DIR", help="a contract directory")]]
    by: tuple[str, ...] = ("colour", "category")
    """Attributes whose combination drives clicks."""
    users: int = 1500
    page: int = 1
    """Impressions shown at a time."""
    position_bias: float = 0.0
    """Position k is examined with probability k^-position_bias."""
    cold_users: float = 0.0
    """Share of users with hardly any past."""
    query_events: float = 0.0
    """Share of a user's events that are searches, of the catalogue's own queries."""
    text_searches: bool = False
    """For each image search add one by some words of the product's title, so that questions have a text search to measure."""
    seed: int = 0

    def __call__(self) -> int:
        from moon_jax.data.behaviour import BehaviourConfig, simulate_behaviour

        config = BehaviourConfig(
            users=self.users,
            page=self.page,
            position_bias=self.position_bias,
            cold_users=self.cold_users,
            query_events=self.query_events,
            seed=self.seed,
        )
        made = simulate_behaviour(
            self.catalogue, self.folder, by=self.by, config=config, text_searches=self.text_searches
        )
        return told(made)


@dataclass
class CheckCommand:
    """Check a contract directory; every fault with file, row and reason. Exit 2 if there is any.

    Example: moon data check data/fashion
    """

    folder: Positional[Annotated[Path, arg(metavar="DIR", help="a contract directory")]]
    show: int = 50
    """Faults to print."""

    def __call__(self) -> int:
        from moon_jax.data.contract import check, open_dataset

        with bar("checking") as progress:
            faults = check(self.folder, progress=progress)
        for fault in faults[: self.show]:
            print(fault, file=sys.stderr)
        if len(faults) > self.show:
            print(f"... and {len(faults) - self.show} more", file=sys.stderr)
        return BAD_INPUT if faults else told(open_dataset(self.folder))


DataCommand = (
    Annotated[WorldCommand, subcommand("world")]
    | Annotated[ImportCommand, subcommand("import")]
    | Annotated[ProcessCommand, subcommand("process")]
    | Annotated[SimulateCommand, subcommand("simulate")]
    | Annotated[CheckCommand, subcommand("check")]
    | Annotated[PictureCommand, subcommand("picture")]
)


@dataclass
class DataCommands:
    """Make, import, process and check datasets: `moon data --help` leads from a folder of images to a checked dataset.

    Example: moon data import table SHOP DIR --map item_id=sku --map title=name --map image=photo
    """

    def __call__(self) -> int:  # `main` hands everything after "data" to DataCommand: no option of its own is left
        raise AssertionError("unreachable")


DESCRIPTION = """Make, import, process and check datasets.

From a folder of images and a CSV to a checked dataset:
  moon data import table SHOP DIR --map item_id=sku --map title=name --map image=photo
  moon data check DIR
  moon run training_tokens --data DIR

No data at hand: moon data world DIR makes a world whose answers are known, moon data picture DIR shows it."""


def published(step: Path) -> Path:
    """Where a finished step keeps what it made; any other folder is taken as it is."""
    from sweeps import Ledger

    if not (step / "step.json").exists():
        return step
    step = step.absolute()
    ledger = Ledger(step.parents[1], create=False)
    return step if ledger.result(step.name) is None else ledger.folder(step.name)


def told(dataset) -> int:  # type: ignore[no-untyped-def]
    rows = ", ".join(f"{count:,} {file}" for file, count in dataset.rows.items())
    simulated = [file for file, flag in dataset.simulated.items() if flag]
    say(f"{dataset.folder}: {dataset.name}; {rows}" + (f"; simulated: {', '.join(simulated)}" if simulated else ""))
    if dataset.quarantined:
        left_out = ", ".join(f"{count:,} rows for {file}" for file, count in dataset.quarantined.items())
        say(f"left out: {left_out}; {dataset.folder / 'quarantine.parquet'} says which and why")
    if dataset.has("pairs"):
        pairs = dataset.read("pairs", ["query_id", "split"])
        if (asked := pairs.filter(split="test")["query_id"].n_unique()) < FEW_QUERIES:
            why = f" ({dataset.facts['searches']})" if "searches" in dataset.facts else ""
            say(
                f"few test queries: {asked}{why}; a recall over so few is known to +-{0.98 / max(asked, 1) ** 0.5:.2f} at best"
            )
    return DONE
