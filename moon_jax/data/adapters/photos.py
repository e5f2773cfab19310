"""Photos from a folder or a zip: read by name, bounded in size, decoded once to be sure of them."""

import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from moon_jax.data.checking import image_faults
from moon_jax.data.contract import DataError

MAX_BYTES = 1 << 26  # one photo; a larger member of a zip is not unpacked
Reader = Callable[[int], bytes | None]


@contextmanager
def open_photos(source: Path, name: str) -> Iterator[Reader]:
    """A function from id to the bytes of `<id>.jpg`, None if absent: in the folder `source/name`, in `source/name.zip`, or,
    where `source` itself is a zip, in that.

    The zip is read as a stream: nothing is extracted, so no path inside it is ever followed. Raises DataError if
    neither is there or the zip is broken.
    """
    folder, archive = (source / name, source / f"{name}.zip") if not source.is_file() else (source / name, source)
    if folder.is_dir():

        def read(photo: int) -> bytes | None:
            path = folder / f"{photo}.jpg"
            if not path.is_file() or path.stat().st_size > MAX_BYTES:
                return None
            return path.read_bytes()

        yield read
        return
    if not archive.is_file():
        raise DataError(f"{source}: has neither a folder {name}/ nor {name}.zip; give the folder of the downloaded set")
    with _open_zip(archive) as opened:
        members = {info.filename.rsplit("/", 1)[-1]: info for info in opened.infolist() if not info.is_dir()}

        def read_member(photo: int) -> bytes | None:
            info = members.get(f"{photo}.jpg")
            if info is None or info.file_size > MAX_BYTES:
                return None
            try:
                return opened.read(info)
            except (zipfile.BadZipFile, OSError, EOFError):
                return b""  # there, but broken: decoding will say so

        yield read_member


def photo_ids(source: Path, name: str) -> set[int]:
    """The ids that have a photo, from the names alone."""
    folder, archive = source / name, source / f"{name}.zip"
    if folder.is_dir():
        names = [path.name for path in folder.iterdir()]
    else:
        with _open_zip(archive) as opened:
            names = [member.rsplit("/", 1)[-1] for member in opened.namelist()]
    return {
        int(stem) for stem in (file.removesuffix(".jpg") for file in names if file.endswith(".jpg")) if stem.isdecimal()
    }


def _open_zip(archive: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(archive)
    except (zipfile.BadZipFile, OSError) as error:
        raise DataError(f"{archive}: not a readable zip ({error}); download it again") from error


def read_photos(
    source: Path, name: str, ids: Sequence[int], progress: Callable[[int, int], None] | None = None
) -> tuple[dict[int, bytes], list[int], list[int]]:
    """Photos by id, the ids without a photo, and the ids whose photo is oversized or does not decode."""
    good: dict[int, bytes] = {}
    absent: list[int] = []
    broken: list[int] = []
    with open_photos(source, name) as read:
        for start in range(0, len(ids), 4096):
            part = ids[start : start + 4096]
            found = [(photo, encoded) for photo in part if (encoded := read(photo)) is not None]
            absent += sorted(set(part) - {photo for photo, _ in found})
            reasons = image_faults([encoded for _, encoded in found])
            for (photo, encoded), reason in zip(found, reasons, strict=True):
                if reason:
                    broken.append(photo)
                else:
                    good[photo] = encoded
            if progress is not None:
                progress(start + len(part), len(ids))
    return good, absent, broken


def read_text(source: Path, name: str) -> str:
    """The text of the file `name` in the folder `source`, or in the zip `source`; DataError where it is missing."""
    path = source / name
    try:
        if not source.is_file():
            return path.read_text(encoding="utf-8-sig")
        with _open_zip(source) as opened:
            inside = [info for info in opened.infolist() if info.filename.rsplit("/", 1)[-1] == name]
            if not inside:
                raise DataError(f"{source}: has no {name} in it; give the downloaded set, a folder or its zip")
            first = min(inside, key=lambda info: len(info.filename))
            return opened.read(first).decode("utf-8-sig")
    except FileNotFoundError as error:
        raise DataError(f"{path}: missing; give the downloaded set, a folder or its zip") from error
    except (UnicodeDecodeError, OSError) as error:
        raise DataError(f"{path}: cannot be read as UTF-8 text ({error})") from error
