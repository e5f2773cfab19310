"""Encoded images read like decoded ones, bit by bit, whoever reads them; and what was damaged is named."""

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import hypothesis.strategies as st
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from PIL import Image
from tiny import silent

from moon_jax.data import images as store
from moon_jax.data.contract import DataError, Dataset
from moon_jax.data.forms import parse_form
from moon_jax.data.images import EncodedImages, decode_image, write_images
from moon_jax.data.loading import Prepared, training_batches
from moon_jax.models.encoder import EncoderConfig
from moon_jax.stages.embed import EmbedConfig, embed
from moon_jax.stages.floors import FloorsConfig, floors
from moon_jax.stages.posttrain import PosttrainConfig, posttrain
from moon_jax.stages.prepare import PrepareConfig, prepare
from sweeps import canonical
from sweeps.identity import decode

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "loading.py"
FORMS = (parse_form("image", "image->image+text"), parse_form("text", "text->image", weight=0.5))
ENCODED = PrepareConfig(16, 16, 8, 200, images="encoded")


def photo(seed: int, width: int = 20, height: int = 15, format: str = "PNG") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format)
    return buffer.getvalue()


PHOTOS = [photo(k, 9 + k, 7 + 2 * k, ("PNG", "JPEG", "WEBP")[k % 3]) for k in range(11)] + [None]
DECODED = np.stack([decode_image(encoded, 12, 10) for encoded in PHOTOS])


@pytest.fixture(scope="module")
def encoded_folder(world: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The world of `prepared_folder`, its images left encoded."""
    folder = tmp_path_factory.mktemp("encoded")
    files = {name: world.path(name) for name in ("items", "queries", "pairs")}
    prepare(ENCODED, files=files, inputs={}, folder=folder, report=silent)
    return folder


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> EncodedImages:
    """Twelve images, one of them missing, in shards of two or three."""
    folder = tmp_path_factory.mktemp("store") / "images"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "SHARD_BYTES", 1_500)
        write_images(folder, [PHOTOS[:5], [], PHOTOS[5:]], height=12, width=10, table="items")
    assert len(list(folder.glob("*.bin"))) > 3
    return EncodedImages(folder)


INDICES = (
    st.integers(-12, 11)
    | st.builds(
        slice, st.none() | st.integers(-15, 15), st.none() | st.integers(-15, 15), st.sampled_from([None, 2, -1])
    )
    | st.lists(st.integers(-12, 11), max_size=30).map(lambda rows: np.array(rows, np.int64))
    | st.lists(st.booleans(), min_size=12, max_size=12).map(np.array)
)


@settings(max_examples=150, deadline=None)
@given(index=INDICES)
def test_a_store_is_indexed_as_an_array_is(small: EncodedImages, index: object) -> None:
    assert (small.shape, small.dtype, len(small)) == (DECODED.shape, DECODED.dtype, len(DECODED))
    got = small[index]
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, DECODED[index])  # type: ignore[index]


def test_a_row_that_is_not_there_is_an_index_error(small: EncodedImages) -> None:
    for row in (12, -13, np.array([3, 12])):
        with pytest.raises(IndexError):
            small[row]


@pytest.mark.parametrize("encoded", [[], [None, None]], ids=["no images", "none of them there"])
def test_an_empty_store_is_one(tmp_path: Path, encoded: list[None]) -> None:
    write_images(tmp_path / "store", [encoded], height=4, width=6, table="items")
    images = EncodedImages(tmp_path / "store")
    assert images.shape == (len(encoded), 4, 6, 3)
    assert images[:].shape == images.shape
    assert (images[:] == 127).all()


@settings(max_examples=20, deadline=None)
@given(sizes=st.lists(st.integers(1, 60), max_size=30), bound=st.integers(60, 150))
def test_no_shard_is_larger_than_its_bound_and_no_byte_is_lost(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], bound: int
) -> None:
    folder = tmp_path_factory.mktemp("shards") / "store"
    content = [bytes([k]) * size for k, size in enumerate(sizes)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "SHARD_BYTES", bound)
        write_images(folder, [content], height=4, width=4, table="items")
    shards = [path.read_bytes() for path in sorted(folder.glob("*.bin"))]
    assert all(len(shard) <= bound for shard in shards)
    assert b"".join(shards) == b"".join(content)
    places = np.load(folder / "places.npy")
    assert [shards[s][start : start + size] for s, start, size in places.tolist()] == content


def test_a_damaged_store_is_named(small: EncodedImages, tmp_path: Path) -> None:
    """Shards cut after they were written: the image is named, in one line, and the others are still read."""
    write_images(tmp_path / "store", [PHOTOS], height=12, width=10, table="queries")
    shard = tmp_path / "store" / "images-00000.bin"
    shard.write_bytes(shard.read_bytes()[:-20])
    images = EncodedImages(tmp_path / "store")
    with pytest.raises(DataError, match=r"queries\.parquet, image 10: does not decode .* prepare anew") as caught:
        images[np.arange(12)]
    assert "\n" not in str(caught.value)
    np.testing.assert_array_equal(images[:10], DECODED[:10])


def test_encoded_or_decoded_all_arrays_are_the_same(prepared: Prepared, encoded_folder: Path) -> None:
    encoded = Prepared(encoded_folder)
    assert isinstance(encoded.item_images, EncodedImages)
    for name in ("item_images", "query_images"):
        assert not (encoded_folder / f"{name}.npy").exists()
        np.testing.assert_array_equal(getattr(encoded, name)[:], getattr(prepared, name))
    arrays = {path.name for path in prepared.folder.iterdir()} - {"item_images.npy", "query_images.npy"}
    assert len(arrays) > 8
    for name in arrays:
        assert (encoded_folder / name).read_bytes() == (prepared.folder / name).read_bytes(), name


def test_encoded_images_are_kept_as_they_are(world: Dataset, encoded_folder: Path) -> None:
    content = (encoded_folder / "item_images" / "images-00000.bin").read_bytes()
    assert content == b"".join(image or b"" for image in world.read("items")["image"])


@pytest.mark.parametrize("done", [0, 7])
def test_batches_are_the_same_and_a_position_can_be_saved(prepared: Prepared, encoded_folder: Path, done: int) -> None:
    """Two batches are under way when the position is saved: they are not counted."""
    batches = training_batches(Prepared(encoded_folder), FORMS, 8, seed=2)
    decoded = training_batches(prepared, FORMS, 8, seed=2)
    for _ in range(done):
        next(batches), next(decoded)
    resumed = training_batches(Prepared(encoded_folder), FORMS, 8, seed=2)
    resumed.set_state(json.loads(json.dumps(batches.get_state())))
    for _ in range(6):
        expected, got, again = next(decoded), next(batches), next(resumed)
        for name, array in expected.items():
            assert array.tobytes() == got[name].tobytes() == again[name].tobytes()
    for iterator in (batches, decoded, resumed):
        iterator.close()


@pytest.mark.proof
def test_every_stage_reads_either_store(prepared_folder: Path, encoded_folder: Path, tmp_path: Path) -> None:
    """Trained, embedded and measured from encoded images: bit by bit what decoded ones give."""
    config = PosttrainConfig(
        EncoderConfig(height=16, width=16, patch=8, vocabulary=200, embedding=16), FORMS[:1], tokens=600, batch=16
    )
    found = []
    for home in (prepared_folder, encoded_folder):
        folders = {name: tmp_path / home.name / name for name in ("posttrain", "embed", "floors")}
        for folder in folders.values():
            folder.mkdir(parents=True)
        inputs = {"prepare": home, "posttrain": folders["posttrain"]}
        posttrain(config, files={}, inputs=inputs, folder=folders["posttrain"], report=silent)
        searches = EmbedConfig(FORMS, ("image", "text"))
        measured = embed(searches, files={}, inputs=inputs, folder=folders["embed"], report=silent)
        measured |= floors(FloorsConfig(), files={}, inputs=inputs, folder=folders["floors"], report=silent)
        weights = (folders["posttrain"] / "encoder.safetensors").read_bytes()
        found.append((measured, weights, (folders["embed"] / "items.npy").read_bytes()))
    assert found[0] == found[1]


@pytest.mark.parametrize("content", [b"not an image", photo(0)[:-30]], ids=["text", "cut"])
def test_a_bad_image_is_refused_before_it_is_kept(world: Dataset, tmp_path: Path, content: bytes) -> None:
    files = {}
    for name in ("items", "queries", "pairs"):
        shutil.copy(world.path(name), files.setdefault(name, tmp_path / f"{name}.parquet"))
    items = pl.read_parquet(files["items"])
    images = items["image"].to_list()
    images[5] = content
    items.with_columns(pl.Series("image", images, pl.Binary)).write_parquet(files["items"])
    (tmp_path / "out").mkdir()
    with pytest.raises(DataError, match=r"items\.parquet, row 5: image does not decode"):
        prepare(ENCODED, files=files, inputs={}, folder=tmp_path / "out", report=silent)
    assert not list((tmp_path / "out").rglob("store.json"))  # nothing that could be opened


def test_a_disk_without_room_is_told_before_it_is_full(
    world: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {name: world.path(name) for name in ("items", "queries", "pairs")}
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(DataError, match=r'items\.parquet: its decoded images take .*images="encoded"'):
        prepare(PrepareConfig(16, 16, 8, 200), files=files, inputs={}, folder=tmp_path, report=silent)


def test_steps_that_were_prepared_before_keep_their_ids() -> None:
    """The canonical form of a decoded catalogue is what it was before images could stay encoded."""
    fields = '"fields":{"height":64,"text_length":16,"vocabulary":2048,"width":48}'
    assert (
        canonical(PrepareConfig(64, 48, 16, 2048)) == f'{{"$class":"moon_jax.stages.prepare:PrepareConfig",{fields}}}'
    )
    for config in (PrepareConfig(), ENCODED):
        assert decode(json.loads(canonical(config))) == config
    assert '"images":"encoded"' in canonical(ENCODED)


def test_the_benchmark_runs() -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), "--quick"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for way in ("pread (ours)", "ArrayRecord", "Parquet", "the loader, threads", "bare decoding"):
        assert way in done.stdout


def test_the_benchmark_says_where_there_are_no_photos(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), str(tmp_path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
