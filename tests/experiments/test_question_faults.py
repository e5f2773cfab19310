"""Questions that are broken, fail in part, or wait for a learning rate."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from asking import Moon

from experiments import cli
from moon_jax.data.contract import Dataset

BROKEN = {
    "syntax": ("def cells(preset, data)\n    return []\n", "mine.py, line 1: SyntaxError"),
    "import": ("\nimport numpy\nimport not_installed\n", "mine.py, line 3: ModuleNotFoundError"),
    "no read": ("def cells(preset, data):\n    return []\n", "mine: a question needs a function read()"),
    "no cells": ("cells = 3\ndef read(results): ...\n", "mine: a question needs a function cells()"),
    "fault": (
        "def cells(preset, data):\n    return [].pop()\ndef read(results): ...\n",
        "mine.py, line 2: IndexError: pop from empty list",
    ),
    "nothing": ("def cells(preset, data): ...\ndef read(results): ...\n", "mine: cells() must return a list"),
    "not cells": (
        "def cells(preset, data):\n    return [1]\ndef read(results): ...\n",
        "mine: cells() must return a list",
    ),
    "recipe": (
        "from experiments.recipes import recipe_for\ndef cells(preset, data):\n    return recipe_for(preset, data).lrr\n"
        "def read(results): ...\n",
        "mine.py, line 3: AttributeError",
    ),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_question_is_one_clear_line(
    fault: str,
    smoke_world: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    text, line = BROKEN[fault]
    (tmp_path / "mine.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["moon", "run", "mine.py", "--preset", "smoke", "--data", str(smoke_world.folder)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert said.startswith(f"moon: {line}")
    assert said.count("\n") == 1


HALF = '''"""Half of it works."""
from experiments.question import Reading
from sweeps import Cell, Step

def cells(preset, data):
    return [Cell({"number": n}, {"work": Step("mysteps:work", 1, {"number": n})}) for n in NUMBERS]

def read(results):
    return Reading([f"The numbers are {sorted(results['number'].to_list())}."])
'''
STEPS = """
def work(config, *, files, inputs, folder, report):
    if config["number"] > 1:
        raise RuntimeError("too many")
    return {"square": config["number"] ** 2}
"""


@pytest.mark.parametrize(
    ("numbers", "answer"),
    [((0, 1, 2), "The numbers are [0, 1]."), ((2, 3), "no answer: half: no cell has finished")],
)
def test_failed_cells_are_told_and_give_code_one(
    moon: Moon, smoke_world: Dataset, tmp_path: Path, numbers: tuple[int, ...], answer: str
) -> None:
    (tmp_path / "half.py").write_text(HALF.replace("NUMBERS", str(numbers)))
    (tmp_path / "mysteps.py").write_text(STEPS)
    done = moon("run", "half.py", "--data", smoke_world.folder, "--preset", "smoke", "--workers", 1, cwd=tmp_path)
    assert done.returncode == 1
    assert answer in done.stdout
    assert "Traceback" not in done.stderr
    table = pl.read_parquet(tmp_path / "runs" / "half" / "results.parquet")
    assert table["status"].to_list() == ["done" if number < 2 else "crashed" for number in numbers]
    assert "too many" in moon("status", cwd=tmp_path).stdout


TRIED = '''"""Does a CTR model on IDs gain by training longer, at its best learning rate? Refuted if not."""

from experiments import steps
from experiments.question import Reading
from experiments.recipes import recipe_for
from experiments.tuning import ASSUMED, settle, try_rates
from sweeps import Cell


def cells(preset, data, known=ASSUMED):
    recipe = recipe_for(preset, data)

    def run(lr, seed=0):
        return {"application": steps.application(data, recipe, length=4, seed=seed, embedded=None, modules=("din",), lr=lr)}

    trial = try_rates("DIN", "valid_log_loss", (1 / 3, 1.0), run, known)
    grid = [] if trial.best is None else [Cell({"seed": s, "trial": "", "lr": trial.best}, run(trial.best, s)) for s in (0, 1)]
    return trial.cells(seed=0) + grid


def read(results):
    rows, tried, said, weak = settle(results)
    return Reading([f"{rows.height} seeds at x{rows['lr'][0]:.3g}."], notes=said, weak=weak, tables={"tried": tried})
'''


def test_what_waits_for_a_learning_rate_runs_when_it_is_chosen(
    moon: Callable[..., subprocess.CompletedProcess[str]], smoke_world: Dataset, tmp_path: Path
) -> None:
    (tmp_path / "tried.py").write_text(TRIED)
    options = ("--preset", "smoke", "--data", smoke_world.folder, "--workers", "1")
    costs = moon("plan", "tried.py", *options, cwd=tmp_path)
    assert "application 3 to run" in costs.stdout
    assert "learning rates are still to be chosen" in costs.stdout
    planned = moon("run", "tried.py", *options, "--launcher", "none", cwd=tmp_path)
    assert planned.returncode == 0, planned.stderr
    assert "some cells wait for learning rates to be chosen" in planned.stdout + planned.stderr
    done = moon("run", "tried.py", *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "learning rates are chosen" in done.stdout + done.stderr
    table = pl.read_parquet(tmp_path / "runs" / "tried" / "results.parquet")
    trials, grid = table.filter(pl.col("trial") == "DIN"), table.filter(pl.col("trial") == "")
    best = trials.sort("valid_log_loss")["lr"][0]
    assert grid["lr"].to_list() == [best, best]
    assert grid["status"].to_list() == ["done", "done"]
    for launcher in ("local", "none"):
        again = moon("run", "tried.py", *options, "--launcher", launcher, cwd=tmp_path)
        assert again.returncode == 0
        assert "learning rates" not in (again.stdout + again.stderr).replace("Learning rates, chosen on valid", "")
