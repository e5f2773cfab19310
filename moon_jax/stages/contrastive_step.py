"""One step of post-training, from batch to update: views, vectors, loss over all negatives, gradients, parameters, queue."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh

from moon_jax.data.augment import Views, draw_views, show
from moon_jax.engine import Engine
from moon_jax.gradcache import in_chunks
from moon_jax.losses import circle_loss, info_nce, matryoshka, sigmoid_loss
from moon_jax.losses.counting import count_candidates
from moon_jax.losses.queue import contents, empty_queue, push, staleness
from moon_jax.models.encoder import EncoderConfig
from moon_jax.optimisation import BASE_WIDTH, Schedule, descend, is_frozen, learning_rate, optimiser, width_shares
from moon_jax.sharding import batch_sharding, param_shardings, replicated

Array = jax.Array
Batch = dict[str, Array]
State = dict[str, Any]
LARGEST_SCALE = math.log(100.0)  # CLIP's bound on 1 / temperature
LOSSES: dict[str, Callable[..., Array]] = {"info_nce": info_nce, "circle": circle_loss, "sigmoid": sigmoid_loss}
# Where the temperature starts: CLIP's and SigLIP's; circle loss does not learn it, 1 / 64 is of the order of its paper's.
TEMPERATURES = {"info_nce": 0.07, "circle": 1 / 64, "sigmoid": 0.1}
FIRST_BIAS = -10.0  # SigLIP's


@dataclass(frozen=True)
class Objective:
    """What is optimised, as far as it decides on what is compiled; the attributes are those of `PosttrainConfig`.

    ema: whether there is an average (its decay is traced).
    frozen: parts of the encoder that do not move.
    transfer: "mup" or "none": whether rates of kernels shrink with the width (`optimisation.width_shares`).
    """

    loss: str
    symmetric: bool
    augment_items: bool
    dims: tuple[int, ...]
    ema: bool
    queue_from: str
    schedule: Schedule
    frozen: tuple[str, ...] = ()
    transfer: str = "mup"


@functools.cache
def build_update(
    config: EncoderConfig, objective: Objective, engine: Engine, mesh: Mesh
) -> Callable[[State, Batch, dict[str, Array]], tuple[State, dict[str, Array], dict[str, Array]]]:
    """The jitted training step (state, batch, hyper) -> (state, metrics, counts); it donates the state.

    One for all cells that share shapes: what varies in `hyper` is traced: steps, warmup, peak_lr, num_negatives, ema.
    """
    encode, dtype = encoding(config, engine), jnp.dtype(config.dtype)
    adam = optimiser(frozen=objective.frozen)

    def loss_of(params: Any, batch: Batch, views: dict[str, Views], queue: Any, window: Array) -> tuple[Array, Array]:
        encoder = still(params, objective.frozen)["encoder"]
        queries_BxD = encode(encoder, batch.get("query_images"), views.get("query"), batch.get("query_text"))
        items_BxD = encode(encoder, batch.get("item_images"), views.get("item"), batch.get("item_text"))
        hard_BxHxD = encode_hard(encode, encoder, batch)
        queue_QxD, queue_ids_Q = contents(queue) if queue is not None else (None, None)
        given: dict[str, Any] = {
            "queue_QxD": queue_QxD,
            "queue_ids_Q": queue_ids_Q,
            "hard_BxHxD": None if hard_BxHxD is None else hard_BxHxD.astype(dtype),
            "hard_ids_BxH": batch.get("hard_product_ids"),
            "positive_ids_B": batch["product_ids"],
            "num_negatives": window,
            "temperature": temperature_of(params),
            "mesh": mesh,
            "form": engine.form,
            "tile": engine.tile or None,
        }
        given |= {"bias": params["bias"]} if objective.loss == "sigmoid" else {"symmetric": objective.symmetric}
        loss, vectors = LOSSES[objective.loss], (queries_BxD.astype(dtype), items_BxD.astype(dtype))
        if objective.dims:
            return matryoshka(loss, *vectors, dims=objective.dims, **given), items_BxD
        return loss(*vectors, **given), items_BxD

    @functools.partial(jax.jit, donate_argnums=0)
    def update(state: State, batch: Batch, hyper: dict[str, Array]) -> tuple[State, dict[str, Array], dict[str, Array]]:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            step, queue, window = state["step"], state.get("queue"), hyper["num_negatives"]
            views = draw(batch, jax.random.fold_in(jax.random.wrap_key_data(state["key"]), step), objective)
            counts = count(batch, queue, step, window, config.patches)
            (loss, items_BxD), gradients = jax.value_and_grad(loss_of, has_aux=True)(
                state["params"], batch, views, queue, window
            )
            rate = learning_rate(
                step, hyper["steps"], hyper["peak_lr"], schedule=objective.schedule, warmup=hyper["warmup"]
            )
            ema = hyper["ema"] if objective.ema else None
            moved = descend(
                state,
                gradients,
                rate=rate,
                adam=adam,
                ema=ema,
                shares=shares_of(config, state["params"], objective.transfer),
            )
            if queue is not None:
                if objective.queue_from == "ema":
                    items_BxD = encode(moved["ema"]["encoder"], *shown_items(batch, views))
                moved["queue"] = push(queue, items_BxD, batch["product_ids"], step)
            moved = jax.lax.with_sharding_constraint(moved, state_shardings(mesh, moved))
        return moved, {"loss": loss, "lr": rate, "grad_norm": optax.tree.norm(gradients)}, counts

    return update


@functools.cache
def build_evaluation(config: EncoderConfig, engine: Engine, mesh: Mesh) -> Callable[[Any, Batch], Array]:
    """(params, batch) -> symmetric InfoNCE over the whole batch at their temperature, whatever the objective is."""
    encode = encoding(config, engine)

    @jax.jit
    def evaluate(params: Any, batch: Batch) -> Array:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            queries_BxD = encode(params["encoder"], batch.get("query_images"), None, batch.get("query_text"))
            items_BxD = encode(params["encoder"], *shown_items(batch, {}))
            return info_nce(
                queries_BxD,
                items_BxD,
                positive_ids_B=batch["product_ids"],
                temperature=temperature_of(params),
                mesh=mesh,
                form=engine.form,
                tile=engine.tile or None,
            )

    return evaluate


def encoding(config: EncoderConfig, engine: Engine) -> Callable[..., Array]:
    """(parameters, photos or None, their views or None, text or None) -> unit vectors, in chunks where asked for."""
    graph = graph_of(config)

    def encode(params: Any, images: Array | None, views: Views | None, text: Array | None) -> Array:
        if images is not None and views is not None:
            images = show(images, views)
        return nnx.merge(graph, params)(images, text, remat=engine.remat)

    return in_chunks(encode, engine.chunk)


def shown_items(batch: Batch, views: dict[str, Views]) -> tuple[Array | None, Views | None, Array | None]:
    """What the encoder sees of the items."""
    return batch.get("item_images"), views.get("item"), batch.get("item_text")


@functools.cache
def build_filling(
    config: EncoderConfig, queue_from: str, engine: Engine, mesh: Mesh
) -> Callable[[State, Batch], State]:
    """(state, batch) -> the state with the batch's items in its queue, as its encoder sees them now."""
    encode = encoding(config, engine)

    @functools.partial(jax.jit, donate_argnums=0)
    def fill(state: State, batch: Batch) -> State:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            params = state["ema" if queue_from == "ema" else "params"]["encoder"]
            items_BxD = encode(params, *shown_items(batch, {}))
            filled = state | {"queue": push(state["queue"], items_BxD, batch["product_ids"], state["step"])}
            return jax.lax.with_sharding_constraint(filled, state_shardings(mesh, filled))

    return fill


def draw(batch: Batch, key: Array, objective: Objective) -> dict[str, Views]:
    """Random views of the photos of queries and, where asked for, of items."""
    query_key, item_key = jax.random.split(key)
    views = {}
    if "query_images" in batch:
        views["query"] = draw_views(batch["query_images"].shape[0], query_key)
    if objective.augment_items and "item_images" in batch:
        views["item"] = draw_views(batch["item_images"].shape[0], item_key)
    return views


def encode_hard(encode: Callable[..., Array], params: Any, batch: Batch) -> Array | None:
    """Hard negatives of each query as B x H x D; None where the batch has none."""
    if "hard_product_ids" not in batch:
        return None
    size, hard = batch["hard_product_ids"].shape

    def flat(shown: Array | None) -> Array | None:  # query by query, so that rows stay on their devices
        return None if shown is None else shown.reshape(size * hard, *shown.shape[2:])

    return encode(params, flat(batch.get("hard_images")), None, flat(batch.get("hard_text"))).reshape(size, hard, -1)


def count(batch: Batch, queue: Any, step: Array, num_negatives: Array, patches: int) -> dict[str, Array]:
    """Tokens shown, mean distinct unmasked candidates of a query, share of places masked, mean age of the queue in steps.

    Tokens are those of pairs: hard negatives cost FLOPs, which are a column of their own, but show no behaviour.
    """
    size = batch["product_ids"].shape[0]
    seen = sum(size * patches for name in ("query_images", "item_images") if name in batch)
    tokens = seen + sum(jnp.count_nonzero(batch[name]) for name in ("query_text", "item_text") if name in batch)
    counted = count_candidates(
        batch["product_ids"],
        num_negatives,
        queue_ids_Q=None if queue is None else contents(queue)[1],
        hard_ids_BxH=batch.get("hard_product_ids"),
    )
    told = {"candidates": counted["candidates"], "masked_share": counted["masked"]}
    if queue is not None:
        told["queue_staleness"] = staleness(queue, step)
    return {"tokens": jnp.asarray(tokens, jnp.int32), **told}


@functools.cache
def build_initial(
    config: EncoderConfig, objective: Objective, mesh: Mesh, batch: int, queue: int
) -> Callable[[Array], State]:
    """seed -> the state before the first step, each array where the mesh wants it; a queue is there, but not filled yet."""

    def make(seed: Array) -> State:
        params = initial_parameters(config, seed, objective.loss)
        state = {
            "params": params,
            "opt": optimiser(frozen=objective.frozen).init(params),
            "step": jnp.int32(0),
            "key": jax.random.key_data(jax.random.key(seed)),
        }
        if objective.ema:
            state["ema"] = jax.tree.map(jnp.copy, params)
        if queue:
            state["queue"] = empty_queue(batch, queue, config.embedding, jnp.dtype(config.dtype))
        return state

    return jax.jit(make, out_shardings=state_shardings(mesh, jax.eval_shape(make, jnp.uint32(0))))


def still(params: Any, frozen: tuple[str, ...]) -> Any:
    """The same parameters; no gradient goes to those of the frozen parts, nor past what only they need."""
    if not frozen:
        return params
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: jax.lax.stop_gradient(leaf) if is_frozen(path, frozen) else leaf, params
    )


def shares_of(config: EncoderConfig, params: Any, transfer: str) -> Any:
    """What each parameter's rate is multiplied with; None where all keep theirs."""
    widths = config.vision_shape.width, config.decoder_shape.width
    if transfer == "none" or widths == (BASE_WIDTH, BASE_WIDTH):
        return None
    return width_shares(params, *widths)


@functools.cache
def graph_of(config: EncoderConfig) -> nnx.GraphDef:
    """The encoder without its parameters."""
    return nnx.split(nnx.eval_shape(lambda: config.build(0)))[0]


def initial_parameters(config: EncoderConfig, seed: Array | int, loss: str = "info_nce") -> dict[str, Any]:
    """{"encoder": params, "log_scale": log 1 / temperature, and for the sigmoid loss its "bias"}."""
    params = {
        "encoder": nnx.split(config.build(seed))[1],
        "log_scale": jnp.float32(math.log(1 / TEMPERATURES[loss])),
    }
    return params | {"bias": jnp.float32(FIRST_BIAS)} if loss == "sigmoid" else params


def temperature_of(params: dict[str, Any]) -> Array:
    """The learned temperature, bounded below as CLIP's."""
    return jnp.exp(-jnp.minimum(params["log_scale"], LARGEST_SCALE))


def state_shardings(mesh: Mesh, state: State) -> State:
    """Where a state lies: parameters, moments and average by the rules; the queue's lanes as the batch; the rest whole."""
    out = param_shardings(mesh, state)
    if "queue" in state:
        out["queue"] = {name: replicated(mesh) for name in state["queue"]}
        out["queue"] |= {"vectors": batch_sharding(mesh), "ids": batch_sharding(mesh)}
    return out
