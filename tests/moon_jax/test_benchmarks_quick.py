"""The benchmark scripts of training and of the loss run at tiny sizes, and the page of benchmarks says what was measured."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import jax
import pytest

from moon_jax.flops import count_flops

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

from contrastive import Measured  # noqa: E402
from gpu import TINY, Measurer, measure_loss, measure_step  # noqa: E402
from measuring import Results  # noqa: E402
from page import filled  # noqa: E402
from step_ours import build  # noqa: E402


def script(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    alone = os.environ | {"XLA_FLAGS": "--xla_cpu_use_fusion_emitters=false"}  # without the tests' eight devices
    command = [sys.executable, str(BENCHMARKS / name), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=alone)


def test_quick_contrastive(tmp_path):
    done = script("contrastive.py", "--quick", "--figure", tmp_path / "time.png")
    assert done.returncode == 0, done.stderr
    assert "tiled / dense" in done.stdout
    assert "all-gather + tiles" in done.stdout
    assert (tmp_path / "time.png").stat().st_size > 1000


def test_quick_train_step_or_one_clear_line_without_the_peer():
    done = script("train_step.py", "--quick")
    if find_spec("open_clip") is None:
        assert (done.returncode, done.stderr.splitlines()) == (
            2,
            ["train_step.py: open_clip is not installed: pip install -e '.[bench]'"],
        )
        return
    assert done.returncode == 0, done.stderr
    assert "open_clip's time / its own" in done.stdout


@pytest.mark.proof
def test_quick_sweep_overhead():
    done = script("sweep_overhead.py", "--quick")
    assert done.returncode == 0, done.stderr
    assert "a process for each / one worker" in done.stdout


def test_quick_row_updates():
    done = script("row_updates.py", "--quick")
    assert done.returncode == 0, done.stderr
    assert "dense, ms a step" in done.stdout


@pytest.mark.proof
def test_quick_long_histories():
    done = script("long_histories.py", "--quick")
    assert done.returncode == 0, done.stderr
    assert "padded lists would be" in done.stdout
    compilations = [line.split()[-1] for line in done.stdout.splitlines() if line.startswith("din ")]
    assert compilations == ["1", "1"]


def test_quick_ctr_din_or_one_clear_line_without_the_peer(tmp_path):
    done = script("ctr_din.py", "--quick", "--figure", tmp_path / "speed.png")
    if find_spec("fuxictr") is None:
        assert (done.returncode, done.stderr.splitlines()) == (
            2,
            ["ctr_din.py: fuxictr is not installed: pip install -e '.[bench]'"],
        )
        return
    assert done.returncode == 0, done.stderr
    assert "ours / it" in done.stdout
    assert (tmp_path / "speed.png").stat().st_size > 1000


@pytest.mark.skipif(find_spec("transformers") is None, reason="the peer is not installed: pip install -e '.[bench]'")
def test_open_weights_beside_transformers_itself():
    done = script("open_weights.py")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("apart") == 4
    assert "\nreached: the same to 1e-04" in done.stdout


def test_without_an_accelerator_one_clear_line_and_2():
    done = script("gpu.py")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == ["gpu.py: no accelerator is here (jax sees CPUs alone): nothing was measured"]


@pytest.mark.proof
def test_quick_gpu_on_cpu_writes_nothing(tmp_path):
    done = script("gpu.py", "--quick", "--allow-cpu", "--save", tmp_path / "gpu.json")
    assert done.returncode == 0, done.stderr
    assert "cells an hour" in done.stdout
    assert "no time was left" not in done.stdout
    assert not (tmp_path / "gpu.json").exists()


def test_the_measurements_of_the_accelerator_page():
    shape = replace(TINY, batch=8)
    step = measure_step(vars(shape), "dual", "text", "full", seconds=0.0)
    assert min(step["seconds"]) > 0
    # rematerialisation is no work of the model
    update, initialise, batch = build(shape.config(dtype="bfloat16"), 8)
    plain = count_flops(update, jax.eval_shape(initialise), batch)
    again = count_flops(build(shape.config(dtype="bfloat16"), 8, remat="full")[0], jax.eval_shape(initialise), batch)
    assert step["flops"] == plain < again
    loss = measure_loss(256, "tiled", seconds=0.0)
    assert 0 < loss["temporary"] < 12 * 256**2 + 256 * 512 * 16


def test_a_measurement_that_fails_is_told_and_ends_nothing():
    measurer = Measurer(seconds=60, environment=dict(os.environ))
    assert "no_such" in measurer("no_such")["failed"]
    assert Measurer(seconds=0, environment={})("device") == {"failed": "no time was left"}


def test_our_step_trains():
    update, initialise, batch = build(TINY.config(), 8)
    state = initialise()
    losses = []
    for _ in range(20):
        state, loss = update(state, batch)
        losses.append(float(loss))
    assert losses[-1] < losses[0]
    assert {leaf.sharding.num_devices for leaf in jax.tree.leaves(batch)} == {8}


def test_floors_are_the_matrix_flops_at_the_peak():
    one = Measured(1024, "tiled", 0, lambda: None, seconds=[0.2], peaks=[1e11])
    assert one.flops == 8 * 1024**2 * 512
    assert one.of_floor("tiled") == pytest.approx([0.2 / (8 * 1024**2 * 512 / 1e11)])
    assert one.of_floor("dense")[0] == pytest.approx(one.of_floor("tiled")[0] * 8 / 6)


def test_results_tell_when_other_work_disturbed_them(tmp_path, capsys):
    for others, disturbed in ((0.0, False), (0.9, True)):
        results = Results("a.py")
        results.table("times", ("way", "ms"), [("ours", 1), ("theirs", 2)])
        results.others = [others]
        assert not results.goal("as fast", reached=False)
        results.finish(tmp_path / "a.json")
        saved = json.loads((tmp_path / "a.json").read_text())
        assert saved["provenance"]["disturbed"] is disturbed
        assert saved["tables"][0]["rows"] == [["ours", "1"], ["theirs", "2"]]
        assert saved["goals"] == [{"what": "as fast", "reached": False, "timing": True}]
    assert "to be measured again" in capsys.readouterr().out


def test_the_page_shows_the_saved_results():
    page = (BENCHMARKS / "README.md").read_text()
    assert filled(page) == page
    assert all(f"({path.name})" in page for path in BENCHMARKS.glob("*.py") if path.stem in ("gpu", "train_step"))


def test_a_page_is_filled_from_results_and_says_what_is_missing(tmp_path):
    text = "<!-- results: one -->\nold\n<!-- end -->\nkept\n<!-- results: two -->\n<!-- end -->\n"
    results = Results("one.py")
    results.table("Times", ("way", "ms"), [("ours", 1)])
    results.goal("fast", reached=True)
    results.goal("small", reached=False, timing=False)
    results.others = [0.5]
    results.finish(tmp_path / "results" / "one.json")
    made = filled(text, tmp_path)
    assert "| ours | 1 |" in made
    assert "0.5 cores busy" in made
    assert "- not judged (disturbed): fast\n- **not reached**: small\n" in made
    assert "old" not in made
    assert "\nkept\n<!-- results: two -->\nNot measured.\n<!-- end -->" in made
    assert filled(made, tmp_path) == made
