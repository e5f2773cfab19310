"""Memory of the contrastive loss on eight simulated devices, by compiling it: nothing is run. Prints one line of JSON.

For each case bytes a device of the temporaries of value and gradients (`temp_size_in_bytes`: gathered vectors, gradients
in the making, tiles), of bfloat16 vectors of width 512.

    python benchmarks/contrastive_memory.py '[{"batch": 65536, "queue": 131072, "form": "tiled"}, ...]'
"""

from __future__ import annotations

import json
import os
import sys

DEVICES, WIDTH = 8, 512


def compiled_bytes(batch: int, queue: int, form: str) -> int:
    """Of temporaries on one device."""
    import jax
    import jax.numpy as jnp

    from moon_jax.losses import info_nce
    from moon_jax.sharding import batch_sharding, data_mesh, replicated

    mesh = data_mesh(DEVICES)
    split, whole = batch_sharding(mesh), replicated(mesh)

    def vectors(size: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((size, WIDTH), jnp.bfloat16, sharding=split)

    def loss(queries: jax.Array, keys: jax.Array, temperature: jax.Array, queued: jax.Array | None) -> jax.Array:
        return info_nce(queries, keys, queue_QxD=queued, temperature=temperature, mesh=mesh, form=form)

    queued = vectors(queue) if queue else None
    temperature = jax.ShapeDtypeStruct((), jnp.float32, sharding=whole)
    step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)), out_shardings=(whole, (split, split, whole)))
    lowered = step.lower(vectors(batch), vectors(batch), temperature, queued)
    return lowered.compile().memory_analysis().temp_size_in_bytes


def main() -> int:
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={DEVICES}"
    print(json.dumps([compiled_bytes(**case) for case in json.loads(sys.argv[1])]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
