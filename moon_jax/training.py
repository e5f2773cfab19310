"""The one loop: every stage trains through `train` and supplies its update, its batches and its budget."""

import json
import math
import os
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grain
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from moon_jax.checkpointing import Checkpoints, History
from moon_jax.data.loading import Batches

Array = jax.Array
Report = Callable[..., None]
AHEAD = 2  # batches that lie on the device before they are asked for
TOGETHER = 4  # steps between two moments at which several processes agree whether to save or stop


class DivergedError(Exception):
    """The loss or the state stopped being finite.

    Attributes:
        step: the first such step (from 0).
        checkpoint: steps done at the last good checkpoint; None where there is none.
    """

    def __init__(self, step: int, checkpoint: int | None):
        kept = "there is no checkpoint" if checkpoint is None else f"the last good checkpoint has {checkpoint} steps"
        super().__init__(f"training is not finite at step {step}; {kept}")
        self.step, self.checkpoint = step, checkpoint


class StoppedError(Exception):
    """Another process of this run was asked to stop; this one saved with it."""

    preempted = True  # to whoever runs the step


@dataclass(frozen=True)
class Trained:
    """What a finished run leaves: its state, sums over all steps, and how the time went.

    seconds: of steps, over all attempts; without compilation, evaluations, and what is done before the first.
    """

    state: Any
    totals: dict[str, float]
    last: dict[str, float]
    seconds: float
    data_wait_share: float


def train(
    update: Callable[[Any, Any], tuple[Any, dict[str, Array], dict[str, Array]]],
    state: Any,
    batches: Batches,
    *,
    steps: int,
    folder: Path,
    report: Report,
    place: Callable[[Any], Any] = jax.device_put,
    save_seconds: float = 30.0,
    log_every: int = 10,
    keep: Collection[int] | None = None,
    evaluate: Callable[[Any], dict[str, float]] | None = None,
    evaluate_at: Collection[int] = (),
    start: int = 0,
    begin: Callable[[Any], Any] | None = None,
    compiling: Callable[[], float] = lambda: 0.0,
) -> Trained:
    """Run `update` to its exact budget, resuming from the newest checkpoint in `folder/checkpoints` if there is one.

    Several processes run this together, over one `folder`.

    Args:
        update: (state, batch) -> (state, metrics, counts), jitted; metrics are scalars with "loss" among them, counts
            are scalars that are summed over the run (tokens, candidates). It may donate its state.
        state: the initial state, arrays on their devices, all finite.
        batches: deterministic; the place of the last batch that was trained on is saved with the state.
        steps: the budget, fixed in advance.
        folder: gets `metrics.jsonl` and `checkpoints/`.
        report: report(done, total, **info); when it raises (a stop was asked for), the run saves and lets it pass.
        place: puts a host batch on the devices; called by a thread, ahead of time.
        save_seconds: time between checkpoints.
        log_every: steps between lines of `metrics.jsonl`; the last step always gets one.
        keep: numbers of steps done whose checkpoints stay for ever, besides the newest two: where branches leave a trunk.
        evaluate: state -> metrics, called after each number of steps in `evaluate_at` (0: before the first). They get a
            line of their own in `metrics.jsonl`, with "step" the steps done. What it raises passes without a save.
        start: steps that `state` has behind it, for a branch; `batches` must stand there. Totals and lines begin there.
        begin: state -> state, what is to be done once before the first step where there is no checkpoint (filling a queue).
        compiling: seconds that calls of `update` have taken in this process that were no steps (`meter.Meter.compiling`).

    Raises:
        DivergedError: the loss or the state became NaN or infinite; the last good checkpoint stays.
        StoppedError: another process was asked to stop.
    """
    began = time.monotonic()
    keep = frozenset(keep or ())
    ahead = Ahead(batches, place)
    with (
        Checkpoints(folder / "checkpoints", keep=keep) as checkpoints,
        Record(folder / "metrics.jsonl") as record,
        ahead,
    ):
        first = start
        if checkpoints.newest is not None:
            first, history = checkpoints.newest, checkpoints.history()
            ahead.set_state(history["data"])
            record.resume(history)
        ahead.begin()  # the first batches are made while the state is read
        if checkpoints.newest is not None:
            state = checkpoints.state(state)
        elif begin is not None:
            state = begin(state)
        stepping = saved = time.monotonic()
        waited = aside = 0.0
        pending: tuple[int, Any, Any] | None = None
        stop: BaseException | None = None

        def settle() -> None:
            """Read the step dispatched last; until then the device works on while the host prepares the next."""
            nonlocal pending
            if pending is None:
                return
            (step, *told), pending = pending, None
            metrics, counts = jax.device_get(told)  # all at once
            if not math.isfinite(metrics["loss"]):
                raise DivergedError(step, checkpoints.newest)
            record.add(step, metrics, counts, line=step % log_every == 0 or step == steps - 1)

        def spent() -> float:
            return record.seconds + time.monotonic() - stepping - aside - compiling()

        def look(done: int) -> None:
            nonlocal aside
            if evaluate is not None and done in evaluate_at and done not in record.evaluated:
                settle()
                looked = time.monotonic()
                record.evaluation(done, evaluate(state))
                aside += time.monotonic() - looked

        def save(done: int) -> None:
            settle()
            if not finite(state):
                raise DivergedError(done - 1, checkpoints.newest)
            checkpoints.save(done, state, record.history(spent(), ahead.get_state()))

        look(first)
        for step in range(first, steps):
            asked = time.monotonic()
            batch = next(ahead)
            waited += time.monotonic() - asked
            state, metrics, counts = update(state, batch)
            settle()
            pending = (step, metrics, counts)
            done = step + 1
            try:
                report(done, steps, loss=round(record.last.get("loss", math.nan), 4))
            except BaseException as error:
                stop = stop or error
            stopping, due = agree(done, steps, stop is not None, time.monotonic() - saved > save_seconds)
            if not stopping:  # whoever was asked to stop has no time to look
                look(done)
            if stopping or due or done in keep:
                save(done)
                saved = time.monotonic()
            if stopping:
                checkpoints.wait()
                raise stop or StoppedError(f"another process was asked to stop; saved after {done} steps")
        settle()
        if not finite(state):
            raise DivergedError(steps - 1, checkpoints.newest)
        seconds = spent()
    return Trained(state, record.totals, record.last, seconds, waited / max(time.monotonic() - began, 1e-9))


def agree(done: int, steps: int, stop: bool, due: bool) -> tuple[bool, bool]:
    """(stop, save) as soon as any process wants to; several processes ask one another every few steps and at the end."""
    if jax.process_count() == 1:
        return stop, due
    if done % TOGETHER and done != steps:
        return False, False
    wanted = multihost_utils.process_allgather(np.array([stop, due])).any(axis=0)
    return bool(wanted[0]), bool(wanted[1])


def finite(state: Any) -> bool:
    """Whether all numbers of a state are, in all processes alike; waits for it."""
    numbers = [leaf for leaf in jax.tree.leaves(state) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    if jax.default_backend() == "cpu" and jax.process_count() == 1:
        # XLA:CPU compiles for a second what numpy does in milliseconds.
        shards = (shard for leaf in numbers for shard in leaf.addressable_shards if shard.replica_id == 0)
        return all(np.isfinite(shard.data).all() for shard in shards)
    return bool(_finite(numbers))


@jax.jit
def _finite(numbers: list[Array]) -> Array:
    return jnp.isfinite(sum((jnp.sum(0 * leaf) for leaf in numbers), jnp.float32(0)))


class Ahead:
    """Batches on the device before they are asked for; its place is that of the last one handed out.

    grain's thread does the work. It reads the batches through this object's inner half, which places them.
    """

    def __init__(self, batches: Batches, place: Callable[[Any], Any]):
        self._thread = grain.experimental.ThreadPrefetchDatasetIterator(_Placed(batches, place), AHEAD)

    def begin(self) -> None:
        """Start to fetch, so that the first batch is there when it is asked for."""
        self._thread.start_prefetch()

    def __next__(self) -> Any:
        return next(self._thread)

    def get_state(self) -> dict[str, Any]:
        return self._thread.get_state()

    def set_state(self, state: dict[str, Any]) -> None:
        self._thread.set_state(state)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.close()


class _Placed:
    def __init__(self, batches: Batches, place: Callable[[Any], Any]):
        self._batches, self._place = batches, place

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        return self._place(next(self._batches))

    def get_state(self) -> dict[str, Any]:
        return self._batches.get_state()

    def set_state(self, state: dict[str, Any]) -> None:
        self._batches.set_state(state)


class Record:
    """What a run tells: the lines of `metrics.jsonl` (process 0 writes them), sums over all steps, the last step.

    Attributes:
        totals: sums of counts.
        last: step and metrics of the last step that was read; before the first, of the last line.
        seconds: spent by the processes that worked on this run before.
        evaluated: numbers of steps that were evaluated.
    """

    def __init__(self, path: Path):
        self._lines = open(path if jax.process_index() == 0 else os.devnull, "w")  # noqa: SIM115
        self._rows: list[dict[str, float | None]] = []
        self.totals: dict[str, float] = {}
        self.last: dict[str, float] = {}
        self.seconds = 0.0
        self.evaluated: set[int] = set()

    def resume(self, history: History) -> None:
        """Go on from what `history` gave."""
        self.totals, self.last, self.seconds = history["totals"], history["last"], history["seconds"]
        self.evaluated = set(history["evaluated"])
        for row in history["rows"]:
            self._write(row)

    def history(self, seconds: float, data: dict[str, Any]) -> History:
        """All of it for a checkpoint, with the time spent and the place in the data; what comes later changes nothing."""
        told = {"rows": list(self._rows), "totals": dict(self.totals), "last": self.last}
        return told | {"evaluated": sorted(self.evaluated), "seconds": seconds, "data": data}

    def add(self, step: int, metrics: dict[str, Any], counts: dict[str, Any], *, line: bool) -> None:
        """A step and, where it gets one, its line."""
        self.last = {"step": step} | {name: float(value) for name, value in metrics.items()}
        for name, value in counts.items():
            self.totals[name] = self.totals.get(name, 0.0) + float(value)
        if line:
            self._write(self.last | self.totals)

    def evaluation(self, done: int, metrics: dict[str, float]) -> None:
        """An evaluation after so many steps: a line of its own."""
        self.evaluated.add(done)
        self._write({"step": done} | {name: float(value) for name, value in metrics.items()})

    def _write(self, row: dict[str, Any]) -> None:
        row = {name: value if value is None or math.isfinite(value) else None for name, value in row.items()}  # JSON
        self._rows.append(row)
        self._lines.write(json.dumps(row) + "\n")
        self._lines.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lines.close()
