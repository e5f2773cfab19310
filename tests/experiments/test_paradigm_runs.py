"""Questions about the paradigm and the CTR model, run whole at preset smoke; and a newcomer's four commands."""

import re
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from experiments.ablations import SYSTEMS
from experiments.ctr_model import BASE, SMOKE
from moon_jax.data.contract import Dataset
from moon_jax.data.representations import read_embeddings
from moon_jax.inference import load

Moon = Callable[..., object]
pytestmark = pytest.mark.proof


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("paradigm")


def run(moon: Moon, home: Path, question: str, world: Dataset) -> tuple[str, pl.DataFrame]:
    done = moon("run", question, "--preset", "smoke", "--data", world.folder, "--workers", "2", cwd=home, timeout=900)
    assert done.returncode == 0, done.stderr  # type: ignore[attr-defined]
    assert (home / "runs" / question / "report.html").exists()
    return done.stdout, pl.read_parquet(home / "runs" / question / "results.parquet")  # type: ignore[attr-defined]


def test_ablations_run_every_switch(moon: Moon, home: Path, smoke_world: Dataset) -> None:
    said, table = run(moon, home, "ablations", smoke_world)
    assert set(table["system"]) == set(SYSTEMS["plain"])
    assert set(table["status"]) == {"done"}
    measured = table.filter(pl.col("opponent") != "")
    for metric in ("recall@1", "recall@10", "recall@100"):
        assert measured[f"gain_{metric}"].is_not_null().all()
    assert "recall@10 against the " in said
    # shared: one pretraining a seed, by what is pretrained and by the whole
    assert len(list((home / "runs" / "steps").glob("pretrain-*"))) == table["seed"].n_unique()
    assert (home / "runs" / "ablations" / "figures" / "ablations.png").exists()


def test_choices_of_the_ctr_model_stand_beside_the_plain_one(moon: Moon, home: Path, smoke_world: Dataset) -> None:
    said, table = run(moon, home, "ctr_model", smoke_world)
    assert set(table["choice"]) == set(SMOKE)
    passes = dict(table.group_by("choice").agg(pl.col("application_passes").mean()).iter_rows())
    assert passes["4 passes, fresh IDs"] == pytest.approx(4 * passes[BASE], rel=0.1)
    assert "Log loss" not in said  # four passes with kept tables are no part of the smoke preset
    assert (home / "runs" / "ctr_model" / "figures" / "choices.png").stat().st_size > 1000


def test_versions_are_foretold_or_not(moon: Moon, home: Path, smoke_world: Dataset) -> None:
    said, table = run(moon, home, "iterations", smoke_world)
    assert table.filter(pl.col("part") == "ladder")["version"].n_unique() == 5
    assert re.search("of 3 steps that change the encoder move GAUC|No step that changes the encoder moves GAUC", said)


def test_pretraining_is_asked_what_it_knows(moon: Moon, home: Path, smoke_world: Dataset) -> None:
    said, table = run(moon, home, "pretraining", smoke_world)
    assert re.search(r"Subject by photo: [\d.]+% right, .* over the commonest answer", said)
    assert table["answer_subject_photo"].is_between(0, 1).all()
    assert (home / "runs" / "pretraining" / "figures" / "samples.png").exists()


def test_the_ladder_finds_a_best_rate_for_each_size(moon: Moon, home: Path, smoke_world: Dataset) -> None:
    said, table = run(moon, home, "size_ladder", smoke_world)
    assert re.search(r"the best rate of micro is [\d.e+-]+ \[", said)
    assert re.search(r"goes as batch\^", said)
    assert table["batch"].n_unique() == 3
    assert set(table["size"]) == {"nano", "micro"}


def test_a_newcomer_goes_from_a_folder_to_vectors_in_four_commands(moon: Moon, tmp_path: Path) -> None:
    rng, lines = np.random.default_rng(0), ["sku,name,photo"]
    (tmp_path / "shop").mkdir()
    for product in range(60):
        colour = rng.integers(0, 256, 3)
        for photo in range(2):
            name = f"{product}-{photo}.jpg"
            pixels = np.clip(colour + rng.integers(-9, 10, (20, 16, 3)), 0, 255).astype(np.uint8)
            encoded = BytesIO()
            Image.fromarray(pixels).save(encoded, "JPEG")
            (tmp_path / "shop" / name).write_bytes(encoded.getvalue())
            lines.append(f"{100 + 2 * product + photo},product {product},{name}")
    (tmp_path / "shop" / "items.csv").write_text("\n".join(lines))
    mapped = ("--map", "item_id=sku", "--map", "title=name", "--map", "image=photo")
    for command in (
        ("data", "import", "table", "shop", "data", *mapped),
        ("data", "check", "data"),
        ("embed", "data", "--preset", "smoke", "--tokens", "3000", "--to", "vectors", "--dim", "32"),
    ):
        done = moon(*command, cwd=tmp_path)
        assert done.returncode == 0, (command, done.stdout, done.stderr)  # type: ignore[attr-defined]
    ids, vectors = read_embeddings(tmp_path / "vectors" / "embeddings.parquet")
    assert sorted(ids.tolist()) == list(range(100, 220))
    assert vectors.shape == (120, 32)
    seen = load(tmp_path / "vectors").embed(images=[tmp_path / "shop" / "0-0.jpg"], dim=32)
    assert float(seen[0] @ vectors[ids.tolist().index(100)]) > 0.999
    step = re.search(r"steps/(embed-[0-9a-f]{12})", done.stdout)  # type: ignore[attr-defined]
    assert step
    again = moon("export", f"runs/steps/{step[1]}", "--to", "again", "--int8", cwd=tmp_path)
    assert again.returncode == 0, again.stderr  # type: ignore[attr-defined]
    taken = moon("embed", "data", "--to", "vectors", cwd=tmp_path)
    assert taken.returncode == 2  # type: ignore[attr-defined]
    assert "not empty; give a new folder" in taken.stderr  # type: ignore[attr-defined]
