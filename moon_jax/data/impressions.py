"""Impressions as batches: shuffled, their histories cut out as slices when they are read."""

from dataclasses import dataclass

import grain
import jax
import numpy as np

from moon_jax.data.contract import DataError
from moon_jax.data.histories import Behaviour
from moon_jax.data.loading import ShuffledBatches


@dataclass(frozen=True)
class Impressions:
    """What batches are made of: the behaviour, histories of `length`, and rows of features (I x F) where there are some."""

    behaviour: Behaviour
    length: int
    field_IxF: np.ndarray | None = None

    def rows_of(self, split: str) -> np.ndarray:
        """The impressions of a split, int64."""
        return np.flatnonzero(self.behaviour.split == split)

    def read(self, rows_B: np.ndarray) -> dict[str, np.ndarray]:
        """One batch: target, history, actions, click, and query and features where there are some."""
        behaviour = self.behaviour
        history_BxL, action_BxL = behaviour.history(rows_B, self.length)
        out = {
            "target": behaviour.impression_item[rows_B],
            "history": history_BxL,
            "action": action_BxL,
            "clicked": behaviour.clicked[rows_B],
        }
        if behaviour.impression_query is not None and behaviour.answers_queries:
            out["query"] = behaviour.impression_query[rows_B]
        if self.field_IxF is not None:
            out["field"] = self.field_IxF[rows_B]
        return out


def shuffled(data: Impressions, split: str, batch: int, seed: int) -> grain.DatasetIterator:
    """Endless shuffled batches of impressions with their histories as slices; deterministic and checkpointable."""
    rows = data.rows_of(split)
    if rows.size < batch:
        raise DataError(f"{rows.size} {split} impressions are fewer than a batch of {batch}")
    index, count = jax.process_index(), jax.process_count()
    part = slice(index * batch // count, (index + 1) * batch // count)  # of several processes
    order = grain.MapDataset.source(ShuffledBatches(rows, batch, seed))
    batches = order.map(lambda rows_B: data.read(rows_B[part]))
    return iter(batches.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)))
