"""Open weights in: towers of SigLIP and Qwen3 from Hugging Face folders (safetensors) as towers of our encoder.

`tensors.py` reads a folder, `siglip.py` and `qwen3.py` say which of its tensors is which of ours, `tokenizer.py` brings a
tokenizer to our convention that id 0 is padding.
"""

from moon_jax.open_weights.qwen3 import read_qwen3
from moon_jax.open_weights.siglip import read_siglip
from moon_jax.open_weights.tensors import Tower
from moon_jax.open_weights.tokenizer import read_tokenizer

__all__ = ["Tower", "read_qwen3", "read_siglip", "read_tokenizer"]
