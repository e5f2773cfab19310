"""The loop with toy updates: exact budgets, resumed equals uninterrupted, what is told, kept, evaluated and prefetched."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grain
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from moon_jax import training
from moon_jax.checkpointing import Checkpoints, load_checkpoint
from moon_jax.training import DivergedError, Trained, finite, train


class Stop(BaseException):
    """Asked to stop, as a worker asks."""


class Interrupts:
    """A `report` that raises once at each of these numbers of steps done, and remembers what it was told."""

    def __init__(self, *at: int):
        self.at, self.told = list(at), []

    def __call__(self, done: float, total: float, **info: Any) -> None:
        self.told.append(done)
        if done in self.at:
            self.at.remove(done)
            raise Stop


def numbers(seed: int = 0) -> grain.DatasetIterator:
    """Sixteen numbers, shuffled anew every pass."""
    shuffled = grain.MapDataset.range(16).seed(seed).shuffle().repeat().map(np.float32)
    return iter(shuffled.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=3)))


def initial(seed: int = 0) -> dict[str, jax.Array]:
    return {
        "params": jnp.float32(0.5),
        "queue": jnp.zeros(5),
        "step": jnp.int32(0),
        "key": jax.random.key_data(jax.random.key(seed)),
    }


def walk(state: dict[str, jax.Array], batch: jax.Array) -> Any:
    """A step that reads all there is: parameters, a queue, a key, the batch; it gives up its state."""
    noise = jax.random.normal(jax.random.fold_in(jax.random.wrap_key_data(state["key"]), state["step"]))
    params = 0.9 * state["params"] + 0.1 * jnp.sin(batch + state["queue"].mean()) + 0.01 * noise
    queue = state["queue"].at[state["step"] % 5].set(batch)
    moved = state | {"params": params, "queue": queue, "step": state["step"] + 1}
    return moved, {"loss": jnp.abs(params), "queue_mean": queue.mean()}, {"seen": batch}


walk = jax.jit(walk, donate_argnums=0)


def run(folder: Path, report: Any = None, **given: Any) -> Trained:
    chosen = {"steps": 23, "log_every": 4} | given
    batches = numbers()
    try:
        return train(walk, initial(), batches, folder=folder, report=report or Interrupts(), **chosen)
    finally:
        batches.close()


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def equal(some: Any, others: Any) -> bool:
    pairs = zip(jax.tree.leaves(some), jax.tree.leaves(others), strict=True)
    return all(np.asarray(a).tobytes() == np.asarray(b).tobytes() for a, b in pairs)


def until_done(once: Callable[[], Trained]) -> tuple[Trained, int]:
    """Start it again after every stop: (its result, number of stops)."""
    stops = 0
    while True:
        try:
            return once(), stops
        except Stop:
            stops += 1


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Trained, Path]:
    """Never interrupted, never saved."""
    folder = tmp_path_factory.mktemp("whole")
    return run(folder), folder


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(stops=st.sets(st.integers(1, 23), min_size=1, max_size=4), often=st.booleans())
def test_resumed_equals_uninterrupted_bit_by_bit(
    whole: tuple[Trained, Path], tmp_path_factory: pytest.TempPathFactory, stops: set[int], often: bool
) -> None:
    """Whatever was prefetched, wherever it stopped, and whether or not it saved at every step besides."""
    folder = tmp_path_factory.mktemp("stopped")
    report = Interrupts(*stops)
    resumed, stopped = until_done(lambda: run(folder, report, save_seconds=0.0 if often else 30.0))
    assert stopped == len(stops)
    assert report.told == list(range(1, 24))  # no step is done twice
    assert equal(resumed.state, whole[0].state)
    assert resumed.totals == whole[0].totals
    assert resumed.last == whole[0].last
    assert rows(folder) == rows(whole[1])


def test_the_state_is_that_of_the_steps_one_by_one(whole: tuple[Trained, Path]) -> None:
    """The loop adds nothing and leaves nothing out."""
    state, batches, seen = initial(), numbers(), 0.0
    for _ in range(23):
        batch = next(batches)
        state, metrics, _ = walk(state, batch)
        seen += float(batch)
    batches.close()
    assert equal(whole[0].state, state)
    assert whole[0].totals == {"seen": seen}
    assert whole[0].last == {"step": 22, "loss": float(metrics["loss"]), "queue_mean": float(metrics["queue_mean"])}
    assert [row["step"] for row in rows(whole[1])] == [0, 4, 8, 12, 16, 20, 22]


def test_a_state_that_is_donated_while_it_is_saved_is_saved_as_it_was(tmp_path: Path) -> None:
    """Large enough that writing goes on while the next steps overwrite their input."""
    state = {"a": jnp.zeros(1_000_000), "step": jnp.int32(0)}

    def add(state: dict[str, jax.Array], _: Any) -> Any:
        return {"a": state["a"] + 1, "step": state["step"] + 1}, {"loss": jnp.float32(0)}, {}

    train(
        jax.jit(add, donate_argnums=0), state, numbers(), steps=12, folder=tmp_path, report=Interrupts(), keep=range(13)
    )
    like = {"a": jnp.zeros(1_000_000), "step": jnp.int32(0)}
    for step in range(1, 13):
        saved, _ = load_checkpoint(tmp_path / "checkpoints", step, like)
        assert int(saved["step"]) == step
        assert (np.asarray(saved["a"]) == step).all()


def test_the_newest_two_checkpoints_stay_and_those_to_keep(tmp_path: Path) -> None:
    run(tmp_path, save_seconds=0.0, keep=(3, 8, 99))
    assert steps_in(tmp_path) == [3, 8, 22, 23]


def steps_in(folder: Path) -> list[int]:
    return sorted(int(path.name) for path in (folder / "checkpoints").iterdir() if path.name.isdecimal())


def test_a_checkpoint_to_keep_is_made_when_no_other_is_due(tmp_path: Path) -> None:
    run(tmp_path, keep=(3, 8))
    assert steps_in(tmp_path) == [3, 8]


def test_a_branch_goes_on_from_its_trunk(tmp_path: Path, whole: tuple[Trained, Path]) -> None:
    """With the same update it ends as the trunk does; its own lines and totals begin at the branch."""
    (tmp_path / "trunk").mkdir()
    (tmp_path / "branch").mkdir()
    run(tmp_path / "trunk", keep=(9,))
    report = Interrupts(14)

    def once() -> Trained:
        state, history = load_checkpoint(tmp_path / "trunk" / "checkpoints", 9, initial())
        batches = numbers()
        batches.set_state(history["data"])
        folder = tmp_path / "branch"
        return train(walk, state, batches, steps=23, folder=folder, report=report, start=9, log_every=4)

    branch, stops = until_done(once)
    assert stops == 1
    assert report.told == list(range(10, 24))
    assert equal(branch.state, whole[0].state)
    _, history = load_checkpoint(tmp_path / "trunk" / "checkpoints", 9, initial())
    assert history["totals"]["seen"] + branch.totals["seen"] == whole[0].totals["seen"]
    assert [row["step"] for row in rows(tmp_path / "branch")] == [12, 16, 20, 22]


def test_what_is_done_to_begin_with_is_done_once(tmp_path: Path, whole: tuple[Trained, Path]) -> None:
    """Before the first look, and not to a state that a checkpoint gives."""
    begun: list[int] = []

    def begin(state: dict[str, jax.Array]) -> dict[str, jax.Array]:
        begun.append(int(state["step"]))
        return state | {"params": state["params"] + 1}

    looks, report = Looks(), Interrupts(5, 9)
    once = lambda: run(tmp_path, report, begin=begin, evaluate=looks, evaluate_at=(0,))  # noqa: E731
    resumed, stops = until_done(once)
    assert stops == 2
    assert begun == looks.steps == [0]
    assert rows(tmp_path)[0] == {"step": 0, "valid_params": 1.5}
    assert not equal(resumed.state, whole[0].state)
    (tmp_path / "whole").mkdir()
    assert equal(resumed.state, run(tmp_path / "whole", begin=begin).state)


class Looks:
    """An `evaluate` that remembers at which step it was called."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def __call__(self, state: dict[str, jax.Array]) -> dict[str, float]:
        self.steps.append(int(state["step"]))
        return {"valid_params": float(state["params"])}


@pytest.mark.parametrize("stops", [(), (7,), (6, 23), (7, 8, 9)])
def test_each_evaluation_is_made_once_and_has_its_line(tmp_path: Path, stops: tuple[int, ...]) -> None:
    """Also where a stop falls on its step; and the untrained state's."""
    looks, report = Looks(), Interrupts(*stops)
    until_done(lambda: run(tmp_path, report, evaluate=looks, evaluate_at=(0, 7, 8, 23, 99)))
    assert looks.steps == [0, 7, 8, 23]
    told = [row for row in rows(tmp_path) if "valid_params" in row]
    assert [row["step"] for row in told] == [0, 7, 8, 23]
    assert told[0]["valid_params"] == 0.5
    assert len(rows(tmp_path)) == 7 + 4
    assert [row["step"] for row in rows(tmp_path)][:4] == [0, 0, 4, 7]


def test_an_evaluation_that_was_saved_is_not_made_again(tmp_path: Path) -> None:
    """What the second one raises passes; the run goes on from the checkpoint that was saved right after the first."""

    class Fails(Looks):
        def __call__(self, state: dict[str, jax.Array]) -> dict[str, float]:
            if super().__call__(state) and self.steps == [7, 9]:
                raise OSError("no such file")
            return {"valid_params": 1.0}

    looks, report = Fails(), Interrupts()
    with pytest.raises(OSError, match="no such file"):
        run(tmp_path, report, evaluate=looks, evaluate_at=(7, 9), keep=(7,))
    assert steps_in(tmp_path) == [7]
    run(tmp_path, report, evaluate=looks, evaluate_at=(7, 9))
    assert looks.steps == [7, 9, 9]
    assert report.told == [*range(1, 10), *range(8, 24)]
    assert [row["step"] for row in rows(tmp_path) if "valid_params" in row] == [7, 9]


def test_an_evaluation_changes_nothing(tmp_path: Path, whole: tuple[Trained, Path]) -> None:
    looked = run(tmp_path, evaluate=Looks(), evaluate_at=range(24))
    assert equal(looked.state, whole[0].state)
    assert looked.last == whole[0].last
    assert [row for row in rows(tmp_path) if "loss" in row] == rows(whole[1])


def count_up(loss_at: dict[int, float]) -> Callable[[Any, Any], Any]:
    """An update whose state is the number of steps, with a loss of 1 but where told otherwise."""

    def update(state: dict[str, jax.Array], batch: Any) -> Any:
        loss = jnp.float32(loss_at.get(int(state["step"]), 1.0))
        return {"step": state["step"] + 1}, {"loss": loss}, {"seen": jnp.int32(1)}

    return update


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("step", [0, 3, 6])
def test_a_loss_that_is_not_finite_stops_with_its_step_and_checkpoint(tmp_path: Path, bad: float, step: int) -> None:
    state = {"step": jnp.int32(0)}
    with pytest.raises(DivergedError) as caught:
        train(count_up({step: bad}), state, numbers(), steps=7, folder=tmp_path, report=Interrupts(), save_seconds=0.0)
    assert caught.value.step == step
    assert caught.value.checkpoint == (step or None)
    kept = steps_in(tmp_path)
    assert kept == [done for done in (step - 1, step) if done > 0]  # what is kept was good
    assert "NaN" not in (tmp_path / "metrics.jsonl").read_text()


@pytest.mark.parametrize("step", [0, 4, 6])
@pytest.mark.parametrize("save_seconds", [0.0, 30.0])
def test_a_state_that_is_not_finite_is_never_saved_nor_returned(tmp_path: Path, step: int, save_seconds: float) -> None:
    """Its loss was fine: the last update alone spoiled it."""

    def spoil(state: dict[str, jax.Array], batch: Any) -> Any:
        done = state["step"] + 1
        params = jnp.where(done > step, jnp.nan, 1.0)
        return {"params": params, "step": done}, {"loss": jnp.float32(1)}, {}

    start = {"params": jnp.float32(0), "step": jnp.int32(0)}
    with pytest.raises(DivergedError) as caught:
        train(
            jax.jit(spoil), start, numbers(), steps=7, folder=tmp_path, report=Interrupts(), save_seconds=save_seconds
        )
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        assert checkpoints.newest == caught.value.checkpoint == ((step or None) if save_seconds == 0 else None)
        if checkpoints.newest is not None:
            assert np.isfinite(checkpoints.state(start)["params"])


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf, -jnp.inf])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("split", [False, True])
def test_a_state_is_finite_if_all_its_numbers_are(bad: float, dtype: str, split: bool) -> None:
    """As the host sees it and as devices do; the largest of numbers are finite, whole numbers always."""
    largest = jnp.full((16, 3), jnp.finfo(dtype).max, dtype)
    spoiled = largest.at[11, 2].set(bad)
    if split:
        mesh = jax.make_mesh((8,), ("fsdp",), axis_types=(jax.sharding.AxisType.Auto,))
        sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("fsdp"))
        largest, spoiled = jax.device_put((largest, spoiled), sharding)
    assert finite({"a": largest, "step": jnp.int32(1)})
    assert not finite({"a": largest, "b": spoiled})
    assert bool(training._finite([largest, largest]))
    assert not bool(training._finite([largest, spoiled]))


def test_numbers_that_json_does_not_know_are_null(tmp_path: Path) -> None:
    def update(state: Any, batch: Any) -> Any:
        return state, {"loss": jnp.float32(1), "grad_norm": jnp.float32(jnp.inf)}, {}

    train(update, {"a": jnp.float32(0)}, numbers(), steps=1, folder=tmp_path, report=Interrupts())
    assert rows(tmp_path) == [{"step": 0, "loss": 1.0, "grad_norm": None}]


def test_no_steps_leave_the_state_as_it_was(tmp_path: Path) -> None:
    result = train(count_up({}), {"step": jnp.int32(5)}, numbers(), steps=0, folder=tmp_path, report=Interrupts())
    assert int(result.state["step"]) == 5
    assert result.totals == {}


class Slow:
    """Batches that take their time; each is its own number."""

    def __init__(self, seconds: float):
        self.seconds, self.made = seconds, 0

    def __iter__(self) -> Iterator[np.ndarray]:
        return self

    def __next__(self) -> np.ndarray:
        time.sleep(self.seconds)
        self.made += 1
        return np.float32(self.made)

    def get_state(self) -> dict[str, int]:
        return {"made": self.made}

    def set_state(self, state: dict[str, int]) -> None:
        self.made = state["made"]


def wait(seconds: float) -> Callable[[Any, Any], Any]:
    """An update that takes its time."""

    def update(state: dict[str, jax.Array], batch: jax.Array) -> Any:
        time.sleep(seconds)
        return {"step": state["step"] + 1}, {"loss": jnp.float32(1)}, {"sum": batch}

    return update


def test_batches_are_made_while_the_device_works(tmp_path: Path) -> None:
    """Each takes three quarters of a step's time: one after another they would be 43 % of it."""
    trained = train(wait(0.04), {"step": jnp.int32(0)}, Slow(0.03), steps=25, folder=tmp_path, report=Interrupts())
    assert trained.data_wait_share < 0.12
    assert trained.totals == {"sum": sum(range(1, 26))}


def test_no_more_batches_are_made_than_lie_ahead(tmp_path: Path) -> None:
    """Those that wait, and one that the thread holds: what they take of a device's memory is bounded."""
    batches, most = Slow(0.0), [0]

    def report(done: int, total: int, **info: Any) -> None:
        time.sleep(0.005)
        most.append(batches.made - done)

    train(wait(0.0), {"step": jnp.int32(0)}, batches, steps=20, folder=tmp_path, report=report)
    assert 0 < max(most) <= training.AHEAD + 1


def test_the_share_of_waiting_is_told_where_batches_are_too_slow(tmp_path: Path) -> None:
    trained = train(wait(0.0), {"step": jnp.int32(0)}, Slow(0.04), steps=25, folder=tmp_path, report=Interrupts())
    assert trained.data_wait_share > 0.7


def test_the_loop_leaves_no_thread_behind(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    with pytest.raises(DivergedError):
        train(count_up({2: jnp.nan}), {"step": jnp.int32(0)}, Slow(0.0), steps=9, folder=tmp_path, report=Interrupts())
    started = [thread.name for thread in set(threading.enumerate()) - before if "prefetch" in thread.name]
    assert not started


def test_an_error_in_the_data_is_raised(tmp_path: Path) -> None:
    class Broken(Slow):
        def __next__(self) -> np.ndarray:
            if self.made == 3:
                raise OSError("a shard is gone")
            return super().__next__()

    told = Interrupts()
    with pytest.raises(OSError, match="a shard is gone"):
        train(wait(0.0), {"step": jnp.int32(0)}, Broken(0.0), steps=9, folder=tmp_path, report=told)
    assert told.told == [1, 2, 3]
