"""Open weights: hidden states are those of transformers (golden arrays), and what does not fit is named."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx
from posttraining import Interrupts
from posttraining import run as posttrained
from safetensors.numpy import load_file, save_file
from tiny import silent
from tokenizers import Tokenizer, models, pre_tokenizers

from moon_jax.data.contract import DataError, Dataset
from moon_jax.data.forms import parse_form
from moon_jax.models.encoder import EncoderConfig
from moon_jax.open_weights import read_qwen3, read_siglip, read_tokenizer
from moon_jax.stages.adopt import AdoptConfig, adopt, assemble
from moon_jax.stages.embed import EmbedConfig, embed
from moon_jax.stages.posttrain import PosttrainConfig
from moon_jax.stages.prepare import PrepareConfig, prepare
from moon_jax.weights import load_encoder

GOLDEN = Path(__file__).parent / "golden"
SIGLIP, QWEN3 = GOLDEN / "siglip", GOLDEN / "qwen3"
SMALL = AdoptConfig(EncoderConfig(size="32x1", height=16, width=16, embedding=16), seed=3)


def test_vision_states_are_those_of_transformers() -> None:
    golden = np.load(SIGLIP / "states.npz")
    encoder, params = assemble(SMALL, read_siglip(SIGLIP), None)
    graph = nnx.split(nnx.eval_shape(lambda: encoder.build(0)))[0]
    found = jax.jit(lambda p: nnx.merge(graph, p).vision_states(golden["images"]))(params)
    np.testing.assert_allclose(found, golden["expected"], atol=1e-4)


def test_language_states_are_those_of_transformers() -> None:
    golden = np.load(QWEN3 / "states.npz")
    encoder, params = assemble(SMALL, None, read_qwen3(QWEN3))
    assert (encoder.vocabulary, encoder.decoder_shape.logit_scale) == (61, 1.0)
    graph = nnx.split(nnx.eval_shape(lambda: encoder.build(0)))[0]
    found = jax.jit(lambda p: nnx.merge(graph, p).states(None, golden["text"], causal=True)[0])(params)
    real = golden["text"] > 0
    np.testing.assert_allclose(np.asarray(found)[real], golden["expected"][real], atol=1e-4)


def changed(folder: Path, to: Path, **fields: Any) -> Path:
    """A copy whose config says otherwise; None takes a field out."""
    shutil.copytree(folder, to)
    config = json.loads((to / "config.json").read_text()) | fields
    (to / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
    return to


@pytest.mark.parametrize(
    ("source", "read", "fields", "message"),
    [
        (SIGLIP, read_siglip, {"model_type": "clip"}, r"config\.json: model_type is 'clip'; supported: 'siglip_vision"),
        (SIGLIP, read_siglip, {"hidden_act": "relu"}, "hidden_act is 'relu'"),
        (SIGLIP, read_siglip, {"hidden_size": None}, "lacks the field 'hidden_size'"),
        (
            SIGLIP,
            read_siglip,
            {"hidden_size": 64},
            r"patch_embedding\.weight has shape \(32, 3, 8, 8\), config.json says",
        ),
        (SIGLIP, read_siglip, {"num_hidden_layers": 3}, r"tensor .*layers\.2\..* is missing"),
        (QWEN3, read_qwen3, {"model_type": "llama"}, "model_type is 'llama'"),
        (QWEN3, read_qwen3, {"rms_norm_eps": 1e-5}, "rms_norm_eps is 1e-05"),
        (QWEN3, read_qwen3, {"attention_bias": True}, "attention_bias is True"),
        (QWEN3, read_qwen3, {"rope_parameters": {"rope_type": "yarn"}}, "rotary positions of type 'yarn'"),
        (QWEN3, read_qwen3, {"vocab_size": 99}, r"embed_tokens\.weight has shape \(60, 32\)"),
    ],
)
def test_models_that_are_not_supported_are_named(
    source: Path, read: Callable[[Path], Any], fields: dict, message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message):
        read(changed(source, tmp_path / "changed", **fields)).read()


def test_truncated_missing_and_whole_number_tensors_are_named(tmp_path: Path) -> None:
    for name, damage in (("short", 5_000), ("none", 0)):
        shutil.copytree(SIGLIP, tmp_path / name)
        whole = (tmp_path / name / "model.safetensors").read_bytes()
        (tmp_path / name / "model.safetensors").write_bytes(whole[:damage])
        with pytest.raises(DataError, match=r"model\.safetensors: not readable as safetensors .*download it again"):
            read_siglip(tmp_path / name).read()
    shutil.copytree(QWEN3, tmp_path / "whole")
    tensors = load_file(QWEN3 / "model.safetensors")
    key = next(name for name in tensors if name.endswith("norm.weight") and "layers" not in name)
    save_file(tensors | {key: np.ones(32, np.int8)}, tmp_path / "whole" / "model.safetensors")
    with pytest.raises(DataError, match=f"tensor {key} is int8; .*quantised weights are not"):
        read_qwen3(tmp_path / "whole").read()
    with pytest.raises(DataError, match="no such folder"):
        read_qwen3(tmp_path / "nowhere")


def test_shards_and_half_precision_are_read(tmp_path: Path) -> None:
    """In two files with an index, in bfloat16: the same weights, rounded."""
    import ml_dtypes

    shutil.copytree(QWEN3, tmp_path / "sharded")
    (tmp_path / "sharded" / "model.safetensors").unlink()
    tensors = {name: array.astype(ml_dtypes.bfloat16) for name, array in load_file(QWEN3 / "model.safetensors").items()}
    names = sorted(tensors)
    halves = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, kept in halves.items():
        save_file({name: tensors[name] for name in kept}, tmp_path / "sharded" / file)
    weight_map = {name: file for file, kept in halves.items() for name in kept}
    (tmp_path / "sharded" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    for name, array in read_qwen3(QWEN3).read().items():
        rounded = read_qwen3(tmp_path / "sharded").read()[name]
        assert rounded.dtype == np.float32
        np.testing.assert_allclose(rounded, array, rtol=1e-2)
    (tmp_path / "sharded" / "b.safetensors").unlink()
    with pytest.raises(DataError, match=r"b\.safetensors: not readable as safetensors"):
        read_qwen3(tmp_path / "sharded").read()


def test_pixels_that_are_normalised_otherwise_are_refused(tmp_path: Path) -> None:
    shutil.copytree(SIGLIP, tmp_path / "model")
    path = tmp_path / "model" / "preprocessor_config.json"
    path.write_text(json.dumps({"image_mean": [0.5, 0.5, 0.5], "resample": 2, "size": {"height": 16, "width": 16}}))
    assert read_siglip(tmp_path / "model").facts["resample"] == "bilinear"
    for told, message in (
        ({"image_mean": [0.48, 0.46, 0.41]}, "image_mean is"),
        ({"size": {"height": 32, "width": 32}}, "config.json says 16 x 16"),
        ({"resample": 1}, "resample is 1"),
    ):
        path.write_text(json.dumps(told))
        with pytest.raises(DataError, match=message):
            read_siglip(tmp_path / "model")


def tokenizer_in(folder: Path, words: int) -> Tokenizer:
    """A word tokenizer of so many ids, saved in a folder."""
    vocabulary = {"<|endoftext|>": 0, **{f"w{n}": n for n in range(1, words)}}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<|endoftext|>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    return tokenizer


def test_ids_move_up_by_one_and_zero_is_padding(tmp_path: Path) -> None:
    theirs = tokenizer_in(tmp_path, 60)
    ours = Tokenizer.from_str(read_tokenizer(tmp_path, 61))
    for text in ("w1 w5", "w59", "unknown w2"):
        assert ours.encode(text).ids == [number + 1 for number in theirs.encode(text).ids]
    assert ours.token_to_id("[PAD]") == 0
    assert ours.decode(ours.encode("w3 w4").ids) == "w3 w4"
    with pytest.raises(
        DataError, match="has ids up to 59, but the model's table has 50 rows; they do not belong together"
    ):
        read_tokenizer(tmp_path, 51)
    (tmp_path / "tokenizer.json").write_text('{"model": {"type": "Unigram", "vocab": [["a", 0]]}}')
    with pytest.raises(DataError, match="of kind 'Unigram' is not supported"):
        read_tokenizer(tmp_path, 61)


@pytest.mark.proof
def test_adopted_towers_are_trained_on_with_vision_frozen(world: Dataset, tmp_path: Path) -> None:
    """The whole way: adopt, prepare with its tokenizer, post-train with a frozen vision tower, embed."""
    language = tmp_path / "language"
    shutil.copytree(QWEN3, language)
    tokenizer_in(language, 60)
    folders = {name: tmp_path / name for name in ("adopted", "prepared", "trained", "embedded")}
    for folder in folders.values():
        folder.mkdir()
    adopt(SMALL, files={"vision": SIGLIP, "language": language}, inputs={}, folder=folders["adopted"], report=silent)
    encoder, _, before, temperature = load_encoder(folders["adopted"])
    assert (encoder.height, encoder.patch, encoder.vocabulary, temperature) == (16, 8, 61, None)
    tables = {name: world.path(name) for name in ("items", "queries", "pairs")}
    config = PrepareConfig(16, 16, 8, 99, resample="bicubic")
    prepare(config, files=tables, inputs={"tokenizer": folders["adopted"]}, folder=folders["prepared"], report=silent)
    form = parse_form("image", "image->image+text")
    config = PosttrainConfig(encoder, (form,), tokens=700, batch=16, frozen=("vision",))
    result = posttrained(
        folders["prepared"], folders["trained"], Interrupts(), config=config, begin=folders["adopted"]
    ).result
    assert result["steps"] > 1
    after = load_encoder(folders["trained"])[2]
    moved = {
        jax.tree_util.keystr(path, simple=True, separator="."): not np.array_equal(one, other)
        for (path, one), other in zip(jax.tree_util.tree_leaves_with_path(before), jax.tree.leaves(after), strict=True)
    }
    assert not any(changed for name, changed in moved.items() if name.startswith(("vision", "patch_embed", "position")))
    assert all(changed for name, changed in moved.items() if name.startswith(("decoder", "projector", "head")))
    inputs = {"prepare": folders["prepared"], "posttrain": folders["trained"]}
    embed(EmbedConfig((form,), form.item), files={}, inputs=inputs, folder=folders["embedded"], report=silent)
    assert np.isfinite(np.load(folders["embedded"] / "items.npy")).all()


def test_nothing_to_adopt_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing to adopt"):
        adopt(SMALL, files={}, inputs={}, folder=tmp_path, report=silent)
    with pytest.raises(ValueError, match="become the generative backbone"):
        replace(SMALL, encoder=EncoderConfig(backbone="dual"))
