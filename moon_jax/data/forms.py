"""Query -> item forms, written as in the paper's Table 2: "image->image+text".

"text" is a query's own text, and of an item its title; "rich" is an item's rich text: its category and attributes.
"""

from collections.abc import Collection
from dataclasses import dataclass

MODALITIES = ("image", "text", "rich")
WORDS = ("text", "rich")  # of these a side shows one at most
ACTIONS = ("click", "cart", "purchase")
SEARCHES = ("image", "text", "item", "mixed")  # mixed: a photo and a text together
OWN = "own"  # not a search: an item's own photo, augmented, against the item


@dataclass(frozen=True)
class Form:
    """What a query and its item show the encoder, for one kind of search (or an item's own photo).

    Attributes:
        search: "image", "text", "item" or "mixed": which queries; "own" pairs every training item with itself.
        query, item: modalities that are encoded, among `MODALITIES`.
        weight: share of batches, relative to the other forms of a mixture.
    """

    search: str
    query: tuple[str, ...]
    item: tuple[str, ...]
    weight: float = 1.0

    def __str__(self) -> str:
        return f"{'+'.join(self.query)}->{'+'.join(self.item)}"

    def restricted(self, modalities: tuple[str, ...]) -> "Form | None":
        """The form with only these modalities; None where a side would be empty."""
        query = tuple(m for m in self.query if m in modalities)
        item = tuple(m for m in self.item if m in modalities)
        return Form(self.search, query, item, self.weight) if query and item else None


def parse_form(search: str, text: str, weight: float = 1.0) -> Form:
    """`parse_form("image", "image->image+text")`; ValueError names what is wrong."""
    sides = text.split("->")
    if len(sides) != 2:
        raise ValueError(f"form {text!r}: write it as query->item, e.g. image->image+text")
    query, item = (tuple(part for part in MODALITIES if part in side.split("+")) for side in sides)
    if unknown := {part for side in sides for part in side.split("+")} - set(MODALITIES):
        raise ValueError(
            f"form {text!r}: unknown modality {sorted(unknown)[0]!r}; image, text, rich, or two joined by +"
        )
    if any(set(WORDS) <= set(side) for side in (query, item)):
        raise ValueError(f"form {text!r}: a side shows text or rich, not both")
    if "rich" in query and search not in ("item", OWN):
        raise ValueError(f"form {text!r}: a query of {search} search has no rich text; only a product as query has")
    return Form(search, query, item, weight)


# MOON's first post-training stage (arXiv 2511.11305, Table 2): query -> item, share of samples; "text" of an item is its title.
TABLE_2 = (
    ("text->rich", 0.2),
    ("text->image", 0.2),
    ("text->image+text", 0.2),
    ("text->image+rich", 0.5),
    ("image->image", 0.2),
    ("image->image+text", 0.5),
    ("image->image+rich", 0.2),
    ("image+text->image+text", 0.5),
    ("image+rich->image+rich", 0.1),
)


def paper_mixture(searched: Collection[str], rich: bool = True) -> tuple[Form, ...]:
    """Table 2's mixture for data with pairs of these searches ("image", "text", "item").

    Where nobody searches like that an item's own photo, title or rich text stands for the query. Then a form that shows
    the same words on both sides is left out: it would be answered by reading, whatever the photos show.

    Args:
        rich: whether items have rich texts; without them their forms are left out.
    """
    out = []
    for text, weight in TABLE_2:
        query = text.partition("->")[0]
        kind = query if query in ("text", "image") else "item"
        form = parse_form(kind if kind in searched else OWN, text, weight)
        told = set(form.query) & set(form.item) & set(WORDS)
        if (form.search == OWN and told) or (not rich and "rich" in (*form.query, *form.item)):
            continue
        out.append(form)
    return tuple(out)
