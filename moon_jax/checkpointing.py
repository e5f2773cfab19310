"""Checkpoints hold everything that the next step of training reads: state, data iterator, history so far."""

import logging
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grain
import jax


class Checkpoints:
    """The checkpoints of one training trajectory, newest last; a context manager, so that it is always closed."""

    def __init__(self, folder: Path, keep: int = 2):
        from orbax.checkpoint import v1 as ocp

        logging.getLogger("absl").setLevel(logging.ERROR)  # orbax tells every save at INFO and WARNING
        policies = ocp.training.preservation_policies
        self._checkpointer = ocp.training.Checkpointer(
            folder.absolute(), preservation_policy=policies.LatestN(keep), cleanup_tmp_directories=True
        )

    def save(self, step: int, state: Any, batches: grain.DatasetIterator, history: dict[str, Any]) -> None:
        """Save after `step` steps; returns when the checkpoint is whole on disk."""
        self._checkpointer.save_checkpointables(
            step, {"state": state, "data": batches}, custom_metadata=history, overwrite=True, force=True
        )

    def restore(
        self, state: Any, batches: grain.DatasetIterator, history: dict[str, Any]
    ) -> tuple[int, Any, dict[str, Any]]:
        """The newest whole checkpoint as (steps done, state, history); `batches` is moved to its place.

        Args:
            state: the initial state; gives shapes and shardings and is returned itself if there is no checkpoint.
            batches: the data iterator at its start.
            history: what a run without checkpoint starts from.
        """
        latest = self._checkpointer.latest
        if latest is None:
            return 0, state, history
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
        loaded = self._checkpointer.load_checkpointables(latest.step, {"state": abstract, "data": batches})
        return latest.step, loaded["state"], self._checkpointer.metadata(latest.step).custom_metadata

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._checkpointer.close()
