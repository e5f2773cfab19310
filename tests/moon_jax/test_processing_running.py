"""A processed dataset appears whole or not at all, a killed run goes on where it was, and as a step it feeds prepare."""

import json
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from catalogues import random_tables, written
from tiny import silent

from moon_jax.data.contract import DataError, Dataset, check
from moon_jax.data.loading import Prepared
from moon_jax.data.processing import (
    TRANSFORMATIONS,
    EntityFilter,
    ExactImages,
    HardNegatives,
    MergeVariants,
    NearTitles,
    PerceptualImages,
    Vectors,
    photos,
    process_dataset,
)
from moon_jax.stages.contrast import ContrastConfig, contrast
from moon_jax.stages.embed import SHARES
from moon_jax.stages.prepare import PrepareConfig, prepare
from moon_jax.stages.process import ProcessConfig, process
from sweeps import DataFile, Step

CHAIN = (PerceptualImages(), NearTitles(), MergeVariants(), EntityFilter(least=1), HardNegatives())
TABLES = ("items", "queries", "pairs")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return written(tmp_path_factory.mktemp("processing") / "source", random_tables(4))


def test_transformations_follow_each_other_and_are_reported(source: Dataset, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    done = process_dataset(source.folder, tmp_path / "to", CHAIN, progress=lambda d, t: seen.append((d, t)))
    reports = done.facts["processing"]["transformations"]
    assert [report["name"] for report in reports] == [step.name for step in CHAIN]
    for before, after in pairwise(reports):
        for name, (_, left) in before["rows"].items():
            assert after["rows"][name][0] == left
    assert reports[-1]["rows"]["train pairs"][1] == (done.read("pairs")["split"] == "train").sum()
    assert reports[-1]["rows"]["items in training"][1] == done.read("items")["in_training"].sum()
    assert reports[-1]["rows"]["hard negatives"][1] == done.rows["hard_negatives"]
    assert done.facts["processing"]["source"]["digests"] == dict(source.digests)
    assert json.loads((tmp_path / "to" / "processing.json").read_text()) == reports
    titles = source.read("items")["title"].to_list()
    assert any(title in sample for sample in reports[1]["samples"] for title in titles)
    assert seen[-1] == (600, 600)
    assert seen == sorted(seen)
    assert done.simulated["hard_negatives"] is True
    assert [path.name for path in tmp_path.iterdir()] == ["to"]


@pytest.mark.parametrize("killed_at", [3, 9, 14])
def test_a_killed_run_goes_on_where_it_was(
    source: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_at: int
) -> None:
    """Killed at a report of progress: nothing is published, no photo that was decoded is decoded again, and the result is
    that of a run that was not killed.
    """
    monkeypatch.setattr(photos, "SLICE", 7)
    whole = process_dataset(source.folder, tmp_path / "whole", CHAIN)
    calls: list[str] = []
    original = photos.signature

    def counted(encoded: bytes, place: str) -> tuple[bytes, bytes, bytes]:
        calls.append(place)
        return original(encoded, place)

    class Killed(BaseException):
        pass

    reports = 0

    def kill(done: int, total: int) -> None:
        nonlocal reports
        reports += 1
        if reports > killed_at:
            raise Killed

    monkeypatch.setattr(photos, "signature", counted)
    with pytest.raises(Killed):
        process_dataset(source.folder, tmp_path / "to", CHAIN, progress=kill)
    assert not (tmp_path / "to").exists()
    done = process_dataset(source.folder, tmp_path / "to", CHAIN)
    assert dict(done.digests) == dict(whole.digests)
    assert done.facts == whole.facts
    assert len(calls) == len(set(calls))
    there = sum(source.read(name)["image"].is_not_null().sum() for name in ("items", "queries"))
    assert len(calls) == there


def test_other_transformations_do_not_take_over_what_was_left(source: Dataset, tmp_path: Path) -> None:
    def kill(done: int, total: int) -> None:
        if done >= 100:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        process_dataset(source.folder, tmp_path / "to", [EntityFilter(least=1)], progress=kill)
    assert list(tmp_path.glob(".to-*"))  # an interrupt leaves what the same call goes on from
    done = process_dataset(source.folder, tmp_path / "to", [EntityFilter(least=3)])
    alone = process_dataset(source.folder, tmp_path / "alone", [EntityFilter(least=3)])
    assert dict(done.digests) == dict(alone.digests)


def test_what_cannot_be_processed_is_one_line_and_leaves_nothing(source: Dataset, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine.txt").write_text("mine")
    with pytest.raises(DataError, match="exists already"):
        process_dataset(source.folder, tmp_path / "there", [ExactImages()])
    with pytest.raises(DataError, match="at least one transformation"):
        process_dataset(source.folder, tmp_path / "to", [])
    items = written(tmp_path / "items", {"items": source.read("items")})
    with pytest.raises(DataError, match=r"needs queries\.parquet"):
        process_dataset(items.folder, tmp_path / "to", [ExactImages()])
    tables = {name: source.read(name) for name in TABLES}
    broken = tables["items"].with_columns(image=pl.Series([b"no photo", *tables["items"]["image"].to_list()[1:]]))
    bad = written(tmp_path / "bad", {**tables, "items": broken})
    with pytest.raises(DataError, match=r"items\.parquet, row 0: image does not decode .*moon data check"):
        process_dataset(bad.folder, tmp_path / "to", [ExactImages()])
    with pytest.raises(DataError, match=r"no \w+ pair would be left"):
        process_dataset(source.folder, tmp_path / "to", [ExactImages(), EntityFilter(least=99, scope="all")])
    assert {path.name for path in tmp_path.iterdir()} == {"there", "items", "bad"}


def test_shards_stay_shards(source: Dataset, tmp_path: Path) -> None:
    """A table in shards gives the same rows as in one file, and as many shards."""
    sharded = tmp_path / "sharded"
    shutil.copytree(source.folder, sharded)
    for name in ("items", "pairs"):
        frame = source.read(name)
        (sharded / f"{name}.parquet").unlink()
        (sharded / f"{name}.parquet").mkdir()
        for part in range(3):
            size = -(-frame.height // 3)
            frame.slice(part * size, size).write_parquet(sharded / f"{name}.parquet" / f"part-{part}.parquet")
    done = process_dataset(sharded, tmp_path / "to", CHAIN)
    whole = process_dataset(source.folder, tmp_path / "whole", CHAIN)
    assert dict(done.digests) == dict(whole.digests)
    assert len(list((done.folder / "pairs.parquet").glob("*.parquet"))) == 3
    assert check(done.folder) == []


def files_of(dataset: Dataset) -> dict[str, Path]:
    return {name: dataset.path(name) for name in TABLES}


def test_a_processed_step_feeds_prepare_and_keeps_the_evaluation(world: Dataset, tmp_path: Path) -> None:
    """Items out of training are no own photos to train on; queries, answers and gallery of valid and test are as before."""
    for name in ("process", "plain", "prepared"):
        (tmp_path / name).mkdir()
    done = process(
        ProcessConfig((MergeVariants(),)), files=files_of(world), inputs={}, folder=tmp_path / "process", report=silent
    )
    assert done["train_pairs_out"] < done["train_pairs_in"]
    assert not (tmp_path / "process" / "checkpoints").exists()
    config = PrepareConfig(16, 16, 8, 200)
    prepare(config, files=files_of(world), inputs={}, folder=tmp_path / "plain", report=silent)
    inputs = {"process": tmp_path / "process"}
    prepare(config, files={}, inputs=inputs, folder=tmp_path / "prepared", report=silent)
    plain, processed = Prepared(tmp_path / "plain"), Prepared(tmp_path / "prepared")
    for name in ("item_images", "item_text", "query_images", "query_text", "query_item", "item_ids"):
        np.testing.assert_array_equal(getattr(processed, name), getattr(plain, name))
    for search in ("image", "text", "item"):
        for split in ("valid", "test"):
            np.testing.assert_array_equal(processed.pairs_of(search, split), plain.pairs_of(search, split))
    assert len(processed.pairs_of("image", "train")) < len(plain.pairs_of("image", "train"))
    out = pl.read_parquet(tmp_path / "process" / "items.parquet")["in_training"]
    assert (~out).any()
    assert set(processed.own_items) == set(plain.own_items) - set(out.not_().arg_true().to_list())


def test_a_killed_step_goes_on_from_what_its_attempt_left(source: Dataset, tmp_path: Path) -> None:
    def kill(done: float, total: float, **info: Any) -> None:
        if done > 100:
            raise KeyboardInterrupt

    config = ProcessConfig((ExactImages(), EntityFilter(least=1)))
    for name in ("first", "alone"):
        (tmp_path / name).mkdir()
    with pytest.raises(KeyboardInterrupt):
        process(config, files=files_of(source), inputs={}, folder=tmp_path / "first", report=kill)
    assert (tmp_path / "first" / "checkpoints" / "after-00-exact_images").is_dir()
    process(config, files=files_of(source), inputs={}, folder=tmp_path / "first", report=silent)
    process(config, files=files_of(source), inputs={}, folder=tmp_path / "alone", report=silent)
    for name in TABLES:
        one, two = (pl.read_parquet(tmp_path / folder / f"{name}.parquet") for folder in ("first", "alone"))
        assert one.equals(two)


@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_a_config_is_the_identity_of_a_step(name: str, tmp_path: Path) -> None:
    """The same config gives the same id, another scope another; a worker elsewhere rebuilds it."""
    from sweeps.identity import decode, encode

    kind = TRANSFORMATIONS[name]
    step = Step("moon_jax.stages.process:process", 1, ProcessConfig((kind(),)), {"items": DataFile(tmp_path, "x")})
    again = Step("moon_jax.stages.process:process", 1, ProcessConfig((kind(),)), {"items": DataFile(tmp_path, "x")})
    other = Step("moon_jax.stages.process:process", 1, ProcessConfig((kind(scope="all"),)), again.files)
    assert step.id == again.id != other.id
    assert decode(encode(step.config)) == step.config


def test_contrast_is_paired_and_refuses_another_test_set(prepared_folder: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    queries = np.unique(Prepared(prepared_folder).pairs_of("image", "test")[:, 0]).size
    recalls = rng.integers(0, 3, (2, queries)).astype(np.float32) / 2
    hits = recalls > 0
    for name, hit, recall in zip(("ours", "theirs"), hits, recalls, strict=True):
        (tmp_path / name).mkdir()
        np.savez(tmp_path / name / SHARES, **{"hit@10": hit.astype(np.float32), "recall@10": recall})
    inputs = {"embed": tmp_path / "ours", "baseline": tmp_path / "theirs"}
    inputs |= {"prepare": prepared_folder, "baseline_prepare": prepared_folder}
    found = contrast(ContrastConfig(), files={}, inputs=inputs, folder=tmp_path, report=silent)
    for name, (ours, theirs) in {"gain_hit@10": hits.astype(float), "gain_recall@10": recalls.astype(float)}.items():
        apart = ours - theirs
        assert found[name] == pytest.approx(apart.mean())
        assert found[f"{name}_se"] == pytest.approx(apart.std(ddof=1) / len(apart) ** 0.5)
    shutil.copytree(prepared_folder, tmp_path / "other")
    np.save(tmp_path / "other" / "item_ids.npy", np.load(prepared_folder / "item_ids.npy")[::-1])
    with pytest.raises(ValueError, match="different queries or galleries"):
        contrast(
            ContrastConfig(), files={}, inputs=inputs | {"prepare": tmp_path / "other"}, folder=tmp_path, report=silent
        )


def test_representations_that_do_not_fit_are_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="3 ids for an array of shape"):
        Vectors(np.arange(3), np.zeros((2, 4)), np.arange(1), np.zeros((1, 4)))
    with pytest.raises(DataError, match="items are 4 wide and queries 5"):
        Vectors(np.arange(2), np.zeros((2, 4)), np.arange(1), np.zeros((1, 5)))
    with pytest.raises(DataError, match=r"item_ids\.npy: not readable"):
        Vectors.read(tmp_path)
    np.save(tmp_path / "item_ids.npy", np.array([object()]), allow_pickle=True)
    with pytest.raises(DataError, match=r"item_ids\.npy: not readable"):
        Vectors.read(tmp_path)
