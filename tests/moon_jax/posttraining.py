"""What tests of post-training share: configs, a run of the stage, a report that interrupts it."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from moon_jax.data.forms import parse_form
from moon_jax.models.encoder import EncoderConfig
from moon_jax.stages import posttrain as stage
from moon_jax.stages.posttrain import PosttrainConfig, posttrain
from moon_jax.training import Trained, train

# A search and the items' own photos: two sources whose batches have one shape, so that one compilation serves all.
FORMS = (parse_form("image", "image->image+text"), parse_form("own", "image->image+text", weight=0.5))
CONFIG = PosttrainConfig(
    encoder=EncoderConfig(height=16, width=16, patch=8, vocabulary=200, embedding=16),
    forms=FORMS,
    tokens=2_600,
    batch=16,
    num_negatives=7,
    peak_lr=2e-3,
    seed=3,
)
# All that a state can hold, and every kind of negative.
RICH = replace(CONFIG, queue=48, queue_from="ema", ema=0.9, hard_negatives=2, dims=(8, 16), augment_items=True)
ONE, EIGHT, FSDP = "data=1", "data=8", "data=2,fsdp=4"
OF_TIME = (
    "data_wait_share",
    "posttrain_tokens_per_second",
    "posttrain_compile_seconds",
    "posttrain_compilations",
    "posttrain_share_of_matmul_peak",
)


class Stop(BaseException):
    """Asked to stop, as a worker asks."""


class Interrupts:
    """A `report` that raises once at each of these numbers of steps done, and remembers what it was told."""

    def __init__(self, *at: int):
        self.at, self.told = list(at), []

    def __call__(self, done: float, total: float, **info: Any) -> None:
        if "doing" in info:  # before the first step
            return
        self.told.append((done, total))
        if done in self.at:
            self.at.remove(done)
            raise Stop


def until_done(run: Callable[[], Any]) -> tuple[Any, int]:
    """Start it again after every stop: (its result, number of stops)."""
    stops = 0
    while True:
        try:
            return run(), stops
        except Stop:
            stops += 1


@dataclass(frozen=True)
class Run:
    """A run of the stage: what it returned (but for timings), its inner state, and its folder."""

    result: dict[str, Any]
    trained: Trained | None
    folder: Path

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "metrics.jsonl").read_text().splitlines()]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The lines of steps, without those of evaluations."""
        return [line for line in self.lines if "loss" in line]


def run(
    prepared_folder: Path,
    folder: Path,
    report: Any,
    *,
    config: PosttrainConfig = CONFIG,
    engine: str = ONE,
    **inputs: Path,
) -> Run:
    """Posttrain itself, as the engine says, logging every fourth step."""
    kept: list[Trained] = []

    def watched(*args: Any, **kwargs: Any) -> Trained:
        kept.append(train(*args, **kwargs, log_every=4))
        return kept[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "train", watched)
        patch.setenv("MOON_ENGINE", engine)
        given = {"prepare": prepared_folder, **inputs}
        result = posttrain(config, files={}, inputs=given, folder=folder, report=report)
    return Run({k: v for k, v in result.items() if k not in OF_TIME}, kept[0] if kept else None, folder)
