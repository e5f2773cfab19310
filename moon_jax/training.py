"""The one loop: every stage trains through `train` and supplies its update, its batches and its budget."""

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grain
import jax
import jax.numpy as jnp
import optax

from moon_jax.checkpointing import Checkpoints

Array = jax.Array
Report = Callable[..., None]


class DivergedError(Exception):
    """The loss stopped being finite; `step` is the first such step (from 0)."""

    def __init__(self, step: int):
        super().__init__(f"the loss is not finite at step {step}")
        self.step = step


@dataclass(frozen=True)
class Trained:
    """What a finished run leaves: its state, sums over all steps, and how the time went."""

    state: Any
    totals: dict[str, float]
    last: dict[str, float]
    seconds: float
    data_wait_share: float


def optimiser(clip: float = 1.0, weight_decay: float = 0.01) -> optax.GradientTransformation:
    """AdamW without its learning rate, which is traced (see `learning_rate`): a grid over it shares a compilation.

    Arrays of two and more axes decay; norm scales that are stacked by layer are among them.
    """
    return optax.chain(
        optax.clip_by_global_norm(clip),
        optax.scale_by_adam(b2=0.98),
        optax.add_decayed_weights(weight_decay, mask=lambda params: jax.tree.map(lambda p: p.ndim > 1, params)),
    )


def learning_rate(step: Array, steps: Array, peak: Array, warmup: float = 0.1) -> Array:
    """Linear warm-up over a share of the budget, then a cosine that reaches zero with the last step."""
    done = (step + 1) / jnp.maximum(steps, 1)
    rise = jnp.minimum(done / warmup, 1.0)
    fall = 0.5 * (1 + jnp.cos(jnp.pi * jnp.clip((done - warmup) / (1 - warmup), 0.0, 1.0)))
    return peak * rise * fall


def train(
    update: Callable[[Any, Any], tuple[Any, dict[str, Array], dict[str, Array]]],
    state: Any,
    batches: grain.DatasetIterator,
    *,
    steps: int,
    folder: Path,
    report: Report,
    place: Callable[[Any], Any] = jax.device_put,
    save_seconds: float = 30.0,
    log_every: int = 10,
) -> Trained:
    """Run `update` to its exact budget, resuming from the newest checkpoint in `folder/checkpoints` if there is one.

    Args:
        update: (state, batch) -> (state, metrics, counts), jitted; metrics are scalars with "loss" among them, counts
            are scalars that are summed over the run (tokens, candidates). It may donate its state.
        state: the initial state, on its devices.
        batches: deterministic and checkpointable; its position is saved with the state.
        steps: the budget, fixed in advance.
        folder: gets `metrics.jsonl` and `checkpoints/`.
        report: report(done, total, **info); when it raises (a stop was asked for), the run saves and lets it pass.
        place: puts a host batch on the devices.
        save_seconds: time between checkpoints.
        log_every: steps between lines of `metrics.jsonl`; the last step always gets one.

    Raises:
        DivergedError: the loss became NaN or infinite; the last good checkpoint stays.
    """
    start = time.monotonic()
    with Checkpoints(folder / "checkpoints") as checkpoints, open(folder / "metrics.jsonl", "w") as lines:
        first, state, history = checkpoints.restore(state, batches, {"rows": [], "totals": {}, "seconds": 0.0})
        rows, totals, before = history["rows"], history["totals"], history["seconds"]
        lines.writelines(json.dumps(row) + "\n" for row in rows)
        saved, waited, pending, last = start, 0.0, None, dict(rows[-1]) if rows else {}

        def settle() -> None:
            """Read the step dispatched last; until then the device works on while the host prepares the next."""
            nonlocal pending, last
            if pending is None:
                return
            step, metrics, counts = pending
            pending = None
            last = {"step": step} | {name: float(value) for name, value in metrics.items()}
            if not math.isfinite(last["loss"]):
                raise DivergedError(step)
            for name, value in counts.items():
                totals[name] = totals.get(name, 0.0) + float(value)
            if step % log_every == 0 or step == steps - 1:
                rows.append(last | totals)
                lines.write(json.dumps(rows[-1]) + "\n")
                lines.flush()

        def save(step: int) -> None:
            settle()
            spent = before + time.monotonic() - start
            checkpoints.save(step, state, batches, {"rows": rows, "totals": totals, "seconds": spent})

        for step in range(first, steps):
            asked = time.monotonic()
            batch = place(next(batches))
            waited += time.monotonic() - asked
            state, metrics, counts = update(state, batch)
            settle()
            pending = (step, metrics, counts)
            try:
                report(step + 1, steps, loss=round(last.get("loss", math.nan), 4))
            except BaseException:
                save(step + 1)
                raise
            if time.monotonic() - saved > save_seconds:
                save(step + 1)
                saved = time.monotonic()
        settle()
    state = jax.block_until_ready(state)
    seconds = time.monotonic() - start
    return Trained(state, totals, last, before + seconds, waited / max(seconds, 1e-9))
