"""Photos from a folder or a zip: read by name, bounded in size, decoded once to be sure of them.

Names come from data and are not trusted: one that leads out of the folder of photos, by `..`, by its root or through a
link, is refused. A zip is read as a stream: nothing is extracted, and no member is unpacked beyond its bound.
"""

import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from moon_jax.data.checking import image_faults
from moon_jax.data.contract import DataError

MAX_BYTES = 1 << 26  # one photo; a larger member of a zip is not unpacked
MAX_TEXT = 1 << 29  # one text file out of a zip
MAX_EXPANSION = 50  # photos are compressed already: a large member that swells more than this is a bomb
JUDGED_BYTES = 1 << 26  # of photos that are decoded together
Reader = Callable[[str], bytes | None]


class UnusableError(ValueError):
    """A photo that is there, or asked for, but must not or cannot be read; says why."""


@contextmanager
def open_photos(source: Path, name: str) -> Iterator[Reader]:
    """A function from a photo's name ("17.jpg", "shoes/17.png") to its bytes, None if absent: in the folder
    `source/name`, in `source/name.zip`, or, where `source` itself is a zip, in that.

    The function raises UnusableError for a name that leads elsewhere and for a file that is too large or broken. Raises
    DataError if neither folder nor zip is there or the zip is broken.
    """
    folder, archive = (source / name, source / f"{name}.zip") if not source.is_file() else (source / name, source)
    if folder.is_dir():
        yield lambda photo: read_inside(folder, photo)
        return
    if not archive.is_file():
        raise DataError(f"{source}: has neither a folder {name}/ nor {name}.zip; give the folder of the downloaded set")
    with _open_zip(archive) as opened:
        members = {info.filename: info for info in opened.infolist() if not info.is_dir()}
        by_name = {path.rsplit("/", 1)[-1]: info for path, info in members.items()}

        def read_member(photo: str) -> bytes | None:
            _refuse_outside(photo)
            info = members.get(photo) or members.get(f"{name}/{photo}") or by_name.get(photo)
            return None if info is None else _unpack(opened, info, MAX_BYTES)

        yield read_member


def read_inside(folder: Path, name: str) -> bytes | None:
    """The bytes of a file in `folder`, None if absent; UnusableError for a name that leads elsewhere."""
    _refuse_outside(name)
    path = folder / name
    try:
        if not path.is_file():
            return None
        if not path.resolve().is_relative_to(folder.resolve()):
            raise UnusableError("image path leads out of the folder of images by a link")
        if path.stat().st_size > MAX_BYTES:
            raise UnusableError(f"image file is larger than {MAX_BYTES >> 20} MiB")
        return path.read_bytes()
    except OSError as error:
        raise UnusableError(f"image file cannot be read ({error.strerror or type(error).__name__})") from error


def _refuse_outside(name: str) -> None:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or "\0" in name or ":" in name:
        raise UnusableError("image path leads out of the folder of images")


def _unpack(opened: zipfile.ZipFile, info: zipfile.ZipInfo, limit: int) -> bytes:
    if info.file_size > limit:  # the stream ends there, too, whatever it really holds
        raise UnusableError(f"zip member is larger than {limit >> 20} MiB")
    if limit == MAX_BYTES and info.file_size > max(1 << 20, MAX_EXPANSION * info.compress_size):
        raise UnusableError(f"zip member would swell more than {MAX_EXPANSION} times")
    try:
        return opened.read(info)
    except Exception as error:  # decompressors raise many kinds: BadZipFile, zlib.error, RuntimeError (a password), ...
        raise UnusableError(f"zip member cannot be unpacked ({type(error).__name__}: {str(error)[:80]})") from error


def photo_ids(source: Path, name: str) -> set[int]:
    """The ids that have a photo, from the names alone."""
    folder, archive = source / name, source / f"{name}.zip"
    if folder.is_dir():
        names = [path.name for path in folder.iterdir()]
    else:
        with _open_zip(archive) as opened:
            names = [member.rsplit("/", 1)[-1] for member in opened.namelist()]
    stems = (file.removesuffix(".jpg") for file in names if file.endswith(".jpg"))
    return {int(stem) for stem in stems if stem.isdecimal() and len(stem) < 19}


def _open_zip(archive: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(archive)
    except (
        Exception
    ) as error:  # a damaged directory raises BadZipFile, struct.error, ValueError, UnicodeDecodeError, ...
        raise DataError(f"{archive}: not a readable zip ({error}); download it again") from error


def read_photos(
    source: Path, name: str, ids: Sequence[int], progress: Callable[[int, int], None] | None = None
) -> tuple[dict[int, bytes], list[int], dict[int, str]]:
    """Photos `<id>.jpg` by id, the ids without one, and those whose photo cannot be used, with the reason."""
    good: dict[int, bytes] = {}
    absent: list[int] = []
    broken: dict[int, str] = {}
    with open_photos(source, name) as read:
        for start in range(0, len(ids), 4096):
            part = ids[start : start + 4096]
            found = read_all(read, [f"{photo}.jpg" for photo in part])
            for photo, (encoded, reason) in zip(part, found, strict=True):
                if reason:
                    broken[photo] = reason
                elif encoded is None:
                    absent.append(photo)
                else:
                    good[photo] = encoded
            if progress is not None:
                progress(start + len(part), len(ids))
    return good, sorted(absent), broken


def read_all(read: Reader, photos: Sequence[str | bytes | None]) -> list[tuple[bytes | None, str | None]]:
    """(bytes, why they cannot be used) of each photo, given by name or by its bytes; (None, None) where it is absent."""
    judged: list[tuple[bytes | None, str | None]] = []
    waiting: list[tuple[bytes | None, str | None]] = []
    size = 0
    for photo in photos:
        try:
            encoded, reason = (read(photo) if isinstance(photo, str) else photo), None
        except UnusableError as error:
            encoded, reason = None, str(error)
        waiting.append((encoded, reason))
        size += len(encoded or b"")
        if size > JUDGED_BYTES:  # what does not decode is let go before more is read
            judged, waiting, size = judged + _judged(waiting), [], 0
    return judged + _judged(waiting)


def _judged(found: list[tuple[bytes | None, str | None]]) -> list[tuple[bytes | None, str | None]]:
    reasons = image_faults([encoded for encoded, _ in found])
    return [(None if fault else encoded, told or fault) for (encoded, told), fault in zip(found, reasons, strict=True)]


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
            return _unpack(opened, first, MAX_TEXT).decode("utf-8-sig")
    except FileNotFoundError as error:
        raise DataError(f"{path}: missing; give the downloaded set, a folder or its zip") from error
    except UnusableError as error:
        raise DataError(f"{path}: {error}") from error
    except (UnicodeDecodeError, OSError) as error:
        raise DataError(f"{path}: cannot be read as UTF-8 text ({error})") from error
