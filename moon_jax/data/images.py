"""Encoded images in random-access files, decoded as they are read: for catalogues too large to keep decoded.

A store is a folder. `images-00000.bin`, ... hold the images' bytes end to end, `places.npy` says where each one lies, and
`store.json`, written last, to which size they are decoded.

Plain bytes were chosen by `benchmarks/loading.py` (20,000 JPEGs of 28 KiB, batches of a global shuffle, 2 cores, shared
machine): an image costs 10 us of processor time, with ArrayRecord 28, in Parquet row groups of 16 268; and processor time is
what counts, for decoding keeps every core busy. Cold they read 13,000 images/s (ArrayRecord 18,000, Parquet 3,300), some
thirty times what two cores decode. A memory map reads faster still, cold 20,000, but its page faults hold the
interpreter's lock, and with it all decoding, for as long as the disk takes.
"""

import functools
import io
import json
import os
import weakref
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from moon_jax.data.checking import FORMATS, MAX_PIXELS
from moon_jax.data.contract import DataError
from moon_jax.data.tables import one_line

Array = np.ndarray
SHARD_BYTES = 1 << 32  # of a file; few enough files for one process to hold them all open
CHUNK = 4  # images that a thread takes at a time: fewer cost more handing over, more leave a core idle at the end


class EncodedImages:
    """N images as if they were one uint8 array N x height x width x 3; rows are decoded when they are asked for.

    Indexed by a row, a slice, rows or a mask, as an array is. What comes back is bit for bit what `decode_image` makes of
    the bytes: the same as an array that was decoded beforehand. Decoding runs in threads on all cores.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, folder: Path):
        facts = json.loads((folder / "store.json").read_text())
        self.places_Nx3: Array = np.load(folder / "places.npy", mmap_mode="r", allow_pickle=False)
        self.shape = (len(self.places_Nx3), facts["height"], facts["width"], 3)
        self._table, self._resample = facts["table"], facts.get("resample", "bilinear")
        self._shards = [os.open(_shard(folder, number), os.O_RDONLY) for number in range(facts["shards"])]
        weakref.finalize(self, _close, self._shards)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> Array:
        """uint8 B x height x width x 3, or one image for one row; DataError where a file was damaged since."""
        found = np.asarray(self.places_Nx3[rows])
        if found.ndim == 1:
            return self._decode(*found.tolist())
        out, places = np.empty((len(found), *self.shape[1:]), np.uint8), found.tolist()

        def fill(start: int) -> None:
            for place in range(start, min(start + CHUNK, len(out))):
                out[place] = self._decode(*places[place])

        for _ in decoding_threads().map(fill, range(0, len(out), CHUNK)):
            pass
        return out

    def _decode(self, shard: int, start: int, size: int) -> Array:
        height, width = self.shape[1:3]
        if not size:
            return decode_image(None, height, width)
        try:
            return decode_image(os.pread(self._shards[shard], size, start), height, width, self._resample)
        except DataError as error:
            row = int(np.flatnonzero((self.places_Nx3 == (shard, start, size)).all(axis=1))[0])
            raise DataError(f"{self._table}.parquet, image {row}: {error}; it was whole once: prepare anew") from None


def write_images(
    folder: Path,
    blocks: Iterable[Sequence[bytes | None]],
    *,
    height: int,
    width: int,
    table: str,
    resample: str = "bilinear",
) -> None:
    """Writes a store of images as they come, whole shards first and the index last.

    The bytes are taken as they are: who gives them has checked them. None stands for "no photo".
    """
    folder.mkdir()
    places: list[tuple[int, int, int]] = []
    shard, end = 0, 0
    for block in blocks:
        for encoded in (image or b"" for image in block):
            if end and end + len(encoded) > SHARD_BYTES:
                shard, end = shard + 1, 0
            with open(_shard(folder, shard), "ab") as file:
                file.write(encoded)
            places.append((shard, end, len(encoded)))
            end += len(encoded)
    np.save(folder / "places.npy", np.array(places, np.int64).reshape(-1, 3))
    facts = {
        "table": table,
        "height": height,
        "width": width,
        "resample": resample,
        "shards": shard + 1 if places else 0,
    }
    (folder / "store.json").write_text(json.dumps(facts))


def decode_image(encoded: bytes | None, height: int, width: int, resample: str = "bilinear") -> Array:
    """uint8 height x width x 3, resized by PIL ("bilinear" or "bicubic", over areas); mid-grey for None, "nothing to see".

    Raises DataError with the reason for bytes that are no JPEG, PNG or WebP of at most MAX_PIXELS.
    """
    from PIL import Image

    if encoded is None:
        return np.full((height, width, 3), 127, np.uint8)
    try:
        with Image.open(io.BytesIO(encoded), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:  # by its header, before anything is decoded
                raise DataError(f"of {image.width} x {image.height} pixels is oversized")
            resized = image.convert("RGB").resize((width, height), Image.Resampling[resample.upper()])
    except DataError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise DataError(f"is oversized: at most {MAX_PIXELS:,} pixels are read") from None
    except Exception as error:  # decoders raise many kinds: OSError, SyntaxError, struct.error, ...
        raise DataError(f"does not decode ({one_line(error)})") from None
    return np.asarray(resized)


@functools.cache
def decoding_threads() -> ThreadPoolExecutor:
    """One pool for all stores of a process, a thread a core: PIL releases the interpreter's lock while it decodes."""
    return ThreadPoolExecutor(len(os.sched_getaffinity(0)), thread_name_prefix="decode")


def _shard(folder: Path, number: int) -> Path:
    return folder / f"images-{number:05d}.bin"


def _close(files: list[int]) -> None:
    for file in files:
        os.close(file)
