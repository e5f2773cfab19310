"""Light augmentation of query photos, on the device: crop, flip, light and colour cast."""

import jax
import jax.numpy as jnp

Array = jax.Array


def augment(images_BxHxWx3: Array, key: Array, *, least_scale: float = 0.6) -> Array:
    """A random view of each photo.

    Each image keeps a random 60-100 % of its height and width (resampled to full size), is mirrored half of the time,
    and gets a random brightness (0.8 to 1.2) and, channel by channel, a colour cast (0.9 to 1.1).

    Args:
        images_BxHxWx3: pixels in 0..255, any dtype.
        key: PRNG key.
        least_scale: the smallest share of height and width that a crop keeps.

    Returns:
        float32 of the same shape, in 0..255.
    """
    batch, height, width, _ = images_BxHxWx3.shape
    crop, place, mirror, light, cast = jax.random.split(key, 5)
    images = images_BxHxWx3.astype(jnp.float32)
    kept_Bx2 = jax.random.uniform(crop, (batch, 2), minval=least_scale, maxval=1.0)
    start_Bx2 = jax.random.uniform(place, (batch, 2)) * (1 - kept_Bx2)
    rows_BxHxH = _resample(height, kept_Bx2[:, 0], start_Bx2[:, 0])
    columns_BxWxW = _resample(width, kept_Bx2[:, 1], start_Bx2[:, 1])
    mirrored_B = jax.random.bernoulli(mirror, 0.5, (batch,))
    columns_BxWxW = jnp.where(mirrored_B[:, None, None], columns_BxWxW[:, ::-1], columns_BxWxW)
    images = jnp.einsum("bih,bhwc,bjw->bijc", rows_BxHxH, images, columns_BxWxW)
    gain_Bx1 = jax.random.uniform(light, (batch, 1), minval=0.8, maxval=1.2)
    gain_Bx3 = gain_Bx1 * jax.random.uniform(cast, (batch, 3), minval=0.9, maxval=1.1)
    return jnp.clip(images * gain_Bx3[:, None, None, :], 0.0, 255.0)


def _resample(size: int, kept_B: Array, start_B: Array) -> Array:
    """Linear interpolation matrices B x size x size: output pixel i looks at start + kept * (i + .5) of the input."""
    centre_BxS = (start_B[:, None] + kept_B[:, None] * ((jnp.arange(size) + 0.5) / size)[None]) * size - 0.5
    distance = jnp.abs(jnp.clip(centre_BxS, 0, size - 1)[:, :, None] - jnp.arange(size)[None, None, :])
    return jnp.maximum(1.0 - distance, 0.0)
