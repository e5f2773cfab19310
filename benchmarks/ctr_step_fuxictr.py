"""FuxiCTR's side of ctr_din.py: its DIN, its data loader and its training step, in a process of their own.

    python benchmarks/ctr_step_fuxictr.py SHAPE               (started by ctr_din.py, which writes numbers of steps to it)

model_zoo/LongCTR/DIN with its LongCTRDataLoader, as shipped but for ReLU in the activation unit instead of Dice (a batch
norm over all places), so that both sides compute the same.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from ctr_step_ours import Shape, make_log


def loader_of(shape: Shape, features: Any, folder: Path) -> Any:
    from model_zoo.LongCTR.longctr_dataloader import LongCTRDataLoader

    log = make_log(shape)
    length = np.full(shape.rows, shape.length)
    rows = {
        "user_index": log.user,
        "seq_len": length,
        "item_index": log.target,
        "clicked": log.clicked.astype(np.int64),
    }
    pl.DataFrame(rows).write_parquet(folder / "train.parquet")
    pl.DataFrame({"full_item_seq": log.history_UxL.tolist()}).write_parquet(folder / "users.parquet")
    items = np.arange(shape.items)
    pl.DataFrame({"item_index": items, "item": items}).write_parquet(folder / "items.parquet")
    files = (str(folder / f"{name}.parquet") for name in ("train", "users", "items"))
    return LongCTRDataLoader(features, *files, batch_size=shape.batch, shuffle=True, max_len=shape.length)


def model_of(shape: Shape, features: Any) -> Any:
    from model_zoo.LongCTR.DIN.DIN import DIN

    model = DIN(
        features,
        dnn_hidden_units=list(shape.top),
        attention_hidden_units=[shape.hidden],
        attention_hidden_activations="ReLU",
        embedding_dim=shape.width,
        optimizer="adam",
        loss="binary_crossentropy",
        verbose=0,
        model_root=".",
        metrics=["AUC"],
    )
    model._max_gradient_norm, model._batch_index = 10.0, 0  # what its `fit` sets
    return model.train()


def endless(loader: Any) -> Iterator[Any]:
    while True:
        yield from loader


def main() -> int:
    shape = Shape.of(sys.argv[1])
    import torch
    from fuxictr.features import FeatureMap

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    torch.manual_seed(0)
    features = FeatureMap("speed", ".")
    features.features["item"] = {"type": "categorical", "source": "item", "vocab_size": shape.items, "padding_idx": 0}
    for name in ("user_index", "seq_len", "item_index"):
        features.features[name] = {"type": "meta"}
    features.labels, features.default_emb_dim = ["clicked"], shape.width
    from measuring import Clock

    with tempfile.TemporaryDirectory() as folder:
        batches, model = endless(loader_of(shape, features, Path(folder))), model_of(shape, features)
        loss = model.train_step(next(batches))
        print(json.dumps({"first_loss": loss.item()}), flush=True)
        for line in sys.stdin:
            steps = int(line)
            with Clock() as clock:
                for _ in range(steps):
                    loss = model.train_step(next(batches))
                    told = loss.item()  # its `train_epoch` reads the loss of every step
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            # its loader is a process of its own: what that one works counts as others'
            facts = {"seconds": clock.seconds / steps, "cpu": clock.cpu / clock.seconds, "others": clock.others}
            print(json.dumps(facts | {"peak": peak, "loss": told}), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
