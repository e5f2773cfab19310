"""Contrast: two encoders on the same test queries of image search, paired."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from moon_jax.data.forms import parse_form
from moon_jax.data.loading import Prepared
from moon_jax.stages.embed import Search


@dataclass(frozen=True)
class ContrastConfig:
    """Nothing to choose; the embed steps are the inputs "embed" and "baseline", their arrays "prepare" and
    "baseline_prepare": hit@10 and recall@10 of image search on the test split."""


def contrast(
    config: ContrastConfig,
    *,
    files: Mapping[str, Path],
    inputs: Mapping[str, Path],
    folder: Path,
    report: Callable[..., None],
) -> dict[str, float]:
    """Step function: `hit_gain` and `recall_gain` of "embed" over "baseline", and each `_se`, the standard error of a mean
    of paired differences over queries. Raises ValueError where the two were not asked the same of the same gallery.
    """
    ours, theirs = (_asked(Prepared(inputs[name])) for name in ("prepare", "baseline_prepare"))
    same = np.array_equal(ours.queries_Q, theirs.queries_Q) and np.array_equal(ours.own_Q, theirs.own_Q)
    item_ids, baseline_ids = (Prepared(inputs[name]).item_ids for name in ("prepare", "baseline_prepare"))
    if not (
        same and np.array_equal(item_ids, baseline_ids) and all(map(np.array_equal, ours.relevant, theirs.relevant))
    ):
        raise ValueError("the two encoders were tested on different queries or galleries; process in train scope alone")
    out = {}
    for gain, file in (("hit_gain", "image_hits.npy"), ("recall_gain", "image_recall.npy")):
        ours_Q, baseline_Q = (
            np.load(inputs[name] / file, allow_pickle=False).astype(np.float64) for name in ("embed", "baseline")
        )
        difference_Q = ours_Q - baseline_Q
        out[gain] = float(difference_Q.mean())
        out[f"{gain}_se"] = float(difference_Q.std(ddof=1) / np.sqrt(difference_Q.size))
    return out


def _asked(prepared: Prepared) -> Search:
    return Search.of(prepared, parse_form("image", "image->image"), "test")
