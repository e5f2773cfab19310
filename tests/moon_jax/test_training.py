"""Post-training through the engine: exact budgets, resumed equals uninterrupted bit by bit, any mesh gives the same."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from posttraining import CONFIG, EIGHT, FSDP, RICH, Interrupts, Run, Stop, run, until_done

from moon_jax.data.forms import parse_form
from moon_jax.data.loading import Prepared, training_batches
from moon_jax.engine import Engine
from moon_jax.stages.contrastive_step import TEMPERATURES, count
from moon_jax.stages.posttrain import mean_tokens
from moon_jax.weights import load_encoder


@pytest.fixture(scope="module")
def report() -> Interrupts:
    return Interrupts()


@pytest.fixture(scope="module")
def whole(prepared_folder: Path, report: Interrupts, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Never interrupted."""
    return run(prepared_folder, tmp_path_factory.mktemp("whole"), report)


@pytest.fixture(scope="module")
def rich(hard_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Never interrupted, with a queue, an average and hard negatives."""
    return run(hard_folder, tmp_path_factory.mktemp("rich"), Interrupts(), config=RICH)


def require_same(resumed: Run, whole: Run) -> None:
    """Bit by bit: results, lines, every array of the state, files."""
    assert resumed.result == whole.result
    assert resumed.trained.totals == whole.trained.totals
    assert resumed.lines == whole.lines
    named = jax.tree_util.tree_leaves_with_path(whole.trained.state)
    for (path, leaf), other in zip(named, jax.tree.leaves(resumed.trained.state), strict=True):
        assert np.asarray(leaf).tobytes() == np.asarray(other).tobytes(), jax.tree_util.keystr(path)
    for name in ("encoder.safetensors", "encoder.json"):
        assert (resumed.folder / name).read_bytes() == (whole.folder / name).read_bytes()


def parts_of(state: Any) -> set[str]:
    return {str(path[0].key) for path, _ in jax.tree_util.tree_leaves_with_path(state)}


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
    assert parts_of(whole.trained.state) == {"params", "opt", "step", "key"}
    require_same(resumed, whole)


def test_resumed_with_queue_average_and_hard_negatives_equals_uninterrupted(
    hard_folder: Path, rich: Run, tmp_path: Path
) -> None:
    resumed, stopped = until_done(lambda: run(hard_folder, tmp_path, Interrupts(1, 5, 8), config=RICH))
    assert stopped == 3
    assert parts_of(rich.trained.state) == {"params", "opt", "step", "key", "ema", "queue"}
    require_same(resumed, rich)


@pytest.mark.proof
def test_a_run_stopped_on_one_mesh_goes_on_on_another(hard_folder: Path, rich: Run, tmp_path: Path) -> None:
    with pytest.raises(Stop):
        run(hard_folder, tmp_path, Interrupts(5), config=RICH)
    moved = run(hard_folder, tmp_path, Interrupts(), config=RICH, engine=FSDP)
    require_close(moved, rich)


def require_close(other: Run, whole: Run) -> None:
    """The same run up to the order of sums."""
    losses = [np.array([row["loss"] for row in each.rows]) for each in (whole, other)]
    assert np.ptp(losses[0]) > 0.02  # it did learn
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)
    for name in ("tokens", "realised_negatives", "masked_share", "queue_staleness"):
        assert other.result.get(name) == pytest.approx(whole.result.get(name), rel=1e-6), name


@pytest.mark.parametrize("engine", [pytest.param(EIGHT, marks=pytest.mark.proof), FSDP])
def test_any_mesh_gives_the_same_run(
    hard_folder: Path, prepared: Prepared, rich: Run, tmp_path: Path, engine: str
) -> None:
    other = run(hard_folder, tmp_path, Interrupts(), config=RICH, engine=engine)
    assert len(jax.tree.leaves(other.trained.state)[0].sharding.device_set) == 8
    require_close(other, rich)
    vectors = []
    for each in (rich, other):
        _, graph, params, _ = load_encoder(each.folder)
        vectors.append(nnx.merge(graph, params)(prepared.item_images[:32], prepared.item_text[:32]))
    np.testing.assert_allclose(vectors[1], vectors[0], atol=1e-4)
    share = bytes_on_a_device(other.trained.state) / bytes_on_a_device(rich.trained.state)
    assert share < 0.35 if engine == FSDP else share > 0.9  # parameters and moments a fourth, or whole everywhere


def bytes_on_a_device(state: Any) -> int:
    """Of parameters, moments and average."""
    leaves = jax.tree.leaves({name: state[name] for name in ("params", "opt", "ema")})
    return sum(leaf.addressable_shards[0].data.nbytes for leaf in leaves)


@pytest.mark.proof
@pytest.mark.parametrize(
    "engine", ["data=2,fsdp=2,model=2,chunk=8,remat=full", "form=ring,tile=3", "form=tiled,remat=dots"]
)
def test_how_it_is_computed_changes_nothing(hard_folder: Path, rich: Run, tmp_path: Path, engine: str) -> None:
    other = run(hard_folder, tmp_path, Interrupts(), config=RICH, engine=engine)
    assert Engine.parse(engine).form in ("auto", other.result["loss_form"].split()[0])
    require_close(other, rich)
    assert other.result["posttrain_flops"] == rich.result["posttrain_flops"]  # no engine does more work than another


@pytest.mark.parametrize(
    ("changes", "names"), [({"loss": "circle"}, 1), pytest.param({"loss": "sigmoid"}, 2, marks=pytest.mark.proof)]
)
def test_every_loss_trains(prepared_folder: Path, tmp_path: Path, changes: dict[str, Any], names: int) -> None:
    """The loss falls, and only what it learns besides the encoder is there."""
    config = replace(CONFIG, **changes, tokens=4_000)
    ended = run(prepared_folder, tmp_path, Interrupts(), config=config)
    losses = [row["loss"] for row in ended.rows]
    assert losses[-1] < losses[0]
    assert len(ended.trained.state["params"]) == 1 + names
    moved = ended.result["temperature"] / TEMPERATURES[config.loss]
    assert (moved == pytest.approx(1, abs=1e-6)) == (config.loss == "circle")  # circle loss does not learn its scale


def test_a_queue_is_full_before_the_first_step_and_forgets_the_oldest(rich: Run, hard_folder: Path) -> None:
    prepared, queue = Prepared(hard_folder), rich.trained.state["queue"]
    steps, slots = rich.result["steps"], RICH.queue // RICH.batch
    batches = training_batches(prepared, RICH.forms, RICH.batch, RICH.seed)
    ids = [next(batches)["product_ids"] for _ in range(steps)]
    batches.close()
    assert int(queue["at"]) == steps % slots
    for slot, born in enumerate(np.asarray(queue["born"])):
        assert steps - slots <= born < steps
        assert born % slots == slot
        np.testing.assert_array_equal(queue["ids"][:, slot], ids[born])
    np.testing.assert_allclose(np.linalg.norm(queue["vectors"], axis=-1), 1, atol=1e-5)
    # Ages at step s are s, s - 1, ... of entries primed at 0, then 1, 2, 3 for three slots.
    ages = [np.mean([min(step, age) for age in range(1, slots + 1)]) for step in range(steps)]
    assert rich.result["queue_staleness"] == pytest.approx(np.mean(ages))
    assert rich.result["queue_fill"] == 1.0
    assert rich.result["priming_flops"] > 0


def test_a_chunk_that_devices_cannot_share_is_refused(prepared_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="chunk: 4 pairs cannot be shared evenly by 8 devices"):
        run(prepared_folder, tmp_path, Interrupts(), engine="data=8,chunk=4")


def test_with_an_average_what_is_saved_and_told_is_the_average(rich: Run) -> None:
    average = rich.trained.state["ema"]
    _, _, params, temperature = load_encoder(rich.folder)
    for kept, expected in zip(jax.tree.leaves(params), jax.tree.leaves(average["encoder"]), strict=True):
        np.testing.assert_array_equal(kept, expected)
    assert temperature == pytest.approx(float(np.exp(-average["log_scale"])))
    assert temperature != pytest.approx(float(np.exp(-rich.trained.state["params"]["log_scale"])), rel=1e-6)


def test_the_budget_is_exact_and_every_step_is_told(whole: Run, report: Interrupts, prepared: Prepared) -> None:
    steps = round(CONFIG.tokens / mean_tokens(CONFIG, prepared)[0])
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
        met = [{int(ids[(row + k) % 16]) for k in range(1, 8)} - {int(ids[row])} for row in range(16)]
        negatives += sum(map(len, met)) / 16
    batches.close()
    assert whole.result["tokens"] == tokens
    assert whole.result["realised_negatives"] == pytest.approx(negatives / whole.result["steps"], rel=1e-6)
    assert whole.result["realised_negatives"] < 7  # variants of one product did meet, and were masked


def by_hand(batch: dict[str, np.ndarray]) -> int:
    patches = sum(16 * 4 for name in batch if name.endswith("images"))
    return patches + sum(int(np.sum(shown != 0)) for name, shown in batch.items() if name.endswith("text"))


def test_the_loss_on_valid_is_told_at_each_quarter(whole: Run, prepared: Prepared) -> None:
    """The last is that of the encoder which was saved, on valid pairs that are repeated to fill a batch."""
    steps = whole.result["steps"]
    told = {line["step"]: line["valid_loss"] for line in whole.lines if "valid_loss" in line}
    assert list(told) == [round(steps * quarter / 4) for quarter in range(1, 5)]
    pairs = prepared.pairs_of("image", "valid")
    chosen = np.resize(np.random.default_rng(0).permutation(len(pairs)), CONFIG.batch)
    batch = prepared.gather(CONFIG.forms[0], pairs[chosen])
    _, graph, params, temperature = load_encoder(whole.folder)
    encoder = nnx.merge(graph, params)
    logits = encoder(batch["query_images"], None) @ encoder(batch["item_images"], batch["item_text"]).T / temperature
    ids = batch["product_ids"]
    same = (ids[:, None] == ids[None, :]) & ~np.eye(CONFIG.batch, dtype=bool)
    masked = np.where(same, -np.inf, np.asarray(logits, np.float64))
    directions = [np.log(np.exp(masked).sum(axis)) - np.diagonal(masked) for axis in (0, 1)]
    assert told[steps] == pytest.approx(np.mean(directions), rel=1e-4)


@pytest.mark.parametrize("form", ["text->image", "text->text", "image+text->image", "image->image"])
def test_tokens_of_any_form_are_counted(prepared: Prepared, form: str) -> None:
    parsed = parse_form("item", form)
    batches = training_batches(prepared, (parsed,), 16, 0)
    batch = next(batches)
    batches.close()
    assert int(count(batch, None, jnp.int32(0), jnp.int32(15), 4)["tokens"]) == by_hand(batch)
    every = prepared.gather(parsed, prepared.pairs_of("item", "train"))
    mean, pairs = prepared.tokens_per_pair(parsed, patches=4)
    expected = sum(4 for name in every if name.endswith("images"))
    expected += sum(np.sum(shown != 0) for name, shown in every.items() if name.endswith("text")) / pairs
    assert mean == pytest.approx(expected)


def test_the_rate_reaches_zero_with_the_budget(whole: Run) -> None:
    assert max(row["lr"] for row in whole.rows) > 1e-3
    assert whole.rows[-1]["lr"] == 0


def test_a_run_that_diverges_is_a_result(prepared_folder: Path, tmp_path: Path) -> None:
    ended = run(prepared_folder, tmp_path, Interrupts(), config=replace(CONFIG, peak_lr=1e30))
    assert ended.result["status"] == "diverged"
    assert 0 < ended.result["diverged_at_step"] < 10
    assert not (tmp_path / "encoder.safetensors").exists()


RUN = """
import sys
from pathlib import Path
sys.path[:0] = {paths!r}
from posttraining import RICH
from moon_jax.stages.posttrain import posttrain
from moon_jax.training import train
train.__kwdefaults__["save_seconds"] = 0.0
folder, prepared = map(Path, sys.argv[1:])
posttrain(RICH, files={{}}, inputs={{"prepare": prepared}}, folder=folder, report=lambda *a, **k: None)
"""


@pytest.mark.proof
def test_killed_at_any_moment_and_resumed_equals_uninterrupted(hard_folder: Path, tmp_path: Path) -> None:
    """SIGKILL in mid-training, three times, at moments that differ: while it saves, or between."""
    program = RUN.format(paths=[str(Path(__file__).parent)])

    def start(folder: Path) -> subprocess.Popen[bytes]:
        folder.mkdir(exist_ok=True)
        return subprocess.Popen([sys.executable, "-c", program, str(folder), str(hard_folder)], env=os.environ)

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


TOGETHER = """
import sys
sys.path[:0] = {paths!r}
from moon_jax.distributed import join
join()
from pathlib import Path
from posttraining import RICH
from moon_jax.stages.posttrain import posttrain
from moon_jax.training import train
train.__kwdefaults__["log_every"] = 4
folder, prepared = map(Path, sys.argv[1:])
told = posttrain(RICH, files={{}}, inputs={{"prepare": prepared}}, folder=folder, report=lambda *a, **k: None)
print(told["tokens"], told["mesh"])
"""


@pytest.mark.proof
@pytest.mark.parametrize("engine", ["", "fsdp=2,form=ring"])
def test_two_processes_give_the_run_of_one(hard_folder: Path, rich: Run, tmp_path: Path, engine: str) -> None:
    """Over loopback with gloo, each with one device and its half of every batch."""
    program = TOGETHER.format(paths=[str(Path(__file__).parent)])
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    flags = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=1")
    shared = {"MOON_COORDINATOR": f"localhost:{port}", "MOON_PROCESSES": "2", "MOON_ENGINE": engine, "XLA_FLAGS": flags}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path), str(hard_folder)],
            env={**os.environ, **shared, "MOON_PROCESS": str(index)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index in range(2)
    ]
    try:
        said = [process.communicate(timeout=500)[0].strip() for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0, 0], said
    mesh = "1x2x1" if engine else "2x1x1"
    assert [words.splitlines()[-1] for words in said] == [f"{rich.result['tokens']} {mesh}"] * 2
    rows = [line for line in map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines()) if "loss" in line]
    alone = {row["step"]: row["loss"] for row in rich.rows}
    assert [row["step"] for row in rows] == list(alone)
    for row in rows:
        assert row["loss"] == pytest.approx(alone[row["step"]], rel=1e-5)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"loss": "triplet"}, "loss: 'triplet' is unknown; one of info_nce, circle, sigmoid"),
        ({"queue": 40}, "queue: 40 must be a multiple of the batch of 16"),
        ({"queue_from": "ema"}, "queue_from: an average is asked for, but there is none"),
        ({"ema": 1.0}, r"ema: 1.0 must lie in 0..1"),
        ({"dims": (4, 32)}, r"dims: \(4, 32\) must lie in 1..16"),
        ({"hard_negatives": -1}, "hard_negatives: -1 must not be below 0"),
        ({"schedule": "linear"}, "schedule: 'linear' is unknown"),
        ({"num_negatives": 16}, r"num_negatives: 16 must lie in 1..batch - 1 = 15"),
    ],
)
def test_a_run_that_makes_no_sense_is_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        replace(CONFIG, **changes)


def test_hard_negatives_that_are_not_there_are_asked_for(prepared_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no hard negatives"):
        run(prepared_folder, tmp_path, Interrupts(), config=replace(CONFIG, hard_negatives=2))
