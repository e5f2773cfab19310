"""Small files that other processes may read at any moment: they appear whole or not at all."""

import hashlib
import json
import math
import os
import uuid
from pathlib import Path
from typing import Any


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file by rename, so that a reader sees the old content or the new.

    Non-finite floats keep their names.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}")
    try:
        with temporary.open("w", encoding="utf-8") as stream:
            json.dump(_tagged(content), stream, indent=1, allow_nan=False)
            stream.write("\n")
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def read_json(path: Path) -> Any | None:
    """The content of a JSON file; None where it is missing or not JSON (cut short by a full disk, say)."""
    try:
        return _untagged(json.loads(path.read_bytes()))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None


def _tagged(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return {"$nonfinite": str(value)}
    if isinstance(value, dict):
        return {key: _tagged(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_tagged(part) for part in value]
    return value


def _untagged(value: Any) -> Any:
    if isinstance(value, dict):
        if value.keys() == {"$nonfinite"}:
            return float(value["$nonfinite"])
        return {key: _untagged(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_untagged(part) for part in value]
    return value


def stamp_of(path: str | os.PathLike[str]) -> str:
    """Size and time of change of a file, or of all files in a folder: differs once somebody has written there."""
    root = Path(path)
    found = sorted(root.rglob("*")) if root.is_dir() else [root]
    parts = []
    for file in found:
        try:
            status = file.stat()
        except OSError:
            continue
        if file.is_file():
            parts.append(f"{file.relative_to(root)} {status.st_size} {status.st_mtime_ns}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
