"""Application: CTR over a behaviour sequence, with frozen representations or IDs alone; AUC, GAUC, log loss."""

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh

from moon_jax import row_updates
from moon_jax.data.contract import DataError, read_table
from moon_jax.data.features import Group, read_features
from moon_jax.data.histories import Behaviour, read_behaviour
from moon_jax.data.impressions import Impressions, shuffled
from moon_jax.data.representations import read_embeddings
from moon_jax.distributed import is_first
from moon_jax.engine import Engine
from moon_jax.meter import Meter
from moon_jax.metrics import auc, ece, gauc, log_loss
from moon_jax.metrics.paired import paired_gauc
from moon_jax.models.behaviour import Shape
from moon_jax.models.catalogue import Catalogue, Storage, place_catalogue
from moon_jax.models.ctr import ID_SCALE, CtrConfig, IdRows, id_rows, require_modules
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
        features: of users and of context, groups of `data.features`.
        id_updates: "dense" moves the whole ID table at each step, "rows" only what the batch names (`row_updates`).
        id_passes: over several passes the ID table is "kept", or "fresh" at the beginning of each: what a second pass
            learns by heart are rows of rare items (one-epoch phenomenon, arXiv 2209.06053; MEDA, arXiv 2305.19531).
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
    features: tuple[Group, ...] = ()
    id_updates: Literal["dense", "rows"] = "dense"
    id_passes: Literal["kept", "fresh"] = "kept"
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

    With a file "queries" the queries that users asked are behaviours, too, and those that impressions answer are features;
    columns of a file "users" are, where the config asks for them.
    Metrics are over all test impressions and by slice (`by_slice`); `valid_log_loss` and `valid_gauc` are for choosing by,
    where some impressions are of the valid split. Where the data knows the click probabilities
    (`truth`), the Bayes-optimal scores at the same L are measured on the same impressions: `bayes_auc`, `bayes_gauc`, and
    the paired difference of GAUC with its standard error over users.
    """
    behaviour = read_behaviour(files["items"], files.get("events"), files["impressions"], files.get("queries"))
    vectors_NxD = representations(files, inputs, behaviour)
    features = read_features(config.features, behaviour, files["impressions"], files.get("users"))
    data = Impressions(behaviour, config.length, None if features is None else features.row_IxF)
    mesh = make_mesh(Engine.from_environment(), config.batch)
    known_N = behaviour.shown_in_training()
    catalogue, id_rows = place_catalogue(known_N, vectors_NxD, config.storage, mesh, queries=behaviour.queries)
    model = CtrConfig(
        items=id_rows,
        actions=len(behaviour.actions),
        modules=config.modules,
        shape=Shape(content=0 if vectors_NxD is None else vectors_NxD.shape[1], top_k=config.top_k),
        query=vectors_NxD is not None and behaviour.answers_queries,
        fields=0 if features is None else len(features.names),
        field_rows=0 if features is None else features.rows,
        top=config.top,
    )
    graph = graph_of(model)
    state = build_initial(model, config.weight_decay, mesh)(jnp.uint32(config.seed))
    steps = math.ceil(config.examples / config.batch)
    hyper = {"steps": jnp.int32(steps), "peak_lr": jnp.float32(config.peak_lr)}
    if config.id_passes == "fresh":
        hyper |= {"pass_steps": jnp.int32(data.rows_of("train").size // config.batch), "seed": jnp.uint32(config.seed)}
    batches = shuffled(data, "train", config.batch, config.seed)
    update = build_update(graph, config.weight_decay, mesh, config.id_updates, config.id_passes)
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
    scored = functools.partial(predict, graph, trained.state["params"], catalogue, data, batch=config.batch, mesh=mesh)
    rows = data.rows_of("test")
    scores = scored(rows)
    labels, users = behaviour.clicked[rows], behaviour.user[rows]
    if is_first():
        ids = behaviour.impression_ids[rows]
        events = behaviour.end[rows] - behaviour.start[rows]
        np.savez(folder / "predictions.npz", impression_id=ids, user=users, clicked=labels, p=scores, events=events)
    value, left_out = gauc(labels, scores, users)
    metrics = {
        "length": config.length,
        "examples": trained.totals.get("examples", 0.0),
        "application_passes": trained.totals.get("examples", 0.0) / max(data.rows_of("train").size, 1),
        "application_params": model.parameters(),
        "application_features": 0 if features is None else len(features.names),
        "auc": auc(labels, scores),
        "gauc": value,
        "gauc_users": int(np.unique(users).size) - left_out,
        "gauc_left_out": left_out,
        "log_loss": log_loss(labels, scores),
        "ece": ece(labels, scores),
        "ctr": float(labels.mean()),
        "test_impressions": int(rows.size),
        **by_slice(behaviour, known_N, rows, scores),
        **on_valid(behaviour, data.rows_of("valid"), scored),
        **meter.summary("application", trained),
    }
    if "truth" in files:
        metrics |= against_bayes(files["truth"], config.length, behaviour.impression_ids[rows], labels, scores, users)
    return metrics


application.runs_together = True  # type: ignore[attr-defined]  # in all processes of a gang


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


def on_valid(behaviour: Behaviour, rows: np.ndarray, scored: Callable[[np.ndarray], np.ndarray]) -> dict[str, float]:
    """`valid_log_loss` and `valid_gauc` over these impressions; nothing where there are none."""
    if not rows.size:
        return {}
    labels, scores = behaviour.clicked[rows], scored(rows)
    return {
        "valid_log_loss": log_loss(labels, scores),
        "valid_gauc": gauc(labels, scores, behaviour.user[rows])[0],
    }


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


def logits(
    graph: nnx.GraphDef, params: nnx.State, catalogue: Catalogue, batch: dict[str, Array], ids: IdRows | None = None
) -> Array:
    """Click logits of a batch, B."""
    model = nnx.merge(graph, params)
    shown = (batch[name] for name in ("target", "history", "action"))
    return model(*shown, catalogue, batch.get("query"), batch.get("field"), ids)


@functools.cache
def build_update(
    graph: nnx.GraphDef, weight_decay: float, mesh: Mesh, id_updates: str = "dense", id_passes: str = "kept"
) -> Callable[..., Any]:
    """The jitted training step (state, batch, hyper, catalogue) -> (state, metrics, counts)."""
    adam = optimiser(weight_decay=weight_decay)

    def loss_of(params: nnx.State, batch: dict[str, Array], catalogue: Catalogue, ids: IdRows) -> Array:
        clicked_B = logits(graph, params, catalogue, batch, ids)
        return jnp.mean(optax.sigmoid_binary_cross_entropy(clicked_B, batch["clicked"]))

    def moved_rows(state: Any, batch: dict[str, Array], catalogue: Catalogue, rate: Array) -> tuple[Any, Array]:
        """Only the rows of the ID table that the batch names, and all other parameters."""
        ids = id_rows(batch["target"], batch["history"], catalogue)
        table_rows = state["params"]["ids"]["embedding"].shape[0]
        history_BxL = jnp.where(batch["history"] >= 0, ids.history_BxL, table_rows)
        named = row_updates.named(jnp.concatenate([ids.target_B, history_BxL.ravel()]), table_rows)
        at_P = named.lookup()
        ids = IdRows(at_P[: ids.target_B.size], at_P[ids.target_B.size :].reshape(history_BxL.shape))
        taken = row_updates.take(state, named)
        loss, gradients = jax.value_and_grad(loss_of)(taken["params"], batch, catalogue, ids)
        return row_updates.put(state, descend(taken, gradients, rate=rate, adam=adam), named), loss

    @functools.partial(jax.jit, donate_argnums=0)
    def update(state: Any, batch: dict[str, Array], hyper: dict[str, Array], catalogue: Catalogue) -> Any:
        rate = learning_rate(state["step"], hyper["steps"], hyper["peak_lr"])
        if id_passes == "fresh":
            state = _fresh(state, hyper)
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            if id_updates == "rows":
                moved, loss = moved_rows(state, batch, catalogue, rate)
            else:
                ids = id_rows(batch["target"], batch["history"], catalogue)
                loss, gradients = jax.value_and_grad(loss_of)(state["params"], batch, catalogue, ids)
                moved = descend(state, gradients, rate=rate, adam=adam)
        counts = {"examples": jnp.int32(batch["clicked"].shape[0])}
        moved = jax.lax.with_sharding_constraint(moved, param_shardings(mesh, moved))
        return moved, {"loss": loss, "lr": rate}, counts

    return update


def _fresh(state: Any, hyper: dict[str, Array]) -> Any:
    """The state with an ID table drawn anew, its moments at 0, where a further pass over the impressions begins."""
    passes, into = state["step"] // hyper["pass_steps"], state["step"] % hyper["pass_steps"]
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(hyper["seed"]), 1), passes)

    def drawn(path: tuple[Any, ...], x: Array) -> Array:
        if not row_updates.is_ids(path):
            return x
        return ID_SCALE * jax.random.normal(key, x.shape) if path[0].key == "params" else jnp.zeros_like(x)

    return jax.lax.cond(
        (passes > 0) & (into == 0),
        lambda state: jax.tree_util.tree_map_with_path(drawn, state),
        lambda state: state,
        state,
    )


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
    data: Impressions,
    rows: np.ndarray,
    batch: int,
    mesh: Mesh,
) -> np.ndarray:
    """Click probabilities of these impressions, float64, in equal batches (one compilation)."""
    predictor, out = _predictor(graph, mesh), []
    for start in range(0, rows.size, batch):
        block = rows[np.minimum(np.arange(start, start + batch), rows.size - 1)]
        out.append(np.asarray(predictor(params, catalogue, data.read(block)), np.float64))
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
