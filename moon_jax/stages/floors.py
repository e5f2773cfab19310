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
    """Step function: prepared arrays -> `chance_*`, `pixel_*`, `pixel_colour_*` of image recall and hit rate."""
    prepared = Prepared(inputs["prepare"])
    form = parse_form("image", "image->image")
    search = Search.of(prepared, form, "test")
    pixels, _ = search.shown(prepared, form)
    report(0, 2, doing="thumbnails")
    query_thumbs, item_thumbs = thumbnails(pixels), thumbnails(prepared.item_images)
    report(1, 2, doing="colour histograms")
    query_both = np.concatenate([query_thumbs, config.colour_weight**0.5 * colour_histograms(pixels)], axis=1)
    item_both = np.concatenate(
        [item_thumbs, config.colour_weight**0.5 * colour_histograms(prepared.item_images)], axis=1
    )
    measured = {
        "pixel": search.measure(query_thumbs, item_thumbs, None, 0),
        "pixel_colour": search.measure(query_both, item_both, None, 0),
    }
    metrics = {
        f"{floor}_image_{name}": value
        for floor, values in measured.items()
        for name, value in values.items()
        if name != "queries"
    }
    gallery = prepared.item_ids.size - 1
    for k in (k for k in KS if k <= gallery):
        misses = [
            np.prod(1 - k / (gallery - np.arange(len(r)))) if k + len(r) <= gallery else 0.0 for r in search.relevant
        ]
        metrics |= {f"chance_image_recall@{k}": k / gallery, f"chance_image_hit@{k}": float(1 - np.mean(misses))}
    return metrics
