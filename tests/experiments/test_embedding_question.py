"""Embedding a catalogue: what is trained from what, and what the reading says."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest
from tokenizers import Tokenizer, models

from experiments.embedding import cells, read
from experiments.paradigm import second_stage
from experiments.question import QuestionError
from experiments.worlds import world_for
from moon_jax.data.contract import DataError, Dataset
from moon_jax.data.world import make_world
from sweeps import Step

GOLDEN = Path(__file__).parents[1] / "moon_jax" / "golden"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return make_world(tmp_path_factory.mktemp("world") / "set", world_for("smoke"))


@pytest.fixture(scope="module")
def language(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("open") / "language"
    shutil.copytree(GOLDEN / "qwen3", folder)
    Tokenizer(models.WordLevel({"<|endoftext|>": 0}, unk_token="<|endoftext|>")).save(str(folder / "tokenizer.json"))
    return folder


def closure(step: Step) -> list[Step]:
    return [step, *(inner for needed in step.needs.values() for inner in closure(needed))]


def test_open_weights_are_what_everything_begins_from(data: Dataset, language: Path) -> None:
    given = {"vision": GOLDEN / "siglip", "language": language, "freeze": ("vision",), "tokens": 999}
    trained, untrained = cells("smoke", data, paradigm="whole", **given)
    kinds = {name: [s for s in closure(trained.steps["embed"]) if s.function.endswith(f":{name}")] for name in
             ("adopt", "prepare", "pretrain", "posttrain")}  # fmt: skip
    assert len({step.id for step in kinds["adopt"]}) == 1
    adopted = kinds["adopt"][0]
    assert {name: file.path.name for name, file in adopted.files.items()} == {
        "vision": "siglip",
        "language": "language",
    }
    assert all("adopt" in {s.function.rpartition(":")[2] for s in closure(step)} for step in kinds["prepare"])
    for step in (*kinds["pretrain"], *kinds["posttrain"]):
        assert step.config.frozen == ("vision",)
        encoder = step.config.encoder
        assert (encoder.vision.norm, encoder.decoder.rope_base, encoder.vocabulary) == ("layer", 1e6, 61)
        assert (encoder.height, encoder.patch) == (16, 8)
    assert {step.config.tokens for step in kinds["posttrain"]} <= {499, 999}
    assert untrained.steps["posttrain"].needs["begin"].id == adopted.id


def test_other_weights_in_the_same_folder_are_another_step(data: Dataset, language: Path, tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / "siglip", tmp_path / "siglip")
    (same,) = {
        s.id for s in closure(cells("smoke", data, vision=tmp_path / "siglip")[1].steps["embed"]) if "adopt" in s.name
    }
    weights = (tmp_path / "siglip" / "model.safetensors").read_bytes()
    (tmp_path / "siglip" / "model.safetensors").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    (other,) = {
        s.id for s in closure(cells("smoke", data, vision=tmp_path / "siglip")[1].steps["embed"]) if "adopt" in s.name
    }
    assert same != other


def test_a_folder_that_is_not_what_it_should_be_is_refused_before_anything_runs(data: Dataset, language: Path) -> None:
    with pytest.raises(DataError, match=r"config\.json: model_type is 'qwen3'; supported: 'siglip_vision_model'"):
        cells("smoke", data, vision=language)
    with pytest.raises(DataError, match="no such folder"):
        cells("smoke", data, language=Path("nowhere"))


def test_the_reading_names_the_step_to_export() -> None:
    rows = [
        {"system": name, "embed_step": f"embed-{name}", "image_recall@10": value, "image_queries": 40,
         "image_recall@10_d8": value / 2, "image_recall@10_d64": value, "posttrain_tokens_per_second": 9.0,
         "posttrain_share_of_matmul_peak": 0.1, "posttrain_peak": "measured", "data_wait_share": 0.0, "peak_memory": 1e9}
        for name, value in (("trained", 0.4), ("untrained", 0.1))
    ]  # fmt: skip
    told = " ".join(read(pl.DataFrame(rows)).answer)
    assert "image search: recall@10 0.400, untrained 0.100 (40 test queries)" in told
    assert "8 dimensions 0.200, 64 dimensions 0.400" in told
    assert "steps/embed-trained" in told


@pytest.mark.parametrize(("titles", "filtered"), [
    (["Lotto cathy shirt", "Fifa cap", "Puma shoe"], False),  # one entity a title at most: nothing would be left
    (["Red lotto shirt", "Blue cap", "Puma shoe, red"], True),
])  # fmt: skip
def test_titles_are_filtered_by_entities_where_they_name_some(titles: list[str], filtered: bool) -> None:
    items = pl.DataFrame({
        "title": titles, "category": [["shirt"], ["cap"], ["shoe"]], "attributes": [["colour:red"], ["colour:blue"], None],
    })  # fmt: skip
    pairs = pl.DataFrame({"action": ["click"], "split": ["train"]})
    shop: Any = SimpleNamespace(
        has=lambda file: False, read=lambda file, columns: (items if file == "items" else pairs).select(columns)
    )
    names = [transformation.name for transformation in second_stage(shop, recipe=None)]  # type: ignore[arg-type]
    assert ("entities" in names) == filtered
    assert names[-1] == "hard_negatives"


def test_without_the_trained_encoder_there_is_no_answer() -> None:
    rows = pl.DataFrame({"system": ["untrained"], "status": ["done"], "image_recall@10": [0.1]})
    with pytest.raises(QuestionError, match="the trained encoder has not been measured"):
        read(rows)
