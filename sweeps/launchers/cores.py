"""The processor cores and NVIDIA devices that this process may use, and how workers share them."""

import os
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path


def usable_cores() -> list[int]:
    """Numbers of the cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def shares(workers: int) -> list[list[int]]:
    """The cores of each worker: neighbouring cores, each to one worker; one core for several where there are too
    few.
    """
    cores = usable_cores()
    if workers >= len(cores):
        return [[cores[index % len(cores)]] for index in range(workers)]
    bounds = [round(index * len(cores) / workers) for index in range(workers + 1)]
    return [cores[low:high] for low, high in pairwise(bounds)]


def nvidia_devices() -> list[str]:
    """Those that CUDA_VISIBLE_DEVICES names, where it is set; else all that the system has."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [device for device in named.split(",") if device]
    found = [path.name.removeprefix("nvidia") for path in Path("/dev").glob("nvidia[0-9]*")]
    return sorted(found, key=int)


def device_share(place: int, workers: int, devices: Sequence[str]) -> dict[str, str]:
    """Environment that gives the worker at this place its own devices, as many as the others; empty where one worker has all
    of them, or there are fewer than workers."""
    if workers == 1 or len(devices) < workers:
        return {}
    each = len(devices) // workers
    return {"CUDA_VISIBLE_DEVICES": ",".join(devices[place * each : (place + 1) * each])}


def thread_limits(cores: int) -> dict[str, str]:
    """Environment that keeps numerical libraries to so many threads."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS", "POLARS_MAX_THREADS")
    return dict.fromkeys(names, str(cores))


def pin(cores: list[int]) -> None:
    """Keep this process, and the threads it starts from here on, to these cores (where the system can)."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
