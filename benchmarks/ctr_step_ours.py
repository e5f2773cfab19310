"""Our side of ctr_din.py: trains DIN as the application stage does, and answers how long its steps took.

    python benchmarks/ctr_step_ours.py SHAPE fused|naive      (started by ctr_din.py, which writes numbers of steps to it)

"fused" is `models.behaviour.din` as it ships; "naive" the same mathematics with the four widths written out, all rows at once.
"""

from __future__ import annotations

import functools
import json
import resource
import sys
import time
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Shape:
    """Of both sides: L, batch, width D, rows of data, items, users, hidden units, devices that ours splits the batch over."""

    length: int
    batch: int = 1024
    width: int = 16
    rows: int = 200_000
    items: int = 10_000
    users: int = 2_000
    hidden: int = 64
    top: tuple[int, ...] = (512, 128, 64)
    threads: int = 2

    def line(self) -> str:
        return json.dumps(vars(self))

    @classmethod
    def of(cls, line: str) -> Shape:
        given = json.loads(line)
        return cls(**given | {"top": tuple(given["top"])})


@dataclass(frozen=True)
class Log:
    """One click log for both sides: users' items, newest last, users x L from 1; impressions (user, target, clicked)."""

    history_UxL: np.ndarray
    user: np.ndarray
    target: np.ndarray
    clicked: np.ndarray


def make_log(shape: Shape) -> Log:
    rng = np.random.default_rng(0)
    history = rng.integers(1, shape.items, (shape.users, shape.length), dtype=np.int32)
    user, target = rng.integers(0, shape.users, shape.rows), rng.integers(1, shape.items, shape.rows)
    return Log(history, user, target, (rng.random(shape.rows) < 0.3).astype(np.float32))


def behaviour_of(log: Log) -> Any:
    """The log as the application stage reads it: events once per user, impressions that point into them."""
    from moon_jax.data.histories import Behaviour

    length, rows = log.history_UxL.shape[1], len(log.user)
    return Behaviour(
        event_item=log.history_UxL.reshape(-1),
        event_action=np.zeros(log.history_UxL.size, np.int32),
        actions=("click",),
        impression_ids=np.arange(rows),
        user=log.user,
        impression_item=log.target.astype(np.int32),
        start=log.user * length,
        end=(log.user + 1) * length,
        clicked=log.clicked,
        split=np.full(rows, "train"),
        item_ids=np.arange(int(max(log.history_UxL.max(), log.target.max())) + 1),
    )


def naive() -> Any:
    """DIN with [q; k; q - k; q * k] written out for all L at once."""
    import jax
    import jax.numpy as jnp

    from moon_jax.models.behaviour import Seen, din

    class Naive(din.Din):
        def __call__(self, seen: Seen) -> jax.Array:
            history, real = seen.history_BxLxW, seen.real_BxL
            target = jnp.broadcast_to(seen.target_BxW[:, None, :], history.shape)
            four = jnp.concatenate([target, history, target - history, target * history], axis=-1)
            scores = self.unit.outer(jax.nn.relu(self.unit.inner(four)))[..., 0] + self.recency(seen.band_BxL)
            return jnp.einsum("bl,blw->bw", scores * real, history)

    return Naive


def main() -> int:
    shape, way = Shape.of(sys.argv[1]), sys.argv[2]
    import jax
    import jax.numpy as jnp

    from moon_jax.data.impressions import Impressions, shuffled
    from moon_jax.engine import Engine
    from moon_jax.models import behaviour, ctr
    from moon_jax.models.catalogue import place_catalogue
    from moon_jax.sharding import make_mesh, place_batch
    from moon_jax.stages import application as stage

    if way == "naive":
        behaviour.MODULES["din"] = naive()
    log = make_log(shape)
    mesh = make_mesh(Engine(), shape.batch)
    items, rows = place_catalogue(np.ones(shape.items, bool), None, "float32", mesh)
    sizes = behaviour.Shape(id_width=shape.width, hidden=shape.hidden)
    model = ctr.CtrConfig(rows, 1, ("din",), sizes, hidden=shape.top)
    config = stage.ApplicationConfig(shape.length, shape.rows, batch=shape.batch)
    state = stage.build_initial(model, config.weight_decay, mesh)(jnp.uint32(0))
    update = stage.build_update(stage.graph_of(model), config.weight_decay, mesh)
    hyper = {"steps": jnp.int32(10**6), "peak_lr": jnp.float32(1e-3)}
    batches = shuffled(Impressions(behaviour_of(log), shape.length), "train", shape.batch, config.seed)
    placed = functools.partial(place_batch, mesh)

    began = time.perf_counter()
    state, metrics, _ = update(state, placed(next(batches)), hyper, items)
    first = float(metrics["loss"])
    print(
        json.dumps({"first_loss": first, "compile_seconds": time.perf_counter() - began, "devices": mesh.size}),
        flush=True,
    )
    for line in sys.stdin:
        steps = int(line)
        from measuring import Clock

        with Clock() as clock:
            ahead = placed(next(batches))
            for _ in range(steps):
                state, metrics, _ = update(state, ahead, hyper, items)
                ahead = placed(next(batches))  # while the step runs
            jax.block_until_ready(state)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        told = {"seconds": clock.seconds / steps, "cpu": clock.cpu / clock.seconds, "others": clock.others}
        print(json.dumps(told | {"peak": peak, "loss": float(metrics["loss"])}), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
