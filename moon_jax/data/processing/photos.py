"""Duplicate photos: of the same decoded pixels, or alike to the eye by a 64-bit difference hash and a thumbnail."""

import hashlib
import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from moon_jax.data.checking import FORMATS, MAX_PIXELS
from moon_jax.data.contract import DataError
from moon_jax.data.processing.grouping import firsts, leaders, near_hashes
from moon_jax.data.processing.material import Material
from moon_jax.data.processing.transformation import Decision, Transformation
from moon_jax.data.processing.working import Working

if TYPE_CHECKING:
    import polars as pl

Array = np.ndarray
SLICE = 2048  # photos decoded at a time
SIDE = 12  # of a thumbnail, in pixels
COMPARED = 8192  # pairs of thumbnails compared at a time


@dataclass(frozen=True)
class ExactImages(Transformation):
    """Photos with the same pixels, however they are encoded: of their items and queries the lowest id stays.

    A pair whose query shows the item's own pixels goes: it teaches nothing. Of queries with the same photo and text the
    one of the lowest id asks for all.
    """

    name: ClassVar[str] = "exact_images"
    does: ClassVar[str] = "photos of the same decoded pixels, of items and of queries"

    def decide(self, working: Working, material: Material) -> Decision:
        photos = Photos.of(working, material, self.scope)
        return photos.decision(firsts(photos.pixels_V), working, "with the same photo as another")


@dataclass(frozen=True)
class PerceptualImages(Transformation):
    """Photos alike to the eye: re-encoded, resized, retouched a little.

    Candidates are at most `distance` bits of a 64-bit difference hash apart (neighbouring luminances of 9 x 8 pixels).
    On packshots the hash alone errs: different products share a silhouette on white. So their RGB thumbnails, too, must
    differ by at most `difference` of the weaker one's deviation from its own mean (root mean square over 12 x 12
    pixels). Of alike photos the lowest id stays; see `ExactImages` for pairs and queries.
    """

    name: ClassVar[str] = "perceptual_images"
    does: ClassVar[str] = "photos alike to the eye: difference hash, then thumbnails"
    distance: int = 4
    difference: float = 0.04

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(0 <= self.distance <= 16, f"distance {self.distance} must lie in 0..16 of 64 bits")
        self.require(0 <= self.difference < 1, f"difference {self.difference} must lie in [0, 1)")

    def decide(self, working: Working, material: Material) -> Decision:
        photos = Photos.of(working, material, self.scope)
        same_V = firsts(photos.pixels_V)
        shown_U = np.flatnonzero(same_V == np.arange(same_V.size))  # each picture once
        thumbs = Thumbnails.of(photos.thumbs_Vx432[shown_U])
        found = [
            np.stack([low, high])[:, thumbs.alike(low, high, self.difference)]
            for low, high in near_hashes(photos.hash_V[shown_U], self.distance)
        ]
        low_E, high_E = np.concatenate([np.zeros((2, 0), np.int64), *found], axis=1)
        of_U = leaders(shown_U.size, low_E, high_E)
        leader_V = shown_U[of_U][np.searchsorted(shown_U, same_V)]
        return photos.decision(leader_V, working, "with a photo alike another's")


@dataclass(frozen=True)
class Photos:
    """Photos of eligible items by id, then of eligible queries by id, and what is kept of their pixels.

    ids int64 V; item bool V; words object V: the text beside a query's photo; pixels S16 V: a digest of the decoded
    pixels; hash uint64 V; thumbs uint8 V x 432.
    """

    ids_V: Array
    item_V: Array
    words_V: Array
    pixels_V: Array
    hash_V: Array
    thumbs_Vx432: Array

    @classmethod
    def of(cls, working: Working, material: Material, scope: str) -> "Photos":
        import polars as pl

        frames = []
        for table, eligible in (("items", working.eligible_items(scope)), ("queries", working.eligible_queries(scope))):
            if not material.has_column(table, "image"):
                continue
            key = eligible.columns[0]
            columns = [key, "image", *(["text"] if material.has_column(table, "text") else [])]
            seen = material.derived("photos", table, columns, signatures, SLICE)
            wanted = seen.filter(pl.col("id").is_in(eligible[key].implode())).collect(engine="streaming")
            frames.append(wanted.sort("id").with_columns(item=pl.lit(table == "items")))
        if not frames:
            raise DataError("no table has photos; leave this transformation out")
        photos = pl.concat(frames)
        return cls(
            photos["id"].to_numpy(),
            photos["item"].to_numpy(),
            photos["words"].to_numpy(),
            np.array(photos["pixels"].to_list(), "S16"),
            photos["hash"].to_numpy(),
            np.frombuffer(b"".join(photos["thumb"].to_list()), np.uint8).reshape(-1, SIDE * SIDE * 3),
        )

    def decision(self, leader_V: Array, working: Working, why: str) -> Decision:
        """Items are stood for by their leader, queries by the first of their leader, text and split; a query whose
        leader is an item shows it.
        """
        import polars as pl

        other_V = self.item_V & (leader_V != np.arange(leader_V.size))
        asks_V = ~self.item_V
        leads_Q = leader_V[asks_V]
        queries = pl.DataFrame({"query_id": self.ids_V[asks_V], "leader": leads_Q, "words": self.words_V[asks_V]})
        queries = queries.join(working.queries.select("query_id", "split"), on="query_id", how="left")
        first = pl.col("query_id").min().over("leader", "words", "split").alias("kept")
        shows_Q = self.item_V[leads_Q]
        return Decision(
            why,
            items=pl.DataFrame({"item_id": self.ids_V[other_V], "kept": self.ids_V[leader_V[other_V]]}),
            queries=queries.select("query_id", first).filter(pl.col("query_id") != pl.col("kept")),
            shown=pl.DataFrame({"query_id": self.ids_V[asks_V][shows_Q], "item_id": self.ids_V[leads_Q[shows_Q]]}),
            same_photo=True,
        )


@dataclass(frozen=True)
class Thumbnails:
    """Thumbnails of U pictures (uint8 U x 432), their mean colours (U x 3) and deviations from their mean (U)."""

    thumbs_Ux432: Array
    colour_Ux3: Array
    deviation_U: Array

    @classmethod
    def of(cls, thumbs_Ux432: Array) -> "Thumbnails":
        colour, deviation = [np.zeros((0, 3), np.float32)], [np.zeros(0, np.float32)]
        for start in range(0, len(thumbs_Ux432), COMPARED):
            part = thumbs_Ux432[start : start + COMPARED].astype(np.float32)
            colour.append(part.reshape(len(part), -1, 3).mean(axis=1))
            deviation.append(part.std(axis=1))
        return cls(thumbs_Ux432, np.concatenate(colour), np.concatenate(deviation))

    def alike(self, low_E: Array, high_E: Array, difference: float) -> Array:
        """bool E: the root mean square difference is at most that share of the lesser deviation."""
        allowed_E = difference * np.minimum(self.deviation_U[low_E], self.deviation_U[high_E])
        # Bounds that need no thumbnail: of deviations and of mean colours, by the triangle inequality.
        apart_E = np.abs(self.deviation_U[low_E] - self.deviation_U[high_E])
        colours_E = np.sqrt(np.mean((self.colour_Ux3[low_E] - self.colour_Ux3[high_E]) ** 2, axis=1))
        out_E = (apart_E <= allowed_E + 1e-3) & (colours_E <= allowed_E + 1e-3)
        left = np.flatnonzero(out_E)
        for start in range(0, left.size, COMPARED):
            rows = left[start : start + COMPARED]
            one, other = (self.thumbs_Ux432[at[rows]].astype(np.float32) for at in (low_E, high_E))
            out_E[rows] = np.sqrt(np.mean((one - other) ** 2, axis=1)) <= allowed_E[rows]
        return out_E


def signatures(frame: "pl.DataFrame", table: str, before: int) -> "pl.DataFrame":
    """id, pixels (16 bytes), hash (uint64), thumb (432 bytes) and words of each row with a photo, decoded on all cores.

    Raises DataError, with file and row, where a photo is oversized or does not decode.
    """
    import polars as pl

    key = frame.columns[0]
    frame = frame.with_row_index("row", offset=before).filter(pl.col("image").is_not_null())
    words = frame["text"].fill_null("") if "text" in frame.columns else pl.repeat("", frame.height, eager=True)
    with ThreadPoolExecutor() as pool:
        places = [f"{table}.parquet, row {row}" for row in frame["row"]]
        seen = list(pool.map(signature, frame["image"].to_list(), places))
    return pl.DataFrame(
        {
            "id": frame[key].cast(pl.Int64),
            "words": words,
            "pixels": pl.Series([pixels for pixels, _, _ in seen], dtype=pl.Binary),
            "hash": pl.Series(difference_hashes([light for _, light, _ in seen]), dtype=pl.UInt64),
            "thumb": pl.Series([thumb for _, _, thumb in seen], dtype=pl.Binary),
        }
    )


def difference_hashes(lights: Sequence[bytes]) -> Array:
    """uint64 N: of 8 rows of 9 luminances each, which of two neighbours is the lighter."""
    light_Nx8x9 = np.frombuffer(b"".join(lights), np.uint8).reshape(-1, 8, 9)
    bits_Nx8 = np.packbits(light_Nx8x9[:, :, 1:] > light_Nx8x9[:, :, :-1], axis=2)
    return bits_Nx8.reshape(-1, 8).view(">u8")[:, 0].astype(np.uint64)


def signature(encoded: bytes, place: str) -> tuple[bytes, bytes, bytes]:
    """(digest of the decoded pixels and their size, 8 x 9 luminances, RGB thumbnail) of an encoded photo, as bytes."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(encoded), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:  # by its header, before anything is decoded
                raise DataError(f"{place}: image of {image.width} x {image.height} pixels is oversized")
            whole = image.convert("RGBA" if image.has_transparency_data else "RGB")
    except DataError:
        raise
    except Exception as error:  # decoders raise many kinds: OSError, SyntaxError, struct.error, ...
        raise DataError(f"{place}: image does not decode ({type(error).__name__}); run `moon data check`") from None
    if whole.mode == "RGBA" and whole.getchannel("A").getextrema() == (255, 255):
        whole = whole.convert("RGB")  # nothing is transparent: the same pixels as without that channel
    digest = hashlib.blake2b(f"{whole.mode} {whole.size}".encode() + whole.tobytes(), digest_size=16).digest()
    seen = whole.convert("RGB")
    # Bilinear averages over whole areas, so that a resized copy gives nearly the same values; box does not.
    light = seen.convert("L").resize((9, 8), Image.Resampling.BILINEAR).tobytes()
    return digest, light, seen.resize((SIDE, SIDE), Image.Resampling.BILINEAR).tobytes()
