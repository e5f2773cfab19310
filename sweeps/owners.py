"""Who holds a lease or an attempt: one process, told apart from every other that ever had its number."""

import os
import socket
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any


def this_process() -> dict[str, Any]:
    """Host, boot, process and its start: together they never name another process."""
    pid = os.getpid()
    return {**_host(), "pid": pid, "started": _start_of(pid)}


def surely_dead(owner: dict[str, Any]) -> bool:
    """True only where this host can tell: the owner ran here and is gone. What ran elsewhere may always be alive."""
    if any(owner.get(key) != value for key, value in _host().items()):
        return False  # another boot of this host, too: machines that share a name would be taken for one
    pid = owner.get("pid")
    if not isinstance(pid, int):
        return False
    if sys.platform == "linux":
        return _start_of(pid) != owner.get("started")
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


@lru_cache(maxsize=1)
def _host() -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "boot": _read("/proc/sys/kernel/random/boot_id"),
        "processes": _pid_namespace(),  # containers on one host number their processes apart
    }


def _pid_namespace() -> str | None:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return None


def _start_of(pid: int) -> str | None:
    """Start time of a living process in ticks since boot; None for none, or for one dead that waits to be reaped."""
    stat = _read(f"/proc/{pid}/stat")
    if stat is None:
        return None
    fields = stat.rpartition(")")[2].split()  # the name of the program may itself hold spaces and brackets
    return None if fields[0] in "ZX" else fields[19]


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None
