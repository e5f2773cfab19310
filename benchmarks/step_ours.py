"""Our training step, with two towers: symmetric InfoNCE over the batch, learned temperature, AdamW. A process of its own.

It is what `train_step.py` asks in turns with the peer, by lines on its standard input: a number of steps in, one line of
JSON out. `gpu.py` uses its parts.

    python benchmarks/step_ours.py '{"width": 384, "depth": 6, ...}' DEVICES
"""

from __future__ import annotations

import functools
import json
import os
import sys
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moon_jax.models.encoder import EncoderConfig


@dataclass(frozen=True)
class Shape:
    """Two towers of equal width and depth, and a batch of them; what both sides are told."""

    width: int = 384
    depth: int = 6
    side: int = 64  # of square images, in pixels
    patch: int = 8
    text: int = 16
    vocabulary: int = 2048
    embedding: int = 256
    batch: int = 64
    threads: int = 2

    def __str__(self) -> str:
        patches = (self.side // self.patch) ** 2
        return (
            f"two towers {self.width} x {self.depth}, heads of {32 if self.width < 768 else 64}, MLP x 4, "
            f"{patches} patches of {self.patch}, "
            f"{self.text} text tokens, vocabulary {self.vocabulary}, embedding {self.embedding}, batch {self.batch}"
        )

    def line(self) -> str:
        return json.dumps(asdict(self))

    def config(self, backbone: str = "dual", dtype: str = "float32") -> EncoderConfig:
        from moon_jax.models.encoder import EncoderConfig

        return EncoderConfig(
            size=f"{self.width}x{self.depth}",
            height=self.side,
            width=self.side,
            patch=self.patch,
            vocabulary=self.vocabulary,
            embedding=self.embedding,
            dtype=dtype,
            backbone=backbone,
            text_length=self.text,
        )


def build(
    config: EncoderConfig,
    size: int,
    *,
    remat: str = "none",
    query: tuple[str, ...] = ("image",),
    item: tuple[str, ...] = ("text",),
) -> tuple[Any, Any, Any]:
    """(update, initialise, batch): the step of post-training with donated state, what makes that state, and a batch.

    It is the stage's own: views of the query's photos, masks by product, counting of candidates, schedule and all. The
    batch is resident and decoded (uint8 images, int32 text), split over all devices of this process.

    Args:
        size: pairs of a batch.
        query, item: what either side of a pair shows.
    """
    import jax
    import jax.numpy as jnp
    import numpy as np

    from moon_jax.engine import Engine
    from moon_jax.sharding import make_mesh, place_batch
    from moon_jax.stages.contrastive_step import Objective, build_initial, build_update

    engine = Engine(remat=remat)
    mesh = make_mesh(engine, size)
    objective = Objective(
        loss="info_nce", symmetric=True, augment_items=False, dims=(), ema=False, queue_from="online", schedule="cosine"
    )
    step = build_update(config, objective, engine, mesh)
    hyper = {
        "steps": jnp.int32(10_000),
        "warmup": jnp.float32(1),
        "peak_lr": jnp.float32(1e-3),
        "num_negatives": jnp.int32(size - 1),
        "ema": jnp.float32(0),
    }

    @functools.partial(jax.jit, donate_argnums=0)
    def update(state: Any, batch: Any) -> tuple[Any, Any]:
        state, metrics, _ = step(state, batch, hyper)
        return state, metrics["loss"]

    def initialise() -> Any:
        return build_initial(config, objective, mesh, size, 0)(jnp.uint32(0))

    rng = np.random.default_rng(0)
    batch = {"product_ids": np.arange(size, dtype=np.int32)}
    for name, shown in (("query", query), ("item", item)):
        if "image" in shown:
            pixels = (size, config.height, config.width, 3)
            batch[f"{name}_images"] = rng.integers(0, 256, pixels, dtype=np.uint8)
        if "text" in shown:
            tokens = (size, config.text_length)
            batch[f"{name}_text"] = rng.integers(1, config.vocabulary, tokens, dtype=np.int32)
    return update, initialise, place_batch(mesh, batch)


def main() -> int:
    shape, devices = Shape(**json.loads(sys.argv[1])), int(sys.argv[2])
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
    from experiments.running import worker_environment

    os.environ.update(worker_environment())  # compiled as workers compile
    import jax
    from measuring import Clock, JaxPeak

    from moon_jax.flops import count_flops

    update, initialise, batch = build(shape.config(), shape.batch)
    state, peak = initialise(), JaxPeak()
    began = time.perf_counter()
    compiled = update.lower(state, batch).compile()
    compiling = time.perf_counter() - began
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state["params"]))
    state, loss = compiled(state, batch)
    facts = {"parameters": parameters, "flops": count_flops(update, state, batch), "compile_seconds": compiling}
    print(json.dumps(facts | {"first_loss": float(loss)}), flush=True)
    for line in sys.stdin:
        before, seconds = peak(), []
        with Clock() as clock:
            for _ in range(int(line)):
                began = time.perf_counter()
                state, loss = compiled(state, batch)
                loss.block_until_ready()
                seconds.append(time.perf_counter() - began)
        measured = {"seconds": seconds, "cpu": clock.cpu / clock.seconds, "others": clock.others}
        print(json.dumps(measured | {"peak": max(before, peak()), "loss": float(loss)}), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
