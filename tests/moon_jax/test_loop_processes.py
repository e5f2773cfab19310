"""The loop in processes of their own: killed, asked to stop by a signal, and several that train as one."""

import hashlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from test_loop import steps_in

from moon_jax.checkpointing import Checkpoints
from moon_jax.training import Trained

pytestmark = pytest.mark.proof


ALONE = """
import signal, sys, time
from pathlib import Path
sys.path[:0] = {paths!r}
import test_loop as t
import test_loop_processes as p
stopped = []
signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))
def report(done, total, **info):
    (folder / "done").write_text(str(done))
    if stopped:
        raise t.Stop
folder = Path(sys.argv[1])
slow = lambda state, batch: time.sleep(0.01) or t.walk(state, batch)
trained = t.train(slow, t.initial() | p.ballast(), t.numbers(), steps=150, folder=folder, report=report, log_every=7,
                  save_seconds=float(sys.argv[2]))
(folder / "digest").write_text(p.digest(trained))
"""


def ballast() -> dict[str, jax.Array]:
    """Something to write that takes its time: 16 MB."""
    return {"ballast": jax.random.normal(jax.random.key(1), (4_000_000,))}


def digest(trained: Trained) -> str:
    leaves = b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(trained.state))
    return hashlib.sha256(leaves + json.dumps([trained.totals, trained.last]).encode()).hexdigest()


def start_alone(folder: Path, save_seconds: float) -> subprocess.Popen[bytes]:
    folder.mkdir(exist_ok=True)
    (folder / "done").write_text("0")
    program = ALONE.format(paths=[str(Path(__file__).parent)])
    with open(folder / "said", "wb") as said:
        return subprocess.Popen([sys.executable, "-c", program, str(folder), str(save_seconds)], stderr=said)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    assert start_alone(folder, 30.0).wait(timeout=120) == 0
    return folder


def wait_for(process: subprocess.Popen[bytes], folder: Path, step: int) -> None:
    while process.poll() is None and int((folder / "done").read_text() or 0) < step:
        time.sleep(0.002)


@pytest.mark.parametrize("seed", [0, 1])
def test_killed_at_random_steps_and_resumed_equals_uninterrupted(alone: Path, tmp_path: Path, seed: int) -> None:
    """SIGKILL, while it saves or between, at steps that each begin where the last life got to; it saves all the time."""
    dice, folder, kills, step = random.Random(seed), tmp_path / "killed", 0, 0
    for _ in range(5):
        process = start_alone(folder, 0.0)
        step += dice.randint(5, 40)
        wait_for(process, folder, step)
        time.sleep(dice.random() * 0.05)
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
    assert kills >= 3
    assert start_alone(folder, 0.0).wait(timeout=120) == 0
    for name in ("digest", "metrics.jsonl"):
        assert (folder / name).read_bytes() == (alone / name).read_bytes(), name


def test_a_signal_saves_within_ten_seconds_and_resumed_equals_uninterrupted(alone: Path, tmp_path: Path) -> None:
    folder = tmp_path / "stopped"
    for step in (20, 90):
        process = start_alone(folder, 30.0)
        wait_for(process, folder, step)
        process.send_signal(signal.SIGTERM)
        asked = time.monotonic()
        assert process.wait(timeout=60) != 0
        assert time.monotonic() - asked < 10
        assert "Stop" in (folder / "said").read_text()
        done = int((folder / "done").read_text())
        assert step <= done < 150
        with Checkpoints(folder / "checkpoints") as checkpoints:
            assert checkpoints.newest == done  # nothing that was done is done again
    assert start_alone(folder, 30.0).wait(timeout=120) == 0
    for name in ("digest", "metrics.jsonl"):
        assert (folder / name).read_bytes() == (alone / name).read_bytes(), name


def together(folder: Path, count: int, *stop: int, devices: int = 1) -> list[str]:
    """What each of `count` jax processes that train together said last."""
    folder.mkdir(exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    script = Path(__file__).parent / "looping_process.py"
    environment = {**os.environ, "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
    started = [
        subprocess.Popen(
            [sys.executable, str(script), *map(str, (port, index, count, folder, *stop))],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index in range(count)
    ]
    said = [process.communicate(timeout=120)[0].strip() for process in started]
    for process, words in zip(started, said, strict=True):
        assert process.returncode == 0, words
    return [words.splitlines()[-1] for words in said]


def test_two_processes_train_save_and_stop_as_one(tmp_path: Path) -> None:
    """One is asked to stop, both save the same step; two go on, then one alone, and the curve is that of one process."""
    [expected] = together(tmp_path / "one", 1, devices=2)
    assert together(tmp_path / "two", 2) == [expected, expected]
    lines = (tmp_path / "one" / "metrics.jsonl").read_bytes()
    assert (tmp_path / "two" / "metrics.jsonl").read_bytes() == lines
    both = tmp_path / "both"
    assert together(both, 2, 6, 1) == ["stopped by StoppedError", "stopped by Stop"]
    assert steps_in(both) == [3, 8]  # what was asked for at 6 is done at the next moment when they agree
    assert together(both, 2, 14, 0) == ["stopped by Stop", "stopped by StoppedError"]
    assert steps_in(both) == [3, 9, 16]
    assert together(both, 1, devices=2) == [expected]
    assert (both / "metrics.jsonl").read_bytes() == lines
