"""Light augmentation of photos, on the device: crop, flip, light and colour cast.

What is random is drawn for the whole batch (`draw_views`, small arrays); it is applied row by row (`show`), so that a
batch may be encoded in chunks.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array


class Views(NamedTuple):
    """A random view of each photo: kept share and start of rows and columns, whether mirrored, gain of each channel."""

    kept_Bx2: Array
    start_Bx2: Array
    mirrored_B: Array
    gain_Bx3: Array


def draw_views(batch: int, key: Array, *, least_scale: float = 0.6) -> Views:
    """Each photo keeps a random 60-100 % of its height and width (resampled to full size), is mirrored half of the time,
    and gets a random brightness (0.8 to 1.2) and, channel by channel, a colour cast (0.9 to 1.1).

    Args:
        batch: B.
        key: PRNG key.
        least_scale: the smallest share of height and width that a crop keeps.
    """
    crop, place, mirror, light, cast = jax.random.split(key, 5)
    kept_Bx2 = jax.random.uniform(crop, (batch, 2), minval=least_scale, maxval=1.0)
    start_Bx2 = jax.random.uniform(place, (batch, 2)) * (1 - kept_Bx2)
    mirrored_B = jax.random.bernoulli(mirror, 0.5, (batch,))
    gain_Bx1 = jax.random.uniform(light, (batch, 1), minval=0.8, maxval=1.2)
    gain_Bx3 = gain_Bx1 * jax.random.uniform(cast, (batch, 3), minval=0.9, maxval=1.1)
    return Views(kept_Bx2, start_Bx2, mirrored_B, gain_Bx3)


def show(images_BxHxWx3: Array, views: Views) -> Array:
    """The photos (pixels in 0..255, any dtype) as the views show them; float32 of the same shape, in 0..255."""
    _, height, width, _ = images_BxHxWx3.shape
    rows_BxHxH = _resample(height, views.kept_Bx2[:, 0], views.start_Bx2[:, 0])
    columns_BxWxW = _resample(width, views.kept_Bx2[:, 1], views.start_Bx2[:, 1])
    columns_BxWxW = jnp.where(views.mirrored_B[:, None, None], columns_BxWxW[:, ::-1], columns_BxWxW)
    images = jnp.einsum("bih,bhwc,bjw->bijc", rows_BxHxH, images_BxHxWx3.astype(jnp.float32), columns_BxWxW)
    return jnp.clip(images * views.gain_Bx3[:, None, None, :], 0.0, 255.0)


def _resample(size: int, kept_B: Array, start_B: Array) -> Array:
    """Linear interpolation matrices B x size x size: output pixel i looks at start + kept * (i + .5) of the input."""
    centre_BxS = (start_B[:, None] + kept_B[:, None] * ((jnp.arange(size) + 0.5) / size)[None]) * size - 0.5
    distance = jnp.abs(jnp.clip(centre_BxS, 0, size - 1)[:, :, None] - jnp.arange(size)[None, None, :])
    return jnp.maximum(1.0 - distance, 0.0)
