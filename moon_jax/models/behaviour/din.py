"""DIN: the control at every length."""

import jax
import jax.numpy as jnp
from flax import nnx

from moon_jax.models.behaviour.seen import Module, Recency, Seen, Shape
from moon_jax.models.chunks import by_rows
from moon_jax.models.layers import Linear, linear

Array = jax.Array


class Din(Module):
    """Deep interest network (arXiv 1706.06978, eq. 3), its activation unit as FuxiCTR has it:

        u    = sum_b a(e_t, e_b) e_b                      (no softmax: how strong an interest is counts)
        a    = w . relu(W [e_t; e_b; e_t - e_b; e_t * e_b] + c) + recency(b)

    Recency is an addition of ours, as in all modules here, and 0 at first.
    """

    def __init__(self, shape: Shape, rngs: nnx.Rngs):
        self.features = shape.id_width
        self.unit = ActivationUnit(shape.id_width, shape.hidden, rngs)
        self.recency, self.places = Recency(shape), shape.places

    def __call__(self, seen: Seen) -> Array:
        def interest(
            unit: ActivationUnit, history_RxLxW: Array, target_RxW: Array, bias_RxL: Array, real_RxL: Array
        ) -> Array:
            weights_RxL = (unit(target_RxW, history_RxLxW) + bias_RxL) * real_RxL
            return jnp.einsum("rl,rlw->rw", weights_RxL, history_RxLxW)

        bias_BxL = jnp.broadcast_to(self.recency(seen.band_BxL), seen.real_BxL.shape)
        return by_rows(
            interest, self.unit, seen.history_BxLxW, seen.target_BxW, bias_BxL, seen.real_BxL, places=self.places
        )


class ActivationUnit(nnx.Module):
    """w . relu(W [q; k; q - k; q * k] + c) + d, without ever writing the four widths out.

    W [q; k; q - k; q * k] = (W1 + W3) q + (W2 - W3) k + W4 (q * k), and W4 (q * k) = (W4 diag(q)) k: for one target it is a
    single product with k, of W x H numbers a row of the batch.
    """

    def __init__(self, width: int, hidden: int, rngs: nnx.Rngs):
        self.inner = linear(4 * width, hidden, rngs, bias=True)
        self.outer = linear(hidden, 1, rngs, bias=True)

    def __call__(self, target_BxW: Array, history_BxLxW: Array) -> Array:
        """Scores, B x L."""
        first_WxH, second_WxH, third_WxH, fourth_WxH = jnp.split(self.inner.kernel[...], 4)
        of_target_BxH = target_BxW @ (first_WxH + third_WxH) + _bias(self.inner)[None]
        kernel_BxWxH = (second_WxH - third_WxH)[None] + target_BxW[:, :, None] * fourth_WxH[None]
        hidden_BxLxH = jax.nn.relu(history_BxLxW @ kernel_BxWxH + of_target_BxH[:, None, :])
        return (hidden_BxLxH @ self.outer.kernel[...])[:, :, 0] + _bias(self.outer)[None]


def _bias(layer: Linear) -> Array:
    bias = layer.bias
    assert bias is not None  # they are made with one
    return bias[...]
