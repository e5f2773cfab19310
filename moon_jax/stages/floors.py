"""Floors: what chance, pixels and pixels + colours reach in the same image search as the encoders."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from moon_jax.data.forms import parse_form
from moon_jax.data.loading import Prepared
from moon_jax.stages.embed import KS, Search
from moon_jax.thumbnails import colour_histograms, thumbnails


@dataclass(frozen=True)
class FloorsConfig:
    """`colour_weight`: weight of the colour histogram's cosine beside the thumbnail's."""

    colour_weight: float = 0.5


def floors(
    config: FloorsConfig,
    *,
    files: Mapping[str, Path],
    inputs: Mapping[str, Path],
    folder: Path,
    report: Callable[..., None],
) -> dict[str, Any]:
    """Step function: prepared arrays -> `chance_*`, `pixel_*`, `pixel_colour_*` of image recall and hit rate, and which
    queries were hit at 10 (`pixel_hits.npy`, `pixel_colour_hits.npy`, bool Q).
    """
    prepared = Prepared(inputs["prepare"])
    form = parse_form("image", "image->image")
    search = Search.of(prepared, form, "test")
    pixels = prepared.query_pixels(form.search, search.queries_Q)
    report(0, 2, doing="thumbnails")
    query_thumbs, item_thumbs = thumbnails(pixels), thumbnails(prepared.item_images)
    report(1, 2, doing="colour histograms")
    query_both = np.concatenate([query_thumbs, config.colour_weight**0.5 * colour_histograms(pixels)], axis=1)
    item_both = np.concatenate(
        [item_thumbs, config.colour_weight**0.5 * colour_histograms(prepared.item_images)], axis=1
    )
    metrics: dict[str, Any] = {}
    for floor, queries, items in (
        ("pixel", query_thumbs, item_thumbs),
        ("pixel_colour", query_both, item_both),
    ):
        top_QxK = search.nearest(queries, items)
        np.save(folder / f"{floor}_hits.npy", search.shares(top_QxK)["hit@10"] > 0)
        measured = search.found(top_QxK) | search.closeness(queries, items, None, 0)
        metrics |= {f"{floor}_image_{name}": value for name, value in measured.items() if name != "queries"}
    return metrics | chance(search, prepared.item_ids.size)


@dataclass(frozen=True)
class ClearanceConfig:
    """Nothing to choose: hit@10 of image search on the test split."""


def clearance(
    config: ClearanceConfig,
    *,
    files: Mapping[str, Path],
    inputs: Mapping[str, Path],
    folder: Path,
    report: Callable[..., None],
) -> dict[str, float]:
    """Step function: how far an encoder stands above the floors, paired over the same queries.

    Returns `hit_over_pixel`, `hit_over_pixel_colour` (difference of hit@10) and each `_se`, the standard error of a mean
    of paired differences over queries.
    """
    ours_Q = np.load(inputs["embed"] / "image_hits.npy", allow_pickle=False).astype(np.float64)
    out = {}
    for floor in ("pixel", "pixel_colour"):
        difference_Q = ours_Q - np.load(inputs["floors"] / f"{floor}_hits.npy", allow_pickle=False)
        out[f"hit_over_{floor}"] = float(difference_Q.mean())
        out[f"hit_over_{floor}_se"] = float(difference_Q.std(ddof=1) / np.sqrt(difference_Q.size))
    return out


def chance(search: Search, items: int) -> dict[str, float]:
    """Expected image recall@K and hit rate@K of a random order of the gallery, exactly."""
    gallery_Q = items - (search.own_Q >= 0)  # a query's own item is taken out
    out: dict[str, float] = {}
    for k in (k for k in KS if k < items):
        # P(no relevant item in the top k) = C(G - r, k) / C(G, k), as a product over the r relevant items.
        misses = [
            np.prod(np.maximum(1 - k / (gallery - np.arange(len(relevant))), 0))
            for relevant, gallery in zip(search.relevant, gallery_Q, strict=True)
        ]
        out |= {
            f"chance_image_recall@{k}": float(np.mean(k / gallery_Q)),
            f"chance_image_hit@{k}": float(1 - np.mean(misses)),
        }
    return out
