"""An attempt: the folder in which one process works on one step, and the publication of what it made.

Only its owner writes in it. `result.json` is made there and published by an exclusive link: the first attempt wins.
"""

import contextlib
import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweeps.errors import SweepError
from sweeps.files import read_json, write_json
from sweeps.leases import COUNTER
from sweeps.outcomes import LOST
from sweeps.owners import surely_dead, this_process

ATTEMPTS, RESULT, OWNER, FAILURE, PROGRESS, CHECKPOINTS = (
    "attempts", "result.json", "owner.json", "failure.json", "progress.json", "checkpoints",
)  # fmt: skip
_RESERVED = frozenset({RESULT, OWNER, FAILURE, PROGRESS, COUNTER})
LINKED = ("metrics.jsonl", "log.txt", CHECKPOINTS)  # shown in the step's folder once an attempt has won


@dataclass(frozen=True)
class Attempt:
    """One attempt on a step. `adopted_seconds` were spent by former attempts on the checkpoints that it adopted."""

    step_folder: Path
    name: str
    source_digest: str
    adopted: str | None = None
    adopted_seconds: float = 0.0

    @property
    def folder(self) -> Path:
        """Where the step works; its artifacts lie directly in it."""
        return self.step_folder / ATTEMPTS / self.name

    def fail(self, status: str, message: str, seconds: float) -> None:
        """Record how the attempt ended without a result. Where there is no room for that, what it made is given up."""
        spent = self.adopted_seconds + seconds
        try:
            record_failure(self.folder, status, message, spent)
        except OSError:
            _strip(self.folder)
            record_failure(self.folder, status, message, spent)

    def publish(self, result: Mapping[str, Any], seconds: float) -> bool:
        """Publish the folder with this result. False, and the folder is gone, where another attempt was first."""
        _refuse_reserved(self.folder)
        adopted = {"attempt": self.adopted, "seconds": self.adopted_seconds} if self.adopted else None
        content = {
            "format": 1,
            **result,
            "seconds": seconds + self.adopted_seconds,
            "attempt": self.name,
            "adopted": adopted,
            "source_digest": self.source_digest,
            "files": published_files(self.folder),
            CHECKPOINTS: sorted(_files_under(self.folder / CHECKPOINTS)),
        }
        mine, public = self.folder / RESULT, self.step_folder / RESULT
        write_json(mine, content)
        _sync(mine)
        try:
            os.link(mine, public)
        except FileExistsError:
            # Not lost if it is our own: a network file system may report a link that it repeated as a failure.
            if not os.path.samefile(mine, public):
                shutil.rmtree(self.folder, ignore_errors=True)
                return False
        show(self.step_folder, self.name)
        keep = {self.name, *stale_attempts(self.step_folder)}
        for former in attempts_of(self.step_folder):
            if former not in keep and ended(self.step_folder, former):
                shutil.rmtree(self.step_folder / ATTEMPTS / former, ignore_errors=True)
        return True


def new_name() -> str:
    """A name that no other attempt has."""
    return uuid.uuid4().hex


def begin(step_folder: Path, name: str, run: str, source_digest: str) -> Attempt:
    """Make a new attempt's folder; it adopts the checkpoints of the latest former attempt that ran the same sources."""
    former = attempts_of(step_folder)
    number = 1 + max((_owner(step_folder, name).get("number", 0) for name in former), default=0)
    folder = step_folder / ATTEMPTS / name
    folder.mkdir(parents=True)
    write_json(
        folder / OWNER,
        {"number": number, "run": run, "source_digest": source_digest, "process": this_process(), "began": time.time()},
    )
    candidates = [old for old in former if _may_be_adopted(step_folder, old, source_digest)]
    adopted = _adopt(step_folder, folder, candidates)
    if adopted is None:
        return Attempt(step_folder, name, source_digest)
    for old in candidates[: candidates.index(adopted) + 1]:
        if ended(step_folder, old) and not (step_folder / ATTEMPTS / old / RESULT).exists():  # it may just have won
            _strip(step_folder / ATTEMPTS / old)
    return Attempt(step_folder, name, source_digest, adopted, spent(step_folder, adopted))


def attempts_of(step_folder: Path) -> list[str]:
    """Names of the step's attempts, the oldest first."""
    try:
        names = os.listdir(step_folder / ATTEMPTS)
    except FileNotFoundError:
        return []
    if len(names) < 2:
        return names
    return sorted(names, key=lambda name: (_owner(step_folder, name).get("number", 0), name))


def failures_of(step_folder: Path) -> list[dict[str, Any]]:
    """The attempts that ended without a result, oldest first: {"status", "message", "seconds", "run"}.

    One whose process is surely dead and that left no word has the status "lost".
    """
    failures = []
    for name in attempts_of(step_folder):
        run = _owner(step_folder, name).get("run")
        failure = read_json(step_folder / ATTEMPTS / name / FAILURE)
        if failure is not None:
            failures.append({**failure, "run": run})
        elif ended(step_folder, name) and not (step_folder / ATTEMPTS / name / RESULT).exists():
            message = "its process is gone: killed, or the machine went down"
            failures.append({"status": LOST, "message": message, "seconds": spent(step_folder, name), "run": run})
    return failures


def left_by(step_folder: Path, pid: int) -> str | None:
    """The attempt that a process of this host, now dead, left without a word; None where it left none here."""
    for name in attempts_of(step_folder):
        process = _owner(step_folder, name).get("process", {})
        silent = not (step_folder / ATTEMPTS / name / FAILURE).exists()
        if silent and process.get("pid") == pid and surely_dead(process):
            return name
    return None


def log_tail(step_folder: Path, attempt: str) -> str:
    """What an attempt said last, as "; its log ends: ..."; empty where it said nothing."""
    try:
        lines = (step_folder / ATTEMPTS / attempt / "log.txt").read_text(errors="replace").split("\n")
    except OSError:
        return ""
    said = [line.strip() for line in lines if line.strip()]
    return f"; its log ends: {said[-1][:200]}" if said else ""


def record_failure(folder: Path, status: str, message: str, seconds: float) -> None:
    """Write `failure.json` into an attempt's folder. `seconds` include what was adopted."""
    try:
        write_json(folder / FAILURE, {"status": status, "message": message, "seconds": seconds})
    except FileNotFoundError:
        return  # somebody deleted the step


def ended(step_folder: Path, attempt: str) -> bool:
    """Whether nobody works in the attempt's folder any more, as far as can be told from here."""
    if (step_folder / ATTEMPTS / attempt / FAILURE).exists():
        return True
    process = _owner(step_folder, attempt).get("process")
    return process is not None and surely_dead(process)


def spent(step_folder: Path, attempt: str) -> float:
    """Seconds that an attempt is known to have worked, with those it adopted."""
    folder = step_folder / ATTEMPTS / attempt
    known = read_json(folder / FAILURE) or read_json(folder / PROGRESS) or {}
    return float(known.get("seconds", 0.0))


def show(step_folder: Path, attempt: str) -> None:
    """Link the winning attempt's log, metrics and checkpoints into the step's folder."""
    for name in LINKED:
        if not (step_folder / ATTEMPTS / attempt / name).exists() or os.path.lexists(step_folder / name):
            continue
        with contextlib.suppress(OSError):  # a convenience only: another may be quicker, or links impossible
            os.symlink(Path(ATTEMPTS, attempt, name), step_folder / name)


def hide(step_folder: Path) -> None:
    """Take the links of `show` away."""
    for name in LINKED:
        (step_folder / name).unlink(missing_ok=True)


def stale_attempts(step_folder: Path) -> set[str]:
    """Attempts whose results were discarded: kept beside the new one, never adopted from."""
    results = [read_json(path) for path in step_folder.glob("result.stale-*.json")]
    return {result["attempt"] for result in results if result}


def published_files(folder: Path) -> dict[str, dict[str, Any]]:
    """SHA-256 and size in bytes of every file of an attempt but its checkpoints and the ledger's own."""
    listing = {}
    for name in sorted(_files_under(folder)):
        if name.split("/")[0] == CHECKPOINTS or name in _RESERVED:
            continue
        with (folder / name).open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            listing[name] = {"sha256": digest, "bytes": stream.tell()}
    return listing


def _refuse_reserved(folder: Path) -> None:
    if (folder / RESULT).exists() or (folder / FAILURE).exists():
        raise SweepError(
            f"the step wrote a file named {RESULT} or {FAILURE}, which are the ledger's own; name it otherwise"
        )


def _may_be_adopted(step_folder: Path, attempt: str, source_digest: str) -> bool:
    if attempt in stale_attempts(step_folder) or _owner(step_folder, attempt).get("source_digest") != source_digest:
        return False  # half of a result by other sources is no result of these
    checkpoints = step_folder / ATTEMPTS / attempt / CHECKPOINTS
    return checkpoints.is_dir() and any(checkpoints.iterdir())


def _adopt(step_folder: Path, folder: Path, candidates: list[str]) -> str | None:
    partial = folder / f".{CHECKPOINTS}"
    for name in reversed(candidates):
        try:
            shutil.copytree(step_folder / ATTEMPTS / name / CHECKPOINTS, partial, symlinks=True)
        except (shutil.Error, OSError):
            # Its owner still writes there, or the disk is full: an older one, or none, will do.
            shutil.rmtree(partial, ignore_errors=True)
            continue
        os.rename(partial, folder / CHECKPOINTS)
        return name
    return None


def _strip(folder: Path) -> None:
    """Free the space of an attempt that failed; what tells how it failed stays."""
    for entry in folder.iterdir():
        if entry.name in _RESERVED or entry.name == "log.txt":
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)


def _owner(step_folder: Path, attempt: str) -> dict[str, Any]:
    return read_json(step_folder / ATTEMPTS / attempt / OWNER) or {}


def _files_under(folder: Path) -> list[str]:
    found = []
    for parent, _, names in os.walk(folder):
        found += [Path(parent, name).relative_to(folder).as_posix() for name in names]
    return found


def _sync(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
