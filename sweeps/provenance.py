"""Where a result comes from: versions, device, commit. Recorded beside it, and no part of its identity."""

import platform
import resource
import subprocess
import sys
from functools import cache, lru_cache
from pathlib import Path
from typing import Any


def provenance(function: str) -> dict[str, Any]:
    """What the step function ran on: {"python", "versions", "device", "commit", "peak_memory"}.

    Call it after the step, when all is loaded.
    """
    module = sys.modules.get(function.partition(":")[0])
    source = getattr(module, "__file__", None)
    return {
        "python": platform.python_version(),
        "versions": _loaded_versions(),
        "device": _device(),
        "commit": _commit(str(Path(source).parent)) if source else None,
        "peak_memory": _peak_memory(),
    }


def _peak_memory() -> int:
    """Bytes of the largest resident set that this process ever had: an upper bound for the step; pages of
    memory-mapped files count, though other processes share them.
    """
    status = Path("/proc/self/status")
    if status.exists():  # on Linux ru_maxrss begins with the peak of the process that started this one
        return int(status.read_text().split("VmHWM:")[1].split()[0]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _loaded_versions() -> dict[str, str]:
    """Version of every third-party package that is loaded and states one."""
    versions = {}
    for name, module in list(sys.modules.items()):
        stated = getattr(module, "__dict__", {}).get("__version__")
        if (
            "." not in name
            and not name.startswith("_")
            and isinstance(stated, str)
            and name not in sys.stdlib_module_names
        ):
            versions[name] = stated
    return dict(sorted(versions.items()))


def _device() -> str:
    """The kind of device, the same on every host that has it: the accelerator that a framework already holds, else
    the CPU.
    """
    framework = sys.modules.get("jax")  # asked only where the step itself has loaded it; never imported here
    if framework is not None:
        try:
            devices = framework.devices()
        except Exception:  # whatever a framework raises, its name for a device is not worth a result
            devices = []
        if devices and devices[0].platform != "cpu":
            return f"{len(devices)} x {devices[0].device_kind}"
    return _cpu()


@lru_cache(maxsize=1)
def _cpu() -> str:
    from sweeps.launchers.cores import usable_cores

    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{len(usable_cores())} x {names[0] if names else platform.machine() or 'cpu'}"


@cache
def _commit(folder: str) -> str | None:
    """The commit of the code, with "+changed" where the work tree differs from it; None outside git."""
    head = _git(folder, "rev-parse", "HEAD")
    if head is None:
        return None
    return head + ("+changed" if _git(folder, "status", "--porcelain", "--untracked-files=no") else "")


def _git(folder: str, *arguments: str) -> str | None:
    try:
        answer = subprocess.run(
            ["git", "-C", folder, *arguments], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None
