"""Open weights beside transformers: small random SigLIP and Qwen3 models, their hidden states and ours.

    pip install -e '.[bench]'
    python benchmarks/open_weights.py [--golden DIR]

transformers makes each model and saves it as it saves any; ours reads that folder. Compared are the last hidden states on
random images and on random texts of several lengths, causal, in float32, real positions alone. More than 1e-4 apart fails.
`--golden DIR` writes the models and transformers' states, which `make test` checks without transformers.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

MOST = 1e-4
VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 16,
}
LANGUAGE = {
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 60,
}
MODELS: dict[str, dict[str, Any]] = {
    "siglip": VISION | {"patch_size": 8},
    "siglip wide": VISION | {"patch_size": 4, "hidden_size": 72, "num_attention_heads": 1},
    "qwen3": LANGUAGE | {"num_key_value_heads": 2, "head_dim": 16, "rope_theta": 1e6, "tie_word_embeddings": True},
    "qwen3 ungrouped": LANGUAGE
    | {"num_key_value_heads": 4, "head_dim": 8, "rope_theta": 1e4, "tie_word_embeddings": False},
}
GOLDEN = ("siglip", "qwen3")


def make(name: str, folder: Path) -> Any:
    """A random model of transformers, saved in `folder`; biases and norms are random, too, so that none can be forgotten."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM, Qwen3Model, SiglipVisionConfig, SiglipVisionModel

    torch.manual_seed(0)
    if name.startswith("siglip"):
        model = SiglipVisionModel(SiglipVisionConfig(**MODELS[name]))
    else:
        kind = Qwen3ForCausalLM if name == "qwen3 ungrouped" else Qwen3Model
        model = kind(Qwen3Config(max_position_embeddings=64, **MODELS[name]))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return model.eval()


def inputs(name: str) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    if name.startswith("siglip"):
        return {"images": rng.integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)}
    lengths = np.array([7, 3, 1])
    text = rng.integers(1, LANGUAGE["vocab_size"] + 1, (3, 7), dtype=np.int32)  # ours: theirs and one
    return {"text": np.where(np.arange(7) < lengths[:, None], text, 0).astype(np.int32)}


def theirs(name: str, model: Any, given: dict[str, np.ndarray]) -> np.ndarray:
    import torch

    with torch.no_grad():
        if "images" in given:
            pixels = torch.tensor(given["images"].transpose(0, 3, 1, 2)).float() / 127.5 - 1
            return model(pixel_values=pixels).last_hidden_state.numpy()
        real = torch.tensor(given["text"] > 0)
        body = getattr(model, "model", model)
        shown = torch.tensor(np.maximum(given["text"] - 1, 0)).long()
        return body(input_ids=shown, attention_mask=real.long()).last_hidden_state.numpy()


def ours(folder: Path, given: dict[str, np.ndarray]) -> np.ndarray:
    """Our last hidden states of the same model, read from its folder."""
    import jax
    from flax import nnx

    from moon_jax.models.encoder import EncoderConfig
    from moon_jax.open_weights import read_qwen3, read_siglip
    from moon_jax.stages.adopt import AdoptConfig, assemble

    vision = read_siglip(folder) if "images" in given else None
    language = read_qwen3(folder) if "text" in given else None
    encoder, params = assemble(AdoptConfig(EncoderConfig(size="32x1", height=16, width=16)), vision, language)
    graph = nnx.split(nnx.eval_shape(lambda: encoder.build(0)))[0]

    @jax.jit
    def states(params: Any, given: dict[str, Any]) -> Any:
        model = nnx.merge(graph, params)
        if "images" in given:
            return model.vision_states(given["images"])
        return model.states(None, given["text"], causal=True)[0]

    return np.asarray(states(params, given))


def apart(mine: np.ndarray, other: np.ndarray, given: dict[str, np.ndarray]) -> float:
    """The largest difference at real positions."""
    real = given["text"] > 0 if "text" in given else np.ones(mine.shape[:2], bool)
    return float(np.abs(mine - other)[real].max())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--golden", type=Path)
    options = parser.parse_args()
    if find_spec("transformers") is None:
        print("open_weights.py: transformers is not installed: pip install -e '.[bench]'", file=sys.stderr)
        return 2
    from transformers.utils import logging

    logging.disable_progress_bar()
    worst = 0.0
    for name in MODELS:
        with tempfile.TemporaryDirectory() as made:
            folder = Path(made)
            model, given = make(name, folder), inputs(name)
            expected = theirs(name, model, given)
            difference = apart(ours(folder, given), expected, given)
            worst = max(worst, difference)
            print(
                f"{name:16} {expected.shape}, states up to {np.abs(expected).max():.2f}: at most {difference:.1e} apart"
            )
            if options.golden and name in GOLDEN:
                target = options.golden / name
                target.mkdir(parents=True, exist_ok=True)
                for file in ("config.json", "model.safetensors"):
                    (target / file).write_bytes((folder / file).read_bytes())
                np.savez_compressed(target / "states.npz", expected=expected, **given)
                import transformers

                made_by = {"by": "benchmarks/open_weights.py", "transformers": transformers.__version__}
                (target / "made.json").write_text(json.dumps(made_by))
    print(f"{'reached' if worst <= MOST else 'NOT REACHED'}: the same to {MOST:.0e}")
    return worst > MOST


if __name__ == "__main__":
    sys.exit(main())
