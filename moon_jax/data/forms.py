"""Query -> item forms, written as in the paper's Table 2: "image->image+text"."""

from dataclasses import dataclass

MODALITIES = ("image", "text")
SEARCHES = ("image", "text", "item", "mixed")  # mixed: a photo and a text together
OWN = "own"  # not a search: an item's own photo, augmented, against the item


@dataclass(frozen=True)
class Form:
    """What a query and its item show the encoder, for one kind of search (or an item's own photo).

    Attributes:
        search: "image", "text", "item" or "mixed": which queries; "own" pairs every training item with itself.
        query, item: modalities that are encoded, among "image" and "text".
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
        raise ValueError(f"form {text!r}: unknown modality {sorted(unknown)[0]!r}; image, text or image+text")
    return Form(search, query, item, weight)
