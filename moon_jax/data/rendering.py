"""Pictures of planted products: integer arithmetic and PNGs without compression, so that a seed gives every byte.

A picture shows the category (shape), the colour, the pattern and the accent colour. All else is nuisance: background,
light, tint, position, scale, flip, shear, pattern phase, clutter and noise.
"""

import struct
import zlib
from dataclasses import dataclass

import numpy as np

SIZE = 32  # pixels a side
_GRID = 2 * SIZE  # drawn at twice the size, then averaged: the same number of units as a canonical shape has
COLOURS = {
    "red": (215, 40, 45),
    "yellow": (235, 205, 45),
    "green": (45, 150, 60),
    "cyan": (60, 200, 215),
    "blue": (45, 70, 200),
    "magenta": (210, 60, 175),
    "white": (238, 238, 235),
    "black": (32, 32, 36),
}
PATTERNS = ("solid", "horizontal", "vertical", "diagonal", "dots", "checks")
SHAPES = ("shirt", "trousers", "dress", "hat", "mug", "lamp", "chair", "vase")


@dataclass(frozen=True)
class Nuisance:
    """How far a photo strays: scales and gains in 1/256, shifts in half pixels, noise and gradients in grey levels."""

    scale: tuple[int, int]
    shift: int
    shear: int
    light: tuple[int, int]
    tint: int
    gradient: int
    noise: int
    clutter: int


CATALOGUE = Nuisance(scale=(190, 270), shift=8, shear=24, light=(200, 280), tint=14, gradient=40, noise=10, clutter=0)
USER_PHOTO = Nuisance(scale=(165, 320), shift=13, shear=56, light=(150, 320), tint=30, gradient=80, noise=26, clutter=2)


def render(
    category_N: np.ndarray,
    colour_N: np.ndarray,
    accent_N: np.ndarray,
    pattern_N: np.ndarray,
    nuisance: Nuisance,
    rng: np.random.Generator,
) -> np.ndarray:
    """Photos, uint8 [N, SIZE, SIZE, 3], of products given as indices into SHAPES, COLOURS, COLOURS, PATTERNS."""
    parts = [
        _render_part(
            category_N[i : i + 512], colour_N[i : i + 512], accent_N[i : i + 512], pattern_N[i : i + 512], nuisance, rng
        )
        for i in range(0, len(category_N), 512)
    ]
    return np.concatenate(parts) if parts else np.zeros((0, SIZE, SIZE, 3), np.uint8)


def _render_part(
    category_N: np.ndarray,
    colour_N: np.ndarray,
    accent_N: np.ndarray,
    pattern_N: np.ndarray,
    nuisance: Nuisance,
    rng: np.random.Generator,
) -> np.ndarray:
    count = len(category_N)

    def draw(low: int, high: int, *shape: int) -> np.ndarray:
        return rng.integers(low, high + 1, (count, *shape), dtype=np.int32)

    # Where each fine pixel of the photo lies on the product, in units of 1/64 of its height.
    inverse = (1 << 16) // draw(*nuisance.scale, 1, 1)
    axis = 2 * np.arange(_GRID, dtype=np.int32) + 1 - _GRID
    v = ((axis[None, :, None] - 2 * draw(-nuisance.shift, nuisance.shift, 1, 1)) * inverse) >> 9
    u = ((axis[None, None, :] - 2 * draw(-nuisance.shift, nuisance.shift, 1, 1)) * inverse) >> 9
    u = u + ((v * draw(-nuisance.shear, nuisance.shear, 1, 1)) >> 8)
    u = np.where(draw(0, 1, 1, 1) == 1, u, -1 - u)
    v = np.broadcast_to(v, u.shape)

    half = _GRID // 2
    inside = (np.abs(2 * u + 1) < _GRID) & (np.abs(2 * v + 1) < _GRID)
    shape = _SHAPE_MASKS[category_N[:, None, None], (v + half) % _GRID, (u + half) % _GRID] & inside
    second = _second_colour(u, v, pattern_N, draw(0, 11, 1, 1))

    palette = np.array(list(COLOURS.values()), np.int32)
    dye = np.where(second[..., None], palette[accent_N][:, None, None], palette[colour_N][:, None, None])
    shading = 256 + ((u * draw(-48, 48, 1, 1)) >> 5)  # one side of the product is nearer to the light
    product = (dye * shading[..., None]) >> 8

    x = axis[None, None, :]
    y = axis[None, :, None]
    slope = (
        x * draw(-nuisance.gradient, nuisance.gradient, 1, 1) + y * draw(-nuisance.gradient, nuisance.gradient, 1, 1)
    ) >> 7
    scene = draw(50, 215, 1, 1, 3) + slope[..., None]
    for _ in range(nuisance.clutter):
        left, top = draw(-_GRID, _GRID, 1, 1), draw(-_GRID, _GRID, 1, 1)
        patch = (np.abs(x - left) < draw(6, 26, 1, 1)) & (np.abs(y - top) < draw(6, 26, 1, 1))
        scene = np.where(patch[..., None], draw(30, 235, 1, 1, 3), scene)

    photo = np.where(shape[..., None], product, scene)
    light = (draw(*nuisance.light, 1) * draw(256 - nuisance.tint, 256 + nuisance.tint, 3)) >> 8
    photo = (photo * light[:, None, None, :]) >> 8
    photo = photo.reshape(count, SIZE, 2, SIZE, 2, 3).sum(axis=(2, 4)) >> 2
    noise = draw(-nuisance.noise, nuisance.noise, SIZE, SIZE, 3) + draw(-nuisance.noise, nuisance.noise, SIZE, SIZE, 3)
    return np.clip(photo + (noise >> 1), 0, 255).astype(np.uint8)


def _second_colour(u: np.ndarray, v: np.ndarray, pattern_N: np.ndarray, phase: np.ndarray) -> np.ndarray:
    """Where the accent colour shows: every pattern but a solid one, which wears it as a narrow band.

    It always covers less than the colour does: were they equal, nobody could tell colour and accent apart.
    """
    a, b = u + phase, v + phase
    dot_u, dot_v = a % 14 - 7, b % 14 - 7
    choices = (
        (v >= 6) & (v < 11),
        b % 12 < 4,
        a % 12 < 4,
        (a + v) % 15 < 5,
        dot_u * dot_u + dot_v * dot_v <= 16,
        (a % 14 < 3) | (b % 14 < 3),
    )
    return np.choose(pattern_N[:, None, None], choices)


def _shape_masks() -> np.ndarray:
    """Silhouettes, bool [SHAPES, 64, 64], on u to the right and v down, both from -32 to 31."""
    axis = np.arange(_GRID) - _GRID // 2
    v, u = np.meshgrid(axis, axis, indexing="ij")
    w = np.abs(2 * u + 1) // 2  # distance from the axis, the same on both sides

    def box(left: int, right: int, top: int, bottom: int) -> np.ndarray:
        return (u >= left) & (u <= right) & (v >= top) & (v <= bottom)

    def rows(top: int, bottom: int) -> np.ndarray:
        return (v >= top) & (v <= bottom)

    ring = (u - 14) ** 2 + v**2
    masks = {
        "shirt": ((w <= 14) & rows(-22, 25) | (w <= 28 - np.abs(v + 14) // 3) & rows(-22, -5))
        & ~((w <= 5) & rows(-22, -17)),
        "trousers": (w <= 15) & rows(-27, -14) | (w >= 3) & (w <= 15 + (v + 14) // 16) & rows(-14, 28),
        "dress": (w <= 9) & rows(-28, -8) | (w <= 9 + (v + 8) * 17 // 34) & rows(-8, 26),
        "hat": (w <= 15) & rows(-18, 6) | (w <= 29) & rows(6, 16),
        "mug": box(-22, 10, -19, 21) | (ring >= 30) & (ring <= 150) & (u > 8),
        "lamp": (w <= 9 + (v + 28) * 15 // 26) & rows(-28, -2) | (w <= 3) & rows(-2, 22) | (w <= 14) & rows(20, 27),
        "chair": box(-18, -8, -28, 28) | box(-18, 18, 0, 11) | box(9, 18, 0, 28),
        "vase": (w <= 6) & rows(-29, -8) | (w <= 10) & rows(-29, -25) | (w * w + (v - 9) ** 2 <= 370),
    }
    return np.stack([masks[name] for name in SHAPES])


_SHAPE_MASKS = _shape_masks()


def encode_png(images_NxHxWx3: np.ndarray) -> list[bytes]:
    """PNG files of uint8 RGB images, stored without compression: the bytes do not depend on a zlib version.

    An image must fit into one stored block: H x (3 W + 1) < 65,536 bytes. The Parquet file compresses them anyway.
    """
    count, height, width, _ = images_NxHxWx3.shape
    size = height * (3 * width + 1)
    if size >= 1 << 16:
        raise ValueError(f"an image of {height} x {width} pixels does not fit into one stored block")
    lines = np.zeros((count, height, 3 * width + 1), np.uint8)  # each line starts with its filter: 0, none
    lines[:, :, 1:] = images_NxHxWx3.reshape(count, height, 3 * width)
    head = b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    block = b"\x78\x01\x01" + struct.pack("<HH", size, size ^ 0xFFFF)
    tail = _chunk(b"IEND", b"")
    raws = (line.tobytes() for line in lines)
    return [head + _chunk(b"IDAT", block + raw + struct.pack(">I", zlib.adler32(raw))) + tail for raw in raws]


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
