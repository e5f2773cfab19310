"""A smoke sweep through a real SLURM and a real Ray, and a gang of two processes that gives the result of one."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import clusters
import polars as pl
import pytest

from moon_jax.data.contract import Dataset

pytestmark = [pytest.mark.proof, pytest.mark.filterwarnings("ignore")]  # ray's own
Moon = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> Iterator[None]:
    with clusters.slurm(tmp_path_factory.mktemp("slurm")), pytest.MonkeyPatch.context() as patch:
        patch.setitem(environment, "SLURM_CONF", os.environ["SLURM_CONF"])
        yield


def results(folder: Path, question: str = "longer") -> pl.DataFrame:
    return pl.read_parquet(folder / "runs" / question / "results.parquet").sort("budget")


def asked(moon: Moon, folder: Path, question: Path, world: Dataset, *more: str) -> pl.DataFrame:
    done = moon("run", question, "--preset", "smoke", "--data", world.folder, *more, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return results(folder)


@pytest.fixture(scope="module")
def alone(
    moon: Moon, own_question: Path, smoke_world: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> pl.DataFrame:
    return asked(moon, tmp_path_factory.mktemp("alone"), own_question, smoke_world, "--workers", "1")


def same(found: pl.DataFrame, expected: pl.DataFrame, error: float) -> None:
    assert found["status"].to_list() == ["done"] * expected.height
    for name in ("image_entropy", "tokens", "temperature"):
        assert found[name].to_list() == pytest.approx(expected[name].to_list(), rel=error)


def test_a_sweep_through_slurm(
    slurm: None, moon: Moon, own_question: Path, smoke_world: Dataset, alone: pl.DataFrame, tmp_path: Path
) -> None:
    more = ("--launcher", "slurm", "--workers", "2", "--resources", "slurm_mem=1G", "timeout_min=10")
    same(
        asked(moon, tmp_path, own_question, smoke_world, *more), alone, 1e-5
    )  # as many threads, as many orders of sums


def test_a_gang_of_two_processes_gives_the_result_of_one(
    slurm: None, moon: Moon, own_question: Path, smoke_world: Dataset, alone: pl.DataFrame, tmp_path: Path
) -> None:
    """The mesh of the gang's runs has a device of each process."""
    more = ("--launcher", "slurm", "--workers", "1", "--resources", "tasks_per_node=2", "slurm_mem=1G")
    found = asked(moon, tmp_path, own_question, smoke_world, *more)
    same(found, alone, 2e-3)
    assert set(found["mesh"]) == {"2x1x1"}
    assert set(alone["mesh"]) == {"1x1x1"}


def test_a_sweep_through_ray(
    moon: Moon, own_question: Path, smoke_world: Dataset, alone: pl.DataFrame, tmp_path: Path
) -> None:
    with clusters.ray() as address:
        more = ("--launcher", "ray", "--workers", "2", "--resources", f"address={address}")
        same(
            asked(moon, tmp_path, own_question, smoke_world, *more), alone, 1e-5
        )  # as many threads, as many orders of sums
