"""Compare: two CTR runs on the same test impressions, paired."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from moon_jax.metrics.paired import paired_gauc
from moon_jax.metrics.ranking import user_aucs


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
    """Step function: `gauc_gain` of "application" over "baseline" and its standard error over users, paired.

    Of all test users, and of each quarter of them by history length (`quartiles`): `quartile_1_gauc_gain`, its `_se`,
    `quartile_1_users` that count (of both classes), and the least and most events that they have, ...
    """
    ours, theirs = (
        np.load(inputs[name] / "predictions.npz", allow_pickle=False) for name in ("application", "baseline")
    )
    if not np.array_equal(ours["impression_id"], theirs["impression_id"]):
        raise ValueError("the two runs were tested on different impressions")
    gain, error = paired_gauc(ours["clicked"], ours["p"], theirs["p"], ours["user"])
    out = {"gauc_gain": gain, "gauc_gain_se": error}
    quartile, events = quartiles(ours["user"], ours["events"])
    for number in np.unique(quartile):
        kept = quartile == number
        clicked, scores, user = (ours[name][kept] for name in ("clicked", "p", "user"))
        gain, error = paired_gauc(clicked, scores, theirs["p"][kept], user)
        named = {
            "gauc_gain": gain,
            "gauc_gain_se": error,
            "users": int(np.isfinite(user_aucs(clicked, scores, user)[1]).sum()),
            "events_least": int(events[kept].min()),
            "events_most": int(events[kept].max()),
        }
        out |= {f"quartile_{number}_{name}": value for name, value in named.items()}
    return out


def quartiles(user_I: np.ndarray, events_I: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(quarter 1..4 of each impression's user, the user's events), int I: users stay whole, as GAUC compares within them.

    A user has as many events as before the last of its test impressions. Ties at a border all fall into the lower quarter.
    """
    users_U, place_I = np.unique(user_I, return_inverse=True)
    events_U = np.zeros(users_U.size, np.int64)
    np.maximum.at(events_U, place_I, events_I)
    quartile_U = 1 + np.searchsorted(np.quantile(events_U, (0.25, 0.5, 0.75)), events_U, side="left")
    return quartile_U[place_I], events_U[place_I]
