"""Training: exact budgets, resumed equals uninterrupted bit by bit, one device equals eight."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from moon_jax.data.forms import parse_form
from moon_jax.data.loading import Prepared, training_batches
from moon_jax.models.encoder import EncoderConfig
from moon_jax.sharding import data_mesh
from moon_jax.stages import posttrain as stage
from moon_jax.stages.posttrain import PosttrainConfig, budget, posttrain
from moon_jax.training import DivergedError, Trained, learning_rate, train
from moon_jax.weights import load_encoder

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
OF_TIME = (
    "data_wait_share",
    "posttrain_tokens_per_second",
    "posttrain_compile_seconds",
    "posttrain_share_of_matmul_peak",
)


class Stop(BaseException):
    """Asked to stop, as a worker asks."""


class Interrupts:
    """A `report` that raises once at each of these numbers of steps done, and remembers what it was told."""

    def __init__(self, *at: int):
        self.at, self.told = list(at), []

    def __call__(self, done: float, total: float, **info: Any) -> None:
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
    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "metrics.jsonl").read_text().splitlines()]


def run(prepared_folder: Path, folder: Path, report: Any, *, config: PosttrainConfig = CONFIG, devices: int = 1) -> Run:
    """Posttrain itself on so many devices, logging every fourth step."""
    kept: list[Trained] = []

    def watched(*args: Any, **kwargs: Any) -> Trained:
        kept.append(train(*args, **kwargs, log_every=4))
        return kept[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "train", watched)
        patch.setattr(stage, "data_mesh", lambda _: data_mesh(devices))
        result = posttrain(config, files={}, inputs={"prepare": prepared_folder}, folder=folder, report=report)
    return Run({k: v for k, v in result.items() if k not in OF_TIME}, kept[0] if kept else None, folder)


@pytest.fixture(scope="module")
def report() -> Interrupts:
    return Interrupts()


@pytest.fixture(scope="module")
def whole(prepared_folder: Path, report: Interrupts, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Never interrupted."""
    return run(prepared_folder, tmp_path_factory.mktemp("whole"), report)


@pytest.mark.parametrize("stops", [(1,), (6, 7, 9), ("last",)])
def test_resumed_equals_uninterrupted_bit_by_bit(
    prepared_folder: Path, whole: Run, tmp_path: Path, stops: tuple
) -> None:
    steps = whole.result["steps"]
    assert steps > 10
    report = Interrupts(*(steps if at == "last" else at for at in stops))
    resumed, stopped = until_done(lambda: run(prepared_folder, tmp_path, report))
    assert stopped == len(stops)
    assert [done for done, _ in report.told] == list(range(1, steps + 1))  # no step is done twice
    assert resumed.result == whole.result
    assert resumed.trained.totals == whole.trained.totals
    assert resumed.rows == whole.rows
    named = jax.tree_util.tree_leaves_with_path(whole.trained.state)
    assert {jax.tree_util.keystr(path[:1]) for path, _ in named} == {"['params']", "['opt']", "['step']", "['key']"}
    for (path, leaf), other in zip(named, jax.tree.leaves(resumed.trained.state), strict=True):
        assert np.asarray(leaf).tobytes() == np.asarray(other).tobytes(), jax.tree_util.keystr(path)
    for name in ("encoder.safetensors", "encoder.json"):
        assert (tmp_path / name).read_bytes() == (whole.folder / name).read_bytes()


def test_the_budget_is_exact_and_every_step_is_told(whole: Run, report: Interrupts, prepared: Prepared) -> None:
    steps, _ = budget(CONFIG, prepared)
    assert whole.result["steps"] == steps
    assert int(whole.trained.state["step"]) == steps
    assert report.told == [(done, steps) for done in range(1, steps + 1)]
    assert [row["step"] for row in whole.rows] == sorted({*range(0, steps, 4), steps - 1})
    assert whole.result["tokens"] == pytest.approx(CONFIG.tokens, rel=0.05)


def test_tokens_and_candidates_equal_a_count_by_hand(whole: Run, prepared: Prepared) -> None:
    """Patches of every image shown and text ids that are not padding, on both sides; negatives one by one."""
    batches = training_batches(prepared, CONFIG.forms, CONFIG.batch, CONFIG.seed)
    tokens, negatives = 0, 0.0
    for _ in range(whole.result["steps"]):
        batch = next(batches)
        tokens += by_hand(batch)
        ids = batch["product_ids"]
        negatives += sum(ids[(row + k) % 16] != ids[row] for row in range(16) for k in range(1, 8)) / 16
    batches.close()
    assert whole.result["tokens"] == tokens
    assert whole.result["realised_negatives"] == pytest.approx(negatives / whole.result["steps"], rel=1e-6)
    assert whole.result["realised_negatives"] < 7  # variants of one product did meet, and were masked


def by_hand(batch: dict[str, np.ndarray]) -> int:
    patches = sum(16 * 4 for name in batch if name.endswith("images"))
    return patches + sum(int(np.sum(shown != 0)) for name, shown in batch.items() if name.endswith("text"))


@pytest.mark.parametrize("form", ["text->image", "text->text", "image+text->image", "image->image"])
def test_tokens_of_any_form_are_counted(prepared: Prepared, form: str) -> None:
    parsed = parse_form("item", form)
    batches = training_batches(prepared, (parsed,), 16, 0)
    batch = next(batches)
    batches.close()
    assert int(stage.count(batch, jnp.int32(15), 4)["tokens"]) == by_hand(batch)
    every = prepared.gather(parsed, prepared.pairs_of("item", "train"))
    mean, pairs = prepared.tokens_per_pair(parsed, patches=4)
    expected = sum(4 for name in every if name.endswith("images"))
    expected += sum(np.sum(shown != 0) for name, shown in every.items() if name.endswith("text")) / pairs
    assert mean == pytest.approx(expected)


def test_the_rate_rises_to_its_peak_and_reaches_zero_with_the_budget(whole: Run) -> None:
    rates = np.asarray(learning_rate(jnp.arange(200), jnp.full(200, 200), jnp.full(200, 3.0)))
    assert rates[0] == pytest.approx(3.0 / 20)
    assert rates.argmax() == 19
    assert rates.max() == pytest.approx(3.0)
    assert (np.diff(rates[:20]) > 0).all()
    assert (np.diff(rates[19:]) < 0).all()
    assert rates[-1] == 0
    assert max(row["lr"] for row in whole.rows) > 1e-3
    assert whole.rows[-1]["lr"] == 0


def count_up(loss_at: dict[int, float]) -> Callable[[Any, Any], Any]:
    """An update whose state is the number of steps, with a loss of 1 but where told otherwise."""

    def update(state: dict[str, jax.Array], batch: Any) -> Any:
        loss = jnp.float32(loss_at.get(int(state["step"]), 1.0))
        return {"step": state["step"] + 1}, {"loss": loss}, {"seen": jnp.int32(1)}

    return update


def numbers() -> grain.DatasetIterator:
    return iter(grain.MapDataset.range(4).repeat().to_iter_dataset())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("step", [0, 3, 6])
def test_a_loss_that_is_not_finite_stops_with_its_step(tmp_path: Path, bad: float, step: int) -> None:
    state = {"step": jnp.int32(0)}
    with pytest.raises(DivergedError) as caught:
        train(count_up({step: bad}), state, numbers(), steps=7, folder=tmp_path, report=Interrupts(), save_seconds=0.0)
    assert caught.value.step == step
    kept = [int(path.name) for path in (tmp_path / "checkpoints").iterdir() if path.name.isdecimal()]
    assert all(done <= step for done in kept)  # what is kept was good
    assert "NaN" not in (tmp_path / "metrics.jsonl").read_text()


def test_no_steps_leave_the_state_as_it_was(tmp_path: Path) -> None:
    result = train(count_up({}), {"step": jnp.int32(5)}, numbers(), steps=0, folder=tmp_path, report=Interrupts())
    assert int(result.state["step"]) == 5
    assert result.totals == {}


def test_a_run_that_diverges_is_a_result(prepared_folder: Path, tmp_path: Path) -> None:
    ended = run(prepared_folder, tmp_path, Interrupts(), config=replace(CONFIG, peak_lr=1e30))
    assert ended.result["status"] == "diverged"
    assert 0 < ended.result["diverged_at_step"] < 10
    assert not (tmp_path / "encoder.safetensors").exists()


def test_one_device_and_eight_give_the_same_run(
    prepared_folder: Path, prepared: Prepared, whole: Run, tmp_path: Path
) -> None:
    eight = run(prepared_folder, tmp_path, Interrupts(), devices=8)
    assert len(jax.tree.leaves(eight.trained.state)[0].sharding.device_set) == 8
    losses = [np.array([row["loss"] for row in each.rows]) for each in (whole, eight)]
    assert np.ptp(losses[0]) > 0.02  # it did learn
    np.testing.assert_allclose(losses[1], losses[0], atol=1e-5)
    assert eight.result["tokens"] == whole.result["tokens"]
    vectors = []
    for each in (whole, eight):
        _, graph, params, _ = load_encoder(each.folder)
        vectors.append(nnx.merge(graph, params)(prepared.item_images[:32], prepared.item_text[:32]))
    np.testing.assert_allclose(vectors[1], vectors[0], atol=1e-4)


RUN = """
import sys
from pathlib import Path
sys.path[:0] = {paths!r}
from test_training import CONFIG
from moon_jax.stages.posttrain import posttrain
from moon_jax.training import train
train.__kwdefaults__["save_seconds"] = 0.0
folder, prepared = map(Path, sys.argv[1:])
posttrain(CONFIG, files={{}}, inputs={{"prepare": prepared}}, folder=folder, report=lambda *a, **k: None)
"""


@pytest.mark.proof
def test_killed_at_any_moment_and_resumed_equals_uninterrupted(prepared_folder: Path, tmp_path: Path) -> None:
    """SIGKILL in mid-training, three times, at moments that differ: while it saves, or between."""
    program = RUN.format(paths=[str(Path(__file__).parent)])

    def start(folder: Path) -> subprocess.Popen[bytes]:
        folder.mkdir(exist_ok=True)
        return subprocess.Popen([sys.executable, "-c", program, str(folder), str(prepared_folder)], env=os.environ)

    def whole_checkpoints(folder: Path) -> set[str]:
        home = folder / "checkpoints"
        return {path.name for path in home.iterdir() if path.name.isdecimal()} if home.is_dir() else set()

    assert start(tmp_path / "whole").wait(timeout=120) == 0
    killed, kills = tmp_path / "killed", 0
    for delay in (0.0, 0.06, 0.15):
        before, process = whole_checkpoints(killed), start(killed)
        while process.poll() is None and not whole_checkpoints(killed) - before:
            time.sleep(0.005)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
    assert kills >= 2
    assert start(killed).wait(timeout=120) == 0
    for name in ("encoder.safetensors", "encoder.json", "metrics.jsonl"):
        assert (killed / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
