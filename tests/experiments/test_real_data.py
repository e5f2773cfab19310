"""The same commands on real products: skipped, visibly, where the data folder is missing; some of it takes minutes."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from moon_jax.data.contract import open_dataset

Moon = Callable[..., subprocess.CompletedProcess[str]]
pytestmark = [pytest.mark.real_data, pytest.mark.evidence, pytest.mark.timeout(1500)]


def ran(moon: Moon, *arguments: object, home: Path) -> str:
    done = moon(*arguments, cwd=home, timeout=1200)
    assert done.returncode == 0, done.stderr[-2000:] + done.stdout[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def fashion(moon: Moon, real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("fashion")
    told = ran(moon, "data", "import", "fashion", real_data / "fashion-product-images-small", "set", home=home)
    assert "44,072 items" in told
    assert "simulated" not in told
    return home


@pytest.fixture(scope="module")
def movielens(moon: Moon, real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("movielens")
    told = ran(moon, "data", "import", "movielens", real_data / "movielens-posters", "set", home=home)
    assert "2,859 items" in told
    assert "58,380 impressions" in told
    return home


def table_of(home: Path, question: str) -> pl.DataFrame:
    table = pl.read_parquet(home / "runs" / question / "results.parquet")
    assert set(table["status"]) == {"done"}
    return table


def test_training_tokens_on_fashion_with_the_measured_floors(moon: Moon, fashion: Path) -> None:
    told = ran(moon, "run", "training_tokens", "--preset", "smoke", "--data", "set", home=fashion)
    table = table_of(fashion, "training_tokens")
    assert set(table["gallery"]) == {44_072}
    assert set(table["image_queries"]) == {1_200}
    floors = table.row(0, named=True)
    # Thumbnails of 12 x 16 pixels, measured elsewhere on other 2,000 groups: hit@10 .32, recall@10 .22; with colour .36, .25.
    assert floors["pixel_image_hit@10"] == pytest.approx(0.32, abs=0.04)
    assert floors["pixel_image_recall@10"] == pytest.approx(0.22, abs=0.035)
    assert floors["pixel_colour_image_hit@10"] == pytest.approx(0.36, abs=0.04)
    assert floors["pixel_colour_image_recall@10"] == pytest.approx(0.25, abs=0.035)
    assert floors["chance_image_recall@10"] == pytest.approx(10 / 44_071)
    assert floors["image_twin_share"] == pytest.approx(0.06, abs=0.02)
    assert "stands below pixels" in told or "stands above pixels" in told
    report = (fashion / "runs" / "training_tokens" / "report.html").read_text()
    assert "not to be redistributed" in report
    before = [path.stat().st_mtime for path in sorted((fashion / "runs" / "steps").glob("*/result.json"))]
    assert f"{len(before)}/{len(before)} steps are done already" in ran(
        moon, "run", "training_tokens", "--preset", "smoke", "--data", "set", home=fashion
    )
    assert [path.stat().st_mtime for path in sorted((fashion / "runs" / "steps").glob("*/result.json"))] == before


def test_fashion_cannot_answer_what_needs_clicks_until_they_are_simulated(moon: Moon, fashion: Path) -> None:
    refused = moon("plan", "sequence_length", "--preset", "smoke", "--data", "set", cwd=fashion)
    assert refused.returncode == 2
    assert "no events.parquet" in refused.stderr
    told = ran(moon, "data", "simulate", "set", "clicks", "--by", "colour", "articleType", home=fashion)
    assert "simulated: events, impressions, truth" in told
    assert "sequence_length: " in ran(moon, "plan", "sequence_length", "--data", "clicks", home=fashion)
    assert open_dataset(fashion / "clicks").simulated["items"] is False


def test_histories_and_exchange_rate_on_movielens(moon: Moon, movielens: Path) -> None:
    asked = ("--preset", "smoke", "--data", "set")
    told = ran(moon, "run", "sequence_length", *asked, home=movielens)
    assert "The smallest gain that could have been seen" in told
    table = table_of(movielens, "sequence_length")
    assert set(table["test_impressions"]) == {11_431}
    assert not [column for column in table.columns if column.startswith("bayes")]  # nobody knows the truth here
    assert set(table["model"]) == {"DIN", "MUSE", "CUBE"}
    told = ran(moon, "run", "funnel", *asked, home=movielens)
    assert "Retrieval by history, recall@100: " in told
    assert "The most popular items alone reach" in told
    told = ran(moon, "run", "exchange_rate", *asked, home=movielens)
    table = table_of(movielens, "exchange_rate")
    assert table["version"].n_unique() == 12
    assert {"text_recall@10", "item_recall@10", "gauc"} <= set(table.columns)
    assert "image_recall@10" not in table.columns
    rate = json.loads((movielens / "runs" / "exchange_rate" / "fits" / "rate.json").read_text())
    assert ("Smallest slope that could have been seen" in told) != ("No rate can be given" in told)
    # Encoders this small may not differ at all: then there is no smallest slope, and it is said why.
    assert (rate["smallest_detectable"] or 0) > 0 or any("do not differ" in warning for warning in rate["warnings"])
