"""Checkpoints: what is read is what was saved, on any mesh; damaged ones are noticed, told and passed over."""

import json
import os
import shutil
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from moon_jax import checkpointing
from moon_jax.checkpointing import SEAL, CheckpointError, Checkpoints, load_checkpoint

HISTORY = {
    "rows": [{"step": 0, "loss": 0.1 + 0.2, "none": None}],
    "totals": {"tokens": 1e300},
    "data": {"next_index": 7},
}


def state(seed: int = 0) -> dict[str, Any]:
    """Every kind of leaf that a training state has: parameters, moments, half precision, a queue's ids, a key, scalars."""
    normal = jax.random.normal(jax.random.key(seed), (16, 24))
    return {
        "params": {"kernel": normal, "scale": jnp.ones(24)},
        "half": normal.astype(jnp.bfloat16),
        "ids": jnp.arange(16, dtype=jnp.int32) + seed,
        "full": jnp.zeros(3, bool),
        "key": jax.random.key_data(jax.random.key(seed)),
        "step": jnp.int32(seed),
    }


def equal(some: Any, others: Any) -> bool:
    pairs = zip(jax.tree.leaves(some), jax.tree.leaves(others), strict=True)
    return all(a.dtype == b.dtype and np.asarray(a).tobytes() == np.asarray(b).tobytes() for a, b in pairs)


def saved(folder: Path, *steps: int) -> Path:
    with Checkpoints(folder, latest=len(steps)) as checkpoints:
        for step in steps:
            checkpoints.save(step, state(step), HISTORY | {"step": step})
    return folder


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with whole checkpoints of steps 5 and 9, to be copied and damaged."""
    return saved(tmp_path_factory.mktemp("two"), 5, 9)


def test_what_is_read_is_what_was_saved(two: Path) -> None:
    with Checkpoints(two) as checkpoints:
        assert checkpoints.newest == 9
        assert equal(checkpoints.state(state()), state(9))
        assert checkpoints.history() == HISTORY | {"step": 9}
    loaded, history = load_checkpoint(two, 5, state())
    assert equal(loaded, state(5))
    assert history == HISTORY | {"step": 5}


def mesh(*shape: int) -> jax.sharding.Mesh:
    names = ("data", "fsdp")[: len(shape)]
    devices = jax.devices()[: int(np.prod(shape))]
    return jax.make_mesh(shape, names, axis_types=(AxisType.Auto,) * len(shape), devices=devices)


LAYOUTS = {
    "one device": lambda: NamedSharding(mesh(1, 1), PartitionSpec()),
    "8 copies": lambda: NamedSharding(mesh(8, 1), PartitionSpec()),
    "split over 8": lambda: NamedSharding(mesh(1, 8), PartitionSpec("fsdp")),
    "2 copies split over 4": lambda: NamedSharding(mesh(2, 4), PartitionSpec("fsdp")),
}


@pytest.mark.parametrize("before", LAYOUTS)
@pytest.mark.parametrize("after", LAYOUTS)
def test_a_checkpoint_is_read_onto_any_mesh(tmp_path: Path, before: str, after: str) -> None:
    array = jnp.arange(16 * 5, dtype=jnp.float32).reshape(16, 5)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"a": jax.device_put(array, LAYOUTS[before]())}, {})
    asked = LAYOUTS[after]()
    with Checkpoints(tmp_path) as checkpoints:
        read = checkpoints.state({"a": jax.device_put(jnp.zeros_like(array), asked)})["a"]
    assert read.sharding.is_equivalent_to(asked, 2)
    np.testing.assert_array_equal(read, array)


def test_saving_does_not_wait_for_the_disk(tmp_path: Path) -> None:
    """160 MB: when it returns there is no seal yet, and then there is."""
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"a": jnp.ones((40, 1_000_000))}, {})
        assert not (tmp_path / "1" / SEAL).exists()
        checkpoints.wait()
        assert (tmp_path / "1" / SEAL).exists()


def test_a_failure_to_write_is_raised_at_the_next_save_or_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(checkpointing, "_seal", full)
    with pytest.raises(OSError, match="no space left"), Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state(), {})
    with Checkpoints(tmp_path / "next") as checkpoints:
        checkpoints.save(1, state(), {})
        with pytest.raises(OSError, match="no space left"):
            checkpoints.save(2, state(), {})


def truncate(file: Path, at: float) -> None:
    os.truncate(file, int(at * file.stat().st_size))


def flip(file: Path, at: float) -> None:
    content = bytearray(file.read_bytes())
    content[int(at * len(content))] ^= 1 << int(at * 1000) % 8
    file.write_bytes(content)


def fill(file: Path, at: float) -> None:
    file.write_bytes(b"\xff{garbage" * 3)


def remove(file: Path, at: float) -> None:
    file.unlink()


def replace(file: Path, at: float) -> None:
    file.unlink()
    file.mkdir()


WAYS = {"truncated": truncate, "one bit": flip, "garbage": fill, "removed": remove, "a folder in its place": replace}
KINDS = sorted(
    {"_CHECKPOINT_METADATA", SEAL, "state/_METADATA", "state/manifest.ocdbt", "state/d/*", "state/ocdbt.process_0/d/*"}
)


def damaged(source: Path, target: Path, way: str, kind: str, at: float) -> Path:
    """A copy whose newest checkpoint has one damaged file of that kind; its name."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
    files = sorted(file for file in (target / "9").glob(kind) if file.is_file())
    file = files[int(at * len(files))]
    WAYS[way](file, at)
    return file


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=3, deadline=None)
@given(at=st.floats(0, 1, exclude_max=True))
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(
    two: Path, tmp_path_factory: pytest.TempPathFactory, way: str, kind: str, at: float
) -> None:
    folder = tmp_path_factory.mktemp("damaged") / "checkpoints"
    file = damaged(two, folder, way, kind, at)
    with pytest.warns(UserWarning, match="is passed over and set aside as damaged-9: ") as told:
        checkpoints = Checkpoints(folder)
    with checkpoints:
        assert checkpoints.newest == 5
        assert equal(checkpoints.state(state()), state(5))
        checkpoints.save(9, state(1), HISTORY)  # its place is free again
    [message] = [str(warning.message) for warning in told]
    assert str(folder / "9") in message
    assert "\n" not in message
    if kind != SEAL:
        assert file.name in message
    assert (folder / "damaged-9").is_dir()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with Checkpoints(folder) as checkpoints:
            assert checkpoints.newest == 9
            assert equal(checkpoints.state(state()), state(1))


def empty(folder: Path) -> None:
    (folder / "12").mkdir()


def a_file(folder: Path) -> None:
    (folder / "12").write_text("no folder at all")


def unsealed(folder: Path) -> None:
    shutil.copytree(folder / "9", folder / "12")
    (folder / "12" / SEAL).unlink()


def half_copied(folder: Path) -> None:
    shutil.copytree(folder / "9", folder / "12", ignore=shutil.ignore_patterns("d"))


@pytest.mark.parametrize("make", [empty, a_file, unsealed, half_copied])
def test_what_is_no_whole_checkpoint_is_passed_over(two: Path, tmp_path: Path, make: Callable[[Path], None]) -> None:
    folder = shutil.copytree(two, tmp_path / "checkpoints")
    make(folder)
    with pytest.warns(UserWarning, match="12 is passed over"):
        checkpoints = Checkpoints(folder)
    with checkpoints:
        assert checkpoints.newest == 9
        assert equal(checkpoints.state(state()), state(9))


def test_with_none_left_a_run_starts_anew(two: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(two, tmp_path / "checkpoints")
    for step in ("5", "9"):
        flip(folder / step / "state" / "_METADATA", 0.5)
    with pytest.warns(UserWarning, match="is passed over") as told:
        checkpoints = Checkpoints(folder)
    with checkpoints:
        assert checkpoints.newest is None
    assert len(told) == 2


def test_what_orbax_left_half_written_is_cleared_away(two: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(two, tmp_path / "checkpoints")
    (folder / "12.orbax-checkpoint-tmp-1234").mkdir()
    with Checkpoints(folder) as checkpoints:
        assert checkpoints.newest == 9
        checkpoints.save(12, state(12), HISTORY)
    assert sorted(path.name for path in folder.iterdir()) == ["12", "9"]


def test_a_checkpoint_that_is_asked_for_and_not_whole_is_told(two: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(two, tmp_path / "checkpoints")
    truncate(folder / "5" / "state" / "_METADATA", 0.5)
    with pytest.raises(CheckpointError, match=r"no checkpoint of step 7 in .*: there is none"):
        load_checkpoint(folder, 7, state())
    with pytest.raises(CheckpointError, match=r"no checkpoint of step 5 in .*_METADATA is not what was written"):
        load_checkpoint(folder, 5, state())
    assert (folder / "5").is_dir()  # it is another run's: nothing is moved


def test_the_seal_names_every_file(two: Path) -> None:
    sealed = json.loads((two / "9" / SEAL).read_text())
    files = {path.relative_to(two / "9").as_posix() for path in (two / "9").rglob("*") if path.is_file()}
    assert set(sealed) == files - {SEAL}
    assert all(len(digest) == 64 for digest in sealed.values())


def test_a_step_is_saved_once(tmp_path: Path) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state(1), HISTORY)
        checkpoints.save(1, state(2), HISTORY)
        checkpoints.wait()
        before = (tmp_path / "1" / SEAL).stat().st_mtime_ns
        time.sleep(0.01)
        checkpoints.save(1, state(3), HISTORY)
    assert (tmp_path / "1" / SEAL).stat().st_mtime_ns == before
    with Checkpoints(tmp_path) as checkpoints:
        assert equal(checkpoints.state(state()), state(1))
