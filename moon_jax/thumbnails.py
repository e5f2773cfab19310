"""Trivial retrievers: thumbnails and colour histograms. An encoder that does not clear them has not earned its name."""

import numpy as np

Array = np.ndarray
TWIN_COSINE = 0.9999


def thumbnails(images_NxHxWx3: Array, height: int = 16, width: int = 12) -> Array:
    """Mean-centred, unit-norm thumbnails, float32 N x (height * width * 3), by area averaging."""
    rows = _areas(images_NxHxWx3.shape[1], height)
    columns = _areas(images_NxHxWx3.shape[2], width)
    blocks = [
        np.einsum("yh,nhwc,xw->nyxc", rows, images_NxHxWx3[i : i + 2048].astype(np.float32), columns, optimize=True)
        for i in range(0, len(images_NxHxWx3), 2048)
    ]
    flat = np.concatenate(blocks).reshape(len(images_NxHxWx3), -1)
    return _unit(flat - flat.mean(axis=1, keepdims=True))


def colour_histograms(images_NxHxWx3: Array, bins: int = 4) -> Array:
    """Unit-norm square roots of joint RGB histograms, float32 N x bins^3 (the Hellinger kernel)."""
    out = np.zeros((len(images_NxHxWx3), bins**3), np.float32)
    for start in range(0, len(images_NxHxWx3), 2048):
        levels = images_NxHxWx3[start : start + 2048].astype(np.int64) * bins // 256
        cells = (levels[..., 0] * bins + levels[..., 1]) * bins + levels[..., 2]
        cells = cells.reshape(len(cells), -1) + np.arange(len(cells))[:, None] * bins**3
        counts = np.bincount(cells.ravel(), minlength=len(cells) * bins**3)
        out[start : start + len(cells)] = np.sqrt(counts.reshape(-1, bins**3))
    return _unit(out)


def _areas(size: int, out: int) -> Array:
    """out x size averaging weights; each output pixel covers an equal stretch of the input."""
    edges = np.linspace(0, size, out + 1)
    low, high = edges[:-1, None], edges[1:, None]
    pixel = np.arange(size)[None, :]
    overlap = np.clip(np.minimum(high, pixel + 1) - np.maximum(low, pixel), 0, None)
    return (overlap / overlap.sum(axis=1, keepdims=True)).astype(np.float32)


def _unit(x: Array) -> Array:
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-6)
