"""The size of a world, and the causes of its products."""

from dataclasses import dataclass, field, replace

import numpy as np

from moon_jax.data import rendering, wording
from moon_jax.data.behaviour import START, BehaviourConfig
from moon_jax.data.behaviour.config import require_finite
from moon_jax.data.contract import DataError, Dataset

DRIVES = ("visual", "text", "id", "popularity")
HIDDEN_GROUPS = 48  # as many as there are visual styles (colour, pattern) and text styles (brand, material)
SPLIT_SHARES = (0.7, 0.1, 0.2)
LOOK = (len(rendering.SHAPES), len(rendering.COLOURS), len(rendering.COLOURS) - 1, len(rendering.PATTERNS))


@dataclass(frozen=True)
class WorldConfig:
    """The size of a world and what is planted in it.

    Attributes:
        products, variants: how many products, and items of each.
        image_queries, text_queries, mixed_queries: searches by photo, by text and by both for a product of the training
            split, which is asked for by each of its variants, too; one of valid or test has one search of each kind.
        zipf: exponent of every attribute's frequencies.
        zipf_looks: exponent of the frequencies of whole looks (category, colour, accent, pattern), drawn together; None
            draws each of the four by itself. Above 1 it plants the token law of `data.coverage`.
        missing: share of words that a title leaves out.
        cart_share, purchase_share: of the items clicked in a search the share put into the cart, and of those the share
            bought.
        new_items: share of products that arrive while the log runs.
        drives: what clicks follow: what only images show ("visual"), what only titles show ("text"), neither ("id"), or
            how popular an item is ("popularity").
        block: products made at a time; other blocks give other draws.
        behaviour: users and clicks.
    """

    products: int = 1500
    variants: int = 2
    image_queries: int = 4
    text_queries: int = 4
    mixed_queries: int = 0
    zipf: float = 0.7
    zipf_looks: float | None = None
    missing: float = 0.1
    cart_share: float = 0.4
    purchase_share: float = 0.625
    new_items: float = 0.0
    drives: str = "visual"
    block: int = 4096
    seed: int = 0
    behaviour: BehaviourConfig = field(default_factory=BehaviourConfig)

    def __post_init__(self) -> None:
        require_finite(self)
        if self.drives not in DRIVES:
            raise DataError(f"drives is {self.drives!r}, must be one of {', '.join(DRIVES)}")
        if self.products < 20 or self.variants < 2:
            raise DataError(f"{self.products} products with {self.variants} variants: at least 20 with 2 are needed")
        for name in ("missing", "cart_share", "purchase_share", "new_items"):
            if not 0 <= getattr(self, name) <= 1:
                raise DataError(f"{name} is {getattr(self, name)}, must be a share, 0 to 1")
        if self.zipf < 0 or (self.zipf_looks or 0) < 0 or self.block < 1:
            raise DataError("zipf and zipf_looks must be at least 0, and block at least 1")

    def crowd(self) -> BehaviourConfig:
        """The behaviour with what `drives` says of it."""
        return replace(self.behaviour, clicks_follow="popularity") if self.drives == "popularity" else self.behaviour


def config_of(dataset: Dataset) -> WorldConfig:
    """What a planted world was made of; `draw_products` of it gives the true causes. DataError for any other dataset."""
    try:
        told = dict(dataset.facts["config"])
        behaviour = dict(told.pop("behaviour"))
        weights = behaviour.pop("weights")
        crowd = BehaviourConfig(**behaviour, weights=None if weights is None else tuple(weights))
        config = WorldConfig(**told, behaviour=crowd)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{dataset.folder}: not a planted world of this version; `moon data world DIR` makes one"
        ) from error
    if dataset.rows.get("items") != config.products * config.variants:
        raise DataError(
            f"{dataset.folder}: items have been taken out of this planted world; its causes tell of the whole"
        )
    return config


@dataclass(frozen=True)
class Products:
    """The planted causes of P products, as indices into the lists of `rendering` and `wording`, and their split."""

    category: np.ndarray
    colour: np.ndarray
    accent: np.ndarray
    pattern: np.ndarray
    words: np.ndarray  # [P, 4]: brand, material, use, model
    hidden: np.ndarray
    split: np.ndarray
    available_from: np.ndarray  # seconds; START for what is there when the log begins
    shares: dict[str, np.ndarray]  # planted frequencies, by attribute

    def style(self, drives: str) -> np.ndarray:
        """The style that users want: 48 combinations of colour and pattern, of brand and material, or hidden."""
        if drives == "text":
            return self.words[:, 0] * len(wording.MATERIALS) + self.words[:, 1]
        if drives == "id":
            return self.hidden
        return self.colour * len(rendering.PATTERNS) + self.pattern

    @property
    def look(self) -> np.ndarray:
        """All that a photo shows, as one number below the product of LOOK: category, colour, accent, pattern."""
        other = (self.accent - self.colour - 1) % len(rendering.COLOURS)  # never the colour itself
        return np.ravel_multi_index((self.category, self.colour, other, self.pattern), LOOK)

    def look_shares(self) -> np.ndarray:
        """The planted probability of every look, float64 [product of LOOK]."""
        if "look" in self.shares:
            return self.shares["look"]
        category, colour, accent, pattern = (self.shares[name] for name in ("category", "colour", "accent", "pattern"))
        return np.einsum("a,b,c,d->abcd", category, colour, accent, pattern).ravel()


def draw_products(config: WorldConfig) -> Products:
    """The causes of all products, each attribute on its own (or whole looks together)."""
    rng = np.random.default_rng([config.seed, 1])
    count = config.products
    shares: dict[str, np.ndarray] = {}

    def draw(attribute: str, values: int) -> np.ndarray:
        share = (1.0 + rng.permutation(values)) ** -config.zipf
        shares[attribute] = share / share.sum()
        return np.searchsorted(np.cumsum(shares[attribute])[:-1], rng.random(count), side="right")

    colour = draw("colour", len(rendering.COLOURS))
    others = len(rendering.COLOURS) - 1
    train, valid = (round(share * count) for share in SPLIT_SHARES[:2])
    products = Products(
        category=draw("category", len(wording.CATEGORIES)),
        colour=colour,
        accent=(colour + 1 + draw("accent", others)) % (others + 1),  # never the colour itself
        pattern=draw("pattern", len(rendering.PATTERNS)),
        words=np.stack(
            [
                draw(attribute, len(lexicon))
                for attribute, lexicon in zip(("brand", "material", "use", "model"), wording.LEXICONS, strict=True)
            ],
            axis=1,
        ),
        hidden=draw("hidden", HIDDEN_GROUPS),
        split=rng.permutation(np.repeat(["train", "valid", "test"], [train, valid, count - train - valid])),
        available_from=np.full(count, START),
        shares=shares,
    )
    if config.zipf_looks is not None:
        products = _with_looks(products, config.zipf_looks, np.random.default_rng([config.seed, 5]))
    if config.new_items:
        products = _with_arrivals(products, config, np.random.default_rng([config.seed, 6]))
    return products


def _with_looks(products: Products, exponent: float, rng: np.random.Generator) -> Products:
    """The same products with looks drawn from one Zipf distribution over all of them."""
    share = (1.0 + rng.permutation(np.prod(LOOK))) ** -exponent
    share /= share.sum()
    drawn = np.searchsorted(np.cumsum(share)[:-1], rng.random(len(products.split)), side="right")
    category, colour, other, pattern = np.unravel_index(drawn, LOOK)
    return replace(
        products,
        category=category,
        colour=colour,
        accent=(colour + 1 + other) % len(rendering.COLOURS),
        pattern=pattern,
        shares=products.shares | {"look": share},
    )


def _with_arrivals(products: Products, config: WorldConfig, rng: np.random.Generator) -> Products:
    """The same products, some of which arrive at a random time of the log; the first of each style is always there."""
    _, first = np.unique(products.style(config.drives), return_index=True)
    new = rng.random(config.products) < config.new_items
    new[first] = False
    arrival = START + rng.integers(0, config.behaviour.span, config.products)
    return replace(products, available_from=np.where(new, arrival, START))
