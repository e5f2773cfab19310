"""Loading images: how to store encoded ones, and the whole loader beside bare decoding.

    python benchmarks/loading.py [FOLDER] [--images 20000] [--runs 7] [--work DIR] [--quick]

Without FOLDER on JPEGs that it makes (256 x 256, shown at 224 x 224) and removes; with one, on the photos of Fashion
Product Images in the public layout (images/ or images.zip), shown at 64 x 48.

Storage: batches of 256 rows of a global shuffle, bytes alone, cold (pages dropped from the system's cache) and warm: the
store of `moon_jax.data.images`, the same memory-mapped, ArrayRecord, and Parquet in small row groups. Processor time is
what counts in a loader, for decoding keeps every core busy. Loader: images a
second and core of `training_batches` with its shuffle, reads, decoding and prefetch, beside PIL decoding and resizing the same
bytes from memory in a bare loop on as many threads, in turns; and with grain's worker processes in place of threads.
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import polars as pl
from common import goal, machine, show

GOAL = 0.85
BATCH, READ = 64, 256
ROW_GROUP = 16
THREADS = len(os.sched_getaffinity(0))
Read = Callable[[np.ndarray], list[bytes]]


def generated(count: int) -> list[bytes]:
    """JPEGs of 256 x 256, about 20 KB each: 200 textures, each copy with a tail of its own so that no bytes repeat."""
    from PIL import Image

    rng = np.random.default_rng(0)
    kinds = []
    for _ in range(min(count, 200)):
        coarse = Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).resize((256, 256))
        noisy = np.asarray(coarse).astype(np.int16) + rng.integers(-24, 25, (256, 256, 1))
        buffer = io.BytesIO()
        Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=85)
        kinds.append(buffer.getvalue())
    return [kinds[k % len(kinds)] + rng.bytes(16) for k in range(count)]


def of_folder(folder: Path, count: int) -> list[bytes]:
    """The first photos of a folder in the public layout; ends the process with 2 and one line where there are none."""
    found: list[bytes] = []
    if (folder / "images").is_dir():
        found = [path.read_bytes() for path in sorted((folder / "images").glob("*.jpg"))[:count]]
    elif (folder / "images.zip").is_file():
        with zipfile.ZipFile(folder / "images.zip") as archive:
            found = [archive.read(name) for name in archive.namelist() if name.endswith(".jpg")][:count]
    if not found:
        print(f"loading.py: {folder}: no images/*.jpg and no images.zip; give the folder of the set", file=sys.stderr)
        raise SystemExit(2)
    return found


# Storage


def blob(encoded: Sequence[bytes], folder: Path) -> Path:
    from moon_jax.data.images import write_images

    write_images(folder / "blob", [encoded], height=1, width=1, table="items")
    return folder / "blob"


def read_blob(folder: Path) -> Read:
    """As the store reads."""
    places = np.load(folder / "places.npy", mmap_mode="r", allow_pickle=False)
    files = [os.open(path, os.O_RDONLY) for path in sorted(folder.glob("*.bin"))]

    def read(rows: np.ndarray) -> list[bytes]:
        return [os.pread(files[shard], size, start) for shard, start, size in places[rows].tolist()]

    return read


def read_mapped(folder: Path) -> Read:
    places = np.load(folder / "places.npy", mmap_mode="r", allow_pickle=False)
    files = [np.memmap(path, np.uint8, "r") for path in sorted(folder.glob("*.bin"))]

    def read(rows: np.ndarray) -> list[bytes]:
        return [files[shard][start : start + size].tobytes() for shard, start, size in places[rows].tolist()]

    return read


def in_threads(read: Read) -> Read:
    """As the store reads: each decoding thread what it decodes next."""
    from moon_jax.data.images import CHUNK, decoding_threads

    def read_all(rows: np.ndarray) -> list[bytes]:
        parts = decoding_threads().map(read, np.array_split(rows, len(rows) // CHUNK + 1))
        return [image for images in parts for image in images]

    return read_all


def array_record(encoded: Sequence[bytes], folder: Path) -> Path:
    from array_record.python.array_record_module import ArrayRecordWriter

    path = folder / "images.array_record"
    writer = ArrayRecordWriter(str(path), "group_size:1,uncompressed")
    for image in encoded:
        writer.write(image)
    writer.close()
    return path


def read_array_record(path: Path) -> Read:
    from array_record.python.array_record_module import ArrayRecordReader

    reader = ArrayRecordReader(str(path), "readahead_buffer_size:0", file_reader_buffer_size=1 << 15)
    return lambda rows: reader.read(rows.tolist())


def parquet(encoded: Sequence[bytes], folder: Path) -> Path:
    path = folder / "images.parquet"
    pl.DataFrame({"image": encoded}).write_parquet(path, compression="uncompressed", row_group_size=ROW_GROUP)
    return path


def read_parquet(path: Path) -> Read:
    frame = pl.scan_parquet(path)

    def read(rows: np.ndarray) -> list[bytes]:
        parts = np.array_split(rows, len(rows) // 64 + 1)  # more at once exhaust polars' threads
        frames = (part for some in parts for part in pl.collect_all([frame.slice(row, 1) for row in some.tolist()]))
        return [part["image"][0] for part in frames]

    return read


WAYS = {
    "bytes + places, pread (ours)": (blob, read_blob),
    "bytes + places, mapped": (blob, read_mapped),
    "ArrayRecord, group of 1": (array_record, read_array_record),
    f"Parquet, row groups of {ROW_GROUP}": (parquet, read_parquet),
}


def storage(encoded: Sequence[bytes], home: Path, seconds: float, runs: int) -> None:
    """Prints the table of reading bytes: medians over runs in turns."""
    rng = np.random.default_rng(1)
    rows, raw = [], sum(map(len, encoded))
    cold: dict[str, list[float]] = {way: [] for way in WAYS}
    warm: dict[str, list[float]] = {way: [] for way in WAYS}
    busy: dict[str, list[float]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory(dir=home) as scratch:
        written = {write: write(encoded, Path(scratch)) for write in (blob, array_record, parquet)}
        files = {write: sorted(p.iterdir()) if p.is_dir() else [p] for write, p in written.items()}
        for _ in range(runs):
            for way, (write, opened) in WAYS.items():
                order, read = rng.permutation(len(encoded)), opened(written[write])
                drop(files[write])
                cold[way].append(
                    reads_a_second(in_threads(read) if write is blob else read, order, encoded, seconds)[0]
                )
                for file in files[write]:
                    file.read_bytes()
                rate, microseconds = reads_a_second(read, order, encoded, seconds)
                warm[way].append(rate)
                busy[way].append(microseconds)
        for way, (write, _) in WAYS.items():
            extra = sum(file.stat().st_size for file in files[write]) / raw - 1
            rows.append((way, spread(cold[way]), spread(warm[way]), spread(busy[way]), f"{extra:.1%}"))
    size = raw / len(encoded) / 1024
    print(f"{len(encoded):,} images of {size:.1f} KiB, batches of {READ} rows of a global shuffle, bytes alone")
    show(("storage", "images/s cold", "warm", "processor us an image, warm", "bytes added"), rows)


def spread(rates: Sequence[float]) -> str:
    return f"{statistics.median(rates):,.0f} ({min(rates):,.0f} to {max(rates):,.0f})"


def drop(files: Sequence[Path]) -> None:
    """Writes files out and drops them from the system's cache."""
    for path in files:
        file = os.open(path, os.O_RDONLY)
        os.fsync(file)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(file)


def reads_a_second(read: Read, order: np.ndarray, encoded: Sequence[bytes], seconds: float) -> tuple[float, float]:
    """(images a second, microseconds of processor time an image): whole batches, until all are read or time is up."""
    began, busy, done = time.perf_counter(), time.process_time(), 0
    for start in range(0, len(order), READ):
        rows = order[start : start + READ]
        got = read(rows)
        if start == 0 and got != [encoded[row] for row in rows]:
            raise SystemExit("loading.py: other bytes came back than were written")
        done += len(rows)
        if time.perf_counter() - began > seconds:
            break
    return done / (time.perf_counter() - began), (time.process_time() - busy) / done * 1e6


# Loader


def prepared(encoded: Sequence[bytes], folder: Path, height: int, width: int) -> Path:
    """A catalogue of these images, as `prepare` leaves it encoded."""
    from moon_jax.stages.prepare import PrepareConfig, prepare

    count = len(encoded)
    tables = {
        "items": {"item_id": range(count), "title": ["photo"] * count, "image": encoded, "product_id": range(count)},
        "queries": {"query_id": range(2), "text": ["photo"] * 2},
        "pairs": {"query_id": [0, 1], "item_id": [0, 1], "action": ["click"] * 2, "split": ["train"] * 2},
    }
    files = {name: folder / f"{name}.parquet" for name in tables}
    for name, columns in tables.items():
        pl.DataFrame({key: list(values) for key, values in columns.items()}).write_parquet(files[name])
    (folder / "prepared").mkdir()
    config = PrepareConfig(height, width, 4, 64, images="encoded")
    prepare(config, files=files, inputs={}, folder=folder / "prepared", report=lambda *_, **__: None)
    return folder / "prepared"


def bare(encoded: Sequence[bytes], height: int, width: int, count: int, seed: int) -> tuple[float, float]:
    """Images that PIL decodes and resizes from memory on THREADS threads: a second, and a second of processor time."""
    from PIL import Image

    def decode(rows: np.ndarray) -> None:
        for row in rows:
            with Image.open(io.BytesIO(encoded[row])) as image:
                np.asarray(image.convert("RGB").resize((width, height), Image.Resampling.BILINEAR))

    order = np.random.default_rng(seed).integers(0, len(encoded), count)
    with ThreadPoolExecutor(THREADS) as pool:
        began, busy = time.perf_counter(), time.process_time()
        list(pool.map(decode, np.array_split(order, 16 * THREADS)))
        return count / (time.perf_counter() - began), count / (time.process_time() - busy)


def loaded(batches: Iterator[dict[str, np.ndarray]], count: int) -> tuple[float, float]:
    """Images out of a loader that is under way: a second, and a second of this process's processor time."""
    for _ in range(4):
        next(batches)
    began, busy = time.perf_counter(), time.process_time()
    for _ in range(count // BATCH):
        next(batches)
    rates = count / (time.perf_counter() - began), count / (time.process_time() - busy)
    batches.close()  # type: ignore[attr-defined]
    time.sleep(0.2)  # what was prefetched in vain must not run into the next measurement
    return rates


def batches_of(folder: Path, seed: int, loaders: int) -> Iterator[dict[str, np.ndarray]]:
    """The loader itself: decoding in threads, or in so many worker processes (`moon run --engine loaders=N`)."""
    from moon_jax.data.forms import Form
    from moon_jax.data.loading import Prepared, training_batches

    form = Form("own", ("text",), ("image",))
    return training_batches(Prepared(folder), (form,), BATCH, seed, process=(0, 1), loaders=loaders)


def loader(
    encoded: Sequence[bytes], home: Path, height: int, width: int, count: int, runs: int, processes: bool
) -> float:
    """Prints the table of rates; returns the median ratio of the loader to bare decoding in its better way: threads by the
    clock or by processor time, whichever is less (on a busy machine the clock tells little); processes by the clock."""
    with tempfile.TemporaryDirectory(dir=home) as scratch:
        began = time.perf_counter()
        folder = prepared(encoded, Path(scratch), height, width)
        took = time.perf_counter() - began
        kept = sum(path.stat().st_size for path in (folder / "item_images").iterdir())
        ways = {"bare decoding": None, "the loader, threads": 0}
        if processes:
            ways[f"the loader, {THREADS} worker processes"] = THREADS
        rates: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
        for run in range(runs):
            for way, loaders in ways.items():
                if loaders is None:
                    rates[way].append(bare(encoded, height, width, count, run))
                else:
                    rates[way].append(loaded(batches_of(folder, run, loaders), count))
    print(
        f"\nprepared in {took:,.1f} s, every image decoded once to be sure of it; {kept / 2**20:,.0f} MiB on the disk "
        f"({len(encoded) * height * width * 3 / 2**20:,.0f} MiB decoded to {height} x {width})"
    )
    floor, rows = rates["bare decoding"], []
    for way, measured in rates.items():
        ratios = [rate / least for (rate, _), (least, _) in zip(measured, floor, strict=True)]
        busy = [rate / least for (_, rate), (_, least) in zip(measured, floor, strict=True)]
        rate = f"{statistics.median(rate for rate, _ in measured) / THREADS:,.0f}"
        told = (
            f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})" for values in (ratios, busy)
        )
        by_clock, by_processor = told
        rows.append((way, rate, by_clock, by_processor if "processes" not in way else "-"))
    show(("loader", "images/s/core", "of bare, by the clock", "by processor time"), rows)
    reached = []
    for way, loaders in ways.items():
        if loaders is not None:
            pairs = list(zip(rates[way], floor, strict=True))
            clocks = (0,) if loaders else (0, 1)  # the processor time of other processes is not this one's
            reached.append(min(statistics.median(ours[k] / least[k] for ours, least in pairs) for k in clocks))
    return max(reached)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="Fashion Product Images in the public layout")
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--runs", type=int, default=7, help="of each way, in turns")
    parser.add_argument("--work", type=Path, default=None, help="where to write (default: the temporary folder)")
    parser.add_argument("--quick", action="store_true", help="500 images, once: shows that the script runs")
    given = parser.parse_args()
    count, runs = (500, 1) if given.quick else (given.images, given.runs)
    encoded = of_folder(given.folder, count) if given.folder else generated(count)
    height, width = (64, 48) if given.folder else (224, 224)
    measured = 256 if given.quick else 1024 * (8 if given.folder else 1)
    with tempfile.TemporaryDirectory(dir=given.work) as scratch:
        storage(encoded, Path(scratch), 0.5 if given.quick else 5.0, runs)
        ratio = loader(encoded, Path(scratch), height, width, measured, runs, processes=not given.quick)
    print(f"{runs} runs in turns on {machine()}")
    if given.quick:
        print("quick: too little to judge by")
        return 0
    return (
        0
        if goal(f"the loader in its better way reaches {GOAL:.0%} of bare decoding: {ratio:.0%}", ratio >= GOAL)
        else 1
    )


if __name__ == "__main__":
    raise SystemExit(main())
