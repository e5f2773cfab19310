"""One of two jax processes that load one dataset (`test_loading.py` starts both): PORT INDEX PREPARED.

Each takes its part of every global batch; put on the devices of both, the parts are the batch of a process alone.
"""

import sys
from pathlib import Path

import jax
import numpy as np

from moon_jax.data.forms import parse_form
from moon_jax.data.loading import Prepared, training_batches
from moon_jax.engine import Engine
from moon_jax.sharding import batch_sharding, make_mesh


def main(port: str, index: str, folder: str) -> None:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"localhost:{port}", 2, int(index))
    forms = (parse_form("image", "image->image+text"), parse_form("text", "text->image"))
    prepared, sharding = Prepared(Path(folder)), batch_sharding(make_mesh(Engine(), 16))
    shared = training_batches(prepared, forms, 16, seed=3)
    alone = training_batches(prepared, forms, 16, seed=3, process=(0, 1))
    for _ in range(4):
        batch, whole = jax.make_array_from_process_local_data(sharding, next(shared)), next(alone)
        assert batch.keys() == whole.keys()
        for name, array in whole.items():
            assert batch[name].shape == array.shape
            for shard in batch[name].addressable_shards:
                np.testing.assert_array_equal(np.asarray(shard.data), array[shard.index])
        total = jax.jit(lambda images: images.astype("int32").sum())(batch["item_images"])
        assert int(total) == int(whole["item_images"].astype(np.int64).sum())  # over both processes
    shared.close()
    alone.close()
    print(f"process {jax.process_index()} of {jax.process_count()}")


if __name__ == "__main__":
    main(*sys.argv[1:])
