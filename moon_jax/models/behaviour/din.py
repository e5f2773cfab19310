"""DIN: the control at every length."""

import jax
import jax.numpy as jnp
from flax import nnx

from moon_jax.models.behaviour.seen import Module, Recency, Seen, Shape, sum_in_chunks
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
        self.recency, self.chunk = Recency(shape), shape.chunk

    def __call__(self, seen: Seen) -> Array:
        weigh = self.unit.towards(seen.target_BxW)

        def interest(history_BxCxW: Array, bias_BxC: Array, real_BxC: Array) -> Array:
            weights_BxC = (weigh(history_BxCxW) + bias_BxC) * real_BxC
            return jnp.einsum("bl,blw->bw", weights_BxC, history_BxCxW)

        bias_BxL = jnp.broadcast_to(self.recency(seen.band_BxL), seen.real_BxL.shape)
        return sum_in_chunks(interest, seen.history_BxLxW, bias_BxL, seen.real_BxL, chunk=self.chunk)


class ActivationUnit(nnx.Module):
    """w . relu(W [q; k; q - k; q * k] + c) + d, without ever writing the four widths out.

    W [q; k; q - k; q * k] = (W1 + W3) q + (W2 - W3) k + W4 (q * k), and W4 (q * k) = (W4 diag(q)) k: for one target it is a
    single product with k, of W x H numbers a row of the batch.
    """

    def __init__(self, width: int, hidden: int, rngs: nnx.Rngs):
        self.inner = linear(4 * width, hidden, rngs, bias=True)
        self.outer = linear(hidden, 1, rngs, bias=True)

    def towards(self, target_BxW: Array):  # type: ignore[no-untyped-def]
        """The unit for these targets: behaviours B x C x W -> scores B x C."""
        first_WxH, second_WxH, third_WxH, fourth_WxH = jnp.split(self.inner.kernel[...], 4)
        of_target_BxH = target_BxW @ (first_WxH + third_WxH) + _bias(self.inner)[None]
        kernel_BxWxH = (second_WxH - third_WxH)[None] + target_BxW[:, :, None] * fourth_WxH[None]

        def scores(history_BxCxW: Array) -> Array:
            hidden_BxCxH = jax.nn.relu(history_BxCxW @ kernel_BxWxH + of_target_BxH[:, None, :])
            return (hidden_BxCxH @ self.outer.kernel[...])[:, :, 0] + _bias(self.outer)[None]

        return scores


def _bias(layer: Linear) -> Array:
    bias = layer.bias
    assert bias is not None  # they are made with one
    return bias[...]
