"""The core, asked as it comes, and killed and asked again: minutes."""

import json
import os
import signal
import time
from pathlib import Path

import polars as pl
import pytest
from asking import Moon, assert_self_contained, attempts, begin, results, wait_for

from experiments.question import GROUPS

QUESTIONS = GROUPS["core"]


@pytest.fixture(scope="module")
def everything(moon: Moon, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    home = tmp_path_factory.mktemp("everything")
    done = moon("run", "core", "--preset", "smoke", "--workers", 1, cwd=home, timeout=900)
    assert done.returncode == 0, done.stderr + done.stdout
    return home / "runs", done.stdout


@pytest.mark.proof
@pytest.mark.timeout(1200)
def test_the_core_is_answered_on_the_planted_world(everything: tuple[Path, str], moon: Moon) -> None:
    runs, output = everything
    assert "making the planted world once" in output
    for question in QUESTIONS:
        path = runs / question / "results.parquet"
        table, metadata = pl.read_parquet(path), pl.read_parquet_metadata(path)
        assert (metadata["schema_version"], set(table["status"])) == ("1", {"done"})
        assert "tokens" not in table.columns or "tokens" in json.loads(metadata["units"])
        assert table.height == len(json.loads((runs / question / "plan.json").read_text())["cells"])
        assert_self_contained(runs / question / "report.html")
        assert list((runs / question / "figures").glob("*.svg"))
        assert list((runs / question / "figures").glob("*.png"))
        assert "simulated" in (runs / question / "report.html").read_text()
        assert f"{question}/report.html" in output
    assert list((runs / "training_tokens" / "fits").glob("*power_floor.json"))
    assert (runs / "exchange_rate" / "fits" / "rate.json").is_file()
    assert {path.stem for path in (runs / "next_gpu_hour" / "fits").iterdir()} <= {"marginal", "allocation"}
    assert (
        "The set-up costs" in output
    )  # at this size laws need not foretell, nor the rate be known: then no axis is weighed
    floors = pl.read_parquet(runs / "training_tokens" / "results.parquet")
    assert {"chance_image_hit@10", "pixel_image_hit@10", "pixel_colour_image_hit@10"} <= set(floors.columns)
    before = attempts(runs)
    again = moon("run", "core", "--preset", "smoke", cwd=runs.parent)
    assert again.returncode == 0
    assert attempts(runs) == before
    assert len(before) == len(list((runs / "steps").iterdir()))  # nothing was done twice in the first place, either


def family(pid: int) -> list[int]:
    """A process and all that it started, the latest last."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(each for child in children for each in family(int(child)))]


@pytest.mark.evidence
@pytest.mark.timeout(1500)
def test_killed_and_run_again_gives_the_same_results(
    everything: tuple[Path, str], moon: Moon, environment: dict[str, str], tmp_path: Path
) -> None:
    """SIGKILL to the launcher and its worker at once, three times, in the midst of steps."""
    whole, _ = everything
    for count in (4, 31, 90):
        process = begin(environment, tmp_path, "core", "--preset", "smoke")
        wait_for(tmp_path / "runs", count, process)
        time.sleep(0.2)
        for pid in reversed(family(process.pid)):
            os.kill(pid, signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    done = moon("run", "core", "--preset", "smoke", "--workers", 1, cwd=tmp_path, timeout=900)
    assert done.returncode == 0, done.stderr + done.stdout
    for question in QUESTIONS:
        assert results(tmp_path / "runs", question).equals(results(whole, question)), question
