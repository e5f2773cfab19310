"""Shapes of the towers, and the ladder of sizes: one rule gives depth and heads from the width.

A rung has two towers of the same width. Depth is width / 64 in each (at least 2), heads are 32 wide below a width of 768
(16 where 32 does not divide it) and 64 from there on, two heads of queries share keys. Width over depth stays near 64, where
loss was found flat over a wide range (Kaplan et al. 2020, arXiv 2001.08361, section 3.1).
"""

import re
from dataclasses import dataclass
from typing import Literal

WIDTHS = {
    "nano": 64,
    "micro": 128,
    "tiny": 256,
    "small": 384,
    "base": 768,
    "large": 1024,
    "1b": 1408,
    "4b": 2176,
}
_EXPLICIT = re.compile(r"([1-9]\d*)x([1-9]\d*)")


@dataclass(frozen=True)
class VisionShape:
    """A ViT: width, blocks, heads and the hidden width of its MLP.

    norm: "rms" without biases (ours), or "layer": LayerNorm and biases throughout, as in SigLIP.
    """

    width: int
    depth: int
    heads: int
    mlp: int
    norm: Literal["rms", "layer"] = "rms"

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"vision: {self.heads} heads do not divide a width of {self.width}")


@dataclass(frozen=True)
class DecoderShape:
    """A language model in the style of Qwen3.

    Attributes:
        heads, kv_heads, head: heads of queries, heads of keys and values, and the width of each; heads x head may differ
            from the width.
        mlp: hidden width of the SwiGLU.
        rope_base: of the rotary positions.
        logit_scale: what the products of states and token embeddings are multiplied with for next-token logits; 0 for
            8 / width: of order 1 at first, and the muP rule for outputs (Yang et al. 2022, arXiv 2203.03466).
    """

    width: int
    depth: int
    heads: int
    kv_heads: int
    head: int
    mlp: int
    rope_base: float = 10_000.0
    logit_scale: float = 0.0

    def __post_init__(self) -> None:
        if self.heads % self.kv_heads:
            raise ValueError(f"decoder: {self.kv_heads} heads of keys do not divide {self.heads} heads of queries")
        if self.head % 2:
            raise ValueError(f"decoder: a head of {self.head} cannot be rotated; its width must be even")


def towers(size: str) -> tuple[VisionShape, DecoderShape]:
    """Both towers of a rung, or of a width and a depth as in "384x6".

    The SwiGLU has about as many parameters as an MLP of four times the width.

    Raises:
        ValueError: there is no such size, or heads do not divide the width.
    """
    explicit = _EXPLICIT.fullmatch(size)
    if size not in WIDTHS and not explicit:
        raise ValueError(f"size: unknown size {size!r}; one of {', '.join(WIDTHS)}, or as in 384x6")
    width = int(explicit[1]) if explicit else WIDTHS[size]
    depth = int(explicit[2]) if explicit else max(2, width // 64)
    head = 64 if width >= 768 else 32 if width % 32 == 0 else 16
    if width % head:
        raise ValueError(f"size: a width of {width} is no multiple of {head}, the width of a head")
    heads = width // head
    decoder = DecoderShape(width, depth, heads, max(1, heads // 2), head, 8 * width // 3 // 8 * 8)
    return VisionShape(width, depth, heads, 4 * width), decoder
