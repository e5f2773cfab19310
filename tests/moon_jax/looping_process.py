"""One of some jax processes that train together (`test_loop.py` starts them): PORT INDEX COUNT FOLDER [STEP INDEX].

With the last two, the process of that index is asked to stop at that step. Prints the loss of each line and the state.
"""

import json
import sys
from pathlib import Path
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from moon_jax.training import StoppedError, train

STEPS = 23


class Stop(BaseException):
    """Asked to stop."""


def main(port: str, index: str, count: str, folder: str, stop_step: str = "0", stop_index: str = "0") -> None:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    if int(count) > 1:
        jax.distributed.initialize(f"localhost:{port}", int(count), int(index))
    mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))
    split, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("data",), ()))
    home, part = Path(folder), slice(8 // int(count) * int(index), 8 // int(count) * (int(index) + 1))
    rows = grain.MapDataset.range(64).seed(1).shuffle().repeat().batch(8).map(lambda x: np.float32(x[part]))
    batches = iter(rows.to_iter_dataset(grain.ReadOptions(1, 2)))

    @jax.jit
    def make() -> Any:
        return {"weights": jnp.arange(16.0), "step": jnp.int32(0)}

    state = jax.jit(make, out_shardings={"weights": split, "step": whole})()

    def update(state: Any, batch_B: jax.Array) -> Any:
        def loss_of(weights: jax.Array) -> jax.Array:
            return jnp.mean((jnp.sin(batch_B)[:, None] - weights[None]) ** 2)

        loss, gradient = jax.value_and_grad(loss_of)(state["weights"])
        return (
            {"weights": state["weights"] - gradient, "step": state["step"] + 1},
            {"loss": loss},
            {"seen": batch_B.sum()},
        )

    def report(done: int, total: int, **info: Any) -> None:
        if done == int(stop_step) and index == stop_index:
            raise Stop

    try:
        trained = train(
            jax.jit(update, donate_argnums=0),
            state,
            batches,
            steps=STEPS,
            folder=home,
            report=report,
            place=lambda batch: jax.make_array_from_process_local_data(split, batch),
            log_every=1,
            keep=(3, 9),
        )
    except (Stop, StoppedError) as error:
        print(f"stopped by {type(error).__name__}")
        return
    finally:
        batches.close()
    weights = jax.jit(lambda x: x, out_shardings=whole)(trained.state["weights"])
    print(json.dumps({"weights": np.asarray(weights).tolist(), "totals": trained.totals, "last": trained.last}))


if __name__ == "__main__":
    main(*sys.argv[1:])
