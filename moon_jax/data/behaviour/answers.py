"""What the best possible predictor of a simulated log reaches: overall, and on slices of its impressions."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from moon_jax.data.behaviour.calibration import expected_auc
from moon_jax.data.behaviour.config import BehaviourConfig

if TYPE_CHECKING:
    import polars as pl

COLD = 16  # a user with fewer events before an impression is cold there
_SCORED = 2_000_000  # test impressions that are kept for scoring: a bound on memory, about 60 bytes each


class Answers:
    """Gathers the test impressions of a log, block by block, and scores Bayes on them.

    `auc` and `gauc` are on the clicks as drawn; `expected_auc` is that of relevance (a click on what is examined),
    without the noise of the draw. With position bias the models that do not see the position are told by `auc`, those
    that do by `with_position`. Slices: `tail_items` (the less popular half of each style), `new_items` (they came while
    the log ran), `cold_users` (fewer than 16 events before). At most the first 2 million test impressions are scored.
    """

    def __init__(self, config: BehaviourConfig) -> None:
        self._config = config
        self._parts: list[dict[str, np.ndarray]] = []
        self._impressions = self._clicks = self._kept = 0

    def add(
        self,
        impressions: "pl.DataFrame",
        truth: "pl.DataFrame",
        events_before_N: np.ndarray,
        slices: Mapping[str, np.ndarray],
    ) -> None:
        """One block's tables, the number of events before each impression, and bool masks of slices."""
        self._impressions += impressions.height
        self._clicks += int(impressions["clicked"].sum())
        if self._kept >= _SCORED:
            return
        test = np.flatnonzero((impressions["split"] == "test").to_numpy())
        self._kept += len(test)
        # Probabilities have six decimals: as millionths they need half the memory, and lose nothing.
        self._parts.append(
            {
                "clicked": impressions["clicked"].to_numpy()[test],
                "user": impressions["user_id"].to_numpy()[test],
                "place": impressions["position"].to_numpy()[test].astype(np.int32) - 1,
                "slice:cold_users": events_before_N[test] < COLD,
                **{f"slice:{name}": mask[test] for name, mask in slices.items()},
                **{
                    column: np.rint(1e6 * truth[column].to_numpy()[test]).astype(np.int32)
                    for column in ("probability", *(f"bayes_{length}" for length in self._config.lengths))
                },
            }
        )

    def facts(self) -> dict[str, Any]:
        """`click_rate` and `bayes`; a slice without both clicks and none is left out."""
        rows = {name: np.concatenate([part[name] for part in self._parts]) for name in self._parts[0]}
        bayes = self._score(rows, np.ones(len(rows["user"]), bool))
        if self._config.position_bias:
            bayes["with_position"] = self._score(rows, np.ones(len(rows["user"]), bool), self._config.examination())
        bayes["slices"] = {
            name.removeprefix("slice:"): self._score(rows, mask)
            for name, mask in rows.items()
            if name.startswith("slice:") and 0 < rows["clicked"][mask].sum() < mask.sum()
        }
        return {"click_rate": round(self._clicks / self._impressions, 6), "bayes": bayes}

    def _score(
        self, rows: Mapping[str, np.ndarray], mask: np.ndarray, examination: np.ndarray | None = None
    ) -> dict[str, Any]:
        from moon_jax.metrics.ranking import auc, gauc

        labels, users, truth = rows["clicked"][mask], rows["user"][mask], rows["probability"][mask] / 1e6
        weight = 1.0 if examination is None else examination[rows["place"][mask]]
        scores = {str(length): rows[f"bayes_{length}"][mask] / 1e6 * weight for length in self._config.lengths}
        gauc_by_length = {length: gauc(labels, score, users)[0] for length, score in scores.items()}
        scored: dict[str, Any] = {
            "impressions": int(mask.sum()),
            "auc": {length: round(auc(labels, score), 6) for length, score in scores.items()},
        }
        if np.isfinite(gauc_by_length["0"]):  # else every user has one class only
            scored["gauc"] = {length: round(value, 6) for length, value in gauc_by_length.items()}
        if examination is None:
            scored["expected_auc"] = {length: round(expected_auc(truth, score), 6) for length, score in scores.items()}
        return scored
