"""Contrast: two encoders on the same test queries of image search, paired."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from moon_jax.data.forms import parse_form
from moon_jax.data.loading import Prepared
from moon_jax.stages.embed import SHARES, Search


@dataclass(frozen=True)
class ContrastConfig:
    """Nothing to choose; the embed steps are the inputs "embed" and "baseline", their arrays "prepare" and
    "baseline_prepare": recall@K and hit@10 of image search on the test split."""


def contrast(
    config: ContrastConfig,
    *,
    files: Mapping[str, Path],
    inputs: Mapping[str, Path],
    folder: Path,
    report: Callable[..., None],
) -> dict[str, float]:
    """Step function: for each metric that both have (`recall@10`, ..., of beginnings `recall@10_d32`) `gain_<metric>` of
    "embed" over "baseline", and its `_se`, the standard error of a mean of paired differences over queries.

    Raises ValueError where the two were not asked the same of the same gallery.
    """
    ours, theirs = (_asked(Prepared(inputs[name])) for name in ("prepare", "baseline_prepare"))
    same = np.array_equal(ours.queries_Q, theirs.queries_Q) and np.array_equal(ours.own_Q, theirs.own_Q)
    item_ids, baseline_ids = (Prepared(inputs[name]).item_ids for name in ("prepare", "baseline_prepare"))
    if not (
        same and np.array_equal(item_ids, baseline_ids) and all(map(np.array_equal, ours.relevant, theirs.relevant))
    ):
        raise ValueError("the two encoders were tested on different queries or galleries; process in train scope alone")
    out = {}
    with (
        np.load(inputs["embed"] / SHARES, allow_pickle=False) as embedded,
        np.load(inputs["baseline"] / SHARES, allow_pickle=False) as baseline,
    ):
        for name in sorted(set(embedded) & set(baseline)):
            difference_Q = embedded[name].astype(np.float64) - baseline[name]
            out[f"gain_{name}"] = float(difference_Q.mean())
            out[f"gain_{name}_se"] = float(difference_Q.std(ddof=1) / np.sqrt(difference_Q.size))
    return out


def _asked(prepared: Prepared) -> Search:
    return Search.of(prepared, parse_form("image", "image->image"), "test")
