"""Application: CTR over a behaviour sequence, with frozen representations or IDs alone; AUC, GAUC, log loss."""

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh

from moon_jax.data.contract import DataError, read_table
from moon_jax.data.histories import Behaviour, read_behaviour
from moon_jax.data.loading import ShuffledBatches
from moon_jax.data.representations import read_embeddings
from moon_jax.distributed import is_first
from moon_jax.engine import Engine
from moon_jax.meter import Meter
from moon_jax.metrics import auc, ece, gauc, log_loss
from moon_jax.metrics.paired import paired_gauc
from moon_jax.models.behaviour import Shape
from moon_jax.models.catalogue import Catalogue, Storage, place_catalogue
from moon_jax.models.ctr import CtrConfig, require_modules
from moon_jax.optimisation import descend, learning_rate, optimiser
from moon_jax.sharding import make_mesh, param_shardings, place_batch, replicated
from moon_jax.training import DivergedError, train

Array = jax.Array


@dataclass(frozen=True)
class ApplicationConfig:
    """One CTR run; with an input "embed" or a file "embeddings" it reads frozen representations, without it is ID-only.

    Attributes:
        length: L, the number of last events read.
        examples: budget in impressions; above those of the training split they are seen again (`passes` > 1).
        modules: behaviour modules, some of `models.behaviour.MODULES`.
        top, top_k: as in `CtrConfig` and `Shape`.
        storage: of the frozen representations.
        batch: impressions a step.
        peak_lr: learning rate after warm-up.
        weight_decay: of all matrices, ID tables among them: they are what overfits.
        seed: of initialisation and data order.
    """

    length: int
    examples: int
    modules: tuple[str, ...] = ("din",)
    top: Literal["mlp", "dcnv2"] = "mlp"
    top_k: int = 50
    storage: Storage = "float16"
    batch: int = 512
    peak_lr: float = 3e-3
    weight_decay: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        require_modules(self.modules)


def application(
    config: ApplicationConfig,
    *,
    files: Mapping[str, Path],
    inputs: Mapping[str, Path],
    folder: Path,
    report: Callable[..., None],
) -> dict[str, Any]:
    """Step function: representations + behaviour -> `predictions.npz` on the test split, and its metrics.

    With a file "queries" the queries that users asked are behaviours, too, and those that impressions answer are features.
    Metrics are over all test impressions and by slice (`by_slice`). Where the data knows the click probabilities
    (`truth`), the Bayes-optimal scores at the same L are measured on the same impressions: `bayes_auc`, `bayes_gauc`, and
    the paired difference of GAUC with its standard error over users.
    """
    behaviour = read_behaviour(files["items"], files.get("events"), files["impressions"], files.get("queries"))
    vectors_NxD = representations(files, inputs, behaviour)
    mesh = make_mesh(Engine.from_environment(), config.batch)
    known_N = behaviour.shown_in_training()
    catalogue, id_rows = place_catalogue(known_N, vectors_NxD, config.storage, mesh, queries=behaviour.queries)
    model = CtrConfig(
        items=id_rows,
        actions=len(behaviour.actions),
        modules=config.modules,
        shape=Shape(content=0 if vectors_NxD is None else vectors_NxD.shape[1], top_k=config.top_k),
        query=vectors_NxD is not None and behaviour.answers_queries,
        top=config.top,
    )
    graph = graph_of(model)
    state = build_initial(model, config.weight_decay, mesh)(jnp.uint32(config.seed))
    steps = math.ceil(config.examples / config.batch)
    hyper = {"steps": jnp.int32(steps), "peak_lr": jnp.float32(config.peak_lr)}
    batches = impressions(behaviour, "train", config)
    update = build_update(graph, config.weight_decay, mesh)
    meter = Meter(lambda state, batch: update(state, batch, hyper, catalogue))
    try:
        trained = train(
            meter,
            state,
            batches,
            steps=steps,
            folder=folder,
            report=report,
            place=functools.partial(place_batch, mesh),
            compiling=meter.compiling,
        )
    except DivergedError as error:
        return {"status": "diverged", "diverged_at_step": error.step}
    finally:
        batches.close()
    rows = np.flatnonzero(behaviour.split == "test")
    scores = predict(graph, trained.state["params"], catalogue, behaviour, rows, config, mesh)
    labels, users = behaviour.clicked[rows], behaviour.user[rows]
    if is_first():
        ids = behaviour.impression_ids[rows]
        events = behaviour.end[rows] - behaviour.start[rows]
        np.savez(folder / "predictions.npz", impression_id=ids, user=users, clicked=labels, p=scores, events=events)
    value, left_out = gauc(labels, scores, users)
    metrics = {
        "length": config.length,
        "examples": trained.totals.get("examples", 0.0),
        "application_passes": trained.totals.get("examples", 0.0) / max(int((behaviour.split == "train").sum()), 1),
        "application_params": model.parameters(),
        "auc": auc(labels, scores),
        "gauc": value,
        "gauc_users": int(np.unique(users).size) - left_out,
        "gauc_left_out": left_out,
        "log_loss": log_loss(labels, scores),
        "ece": ece(labels, scores),
        "ctr": float(labels.mean()),
        "test_impressions": int(rows.size),
        **by_slice(behaviour, known_N, rows, scores),
        **meter.summary("application", trained),
    }
    if "truth" in files:
        metrics |= against_bayes(files["truth"], config.length, behaviour.impression_ids[rows], labels, scores, users)
    return metrics


def representations(files: Mapping[str, Path], inputs: Mapping[str, Path], behaviour: Behaviour) -> np.ndarray | None:
    """Frozen representations of all items, N x D, then of the queries that are read: of an embed step, or of
    `embeddings.parquet`; None where there are none.

    What `embeddings.parquet` does not know, queries among them, has zeros: a cosine of 0 with everything.
    """
    if "embed" in inputs:
        names = ("items", "queries") if behaviour.queries else ("items",)
        return np.concatenate([np.load(inputs["embed"] / f"{name}.npy", allow_pickle=False) for name in names])
    if "embeddings" not in files:
        return None
    ids, vectors = read_embeddings(files["embeddings"])
    rows, found = behaviour.rows_of(ids)
    if not found.any():
        raise DataError(f"{files['embeddings']}: not one of its item_ids is in items.parquet")
    out = np.zeros((behaviour.items + behaviour.queries, vectors.shape[1]), np.float32)
    out[rows[found]] = vectors[found]
    return out


COLD = 0.2  # share of test impressions with the shortest histories: cold users
TAIL = 0.2  # share of test impressions whose targets were seen least in training: tail items


def by_slice(behaviour: Behaviour, known_N: np.ndarray, rows: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    """AUC and GAUC of test impressions of new items, tail items and cold users, each with its number of impressions.

    New: targets that no training impression or history shows. Tail: known targets of the fewest training impressions,
    up to a fifth of the test impressions. Cold: histories no longer than those of a fifth of the test impressions.
    Ties at the border are all in.
    """
    target, history = behaviour.impression_item[rows], behaviour.end[rows] - behaviour.start[rows]
    counts = np.bincount(behaviour.impression_item[behaviour.split == "train"], minlength=behaviour.items)[target]
    new = ~known_N[target]
    slices = {
        "new_items": new,
        "tail_items": ~new & (counts <= np.quantile(counts[~new], TAIL)) if not new.all() else ~new,
        "cold_users": history <= np.quantile(history, COLD),
    }
    out: dict[str, float] = {}
    for name, kept in slices.items():
        labels, shown = behaviour.clicked[rows][kept], scores[kept]
        out[f"{name}_impressions"] = int(kept.sum())
        if 0 < labels.sum() < labels.size:
            out[f"{name}_auc"] = auc(labels, shown)
            out[f"{name}_gauc"] = gauc(labels, shown, behaviour.user[rows][kept])[0]
    return out


def impressions(behaviour: Behaviour, split: str, config: ApplicationConfig) -> grain.DatasetIterator:
    """Endless shuffled batches of impressions with their histories as slices; deterministic and checkpointable."""
    rows = np.flatnonzero(behaviour.split == split)
    if rows.size < config.batch:
        raise DataError(f"{rows.size} {split} impressions are fewer than a batch of {config.batch}")
    index, count = jax.process_index(), jax.process_count()
    part = slice(index * config.batch // count, (index + 1) * config.batch // count)  # of several processes
    shuffled = grain.MapDataset.source(ShuffledBatches(rows, config.batch, config.seed))
    batches = shuffled.map(lambda rows_B: read(behaviour, rows_B[part], config.length))
    return iter(batches.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)))


def read(behaviour: Behaviour, rows_B: np.ndarray, length: int) -> dict[str, np.ndarray]:
    """One batch: target, history of `length`, actions, click."""
    history_BxL, action_BxL = behaviour.history(rows_B, length)
    out = {
        "target": behaviour.impression_item[rows_B],
        "history": history_BxL,
        "action": action_BxL,
        "clicked": behaviour.clicked[rows_B],
    }
    if behaviour.impression_query is not None and behaviour.answers_queries:
        out["query"] = behaviour.impression_query[rows_B]
    return out


@functools.cache
def graph_of(config: CtrConfig) -> nnx.GraphDef:
    """The model without its parameters."""
    return nnx.split(nnx.eval_shape(lambda: config.build(0)))[0]


@functools.cache
def build_initial(config: CtrConfig, weight_decay: float, mesh: Mesh) -> Callable[[Array], Any]:
    """seed -> the state before the first step: tables of IDs split by rows, where the mesh splits parameters."""

    def make(seed: Array) -> Any:
        params = nnx.split(config.build(seed))[1]
        return {"params": params, "opt": optimiser(weight_decay=weight_decay).init(params), "step": jnp.int32(0)}

    return jax.jit(make, out_shardings=param_shardings(mesh, jax.eval_shape(make, jnp.uint32(0))))


def logits(graph: nnx.GraphDef, params: nnx.State, catalogue: Catalogue, batch: dict[str, Array]) -> Array:
    """Click logits of a batch, B."""
    return nnx.merge(graph, params)(batch["target"], batch["history"], batch["action"], catalogue, batch.get("query"))


@functools.cache
def build_update(graph: nnx.GraphDef, weight_decay: float, mesh: Mesh) -> Callable[..., Any]:
    """The jitted training step (state, batch, hyper, catalogue) -> (state, metrics, counts)."""
    adam = optimiser(weight_decay=weight_decay)

    def loss_of(params: nnx.State, batch: dict[str, Array], catalogue: Catalogue) -> Array:
        return jnp.mean(optax.sigmoid_binary_cross_entropy(logits(graph, params, catalogue, batch), batch["clicked"]))

    @functools.partial(jax.jit, donate_argnums=0)
    def update(state: Any, batch: dict[str, Array], hyper: dict[str, Array], catalogue: Catalogue) -> Any:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            loss, gradients = jax.value_and_grad(loss_of)(state["params"], batch, catalogue)
        rate = learning_rate(state["step"], hyper["steps"], hyper["peak_lr"])
        counts = {"examples": jnp.int32(batch["clicked"].shape[0])}
        moved = descend(state, gradients, rate=rate, adam=adam)
        moved = jax.lax.with_sharding_constraint(moved, param_shardings(mesh, moved))
        return moved, {"loss": loss, "lr": rate}, counts

    return update


@functools.cache
def _predictor(graph: nnx.GraphDef, mesh: Mesh) -> Callable[..., Array]:
    def predict(params: nnx.State, catalogue: Catalogue, batch: dict[str, Array]) -> Array:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return jax.nn.sigmoid(logits(graph, params, catalogue, batch))

    return jax.jit(predict, out_shardings=replicated(mesh))  # every process reads all of it


def predict(
    graph: nnx.GraphDef,
    params: nnx.State,
    catalogue: Catalogue,
    behaviour: Behaviour,
    rows: np.ndarray,
    config: ApplicationConfig,
    mesh: Mesh,
) -> np.ndarray:
    """Click probabilities of these impressions, float64, in equal batches (one compilation)."""
    predictor, out = _predictor(graph, mesh), []
    for start in range(0, rows.size, config.batch):
        block = rows[np.minimum(np.arange(start, start + config.batch), rows.size - 1)]
        out.append(np.asarray(predictor(params, catalogue, read(behaviour, block, config.length)), np.float64))
    return np.concatenate(out)[: rows.size]


def against_bayes(
    truth: Path, length: int, impression_ids: np.ndarray, labels: np.ndarray, scores: np.ndarray, users: np.ndarray
) -> dict[str, float]:
    """Bayes-optimal AUC and GAUC at this L on the same impressions; nothing where the truth has no column for L."""
    table = read_table(truth)
    if f"bayes_{length}" not in table.columns:
        return {}
    order = np.argsort(table["impression_id"].to_numpy())
    at = order[np.searchsorted(table["impression_id"].to_numpy(), impression_ids, sorter=order)]
    bayes = table[f"bayes_{length}"].to_numpy()[at]
    difference, error = paired_gauc(labels, scores, bayes, users)
    return {
        "bayes_auc": auc(labels, bayes),
        "bayes_gauc": gauc(labels, bayes, users)[0],
        "gauc_minus_bayes": difference,
        "gauc_minus_bayes_se": error,
    }
