"""Throughput, exact FLOPs and the share of the devices' peak that they are (MFU, Chowdhery et al. 2022, appendix B)."""

import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from moon_jax.flops import count_flops
from moon_jax.training import Trained

# FLOP/s of dense matrix products of a device, by the start of its `device_kind`: (bfloat16, float32 inputs). float32 is what
# XLA computes by default there: TF32 on GPUs, bfloat16 passes on TPUs. Makers' data sheets, without sparsity: NVIDIA's of
# A100, H100 (SXM, PCIe), H200 and of the HGX B200 board; Google Cloud's documentation of TPU v4, v5e, v5p, v6e.
PUBLISHED = {
    "NVIDIA B200": (2250e12, 1125e12),
    "NVIDIA H200": (989e12, 494.5e12),
    "NVIDIA H100 PCIe": (756e12, 378e12),
    "NVIDIA H100 80GB HBM3": (989e12, 494.5e12),
    "NVIDIA A100": (312e12, 156e12),
    "TPU v6 lite": (918e12, 918e12),
    "TPU v5 lite": (197e12, 197e12),
    "TPU v5": (459e12, 459e12),
    "TPU v4": (275e12, 275e12),
}


class Meter:
    """Wraps a jitted update: adds its FLOPs to the counts and keeps compilation out of the throughput."""

    def __init__(self, update: Callable[..., Any], dtype: str = "float32", counted: Callable[..., Any] | None = None):
        """`dtype` is that of the matrix products' inputs; `counted` the same update without what is computed twice to save
        memory, which is no work done (None: the update itself)."""
        self.update, self.dtype, self.counted = update, dtype, counted or update
        self.flops: dict[Any, int] = {}
        self.seen, self.compiled = 0.0, 0
        self.devices = 1

    def __call__(self, state: Any, batch: Any) -> tuple[Any, dict[str, Any], dict[str, Any]]:
        shape = tuple((name, array.shape) for name, array in batch.items())
        if shape not in self.flops:
            started, before = time.monotonic(), compilations()
            self.flops[shape] = count_flops(self.counted, state, batch)
            self.devices = max(len(leaf.sharding.device_set) for leaf in jax.tree.leaves(batch))
            out = self.update(state, batch)  # traces and compiles, unless another cell of this process already did
            self.seen += time.monotonic() - started
            self.compiled += compilations() - before
        else:
            out = self.update(state, batch)
        state, metrics, counts = out
        return state, metrics, counts | {"flops": float(self.flops[shape])}

    def compiling(self) -> float:
        """Seconds of tracing and compilation so far, in this process."""
        return self.seen

    def summary(self, stage: str, trained: Trained) -> dict[str, Any]:
        """FLOPs, tokens or examples a second of the steps (without tracing and compilation), share of peak.

        `{stage}_compilations` counts programs that were compiled for its steps, or read from the cache: 0 where another cell
        of this process had the same shapes. `{stage}_peak` says what the share is of: "published" (accelerators: the sum over
        all devices) or "measured".
        """
        flops, seconds = trained.totals.get("flops", 0.0), max(trained.seconds, 1e-9)
        rate = {
            f"{stage}_{name}_per_second": trained.totals[name] / seconds
            for name in ("tokens", "examples")
            if name in trained.totals
        }
        # Simulated CPU devices share the cores that one of them was measured on; processes may lie on several machines.
        devices = jax.process_count() if jax.default_backend() == "cpu" else self.devices
        published = published_peak(jax.devices()[0].device_kind, self.dtype)
        return rate | {
            f"{stage}_flops": flops,
            f"{stage}_compile_seconds": self.seen,
            f"{stage}_compilations": self.compiled,
            f"{stage}_share_of_matmul_peak": flops / seconds / (matmul_peak(self.dtype) * devices),
            f"{stage}_peak": "measured" if published is None else "published",
        }


def compilations() -> int:
    """Programs that this process has compiled so far, or read from the cache of compiled programs."""
    if not _compiled:
        _compiled.append(0)
        jax.monitoring.register_event_duration_secs_listener(_count)
    return _compiled[0]


_compiled: list[int] = []


def _count(event: str, duration_secs: float, **told: Any) -> None:
    _compiled[0] += event == "/jax/core/compile/backend_compile_duration"


def matmul_peak(dtype: str = "float32") -> float:
    """FLOP/s of matrix products of one device: its maker's figure where that is known, else as measured here."""
    return published_peak(jax.devices()[0].device_kind, dtype) or measured_peak(dtype)


def published_peak(device_kind: str, dtype: str) -> float | None:
    """FLOP/s of the longest name in `PUBLISHED` that `device_kind` starts with; None where there is none."""
    names = [name for name in PUBLISHED if device_kind.startswith(name)]
    if not names or dtype not in ("bfloat16", "float32"):
        return None
    return PUBLISHED[max(names, key=len)][dtype == "float32"]


@functools.cache
def measured_peak(dtype: str) -> float:
    """FLOP/s of a product of two square matrices on this process's default device, best of the tries of 0.2 s."""
    size = 1024 if jax.default_backend() == "cpu" else 8192  # large enough to keep all of the device busy
    a = jnp.ones((size, size), dtype)
    product = jax.jit(lambda a: a @ a)
    product(a).block_until_ready()
    best, until = 0.0, time.monotonic() + 0.2
    while time.monotonic() < until:
        started = time.monotonic()
        product(a).block_until_ready()
        best = max(best, 2 * size**3 / (time.monotonic() - started))
    return best
