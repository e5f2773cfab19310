"""A user's own question end to end: planned, run, interrupted, run again, read, exported."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from asking import Moon, assert_self_contained, attempts, begin, copy, results, wait_for

import analysis
from experiments import cli
from moon_jax.data.contract import DataError, Dataset
from moon_jax.data.representations import read_embeddings
from moon_jax.inference import load
from moon_jax.weights import load_encoder


@pytest.fixture(scope="module")
def asked(own_question: Path, smoke_world: Dataset) -> tuple[object, ...]:
    return own_question, "--preset", "smoke", "--data", smoke_world.folder


@pytest.fixture(scope="module")
def told(
    moon: Moon, asked: tuple, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """A user's question asked once: what `plan` and `status` said before, during and after, and the folder of it all."""
    home = tmp_path_factory.mktemp("asking")
    told: dict[str, Any] = {"home": home, "runs": home / "runs", "plan before": moon("plan", *asked, cwd=home)}
    command = [sys.executable, "-m", "experiments.cli", "run", *map(str, asked), "--workers", "1"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, cwd=home, env=environment, **pipes)
    while process.poll() is None:
        said = moon("status", cwd=home)
        if re.search(r"(prepare|posttrain|embed)-[0-9a-f]{12}", said.stdout):
            told["status during"] = said
            break
        time.sleep(0.5)
    told["output"], told["errors"] = process.communicate()
    told["code"] = process.returncode
    told["status after"], told["plan after"] = moon("status", cwd=home), moon("plan", *asked, cwd=home)
    return told


def test_a_users_own_question_is_answered(told: dict[str, Any]) -> None:
    assert told["code"] == 0, told["errors"]
    assert "Best at " in told["output"]
    assert "longer/report.html" in told["output"]
    assert told["errors"] == ""


def test_the_plan_counts_steps_before_and_after(told: dict[str, Any]) -> None:
    before, after = told["plan before"].stdout, told["plan after"].stdout
    assert "longer: 3 cells" in before
    for kind, count in (("prepare", 1), ("posttrain", 3), ("embed", 3)):
        assert f"{kind} {count} to run / 0 done" in before
        assert f"{kind} 0 to run / {count} done" in after
    assert "4,500 tokens to train" in before
    assert " 0 tokens to train" in after
    assert "smallest difference it can detect: recall" in before


def test_the_status_shows_what_runs_and_what_is_done(told: dict[str, Any]) -> None:
    assert "running" in told["status during"].stdout
    assert "longer" in told["status after"].stdout
    row = next(line for line in told["status after"].stdout.splitlines() if line.startswith("longer"))
    assert [cell for cell in row.split() if cell.isdigit()] == ["7", "7"]  # done, of all


def test_the_table_has_a_row_a_cell_with_units_and_provenance(told: dict[str, Any]) -> None:
    path = told["runs"] / "longer" / "results.parquet"
    table, metadata = pl.read_parquet(path), pl.read_parquet_metadata(path)
    assert metadata["schema_version"] == "1"
    units = json.loads(metadata["units"])
    assert "both sides of every pair" in units["tokens"]
    assert set(units) <= set(table.columns)
    assert table["budget"].to_list() == [0, 1_500, 3_000]
    assert table["status"].to_list() == ["done"] * 3
    assert table["tokens"].to_list() == pytest.approx([0, 1_500, 3_000], rel=0.4)  # whole batches of 16
    assert table["tokens"].is_sorted()
    for column in ("seconds", "versions", "device", "params", "posttrain_flops", "unique_tokens", "passes", "run"):
        assert table[column].null_count() == 0, column
    for name in table["posttrain_step"].to_list() + table["embed_step"].to_list():
        assert (told["runs"] / "steps" / name / "result.json").is_file()
        assert (told["runs"] / "steps" / name / "log.txt").exists()
    assert analysis.read_results(told["runs"], "longer").height == 3


def test_the_report_stands_alone_and_says_what_is_simulated(told: dict[str, Any]) -> None:
    report = told["runs"] / "longer" / "report.html"
    assert_self_contained(report)
    text = report.read_text()
    assert "Does an encoder trained for twice as long search better?" in text
    assert "simulated" in text
    assert "planted world" in text


def test_asking_again_does_nothing_twice(told: dict[str, Any], moon: Moon, asked: tuple) -> None:
    before, table = attempts(told["runs"]), results(told["runs"], "longer")
    assert len(before) == 7
    again = moon("run", *asked, cwd=told["home"])
    assert again.returncode == 0
    assert "7/7 steps are done already" in again.stdout
    assert attempts(told["runs"]) == before
    assert results(told["runs"], "longer").equals(table)
    report = moon("report", asked[0], cwd=told["home"])
    assert report.returncode == 0
    assert "Best at " in report.stdout


def stale(runs: Path, to: Path, step: str | None = None) -> Path:
    """A copy in which the digest of a step's sources (one encoder's) is another, as if other code had computed it."""
    step = step or results(runs, "longer")["posttrain_step"][1]
    path = copy(runs, to) / "steps" / step / "result.json"
    content = json.loads(path.read_text())
    path.unlink()  # it is a link to the attempt's own
    path.write_text(json.dumps(content | {"source_digest": "0" * 64}))
    return to


def test_results_of_other_code_are_refused_or_kept(
    told: dict[str, Any], moon: Moon, asked: tuple, tmp_path: Path
) -> None:
    runs = stale(told["runs"], tmp_path / "runs")
    refused = moon("run", *asked, cwd=tmp_path)
    assert refused.returncode == 2
    assert refused.stderr.startswith("moon: 2 finished steps were computed by other source code (first: posttrain-")
    assert refused.stderr.count("\n") == 1
    before = attempts(runs)
    assert moon("run", *asked, "--stale", "keep", cwd=tmp_path).returncode == 0
    assert attempts(runs) == before


def test_a_stale_step_that_no_cell_lists_is_found_with_all_that_rests_on_it(
    told: dict[str, Any], moon: Moon, asked: tuple, tmp_path: Path
) -> None:
    prepared = next((told["runs"] / "steps").glob("prepare-*")).name
    stale(told["runs"], tmp_path / "runs", prepared)
    refused = moon("run", *asked, cwd=tmp_path)
    assert refused.stderr.startswith(f"moon: 7 finished steps were computed by other source code (first: {prepared})")


@pytest.mark.proof
def test_results_of_other_code_are_computed_again(
    told: dict[str, Any], moon: Moon, asked: tuple, tmp_path: Path
) -> None:
    runs = stale(told["runs"], tmp_path / "runs")
    before = attempts(runs)
    assert moon("run", *asked, "--stale", "rerun", "--workers", 1, cwd=tmp_path).returncode == 0
    assert len(attempts(runs).keys() - before.keys()) == 2  # the encoder, and the embedding that rests on it
    assert results(runs, "longer").equals(results(told["runs"], "longer"))


def test_an_answer_on_other_data_is_not_written_over(
    told: dict[str, Any], moon: Moon, asked: tuple, tmp_path: Path
) -> None:
    about = copy(told["runs"], tmp_path / "runs") / "longer" / "about.json"
    about.write_text(about.read_text().replace('"fingerprint": "', '"fingerprint": "other'))
    done = moon("run", *asked, cwd=tmp_path)
    assert done.returncode == 2
    assert "holds the answer on other data" in done.stderr


def test_steps_that_no_plan_needs_are_collected(
    told: dict[str, Any], moon: Moon, asked: tuple, own_question: Path, tmp_path: Path
) -> None:
    runs = copy(told["runs"], tmp_path / "runs")
    names = set(results(runs, "longer").row(2, named=True).values()) & {
        path.name for path in (runs / "steps").iterdir()
    }
    assert "0 steps would be removed" in moon("gc", cwd=tmp_path).stdout
    shorter = tmp_path / "longer.py"
    shorter.write_text(own_question.read_text().replace("(0, 1_500, 3_000)", "(0, 1_500)"))
    assert moon("run", shorter, *asked[1:], cwd=tmp_path).returncode == 0
    listed = moon("gc", cwd=tmp_path).stdout
    assert "2 steps would be removed" in listed
    assert all(name in listed for name in names)
    assert len(list((runs / "steps").iterdir())) == 7
    assert "2 steps removed" in moon("gc", "--delete", cwd=tmp_path).stdout
    assert not names & {path.name for path in (runs / "steps").iterdir()}
    assert len(list((runs / "steps").iterdir())) == 5


def test_a_worker_of_ones_own_does_what_is_planned(told: dict[str, Any], moon: Moon, tmp_path: Path) -> None:
    runs = copy(told["runs"], tmp_path / "runs")
    step = runs / "steps" / results(runs, "longer")["embed_step"][2]
    published = json.loads((step / "result.json").read_text())
    (step / "result.json").unlink()
    done = moon("worker", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    again = json.loads((step / "result.json").read_text())
    assert again["attempt"] != published["attempt"]
    assert again["metrics"] == published["metrics"]
    assert again["files"]["items.npy"] == published["files"]["items.npy"]


def test_an_exported_encoder_is_the_trained_one(
    told: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from flax import nnx
    from tokenizers import Tokenizer

    def export(step: object, to: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["moon", "export", str(step), "--to", str(to)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code, capsys.readouterr().err  # type: ignore[return-value]

    row = results(told["runs"], "longer").row(2, named=True)
    steps = told["runs"] / "steps"
    monkeypatch.chdir(steps)
    assert export(row["posttrain_step"], tmp_path / "mine") == (0, "")
    published = next((steps / row["posttrain_step"] / "attempts").iterdir())
    config, graph, params, temperature = load_encoder(tmp_path / "mine")
    _, _, trained, known = load_encoder(published)
    assert temperature == known == pytest.approx(row["temperature"])
    tokenizer = Tokenizer.from_file(str(tmp_path / "mine" / "tokenizer.json"))
    words = np.zeros((2, 12), np.int32)
    for place, text in enumerate(("red cotton shirt", "blue shoes")):
        ids = tokenizer.encode(text).ids
        words[place, : len(ids)] = ids
    assert words.max() < config.vocabulary
    photos = np.random.default_rng(0).integers(0, 256, (2, config.height, config.width, 3), dtype=np.uint8)
    vectors = [np.asarray(nnx.merge(graph, each)(photos, words)) for each in (params, trained)]
    assert np.array_equal(*vectors)
    untrained = load_encoder(
        next((steps / results(told["runs"], "longer")["posttrain_step"][0] / "attempts").iterdir())
    )
    assert not np.allclose(nnx.merge(graph, untrained[2])(photos, words), vectors[0], atol=1e-3)

    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    for step, to, why in (
        (row["posttrain_step"], tmp_path / "full", "not empty"),
        (row["posttrain_step"], tmp_path / "full" / "thesis.tex", "not empty"),
        (next(steps.glob("prepare-*")).name, tmp_path / "new", "holds no encoder"),
        ("nowhere", tmp_path / "new", "not a step folder"),
    ):
        code, line = export(step, to)
        assert (code, line.count("\n")) == (2, 1)
        assert why in line


def test_exported_vectors_are_those_of_the_embed_step(
    told: dict[str, Any], moon: Moon, smoke_world: Dataset, tmp_path: Path
) -> None:
    """In the contract's form; and what `load` makes of the same photos is the same."""
    row = results(told["runs"], "longer").row(2, named=True)
    step = told["runs"] / "steps" / row["embed_step"]
    for to, options in (("whole", ()), ("small", ("--dim", "16", "--int8"))):
        done = moon("export", step, "--to", tmp_path / to, *options, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    items = np.load(next(step.glob("attempts/*/items.npy"))).astype(np.float32)
    ids, vectors = read_embeddings(tmp_path / "whole" / "embeddings.parquet")
    np.testing.assert_allclose(vectors, items, atol=2e-3)
    _, small = read_embeddings(tmp_path / "small" / "embeddings.parquet")
    cut = items[:, :16] / np.linalg.norm(items[:, :16], axis=1, keepdims=True)
    assert small.shape == (len(items), 16)
    assert (np.abs(small - cut) <= 0.51 / 127 * np.abs(cut).max(axis=1, keepdims=True) + 1e-3).all()  # half a step
    catalogue = smoke_world.read("items", ["item_id", "image", "title"]).head(3)
    assert catalogue["item_id"].to_list() == ids[:3].tolist()
    embedder = load(tmp_path / "whole")
    np.testing.assert_allclose(embedder.embed(images=catalogue["image"].to_list()), items[:3], atol=2e-3)
    card = (tmp_path / "small" / "README.md").read_text()
    assert f"image_recall@10 | {row['image_recall@10']:.4f}" in card
    assert "the first 16 dimensions, int8" in card
    with pytest.raises(DataError, match=r"image 0: .*no such file"):
        embedder.embed(images=[tmp_path / "nowhere.jpg"])
    with pytest.raises(DataError, match="2 images and 1 texts"):
        embedder.embed(images=catalogue["image"].to_list()[:2], texts=["one"])
    refused = moon("export", step, "--to", tmp_path / "new", "--dim", "999", cwd=tmp_path)
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "dim: 999 must lie in 1..64" in refused.stderr
    assert not (tmp_path / "new").exists()


@pytest.mark.proof
@pytest.mark.timeout(600)
def test_interrupted_by_hand_it_says_so_and_goes_on_later(
    told: dict[str, Any], moon: Moon, asked: tuple, environment: dict[str, str], tmp_path: Path
) -> None:
    process = begin(environment, tmp_path, *asked)
    wait_for(tmp_path / "runs", 2, process)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors == "moon: stopped; run it again to finish what is left\n"
    assert len(attempts(tmp_path / "runs")) < 7
    done = moon("run", *asked, "--workers", 1, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert results(tmp_path / "runs", "longer").equals(results(told["runs"], "longer"))
