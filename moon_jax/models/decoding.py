"""Next tokens of a text after a photo: logits of an answer in training, and greedy answers."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from moon_jax.models.encoder import Encoder
from moon_jax.sharding import gathered

Array = jax.Array


def answer_logits(
    encoder: Encoder, images_BxHxWx3: Array, text_BxT: Array, start_B: Array, length: int, *, remat: str = "none"
) -> Array:
    """float32 logits of the tokens at start..start + length of each text, B x length x V, each from all before it.

    Only these states are multiplied with the vocabulary: the photo's and the question's would be most of the work.
    """
    encoder = gathered(encoder)
    states_BxSxW, _ = encoder.states(images_BxHxWx3, text_BxT, causal=True, remat=remat)
    at_BxA = encoder.config.patches + start_B[:, None] - 1 + jnp.arange(length)[None]
    at_BxA = jnp.minimum(at_BxA, states_BxSxW.shape[1] - 1)
    return encoder.next_tokens(jnp.take_along_axis(states_BxSxW, at_BxA[:, :, None], axis=1))


@functools.cache
def build_greedy(graph: nnx.GraphDef, length: int, end: int) -> Callable[[nnx.State, Array, Array], Array]:
    """(parameters, images, questions B x T padded with 0) -> int32 B x length: the likeliest token, one after another.

    What comes after the token `end` is 0. The photo is seen once; the text is read anew for every token.
    """

    @jax.jit
    def greedy(params: nnx.State, images_BxHxWx3: Array, question_BxT: Array) -> Array:
        encoder = gathered(nnx.merge(graph, params))
        seen_BxPxW = encoder.see(images_BxHxWx3)
        asked_B = jnp.sum(question_BxT != 0, axis=1, dtype=jnp.int32)
        rows_B = jnp.arange(question_BxT.shape[0])
        text_BxS = jnp.pad(question_BxT, ((0, 0), (0, length)))

        def add(count: Array, carried: tuple[Array, Array]) -> tuple[Array, Array]:
            text_BxS, over_B = carried
            states_BxSxW, lengths_B = encoder.join(seen_BxPxW, text_BxS, causal=True)
            last_BxW = jnp.take_along_axis(states_BxSxW, lengths_B[:, None, None] - 1, axis=1)
            token_B = jnp.argmax(encoder.next_tokens(last_BxW)[:, 0].at[:, 0].set(-jnp.inf), axis=-1)
            token_B = jnp.where(over_B, 0, token_B)
            text_BxS = text_BxS.at[rows_B, asked_B + count].set(token_B)
            return text_BxS, over_B | (token_B == end)

        text_BxS, _ = jax.lax.fori_loop(0, length, add, (text_BxS, jnp.zeros(asked_B.shape, bool)))
        answer_BxA = jnp.take_along_axis(text_BxS, asked_B[:, None] + jnp.arange(length)[None], axis=1)
        return jnp.where(answer_BxA == end, 0, answer_BxA)

    return greedy
