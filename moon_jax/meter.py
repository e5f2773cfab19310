"""Throughput, exact FLOPs and the share of the machine's own matmul peak."""

import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from moon_jax.flops import count_flops
from moon_jax.training import Trained


class Meter:
    """Wraps a jitted update: adds its FLOPs to the counts and keeps compilation out of the throughput."""

    def __init__(self, update: Callable[..., Any]):
        self.update = update
        self.flops: dict[Any, int] = {}
        self.seen = 0.0

    def __call__(self, state: Any, batch: Any) -> tuple[Any, dict[str, Any], dict[str, Any]]:
        shape = tuple((name, array.shape) for name, array in batch.items())
        if shape not in self.flops:
            started = time.monotonic()
            self.flops[shape] = count_flops(self.update, state, batch)
            out = self.update(state, batch)  # traces and compiles, unless another cell of this process already did
            self.seen += time.monotonic() - started
        else:
            out = self.update(state, batch)
        state, metrics, counts = out
        return state, metrics, counts | {"flops": float(self.flops[shape])}

    def summary(self, stage: str, trained: Trained) -> dict[str, Any]:
        """FLOPs, steady seconds (without tracing and compilation), tokens or examples a second, share of peak."""
        flops, seconds = trained.totals.get("flops", 0.0), max(trained.seconds - self.seen, 1e-9)
        rate = {
            f"{stage}_{name}_per_second": trained.totals[name] / seconds
            for name in ("tokens", "examples")
            if name in trained.totals
        }
        return rate | {
            f"{stage}_flops": flops,
            f"{stage}_compile_seconds": self.seen,
            f"{stage}_share_of_matmul_peak": flops / seconds / matmul_peak(),
        }


@functools.cache
def matmul_peak(size: int = 1024, seconds: float = 0.2) -> float:
    """FLOP/s of a float32 size x size matrix product on this process's default device, best of its tries."""
    a = jnp.ones((size, size), jnp.float32)
    product = jax.jit(lambda a: a @ a)
    product(a).block_until_ready()
    best, until = 0.0, time.monotonic() + seconds
    while time.monotonic() < until:
        started = time.monotonic()
        product(a).block_until_ready()
        best = max(best, 2 * size**3 / (time.monotonic() - started))
    return best
