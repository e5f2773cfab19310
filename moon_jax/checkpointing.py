"""Checkpoints hold everything that the next step of training reads: state, place in the data, history so far.

Orbax writes them while training goes on and lets a whole one appear by a rename. What happens to files afterwards it does
not see: of most changed bytes tensorstore reads other numbers without a word. So a checkpoint is sealed once it is written,
with a digest of each of its files, and one whose seal is missing or does not fit is set aside for the one before.
"""

import hashlib
import json
import logging
import os
import shutil
import warnings
from collections.abc import Collection
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import jax
import numpy as np
from jax.experimental import multihost_utils

SEAL = "seal.json"
History = dict[str, Any]


class CheckpointError(Exception):
    """A checkpoint that was asked for by its step is missing or damaged; one line says which and why."""


class Checkpoints:
    """The checkpoints of one training trajectory, in one folder; a context manager, so that it is always closed.

    The processes of a run make it together, save together and read together, from a folder that they share.

    Attributes:
        newest: steps done at the newest whole checkpoint; None where there is none.
    """

    def __init__(self, folder: Path, *, latest: int = 2, keep: Collection[int] = ()):
        """Damaged checkpoints newer than the newest whole one are set aside, each with a warning that says why.

        Args:
            folder: where they are; need not exist.
            latest: how many of the newest stay.
            keep: numbers of steps whose checkpoints stay for ever.
        """
        from orbax.checkpoint import v1 as ocp

        logging.getLogger("absl").setLevel(logging.ERROR)  # orbax tells every save at INFO and WARNING
        self._folder = folder.absolute()
        self.newest = _agreed(_newest_whole(self._folder) if jax.process_index() == 0 else None)
        policies = ocp.training.preservation_policies
        self._checkpointer = ocp.training.Checkpointer(
            self._folder,
            preservation_policy=policies.AnyPreservationPolicy(
                [policies.LatestN(latest), policies.CustomSteps(list(keep))]
            ),
            cleanup_tmp_directories=True,
        )
        self._sealer = ThreadPoolExecutor(1, thread_name_prefix="seal")
        self._sealed: Future[None] | None = None

    def save(self, step: int, state: Any, history: History) -> None:
        """Begin to save after `step` steps; returns when `state` may be donated, `wait` when the checkpoint is whole.

        Only one is under way: this waits for the one before. A step that is saved already is not saved again.

        Args:
            state: tree of arrays, all finite: this is for the caller to see to.
            history: what JSON can hold.
        """
        self.wait()
        if step == self.newest:
            return
        # Orbax copies to the host before it returns; on CPU it holds views, whose buffers the runtime does not donate.
        response = self._checkpointer.save_checkpointables_async(
            step, {"state": state}, custom_metadata=history, force=True
        )

        def finish() -> None:
            response.result()
            if jax.process_index() == 0:
                _seal(self._folder / str(step))

        self._sealed = self._sealer.submit(finish)
        self.newest = step

    def wait(self) -> None:
        """Return when what was saved is whole on disk; raises what went wrong while it was written."""
        sealed, self._sealed = self._sealed, None
        if sealed is not None:
            sealed.result()

    def history(self) -> History:
        """The history of the newest checkpoint."""
        return _history(self._folder / str(self.newest))

    def state(self, like: Any) -> Any:
        """The state of the newest checkpoint, on the devices and in the shardings of `like`, whatever they were."""
        return _state(self._folder / str(self.newest), like)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.wait()
        finally:
            self._sealer.shutdown()
            self._checkpointer.close()


def load_checkpoint(folder: Path, step: int, like: Any) -> tuple[Any, History]:
    """(state, history) of one checkpoint of another run: where a branch leaves its trunk.

    Args:
        folder: the other run's `checkpoints/`; nothing in it is changed.
        step: steps done, among those that were kept.
        like: tree of arrays or `jax.ShapeDtypeStruct`s with shardings.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    path = folder.absolute() / str(step)
    damage = _damage(path) if path.is_dir() else "there is none"
    if damage:
        raise CheckpointError(f"no checkpoint of step {step} in {folder}: {damage}; run what made it anew")
    return _state(path, like), _history(path)


def _state(path: Path, like: Any) -> Any:
    from orbax.checkpoint import v1 as ocp

    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like)
    return ocp.load_checkpointables(path, {"state": abstract})["state"]


def _history(path: Path) -> History:
    from orbax.checkpoint import v1 as ocp

    return ocp.checkpointables_metadata(path).custom_metadata


def _agreed(newest: int | None) -> int | None:
    """What process 0 found, in all processes."""
    if jax.process_count() == 1:
        return newest
    step = int(multihost_utils.broadcast_one_to_all(np.int32(-1 if newest is None else newest)))
    return None if step < 0 else step


def _newest_whole(folder: Path) -> int | None:
    """The newest step whose seal fits; those above are set aside under a name that nobody takes for a step."""
    steps = [int(path.name) for path in folder.iterdir() if path.name.isdecimal()] if folder.is_dir() else []
    for step in sorted(steps, reverse=True):
        path = folder / str(step)
        damage = _damage(path)
        if damage is None:
            return step
        for former in folder.glob("damaged-*"):  # one is enough to look into
            shutil.rmtree(former, ignore_errors=True)
        aside = folder / f"damaged-{step}"
        path.rename(aside)
        warnings.warn(f"checkpoint {path} is passed over and set aside as {aside.name}: {damage}", stacklevel=4)
    return None


def _seal(path: Path) -> None:
    """Writes the digests of a whole checkpoint's files into it, at once or not at all."""
    draft = path / f".{SEAL}"
    draft.write_text(json.dumps(_digests(path)))
    draft.replace(path / SEAL)


def _damage(path: Path) -> str | None:
    """What is wrong with a checkpoint, for a message; None where every file is as it was sealed."""
    try:
        sealed = json.loads((path / SEAL).read_text())
        found = _digests(path)
    except FileNotFoundError:
        return "it was never sealed: its writing was cut short, or its seal is lost"
    except (OSError, ValueError) as error:
        return f"it cannot be read ({error})"
    if not isinstance(sealed, dict):
        return "its seal is none"
    for name, digest in sealed.items():
        if found.get(name) != digest:
            return f"{name} is missing" if name not in found else f"{name} is not what was written"
    return None


def _digests(path: Path) -> dict[str, str]:
    """SHA-256 of each file of a checkpoint, by its name in it; read on all cores."""
    files = sorted(file for file in path.rglob("*") if file.is_file() and file.name not in (SEAL, f".{SEAL}"))

    def digest(file: Path) -> str:
        with open(file, "rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return {
            file.relative_to(path).as_posix(): told for file, told in zip(files, pool.map(digest, files), strict=True)
        }
