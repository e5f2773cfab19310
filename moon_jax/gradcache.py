"""GradCache (Gao et al. 2021, arXiv 2101.06983): a large batch through the encoder, chunk by chunk.

A contrastive loss needs the vectors of the whole batch, but not its activations: chunks are encoded one after another,
only their vectors are kept, and the backward pass encodes each chunk again. In JAX that is a scan over a checkpointed
encoder, and the loss stands outside.
"""

from collections.abc import Callable
from typing import Any

import jax

Array = jax.Array
Encode = Callable[..., Array]


def in_chunks(encode: Encode, chunk: int) -> Encode:
    """The same function of (params, *arrays), with the activations of `chunk` rows in memory instead of those of all.

    Value and gradient are those of `encode`, up to the order of sums; forward work is done twice. Chunk j takes rows
    j, j + n, j + 2n, ... of the batch (n chunks): where the batch axis is split over devices, each device keeps its own
    rows in every chunk and nothing moves, as long as the devices divide the chunk. Randomness belongs outside, so that
    a row does not depend on its chunk.

    Args:
        encode: (params, *arrays) -> B x D, row by row; arrays have a leading B or are None.
        chunk: rows at a time over all devices; 0, or B and more, is a direct call.

    Raises:
        ValueError: chunk does not divide the batch (when traced).
    """

    def chunked(params: Any, *arrays: Array | None) -> Array:
        batch = next(array.shape[0] for array in arrays if array is not None)
        if not chunk or chunk >= batch:
            return encode(params, *arrays)
        if batch % chunk:
            raise ValueError(f"chunk: {chunk} does not divide a batch of {batch} rows")

        # The scan is a barrier of its own: common subexpressions are not shared across it.
        step = jax.checkpoint(lambda params, piece: encode(params, *piece), prevent_cse=False)
        pieces = jax.tree.map(lambda x: x.reshape(chunk, batch // chunk, *x.shape[1:]).swapaxes(0, 1), arrays)
        _, vectors_NxCxD = jax.lax.scan(lambda _, piece: (None, step(params, piece)), None, pieces)
        return vectors_NxCxD.swapaxes(0, 1).reshape(batch, -1)

    return chunked
