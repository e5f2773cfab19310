"""Post-training: contrastive learning from user behaviour (arXiv 2511.11305, Figs 1 and 3).

A query of any modality against the item its user interacted with; symmetric InfoNCE over a chosen number of in-batch
candidates, learned temperature, warm-up and decay to an exact token budget.
"""

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from moon_jax.data.augment import augment
from moon_jax.data.forms import Form
from moon_jax.data.loading import Prepared, training_batches
from moon_jax.losses import candidate_mask, info_nce
from moon_jax.meter import Meter
from moon_jax.models.encoder import EncoderConfig
from moon_jax.sharding import data_mesh, replicated, split_batch
from moon_jax.training import DivergedError, learning_rate, optimiser, train
from moon_jax.weights import save_encoder

Array = jax.Array
Batch = dict[str, Array]
LARGEST_SCALE = math.log(100.0)  # CLIP's bound on 1 / temperature


@dataclass(frozen=True)
class PosttrainConfig:
    """One post-training run.

    Attributes:
        encoder: the model's shape.
        forms: mixture of query -> item forms; a batch has one form.
        tokens: budget: ViT patches + non-padding text tokens, both sides of every pair.
        batch: pairs a step.
        num_negatives: in-batch candidates a query sees besides its positive; None for all.
        peak_lr: learning rate at the end of the warm-up.
        augment_items: augment the photos of items too, not only of queries.
        seed: of initialisation, data order and augmentation.
    """

    encoder: EncoderConfig
    forms: tuple[Form, ...]
    tokens: int
    batch: int = 64
    num_negatives: int | None = None
    peak_lr: float = 1e-3
    augment_items: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.forms:
            raise ValueError("forms: at least one query->item form is needed")
        if self.num_negatives is not None and not 0 < self.num_negatives < self.batch:
            raise ValueError(f"num_negatives: {self.num_negatives} must lie in 1..batch - 1 = {self.batch - 1}")


def posttrain(
    config: PosttrainConfig,
    *,
    files: Mapping[str, Path],
    inputs: Mapping[str, Path],
    folder: Path,
    report: Callable[..., None],
) -> dict[str, Any]:
    """Step function: prepared arrays -> `encoder.safetensors`; returns realised tokens, negatives, FLOPs, throughput.

    A run that diverges returns status "diverged" with the step.
    """
    prepared = Prepared(inputs["prepare"])
    steps, unique_tokens = budget(config, prepared)
    mesh = data_mesh(math.gcd(config.batch, jax.device_count()))
    graph, params = initialise(config.encoder, config.seed)
    state = {
        "params": params,
        "opt": optimiser().init(params),
        "step": jnp.int32(0),
        "key": jax.random.key(config.seed),
    }
    state = jax.device_put(state | {"key": jax.random.key_data(state["key"])}, replicated(mesh))
    hyper = {
        "steps": jnp.int32(steps),
        "peak_lr": jnp.float32(config.peak_lr),
        "num_negatives": jnp.int32(config.num_negatives or config.batch - 1),
    }
    batches = training_batches(prepared, config.forms, config.batch, config.seed)
    meter = Meter(functools.partial(build_update(graph, config.encoder.patches, config.augment_items), hyper=hyper))
    try:
        trained = train(
            meter,
            state,
            batches,
            steps=steps,
            folder=folder,
            report=report,
            place=lambda batch: jax.make_array_from_process_local_data(split_batch(mesh), batch),
        )
    except DivergedError as error:
        return {"status": "diverged", "diverged_at_step": error.step}
    finally:
        batches.close()
    params = trained.state["params"]
    temperature = float(temperature_of(params))
    save_encoder(folder, config.encoder, params["encoder"], temperature)
    tokens = trained.totals.get("tokens", 0.0)
    return {
        "params": config.encoder.parameters(),
        "tokens": tokens,
        "steps": steps,
        "unique_tokens": min(tokens, unique_tokens),
        "passes": tokens / unique_tokens,
        "realised_negatives": trained.totals.get("candidates", 0.0) / max(steps, 1),
        "train_loss": trained.last.get("loss"),
        "temperature": temperature,
        "data_wait_share": trained.data_wait_share,
        **meter.summary("posttrain", trained),
    }


def temperature_of(params: dict[str, Any]) -> Array:
    """The learned temperature, bounded below as CLIP's."""
    return jnp.exp(-jnp.minimum(params["log_scale"], LARGEST_SCALE))


def budget(config: PosttrainConfig, prepared: Prepared) -> tuple[int, float]:
    """(steps, unique tokens of one pass): steps are fixed in advance from the mean tokens of a pair."""
    sizes = [prepared.tokens_per_pair(form, config.encoder.patches) for form in config.forms]
    weights = [form.weight for form in config.forms]
    mean = sum(w * tokens for w, (tokens, _) in zip(weights, sizes, strict=True)) / sum(weights)
    return round(config.tokens / (mean * config.batch)), sum(tokens * pairs for tokens, pairs in sizes)


@functools.cache
def _initialiser(config: EncoderConfig) -> tuple[nnx.GraphDef, Callable[[Array], nnx.State]]:
    graph = nnx.split(nnx.eval_shape(lambda: config.build(0)))[0]
    return graph, jax.jit(lambda seed: nnx.split(config.build(seed))[1])


def initialise(config: EncoderConfig, seed: int) -> tuple[nnx.GraphDef, dict[str, Any]]:
    """(graph, {"encoder": params, "log_scale": log 1 / temperature, at CLIP's 0.07})."""
    graph, make = _initialiser(config)
    return graph, {"encoder": make(jnp.uint32(seed)), "log_scale": jnp.float32(math.log(1 / 0.07))}


@functools.cache
def build_update(graph: nnx.GraphDef, patches: int, augment_items: bool) -> Callable[..., Any]:
    """The jitted training step, one for all cells that share shapes: what varies in `hyper` is traced."""

    def loss_of(params: dict[str, Any], batch: Batch, num_negatives: Array) -> Array:
        encoder = nnx.merge(graph, params["encoder"])
        return info_nce(
            encoder(batch.get("query_images"), batch.get("query_text")),
            encoder(batch.get("item_images"), batch.get("item_text")),
            num_negatives=num_negatives,
            positive_ids_B=batch["product_ids"],
            temperature=temperature_of(params),
        )

    @functools.partial(jax.jit, donate_argnums=0)
    def update(state: Any, batch: Batch, hyper: dict[str, Array]) -> tuple[Any, dict[str, Array], dict[str, Array]]:
        counts = count(batch, hyper["num_negatives"], patches)
        query_key, item_key = jax.random.split(
            jax.random.fold_in(jax.random.wrap_key_data(state["key"]), state["step"])
        )
        if "query_images" in batch:
            batch = batch | {"query_images": augment(batch["query_images"], query_key)}
        if augment_items and "item_images" in batch:
            batch = batch | {"item_images": augment(batch["item_images"], item_key)}
        loss, gradients = jax.value_and_grad(loss_of)(state["params"], batch, hyper["num_negatives"])
        updates, opt = optimiser().update(gradients, state["opt"], state["params"])
        lr = learning_rate(state["step"], hyper["steps"], hyper["peak_lr"])
        params = jax.tree.map(lambda p, u: p - lr * u, state["params"], updates)
        state = state | {"params": params, "opt": opt, "step": state["step"] + 1}
        return state, {"loss": loss, "lr": lr, "grad_norm": optax.tree.norm(gradients)}, counts

    return update


def count(batch: Batch, num_negatives: Array, patches: int) -> dict[str, Array]:
    """Tokens shown, and the mean number of unmasked candidates besides the positive.

    Two other pairs of one product both count: batches are small beside the catalogue, so they are rare.
    """
    size = batch["product_ids"].shape[0]
    seen = sum(size * patches for name in ("query_images", "item_images") if name in batch)
    tokens = seen + sum(jnp.count_nonzero(batch[name]) for name in ("query_text", "item_text") if name in batch)
    mask = candidate_mask(size, num_negatives=num_negatives, positive_ids_B=batch["product_ids"])
    return {"tokens": jnp.asarray(tokens, jnp.int32), "candidates": jnp.mean(jnp.sum(mask, axis=1) - 1.0)}
