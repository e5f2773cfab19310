"""Our DIN beside FuxiCTR's: the same weights give the same logits and the same gradients of a step.

    pip install -e '.[bench]'
    python benchmarks/ctr_parity.py [--save NPZ]

FuxiCTR (PyPI `fuxictr`, model_zoo/LongCTR/DIN) makes a small random DIN: items' embeddings, its activation unit with ReLU,
no softmax, a top MLP with ReLU. Its weights go into `moon_jax.models.ctr` with modules ("din",); what ours has besides
(embeddings of actions, recency) is 0 at first there. Compared are logits and the gradients of the mean cross-entropy,
norm-wise. With --save the pair is kept: `tests/moon_jax/golden/fuxictr_din.npz` is such a file, and the tests read it.
Its other activation, Dice, is a batch norm over all places, padding among them; ours has none.
"""

from __future__ import annotations

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from common import goal, show
from flax import nnx

from moon_jax.models.behaviour import Shape
from moon_jax.models.catalogue import Catalogue
from moon_jax.models.ctr import CtrConfig

ITEMS, WIDTH, HIDDEN, TOP = 30, 8, 12, (16, 10)
BATCH, LENGTH = 16, 9
TOLERANCE = 1e-5
CONFIG = CtrConfig(ITEMS, 1, ("din",), Shape(id_width=WIDTH, hidden=HIDDEN, places=4 * LENGTH), hidden=TOP)
# ours -> theirs; kernels are transposed
NAMES = {
    "ids.embedding": "embedding_layer.embedding_layer.embedding_layers.item.weight",
    "modules.0.unit.inner": "attention_layers.attention_layer.mlp.0",
    "modules.0.unit.outer": "attention_layers.attention_layer.mlp.2",
    "layers.0": "dnn.mlp.0",
    "layers.1": "dnn.mlp.2",
    "logit": "dnn.mlp.4",
}


def theirs() -> dict[str, np.ndarray]:
    """A random DIN of FuxiCTR: "weight:NAME", "gradient:NAME", "target", "history" (0 where there is none), "clicked",
    "logits"."""
    import torch
    from fuxictr.features import FeatureMap
    from model_zoo.LongCTR.DIN.DIN import DIN

    torch.manual_seed(0)
    features = FeatureMap("parity", ".")
    features.features["item"] = {"type": "categorical", "source": "item", "vocab_size": ITEMS, "padding_idx": 0}
    features.labels, features.default_emb_dim = ["clicked"], WIDTH
    model = DIN(
        features,
        task="regression",  # no sigmoid at its end: logits
        dnn_hidden_units=list(TOP),
        attention_hidden_units=[HIDDEN],
        attention_hidden_activations="ReLU",
        embedding_dim=WIDTH,
        optimizer="adam",
        loss="binary_crossentropy",
        verbose=0,
        model_root=".",
        metrics=["AUC"],
    )
    for parameter in model.parameters():  # biases are 0 at first, embeddings tiny
        parameter.data.normal_(0, 0.5)
    model.embedding_layer.embedding_layer.embedding_layers["item"].weight.data[0] = 0  # padding
    rng = np.random.default_rng(0)
    target, history = rng.integers(1, ITEMS, BATCH), rng.integers(1, ITEMS, (BATCH, LENGTH))
    history[np.arange(LENGTH) >= rng.integers(0, LENGTH + 1, (BATCH, 1))] = 0
    clicked = rng.integers(0, 2, BATCH).astype(np.float32)
    rows = torch.from_numpy(np.concatenate([history, target[:, None]], axis=1).reshape(-1))
    logits = model(({}, {"item": rows}, torch.from_numpy((history > 0).astype(np.float32))))["y_pred"][:, 0]
    torch.nn.functional.binary_cross_entropy_with_logits(logits, torch.from_numpy(clicked)).backward()
    out = {"target": target, "history": history, "clicked": clicked, "logits": logits.detach().numpy()}
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        out[f"weight:{name}"], out[f"gradient:{name}"] = parameter.detach().numpy(), parameter.grad.numpy()
    return out


def ours(pair: dict[str, np.ndarray]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """(logits, gradients by FuxiCTR's names) of our DIN with its weights."""
    graph, state = nnx.split(CONFIG.build(0))
    state = with_weights(state, pair)
    history = jnp.where(jnp.asarray(pair["history"]) > 0, jnp.asarray(pair["history"]), -1)
    shown = jnp.asarray(pair["target"]), history, jnp.zeros_like(history), Catalogue(jnp.arange(ITEMS))

    def loss(state: Any) -> tuple[jax.Array, jax.Array]:
        logits = nnx.merge(graph, state)(*shown)
        return jnp.mean(optax.sigmoid_binary_cross_entropy(logits, jnp.asarray(pair["clicked"]))), logits

    slope, logits = jax.jit(jax.grad(loss, has_aux=True))(state)
    slopes = {".".join(map(str, path)): leaf for path, leaf in nnx.to_flat_state(slope)}
    gradients = {}
    for own, other, turned in _weights(pair):
        value = np.asarray(slopes[own][...])
        gradients[other] = value.T if turned else value[: len(pair[f"weight:{other}"])]
    return np.asarray(logits), gradients


def with_weights(state: nnx.State, pair: dict[str, np.ndarray]) -> nnx.State:
    """Our parameters with FuxiCTR's weights ("weight:NAME"); what it lacks is 0."""
    leaves = {".".join(map(str, path)): leaf for path, leaf in nnx.to_flat_state(state)}
    for leaf in leaves.values():
        leaf[...] = jnp.zeros_like(leaf[...])
    for own, other, turned in _weights(pair):
        value = np.zeros(leaves[own][...].shape, np.float32)
        given = pair[f"weight:{other}"].T if turned else pair[f"weight:{other}"]
        value[: len(given)] = given  # our tables have a multiple of 128 rows
        leaves[own][...] = jnp.asarray(value)
    return nnx.from_flat_state([(path, leaf) for (path, _), leaf in zip(nnx.to_flat_state(state), leaves.values())])  # noqa: B905


def _weights(pair: dict[str, np.ndarray]) -> list[tuple[str, str, bool]]:
    """(our name, FuxiCTR's, whether it is turned); KeyError where it has one that ours lacks."""
    out = [("ids.embedding", NAMES["ids.embedding"], False)]
    for own, other in list(NAMES.items())[1:]:
        out += [(f"{own}.kernel", f"{other}.weight", True), (f"{own}.bias", f"{other}.bias", False)]
    if missing := {name.removeprefix("weight:") for name in pair if name.startswith("weight:")} - {
        o for _, o, _ in out
    }:
        raise KeyError(f"FuxiCTR's DIN has weights that ours lacks: {sorted(missing)}")
    return out


def apart(pair: dict[str, np.ndarray]) -> dict[str, float]:
    """Norm-wise distance of our logits and of each gradient from FuxiCTR's."""
    logits, gradients = ours(pair)
    found = {"logits": _distance(logits, pair["logits"])}
    return found | {name: _distance(value, pair[f"gradient:{name}"]) for name, value in gradients.items()}


def _distance(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--save", type=Path, help="keep the pair")
    given = parser.parse_args()
    if find_spec("fuxictr") is None or find_spec("torch") is None:
        print("ctr_parity.py: fuxictr is not installed: pip install -e '.[bench]'", file=sys.stderr)
        return 2
    pair = theirs()
    found = apart(pair)
    show(("of FuxiCTR's DIN", "norm-wise distance"), [(name, f"{value:.1e}") for name, value in found.items()])
    if given.save is not None:
        np.savez_compressed(given.save, **pair)  # type: ignore[arg-type]  # its stub takes one for allow_pickle
    worst = max(found.values())
    return (
        0
        if goal(f"the same to {TOLERANCE:.0e}, logits and gradients of a step: {worst:.1e}", worst <= TOLERANCE)
        else 1
    )


if __name__ == "__main__":
    raise SystemExit(main())
