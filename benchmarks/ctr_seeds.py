"""DIN trained by us and by FuxiCTR on the same real clicks, over seeds: do they reach the same test AUC and GAUC?

    pip install -e '.[bench]'
    moon data import movielens SOURCE data/movielens
    python benchmarks/ctr_seeds.py data/movielens [--seeds 10] [--save JSON]

Both sides train the same DIN (IDs of 16, an activation unit of 32 with ReLU, a top of 64 and 32) on the same batches in the
same order, by Adam at 1e-3 with gradients clipped at 10, FuxiCTR's by its own `train_step`. What only ours knows, a
behaviour's action and its recency, is left out. Ours begins once from the random weights that FuxiCTR begins from: then the
two differ by the training alone, and differences are paired over seeds. And once from its own (embeddings of N(0, .05) on both
sides, other layers as each draws them): that is what another initialisation does, Welch's interval.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from ctr_parity import NAMES, with_weights
from ctr_step_fuxictr import model_of
from ctr_step_ours import Shape
from measuring import Results, versions

LENGTH, BATCH, PASSES, RATE, CLIP = 64, 512, 3, 1e-3, 10.0
WIDTH, HIDDEN, TOP = 16, 32, (64, 32)
WITHIN = 0.005
SHARED, OWN, PEER = "ours, FuxiCTR's start", "ours, own start", "FuxiCTR"
Scores = np.ndarray
Batch = dict[str, np.ndarray]


class Log:
    """The clicks of a dataset: training batches by seed, and the test split."""

    def __init__(self, folder: Path):
        from moon_jax.data.contract import open_dataset
        from moon_jax.data.histories import read_behaviour
        from moon_jax.data.impressions import Impressions

        data = open_dataset(folder)
        read = read_behaviour(*(data.path(name) for name in ("items", "events", "impressions")))
        self.behaviour = replace(read, event_action=np.zeros_like(read.event_action), actions=("event",))
        self.known_N = self.behaviour.shown_in_training()
        self.data = Impressions(self.behaviour, LENGTH)
        self.test = self.data.rows_of("test")
        self.steps = PASSES * self.data.rows_of("train").size // BATCH

    def training(self, seed: int) -> Iterator[Batch]:
        from moon_jax.data.impressions import shuffled

        batches = shuffled(self.data, "train", BATCH, seed)
        for _ in range(self.steps):
            yield next(batches)
        batches.close()

    def testing(self) -> Iterator[Batch]:
        for start in range(0, self.test.size, BATCH):
            rows = self.test[np.minimum(np.arange(start, start + BATCH), self.test.size - 1)]
            yield self.data.read(rows)


def ours(log: Log, seed: int, start: dict[str, np.ndarray] | None) -> Scores:
    """Test scores; `start` has FuxiCTR's weights, None: our own."""
    import jax
    import jax.numpy as jnp
    import optax
    from flax import nnx

    from moon_jax.models import behaviour
    from moon_jax.models.catalogue import place_catalogue
    from moon_jax.models.ctr import CtrConfig
    from moon_jax.sharding import data_mesh
    from moon_jax.stages.application import logits

    catalogue, rows = place_catalogue(log.known_N, None, "float32", data_mesh(1))
    config = CtrConfig(
        rows, len(log.behaviour.actions), ("din",), behaviour.Shape(id_width=WIDTH, hidden=HIDDEN, bands=1), hidden=TOP
    )
    graph, params = nnx.split(config.build(seed))
    if start is not None:
        params = with_weights(params, start)
    adam = optax.chain(optax.clip_by_global_norm(CLIP), optax.adam(RATE))

    def without(tree: Any) -> Any:
        """Zeros for what only ours has: embeddings of actions, and a behaviour's recency."""

        def kept(path: tuple[Any, ...], leaf: jax.Array) -> jax.Array:
            name = jax.tree_util.keystr(path)
            return jnp.zeros_like(leaf) if "recency" in name or "actions" in name else leaf

        return jax.tree_util.tree_map_with_path(kept, tree)

    params = without(params)

    @jax.jit
    def step(params: Any, moments: Any, batch: dict[str, jax.Array]) -> tuple[Any, Any]:
        def loss(params: Any) -> jax.Array:
            found = logits(graph, params, catalogue, batch)
            return jnp.mean(optax.sigmoid_binary_cross_entropy(found, batch["clicked"]))

        updates, moments = adam.update(without(jax.grad(loss)(params)), moments, params)
        return optax.apply_updates(params, updates), moments

    moments, score = adam.init(params), jax.jit(lambda params, batch: logits(graph, params, catalogue, batch))
    for batch in log.training(seed):
        params, moments = step(params, moments, batch)
    return np.concatenate([np.asarray(score(params, batch)) for batch in log.testing()])[: log.test.size]


def theirs(log: Log, seed: int) -> tuple[Scores, dict[str, np.ndarray]]:
    """(test scores, the weights that it began from, by the names of ctr_parity.py and with the rows of our ID table)."""
    import torch
    from fuxictr.features import FeatureMap

    torch.manual_seed(seed)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    row_N = np.where(
        log.known_N, np.cumsum(log.known_N), log.known_N.sum() + 1
    )  # 0 is padding; what training never shows
    features = FeatureMap("seeds", ".")  # shares a row, as it does with us
    vocabulary = int(row_N.max()) + 1
    features.features["item"] = {"type": "categorical", "source": "item", "vocab_size": vocabulary, "padding_idx": 0}
    features.labels, features.default_emb_dim = ["clicked"], WIDTH
    model = model_of(Shape(LENGTH, width=WIDTH, hidden=HIDDEN, top=TOP), features)
    table = model.embedding_layer.embedding_layer.embedding_layers["item"].weight.data
    table.normal_(0.0, 0.05)
    table[0] = 0.0  # padding
    start = {f"weight:{name}": parameter.detach().numpy().copy() for name, parameter in model.named_parameters()}
    start[f"weight:{NAMES['ids.embedding']}"] = start[f"weight:{NAMES['ids.embedding']}"][1:]

    def given(batch: Batch) -> Any:
        """As its own loader lays a batch out: histories oldest first, then the target."""
        history = batch["history"][:, ::-1]
        item = np.concatenate([np.where(history >= 0, row_N[history], 0), row_N[batch["target"]][:, None]], axis=1)
        clicked = torch.from_numpy(batch["clicked"].astype(np.float32))
        mask = torch.from_numpy((history >= 0).astype(np.float32))
        return {"clicked": clicked}, {"item": torch.from_numpy(item.reshape(-1))}, mask

    model.train()
    for batch in log.training(seed):
        model.train_step(given(batch))
    model.eval()
    with torch.no_grad():
        found = [model(given(batch))["y_pred"][:, 0].numpy() for batch in log.testing()]
    return np.concatenate(found)[: log.test.size], start


def paired(a: list[float], b: list[float]) -> tuple[float, float, float]:
    """(mean difference, low, high), 95 %, of the same seeds."""
    from scipy.stats import ttest_rel

    interval = ttest_rel(a, b).confidence_interval(0.95)
    return statistics.mean(a) - statistics.mean(b), float(interval.low), float(interval.high)


def welch(a: list[float], b: list[float]) -> tuple[float, float, float]:
    """(difference of means, low, high), 95 %."""
    from scipy.stats import ttest_ind

    interval = ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    return statistics.mean(a) - statistics.mean(b), float(interval.low), float(interval.high)


def told_of(values: list[float]) -> tuple[str, str]:
    return f"{statistics.mean(values):.4f}", f"{statistics.stdev(values):.4f}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a contract directory with events and impressions")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--save", type=Path, help="write results as JSON")
    given = parser.parse_args()
    if find_spec("fuxictr") is None or find_spec("torch") is None:
        print("ctr_seeds.py: fuxictr is not installed: pip install -e '.[bench]'", file=sys.stderr)
        return 2
    from moon_jax.data.contract import DataError
    from moon_jax.metrics import auc, gauc

    try:
        log = Log(given.folder)
    except DataError as error:
        print(f"ctr_seeds.py: {error}", file=sys.stderr)
        return 2
    results = Results("ctr_seeds.py")
    results.provenance["versions"] |= versions("fuxictr")
    labels, users = log.behaviour.clicked[log.test], log.behaviour.user[log.test]
    found: dict[str, dict[str, list[float]]] = {side: {"auc": [], "gauc": []} for side in (SHARED, OWN, PEER)}
    for seed in range(given.seeds):
        peer, start = theirs(log, seed)
        for side, scores in ((SHARED, ours(log, seed, start)), (OWN, ours(log, seed, None)), (PEER, peer)):
            found[side]["auc"].append(auc(labels, scores))
            found[side]["gauc"].append(gauc(labels, scores, users)[0])
            told = ", ".join(f"{name} {values[-1]:.4f}" for name, values in found[side].items())
            print(f"seed {seed}, {side}: {told}", flush=True)
    results.data["seeds"] = found
    rows, reached = [], []
    for metric in ("auc", "gauc"):
        peer_values = found[PEER][metric]
        rows.append((metric.upper(), PEER, *told_of(peer_values), "", ""))
        for side, interval in ((SHARED, paired), (OWN, welch)):
            difference, low, high = interval(found[side][metric], peer_values)
            shown = f"[{low:+.4f}, {high:+.4f}]"
            rows.append((metric.upper(), side, *told_of(found[side][metric]), f"{difference:+.4f}", shown))
            if side == SHARED:
                what = (
                    f"{metric.upper()}, same start: the 95 % interval of the difference lies within +-{WITHIN}: {shown}"
                )
                reached.append(results.goal(what, low >= -WITHIN and high <= WITHIN, timing=False))
    results.table(
        f"DIN, L = {LENGTH}, {log.steps} steps of {BATCH}, {given.seeds} seeds, {log.test.size:,} test impressions",
        ("metric", "side", "mean", "SD over seeds", "difference", "95 %"),
        rows,
    )
    results.finish(given.save)
    return 0 if all(reached) else 1


if __name__ == "__main__":
    raise SystemExit(main())
