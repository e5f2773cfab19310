"""Around a sweep: curves in other tools, two folders beside each other, options of a launch, one's own function."""

import os
import re
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from experiments.comparing import differences
from experiments.launching import Launch, resources_of
from experiments.tracking import Curves
from sweeps import Cell, Ledger, Step, SweepError, work

Moon = Callable[..., subprocess.CompletedProcess[str]]
CLUSTER = Path(__file__).parents[2] / "docs" / "cluster.md"


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    made = Ledger(tmp_path / "runs")
    steps = [Step("curving:curve", 1, {"seed": seed, "steps": 5}) for seed in range(2)]
    made.write_plan("q", [Cell({"seed": seed}, {"curve": step}) for seed, step in enumerate(steps)])
    return made


def scalars(folder: Path) -> dict[str, list[int]]:
    """Tag -> the steps that an event file tells of it, read by TensorBoard's own records."""
    from tensorboard.compat.proto.event_pb2 import Event

    found: dict[str, list[int]] = {}
    for path in folder.glob("events*"):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack("<Q", data[at : at + 8])
            event = Event.FromString(data[at + 12 : at + 12 + length])
            for value in event.summary.value:
                found.setdefault(value.tag, []).append(event.step)
            at += 16 + length
    return found


def test_curves_go_to_tensorboard_each_row_once(ledger: Ledger) -> None:
    pytest.importorskip("tensorboard")
    with Curves(ledger, ["q"], "tensorboard") as curves:
        assert curves.refresh() == 0
        work(ledger.root)
        assert curves.refresh() == curves.refresh() == 2
    folders = sorted((ledger.root / "tensorboard").iterdir())
    assert [folder.name for folder in folders] == sorted(ledger.planned())
    for folder in folders:
        assert scalars(folder) == {"loss": [0, 1, 2, 3, 4]}


@pytest.mark.filterwarnings("ignore")  # wandb's own
def test_curves_go_to_wandb_offline(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    work(ledger.root)
    with Curves(ledger, ["q"], "wandb") as curves:
        assert curves.refresh() == 2
    runs = list((ledger.root / "wandb").glob("offline-run-*"))
    assert sorted(run.name.partition("curve-")[2] for run in runs) == sorted(
        name.partition("-")[2] for name in ledger.planned()
    )


def test_resources_are_names_and_values() -> None:
    assert resources_of(("partition=gpu", "nodes=2", "mem_gb=1.5")) == {"partition": "gpu", "nodes": 2, "mem_gb": 1.5}
    for wrong in ("gpu", "=1", "nodes="):
        with pytest.raises(SweepError, match="write NAME=VALUE"):
            resources_of((wrong,))
    with pytest.raises(SweepError, match="local workers share this machine's cores"):
        Launch(resources=("a=1",))(Ledger, [], {}, print)  # type: ignore[arg-type]


def test_metrics_that_differ_are_found_and_noise_is_not() -> None:
    here = {"x": [1, 2], "auc": [0.5, 0.7], "loss": [1.0, 2.0], "seconds": [1.0, 2.0], "word": ["a", "b"]}
    there = {"auc": [0.5, 0.6], "loss": [1.0 + 1e-9, 2.0], "seconds": [3.0, 4.0], "word": ["a", "c"]}
    joined = pl.DataFrame(here | {f"{name} there": values for name, values in there.items()})
    [row] = differences(joined).to_dicts()
    assert (row["metric"], row["cells"]) == ("auc", 1)
    assert (row["mean difference"], row["largest"]) == (pytest.approx(0.05), pytest.approx(0.1))


def test_the_documents_own_function_is_swept(tmp_path: Path) -> None:
    code = re.search(r"`sweep\.py`:\n```python\n(.*?)```", CLUSTER.read_text(), re.DOTALL)
    assert code is not None
    assert len([line for line in code[1].splitlines() if line.strip()]) <= 10
    (tmp_path / "sweep.py").write_text(code[1])
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "sweep.py"], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    rows = done.stdout.splitlines()
    assert len(rows) == 6
    assert all("'status': 'done'" in row for row in rows)
    assert "'width': 4, 'seed': 1, 'error': 0.26" in rows[-1]
