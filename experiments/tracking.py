"""Training curves in TensorBoard or Weights & Biases, through their own libraries, fed from the `metrics.jsonl` of steps.

Off unless asked for: `moon run --track tensorboard` while a sweep runs, `moon track` at any time after.
"""

import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from sweeps import leases
from sweeps.attempts import ATTEMPTS
from sweeps.errors import SweepError

if TYPE_CHECKING:
    from sweeps import Ledger, Snapshot

Tool = Literal["tensorboard", "wandb"]
METRICS = "metrics.jsonl"


class Sink(Protocol):
    """Where curves go."""

    def add(self, step: str, config: dict[str, Any], rows: list[dict[str, Any]]) -> None:
        """More rows of a step's curve, each with "step", the training step, and numbers."""

    def close(self) -> None: ...


class TensorBoard:
    """A run a step under `<out>/tensorboard`: `tensorboard --logdir runs/tensorboard`."""

    def __init__(self, folder: Path):
        try:
            from tensorboard.summary import Writer
        except ImportError:
            raise SweepError("tracking needs tensorboard: pip install 'moon-jax[track]'") from None
        self._writer, self._folder, self._writers = Writer, folder / "tensorboard", dict[str, Any]()

    def add(self, step: str, config: dict[str, Any], rows: list[dict[str, Any]]) -> None:
        if step not in self._writers:
            self._writers[step] = self._writer(str(self._folder / step))
        for row in rows:
            for name, value in row.items():
                if name != "step" and value is not None:
                    self._writers[step].add_scalar(name, value, int(row["step"]))
        self._writers[step].flush()

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()


class WandB:
    """A run a step in the project of WANDB_PROJECT ("moon"); WANDB_MODE=offline writes under `<out>/wandb` instead."""

    def __init__(self, folder: Path):
        try:
            import wandb
        except ImportError:
            raise SweepError("tracking needs wandb: pip install 'moon-jax[track]'") from None
        self._wandb, self._folder, self._runs = wandb, folder, dict[str, Any]()

    def add(self, step: str, config: dict[str, Any], rows: list[dict[str, Any]]) -> None:
        if step not in self._runs:
            self._runs[step] = self._wandb.init(
                project=os.environ.get("WANDB_PROJECT", "moon"),
                dir=self._folder,
                id=step,
                name=step,
                config=config,
                resume="allow",
                reinit="create_new",
            )
        for row in rows:
            told = {name: value for name, value in row.items() if name != "step" and value is not None}
            self._runs[step].log(told, step=int(row["step"]))

    def close(self) -> None:
        for run in self._runs.values():
            run.finish()


SINKS: dict[str, Callable[[Path], Sink]] = {"tensorboard": TensorBoard, "wandb": WandB}


class Curves:
    """The curves of a ledger's steps, followed while they grow. Use it in a `with` block."""

    EVERY = 5.0  # seconds

    def __init__(self, ledger: "Ledger", questions: Sequence[str], tool: Tool):
        self._ledger, self._questions, self._sink = ledger, questions, SINKS[tool](ledger.root)
        self._told: dict[str, float] = {}  # the last training step that the sink has seen of each step
        self._next = 0.0

    def __enter__(self) -> "Curves":
        return self

    def __exit__(self, *_: object) -> None:
        self.refresh()
        self._sink.close()

    def beside(self, shown: "Callable[[Snapshot], None]") -> "Callable[[Snapshot], None]":
        """What a tick of a run does: the view, and now and then the curves."""

        def tick(now: "Snapshot") -> None:
            shown(now)
            if time.monotonic() >= self._next:
                self.refresh()
                self._next = time.monotonic() + self.EVERY

        return tick

    def refresh(self) -> int:
        """Give the sink what is new; returns how many steps have a curve so far."""
        for name in self._ledger.planned(self._questions):
            rows = [row for row in self._rows(name) if row["step"] > self._told.get(name, -1)]
            if rows:
                self._sink.add(name, {"config": self._ledger.record(name).config}, rows)
                self._told[name] = rows[-1]["step"]
        return len(self._told)

    def _rows(self, name: str) -> list[dict[str, Any]]:
        """The curve of the published attempt, or of the one under way: one that went on begins with what it went on from."""
        folder, result = self._ledger.step_folder(name), self._ledger.result(name)
        lease = None if result else leases.holder(folder)
        attempt = result["attempt"] if result else lease["attempt"] if lease else None
        if attempt is None:
            return []
        try:
            lines = (folder / ATTEMPTS / attempt / METRICS).read_text().split("\n")
        except OSError:
            return []
        rows = []
        for line in lines:
            try:
                row = json.loads(line)
            except ValueError:
                continue  # half a line: the rest comes with the next look
            if isinstance(row, dict) and isinstance(row.get("step"), int | float):
                rows.append(row)
        return rows
