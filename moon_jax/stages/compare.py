"""Compare: two CTR runs on the same test impressions, paired."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from moon_jax.metrics.paired import paired_gauc


@dataclass(frozen=True)
class CompareConfig:
    """Nothing to choose; the two runs are the inputs "application" and "baseline"."""


def compare(
    config: CompareConfig,
    *,
    files: Mapping[str, Path],
    inputs: Mapping[str, Path],
    folder: Path,
    report: Callable[..., None],
) -> dict[str, Any]:
    """Step function: `gauc_gain` of "application" over "baseline" and its standard error over users, paired."""
    ours, theirs = (
        np.load(inputs[name] / "predictions.npz", allow_pickle=False) for name in ("application", "baseline")
    )
    if not np.array_equal(ours["impression_id"], theirs["impression_id"]):
        raise ValueError("the two runs were tested on different impressions")
    gain, error = paired_gauc(ours["clicked"], ours["p"], theirs["p"], ours["user"])
    return {"gauc_gain": gain, "gauc_gain_se": error}
