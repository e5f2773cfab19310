"""Which form a contrastive loss takes, by size: what it would hold on one device decides."""

from dataclasses import dataclass

import jax

GIB = 2**30
DENSE_BYTES = GIB  # of logits, their exponentials and gradients, on one device
GATHERED_BYTES = GIB  # of all keys and their float32 gradients, on one device
CPU_TILE, TILE = 1024, 4096  # rows and columns: 4 MiB of logits stay in a processor's cache


@dataclass(frozen=True)
class Choice:
    """The form ("dense", "tiled", "ring"), the side of its tiles, and about how many bytes it holds on one device."""

    form: str
    tile: int
    bytes: int

    def __str__(self) -> str:
        return self.form if self.form == "dense" else f"{self.form} in tiles of {self.tile}"


def choose_form(
    batch: int, width: int, *, queue: int = 0, devices: int = 1, itemsize: int = 4, form: str = "auto", tile: int = 0
) -> Choice:
    """The form for a global batch of so many pairs of vectors of this width and a queue of so many.

    Dense where the logits fit in 1 GiB a device (it recomputes nothing); else tiles over gathered keys; a ring where
    gathered keys and their gradients would take more than 1 GiB, too (from about 300,000 pairs of width 512 on).

    Args:
        devices: over which rows are split; a ring of one is the tiled form, and is taken as such.
        itemsize: bytes of an element of a vector.
        form, tile: what is asked for; "auto" and 0 leave it to the sizes.

    Raises:
        ValueError: an unknown form.
    """
    if form not in ("auto", "dense", "tiled", "ring"):
        raise ValueError(f"form: {form!r} is unknown; one of auto, dense, tiled, ring")
    rows = -(-batch // devices)
    side = tile or (CPU_TILE if jax.default_backend() == "cpu" else TILE)
    in_tiles = 3 * 4 * min(rows, side) * min(batch + queue, side) + rows * width * (itemsize + 4)
    sizes = {
        "dense": 3 * 4 * rows * (batch + queue),
        "tiled": in_tiles + batch * width * (itemsize + 4) + queue * width * itemsize,
        "ring": in_tiles + 2 * rows * width * (itemsize + 4) + 2 * (queue // devices) * width * itemsize,
    }
    if form == "auto":
        form = "dense" if sizes["dense"] <= DENSE_BYTES else "tiled"
        if form == "tiled" and sizes["tiled"] - in_tiles > GATHERED_BYTES:
            form = "ring"
    if form == "ring" and devices == 1:
        form = "tiled"
    return Choice(form, side, sizes[form])
