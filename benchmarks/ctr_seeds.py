"""DIN trained by us and by FuxiCTR on the same real clicks, over seeds: do they reach the same test AUC and GAUC?

    pip install -e '.[bench]'
    moon data import movielens SOURCE data/movielens
    python benchmarks/ctr_seeds.py data/movielens [--seeds 10] [--save JSON]

Both sides train the same DIN (IDs of 16, an activation unit of 32 with ReLU, a top of 64 and 32) on the same batches in the
same order, by Adam at 1e-3 with gradients clipped at 10, FuxiCTR's by its own `train_step`. Both begin from random weights of
their own; embeddings are N(0, .05) on both sides (FuxiCTR's own 1e-4 need several times as many steps to get going). What
only ours knows, a behaviour's action and its recency, is left out. Compared are the means over seeds, with Welch's 95 % interval of their difference: it says how far the two could be apart, on one test split.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from measuring import Results, versions

LENGTH, BATCH, PASSES, RATE, CLIP = 64, 512, 3, 1e-3, 10.0
WIDTH, HIDDEN, TOP = 16, 32, (64, 32)
WITHIN = 0.005
Scores = np.ndarray
Batch = dict[str, np.ndarray]


class Log:
    """The clicks of a dataset: training batches by seed, and the test split."""

    def __init__(self, folder: Path):
        from moon_jax.data.contract import open_dataset
        from moon_jax.data.histories import read_behaviour

        data = open_dataset(folder)
        read = read_behaviour(*(data.path(name) for name in ("items", "events", "impressions")))
        self.behaviour = replace(read, event_action=np.zeros_like(read.event_action), actions=("event",))
        self.known_N = self.behaviour.shown_in_training()
        self.test = np.flatnonzero(self.behaviour.split == "test")
        self.steps = PASSES * int((self.behaviour.split == "train").sum()) // BATCH

    def training(self, seed: int) -> Iterator[Batch]:
        from moon_jax.stages.application import ApplicationConfig, impressions

        batches = impressions(self.behaviour, "train", ApplicationConfig(LENGTH, 1, batch=BATCH, seed=seed))
        for _ in range(self.steps):
            yield next(batches)
        batches.close()

    def testing(self) -> Iterator[Batch]:
        from moon_jax.stages.application import read

        for start in range(0, self.test.size, BATCH):
            rows = self.test[np.minimum(np.arange(start, start + BATCH), self.test.size - 1)]
            yield read(self.behaviour, rows, LENGTH)


def ours(log: Log, seed: int) -> Scores:
    import jax
    import jax.numpy as jnp
    import optax
    from flax import nnx

    from moon_jax.models.behaviour import Shape
    from moon_jax.models.catalogue import place_catalogue
    from moon_jax.models.ctr import CtrConfig
    from moon_jax.sharding import data_mesh
    from moon_jax.stages.application import logits

    catalogue, rows = place_catalogue(log.known_N, None, "float32", data_mesh(1))
    config = CtrConfig(
        rows, len(log.behaviour.actions), ("din",), Shape(id_width=WIDTH, hidden=HIDDEN, bands=1), hidden=TOP
    )
    graph, params = nnx.split(config.build(seed))
    adam = optax.chain(optax.clip_by_global_norm(CLIP), optax.adam(RATE))

    @jax.jit
    def step(params: Any, moments: Any, batch: dict[str, jax.Array]) -> tuple[Any, Any]:
        def loss(params: Any) -> jax.Array:
            found = logits(graph, params, catalogue, batch)
            return jnp.mean(optax.sigmoid_binary_cross_entropy(found, batch["clicked"]))

        updates, moments = adam.update(jax.grad(loss)(params), moments, params)
        return optax.apply_updates(params, updates), moments

    moments, score = adam.init(params), jax.jit(lambda params, batch: logits(graph, params, catalogue, batch))
    for batch in log.training(seed):
        params, moments = step(params, moments, batch)
    return np.concatenate([np.asarray(score(params, batch)) for batch in log.testing()])[: log.test.size]


def theirs(log: Log, seed: int) -> Scores:
    import torch
    from fuxictr.features import FeatureMap
    from model_zoo.LongCTR.DIN.DIN import DIN

    torch.manual_seed(seed)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    row_N = np.where(
        log.known_N, np.cumsum(log.known_N), log.known_N.sum() + 1
    )  # 0 is padding; what training never shows
    features = FeatureMap("seeds", ".")  # shares a row, as it does with us
    vocabulary = int(row_N.max()) + 1
    features.features["item"] = {"type": "categorical", "source": "item", "vocab_size": vocabulary, "padding_idx": 0}
    features.labels, features.default_emb_dim = ["clicked"], WIDTH
    model = DIN(
        features,
        dnn_hidden_units=list(TOP),
        attention_hidden_units=[HIDDEN],
        attention_hidden_activations="ReLU",
        embedding_dim=WIDTH,
        learning_rate=RATE,
        optimizer="adam",
        loss="binary_crossentropy",
        verbose=0,
        model_root=".",
        metrics=["AUC"],
    )
    model._max_gradient_norm, model._batch_index = CLIP, 0  # what its `fit` sets

    table = model.embedding_layer.embedding_layer.embedding_layers["item"].weight.data
    table.normal_(0.0, 0.05)
    table[0] = 0.0  # padding

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
    return np.concatenate(found)[: log.test.size]


SIDES: dict[str, Callable[[Log, int], Scores]] = {"ours": ours, "FuxiCTR": theirs}


def welch(a: list[float], b: list[float]) -> tuple[float, float, float]:
    """(difference of means, low, high), 95 %."""
    from scipy.stats import ttest_ind

    interval = ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    return statistics.mean(a) - statistics.mean(b), float(interval.low), float(interval.high)


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
    found: dict[str, dict[str, list[float]]] = {side: {"auc": [], "gauc": []} for side in SIDES}
    for seed in range(given.seeds):
        for side, train in SIDES.items():
            scores = train(log, seed)
            found[side]["auc"].append(auc(labels, scores))
            found[side]["gauc"].append(gauc(labels, scores, users)[0])
            told = ", ".join(f"{name} {values[-1]:.4f}" for name, values in found[side].items())
            print(f"seed {seed}, {side}: {told}", flush=True)
    results.data["seeds"] = found
    rows, reached = [], []
    for metric in ("auc", "gauc"):
        difference, low, high = welch(found["ours"][metric], found["FuxiCTR"][metric])
        means = (f"{statistics.mean(found[side][metric]):.4f}" for side in SIDES)
        spreads = (f"{statistics.stdev(found[side][metric]):.4f}" for side in SIDES)
        rows.append((metric.upper(), *means, *spreads, f"{difference:+.4f}", f"[{low:+.4f}, {high:+.4f}]"))
        what = (
            f"{metric.upper()}: the 95 % interval of the difference lies within +-{WITHIN}: [{low:+.4f}, {high:+.4f}]"
        )
        reached.append(results.goal(what, low >= -WITHIN and high <= WITHIN, timing=False))
    results.table(
        f"DIN, L = {LENGTH}, {log.steps} steps of {BATCH}, {given.seeds} seeds, {log.test.size:,} test impressions",
        ("metric", "ours", "FuxiCTR", "SD over seeds, ours", "FuxiCTR's", "difference", "95 %"),
        rows,
    )
    results.finish(given.save)
    return 0 if all(reached) else 1


if __name__ == "__main__":
    raise SystemExit(main())
