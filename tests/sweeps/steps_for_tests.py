"""Step functions in pure Python for the tests: they count, leave traces, fail, stop and kill as they are told."""

import enum
import json
import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


class Shape(enum.Enum):
    ROUND = "round"
    SQUARE = "square"


class PictureDataError(ValueError):
    """What a step raises for bad input."""


@dataclass(frozen=True)
class Inner:
    width: int = 3
    rates: tuple[float, ...] = (0.1, 0.3)


@dataclass(frozen=True)
class Config:
    number: int = 1
    rate: float = 0.5
    shape: Shape = Shape.ROUND
    name: str = "a"
    flag: bool = False
    nothing: int | None = None
    inner: Inner = field(default_factory=Inner)
    extras: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Work:
    """What `count` should do. `trace` is a folder outside the ledger where each call leaves a file, or empty."""

    number: int
    trace: str = ""
    units: int = 1
    pause: float = 0.0
    behave: str = "well"
    until: int = 0  # misbehave in so many first calls (0: always)


def count(
    config: Work, *, files: Mapping[str, Path], inputs: Mapping[str, Path], folder: Path, report: Callable[..., None]
) -> dict[str, Any]:
    """Counts up to `units` with a checkpoint after each; the sum of its inputs' values and its number is its value."""
    call = _leave_trace(config)
    misbehaves = not config.until or call <= config.until
    if config.behave == "large":  # takes less each time that it is told to
        misbehaves = int(os.environ["SWEEPS_SHRINK"]) < config.until
    checkpoint = folder / "checkpoints" / "state.json"
    checkpoint.parent.mkdir(exist_ok=True)
    begun = json.loads(checkpoint.read_text())["unit"] if checkpoint.exists() else 0
    print(f"counting {config.number} from {begun}")
    for unit in range(begun, config.units):
        report(unit, config.units, unit=unit)
        if misbehaves:
            _misbehave(config.behave, folder)
        time.sleep(config.pause)
        partial = checkpoint.with_suffix(".partial")
        partial.write_text(json.dumps({"unit": unit + 1}))
        os.replace(partial, checkpoint)
    value = config.number + sum(json.loads((path / "value.json").read_text()) for path in inputs.values())
    (folder / "value.json").write_text(json.dumps(value))
    (folder / "metrics.jsonl").write_text(json.dumps({"value": value}) + "\n")
    text = "".join(path.read_text() for path in files.values())
    metrics = {"value": value, "begun": begun, "text": text}
    return metrics | ({"status": "diverged"} if config.behave == "diverge" else {})


def echo_inputs(
    config: Work, *, files: Mapping[str, Path], inputs: Mapping[str, Path], folder: Path, report: Callable[..., None]
) -> dict[str, Any]:
    """Its own metric from what its one input published."""
    _leave_trace(config)
    value = sum(json.loads((path / "value.json").read_text()) for path in inputs.values())
    (folder / "value.json").write_text(json.dumps(value))
    return {"read": value * config.number}


def _leave_trace(config: Work) -> int:
    """One file a call: which call of this number it is."""
    if not config.trace:
        return 1
    call = 1
    while True:
        try:
            with Path(config.trace, f"{config.number}.{call}").open("x") as stream:
                stream.write(str(os.getpid()))
            return call
        except FileExistsError:
            call += 1


def _misbehave(how: str, folder: Path) -> None:
    if how == "crash":
        raise RuntimeError("it broke")
    if how == "memory":
        raise RuntimeError("RESOURCE_EXHAUSTED: out of memory while trying to allocate 1 byte")
    if how == "fill":
        with (folder / "large").open("wb") as stream:
            while True:
                stream.write(bytes(4096))
    if how == "large":
        raise MemoryError("no room")
    if how == "bad input":
        raise PictureDataError("items.parquet, row 3: no picture")
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "exit":
        raise SystemExit(3)


def together(
    config: Work, *, files: Mapping[str, Path], inputs: Mapping[str, Path], folder: Path, report: Callable[..., None]
) -> dict[str, Any]:
    """Waits until two processes are at it, as a collective does. Told to crash, all but the first do, and it waits for ever."""
    rank = int(os.environ["SLURM_PROCID"])
    if config.behave == "crash" and rank:
        raise RuntimeError("it broke")
    (folder / f"here.{rank}").touch()
    while len(list(folder.glob("here.*"))) < 2:
        time.sleep(0.02)
    return {"processes": len(list(folder.glob("here.*")))}


together.runs_together = True  # type: ignore[attr-defined]
