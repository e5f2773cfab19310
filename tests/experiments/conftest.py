"""The command line as a user runs it: processes of its own, a cache of its own, one worker."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from experiments.running import cache_folder
from moon_jax.data.contract import Dataset, open_dataset

OWN_QUESTION = '''"""Does an encoder trained for twice as long search better? Refuted if not."""

import analysis
from experiments import steps
from experiments.question import Reading
from experiments.recipes import recipe_for, searches_of
from sweeps import Cell


def cells(preset, data):
    recipe, search = recipe_for(preset, data), searches_of(data)[:1]
    made = []
    for budget in (0, 1_500, 3_000):
        run = steps.posttrain(data, recipe, forms=search, tokens=budget, seed=0)
        embedded = steps.embed(data, recipe, run, search, ("image",))
        made.append(Cell({"budget": budget, "seed": 0, "run": run.name}, {"posttrain": run, "embed": embedded}))
    return made


def read(results):
    best = results.sort("image_entropy").row(0, named=True)
    return Reading([f"Best at {best['budget']} tokens."], tables={"runs": results.select("budget", "image_entropy")})
'''


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A user's environment: none of the tests' settings, a fresh cache (but for compiled programs).

    Smoke runs spend their time compiling: less of it without optimisation.
    """
    cache = tmp_path_factory.mktemp("cache")
    compiled = cache_folder() / "tests-xla"
    compiled.mkdir(parents=True, exist_ok=True)
    (cache / "xla").symlink_to(compiled)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "XLA_"))}
    quick = {"XLA_FLAGS": "--xla_backend_optimization_level=0"}
    return kept | quick | {"MOON_CACHE": str(cache), "JAX_PLATFORMS": "cpu"}


@pytest.fixture(scope="session")
def moon(environment: dict[str, str]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`moon("run", "all", cwd=...)`: a finished process with its output."""

    def call(*arguments: object, cwd: Path, timeout: float = 400.0) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "experiments.cli", *map(str, arguments)]
        return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout)

    return call


@pytest.fixture(scope="session")
def own_question(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("asked") / "longer.py"
    path.write_text(OWN_QUESTION)
    return path


@pytest.fixture(scope="session")
def smoke_world(
    moon: Callable[..., subprocess.CompletedProcess[str]], tmp_path_factory: pytest.TempPathFactory
) -> Dataset:
    folder = tmp_path_factory.mktemp("smoke")
    done = moon("data", "world", "set", "--preset", "smoke", cwd=folder)
    assert done.returncode == 0, done.stderr
    return open_dataset(folder / "set")
