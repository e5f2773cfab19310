"""What the tests of stages share: a world of sixty products, prepared at 16 x 16 pixels."""

from pathlib import Path

import pytest
from tiny import TINY_WORLD, silent

from moon_jax.data.contract import Dataset
from moon_jax.data.loading import Prepared
from moon_jax.data.processing import HardNegatives
from moon_jax.data.world import make_world
from moon_jax.stages.prepare import PrepareConfig, prepare
from moon_jax.stages.process import ProcessConfig, process


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return make_world(tmp_path_factory.mktemp("world") / "set", TINY_WORLD)


@pytest.fixture(scope="session")
def prepared_folder(world: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared")
    files = {name: world.path(name) for name in ("items", "queries", "pairs")}
    prepare(PrepareConfig(16, 16, 8, 200), files=files, inputs={}, folder=folder, report=silent)
    return folder


@pytest.fixture(scope="session")
def prepared(prepared_folder: Path) -> Prepared:
    return Prepared(prepared_folder)


@pytest.fixture(scope="session")
def hard_folder(world: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, with hard negatives of each query."""
    found, folder = tmp_path_factory.mktemp("found"), tmp_path_factory.mktemp("hard")
    files = {name: world.path(name) for name in ("items", "queries", "pairs")}
    config = ProcessConfig((HardNegatives(kind="category", per_query=3),))
    process(config, files=files, inputs={}, folder=found, report=silent)
    prepare(PrepareConfig(16, 16, 8, 200), files={}, inputs={"process": found}, folder=folder, report=silent)
    return folder
