"""Throughput and the share of a peak: what is counted, what is left out, and whose peak it is."""

import time
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from moon_jax.meter import PUBLISHED, Meter, matmul_peak, published_peak
from moon_jax.training import Trained


@pytest.mark.parametrize(
    ("kind", "bf16"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("TPU v5 lite", 197e12),
        ("TPU v5p", 459e12),
        ("TPU v4", 275e12),
    ],
)
def test_a_known_device_has_its_makers_figure(kind: str, bf16: float) -> None:
    assert published_peak(kind, "bfloat16") == bf16
    assert published_peak(kind, "float32") in (bf16, bf16 / 2)


@pytest.mark.parametrize("kind", ["cpu", "NVIDIA H100 NVL", "NVIDIA GH200 480GB", "NVIDIA L40S", ""])
def test_another_has_none(kind: str) -> None:
    assert published_peak(kind, "bfloat16") is None


def test_a_type_without_a_figure_has_none() -> None:
    assert published_peak("NVIDIA H200", "float16") is None


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_unknown_device_is_measured_once(dtype: str) -> None:
    began = time.monotonic()
    peak = matmul_peak(dtype)
    assert 1e8 < peak < 1e14
    began = time.monotonic()
    assert matmul_peak(dtype) == peak
    assert time.monotonic() - began < 0.1


def product(state: Any, batch: dict[str, jax.Array]) -> Any:
    return state @ batch["x"], {"loss": jnp.float32(1)}, {"examples": jnp.int32(4)}


def metered(*, copies: int = 1) -> tuple[Meter, dict[str, float]]:
    """A meter after two shapes, each seen twice, and the sums of its counts."""
    counter, totals = Meter(jax.jit(product)), {}
    mesh = jax.make_mesh((copies,), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:copies])
    place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    for width in (8, 16, 8, 16):
        batch = {"x": jax.device_put(jnp.ones((8, width)), place)}
        _, _, counts = counter(jax.device_put(jnp.ones((4, 8)), place), batch)
        for name, value in counts.items():
            totals[name] = totals.get(name, 0.0) + float(value)
    return counter, totals


def test_the_operations_of_every_step_are_counted_and_compilation_is_left_out() -> None:
    counter, totals = metered()
    flops = 2 * (2 * 4 * 8 * 8 + 2 * 4 * 8 * 16)
    assert totals == {"flops": flops, "examples": 16}
    assert counter.seen > 0
    told = counter.summary("stage", Trained(None, totals, {}, 2.0, 0.0))
    assert told["stage_flops"] == flops
    assert told["stage_compile_seconds"] == counter.seen
    assert told["stage_examples_per_second"] == pytest.approx(8)
    assert told["stage_share_of_matmul_peak"] == pytest.approx(flops / 2 / matmul_peak())
    assert told["stage_peak"] == "measured"


def test_an_accelerators_share_is_of_all_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two devices that pass for H200s have twice its published peak."""
    counter, totals = metered(copies=2)
    monkeypatch.setitem(PUBLISHED, jax.devices()[0].device_kind, (4e12, 1e12))
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    told = counter.summary("stage", Trained(None, totals, {}, 2.0, 0.0))
    assert told["stage_peak"] == "published"
    assert told["stage_share_of_matmul_peak"] == pytest.approx(totals["flops"] / 2 / 2e12)


def test_a_shape_that_another_cell_had_is_compiled_no_more() -> None:
    update = jax.jit(lambda state, batch: product(state, batch))
    batch, told = {"x": jnp.ones((8, 24))}, []
    for _ in range(2):
        meter = Meter(update)
        meter(jnp.ones((4, 8)), batch)
        summary = meter.summary("cell", Trained(None, {"flops": 1.0}, {}, 1.0, 0.0))
        told.append(summary["cell_compilations"])
    assert told[0] >= 1
    assert told[1] == 0
