"""Post-training: contrastive learning from user behaviour (arXiv 2511.11305, Figs 1 and 3).

A query of any modality against the item its user interacted with, among negatives of four kinds: the other items of the
batch, on this device and on the others; a queue of past items; hard negatives of its own. One step, from batch to update,
is `contrastive_step.build_update`.
"""

import contextlib
import functools
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from moon_jax.checkpointing import load_checkpoint
from moon_jax.data.forms import ACTIONS, OWN, Form
from moon_jax.data.loading import Prepared, training_batches
from moon_jax.distributed import is_first
from moon_jax.engine import Engine
from moon_jax.flops import count_flops
from moon_jax.losses import Choice, choose_form
from moon_jax.meter import Meter
from moon_jax.models.encoder import EncoderConfig
from moon_jax.optimisation import PARTS, Schedule, branch_point
from moon_jax.sharding import make_mesh, param_shardings, place_batch, replicated
from moon_jax.stages.contrastive_step import (
    LOSSES,
    Objective,
    build_evaluation,
    build_filling,
    build_initial,
    build_update,
    temperature_of,
)
from moon_jax.training import DivergedError, train
from moon_jax.weights import load_parameters, save_encoder

TRUNK = "trunk.json"
PRIMING = 7919  # what a seed is moved by for the batches that fill a queue: the order of training stays as without one


@dataclass(frozen=True)
class PosttrainConfig:
    """One post-training run.

    Attributes:
        encoder: the model's shape.
        forms: mixture of query -> item forms; a batch has one form.
        tokens: budget: ViT patches + non-padding text tokens, both sides of every pair.
        batch: pairs a step, over all devices.
        num_negatives: in-batch candidates a query sees besides its positive; None for all.
        peak_lr: learning rate at the end of the warm-up.
        augment_items: augment the photos of items too, not only of queries.
        seed: of initialisation, data order and augmentation.
        loss: "info_nce", "circle" or "sigmoid".
        symmetric: queries against keys and keys against queries (the sigmoid loss has no direction).
        queue: past items that every query sees besides, a multiple of the batch; 0 for none.
        queue_from: whose representations enter the queue: the trained encoder's ("online") or its average's ("ema").
            From scratch the first fails: all vectors drift away from where they were, which tells old items from new
            ones and no product from another (MoCo's finding without momentum; `moon run negatives` shows it).
        hard_negatives: of a query, each step; the data must have them (`moon data process`, hard_negatives).
        ema: share of the parameters' moving average that is kept each step; 0 for none. With one, it is what is saved.
        dims: nested widths of a Matryoshka representation; none for the whole width alone.
        schedule: "cosine", or "wsd": constant, and a decay over the last fifth.
        warmup_tokens: length of the warm-up; None for a tenth of the budget. Branches of a trunk have the trunk's.
        actions: what makes a positive, some of "click", "cart" and "purchase"; none for whatever the data has.
        frozen: parts that keep what they begin with: some of "vision", "projector", "tokens", "decoder".
        transfer: "mup": rates of kernels shrink with the width, so that one `peak_lr` serves the ladder; or "none".
    """

    encoder: EncoderConfig
    forms: tuple[Form, ...]
    tokens: int
    batch: int = 64
    num_negatives: int | None = None
    peak_lr: float = 1e-3
    augment_items: bool = False
    seed: int = 0
    loss: str = "info_nce"
    symmetric: bool = True
    queue: int = 0
    queue_from: str = "online"
    hard_negatives: int = 0
    ema: float = 0.0
    dims: tuple[int, ...] = ()
    schedule: Literal["cosine", "wsd"] = "cosine"
    warmup_tokens: int | None = None
    actions: tuple[str, ...] = field(default=(), metadata={"added": True})
    frozen: tuple[str, ...] = field(default=(), metadata={"added": True})
    transfer: str = field(default="mup", metadata={"added": True})

    def __post_init__(self) -> None:
        if not self.forms:
            raise ValueError("forms: at least one query->item form is needed")
        if self.num_negatives is not None and not 0 < self.num_negatives < self.batch:
            raise ValueError(f"num_negatives: {self.num_negatives} must lie in 1..batch - 1 = {self.batch - 1}")
        for name, known in (
            ("loss", LOSSES),
            ("schedule", ("cosine", "wsd")),
            ("queue_from", ("online", "ema")),
            ("transfer", ("mup", "none")),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}: {getattr(self, name)!r} is unknown; one of {', '.join(known)}")
        for name, some in (("actions", ACTIONS), ("frozen", tuple(PARTS))):
            if unknown := set(getattr(self, name)) - set(some):
                raise ValueError(f"{name}: {sorted(unknown)[0]!r} is unknown; some of {', '.join(some)}")
        if self.queue < 0 or self.queue % self.batch:
            raise ValueError(f"queue: {self.queue} must be a multiple of the batch of {self.batch}, or 0")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema: {self.ema} must lie in 0..1, below 1")
        if self.queue_from == "ema" and not self.ema:
            raise ValueError("queue_from: an average is asked for, but there is none; give ema")
        if self.hard_negatives < 0:
            raise ValueError(f"hard_negatives: {self.hard_negatives} must not be below 0")
        if any(not 0 < dim <= self.encoder.embedding for dim in self.dims):
            raise ValueError(f"dims: {self.dims} must lie in 1..{self.encoder.embedding}, the width of the embedding")


@dataclass(frozen=True)
class TrunkConfig:
    """The shared beginning of "wsd" runs that differ in their budgets alone.

    Attributes:
        run: any of them.
        budgets: in tokens; the trunk keeps a checkpoint where each branch leaves it.
    """

    run: PosttrainConfig
    budgets: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.run.schedule != "wsd" or self.run.warmup_tokens is None:
            raise ValueError("a trunk needs the schedule wsd, and warmup_tokens that its branches share")
        if not self.budgets:
            raise ValueError("budgets: at least one is needed")


def posttrain(
    config: PosttrainConfig,
    *,
    files: Mapping[str, Path],
    inputs: Mapping[str, Path],
    folder: Path,
    report: Callable[..., None],
) -> dict[str, Any]:
    """Step function: prepared arrays -> `encoder.safetensors`; returns realised tokens, negatives, FLOPs, throughput.

    With an input "begin" (any step that left an encoder: pretraining, an earlier post-training, open weights) it starts
    from those weights, else from random ones. With an input "trunk" (a `trunk` step of the same run) it begins where this
    budget's branch leaves the trunk; tokens, candidates and FLOPs include the trunk's. A run that diverges returns status
    "diverged" with the step.
    """
    prepared, engine = Prepared(inputs["prepare"]), engine_for(config.batch)
    mesh = mesh_of(engine, config.batch)
    tokens_per_step, unique_tokens = mean_tokens(config, prepared)
    steps = round(config.tokens / tokens_per_step)
    state, batches = first_state(config, mesh, inputs.get("begin")), batches_of(config, prepared, engine)
    start, before = 0, {}
    if "trunk" in inputs:
        start = leaf_of(config, config.tokens, tokens_per_step)
        diverged = json.loads((inputs["trunk"] / TRUNK).read_text())["diverged_at_step"]
        if diverged is not None and diverged < start:
            return {"status": "diverged", "diverged_at_step": diverged}
        state, history = load_checkpoint(inputs["trunk"] / "checkpoints", start, state)
        batches.set_state(history["data"])
        before = history["totals"]
    meter = meter_of(config, config.schedule, engine, mesh, steps, tokens_per_step)
    priming = Priming(config, prepared, engine, mesh, report)
    try:
        trained = train(
            meter,
            state,
            batches,
            steps=steps,
            folder=folder,
            report=report,
            place=functools.partial(place_batch, mesh),
            start=start,
            evaluate=evaluation_of(config, prepared, engine, mesh),
            evaluate_at={round(steps * quarter / 4) for quarter in range(1, 5)},
            begin=None if start else priming,
            compiling=meter.compiling,
        )
    except DivergedError as error:
        return {"status": "diverged", "diverged_at_step": error.step, "last_good_checkpoint": error.checkpoint}
    finally:
        batches.close()
    kept = jax.jit(lambda tree: tree, out_shardings=replicated(mesh))(trained.state["ema" if config.ema else "params"])
    temperature = float(temperature_of(kept))
    if is_first():
        save_encoder(folder, config.encoder, kept["encoder"], temperature)
    totals = {name: value + before.get(name, 0.0) for name, value in trained.totals.items()}
    tokens = totals.get("tokens", 0.0)
    return {
        "params": config.encoder.parameters(),
        "tokens": tokens,
        "steps": steps,
        "unique_tokens": min(tokens, unique_tokens),
        "passes": tokens / unique_tokens,
        "realised_negatives": totals.get("candidates", 0.0) / max(steps, 1),
        "masked_share": totals.get("masked_share", 0.0) / max(steps, 1),
        **queue_facts(config, trained.state, totals, steps),
        **priming.flops(trained.state),
        "loss_form": str(loss_form(config, engine, mesh)),
        "mesh": "x".join(str(mesh.shape[axis]) for axis in mesh.axis_names),
        "engine": str(engine),
        "train_loss": trained.last.get("loss"),
        "temperature": temperature,
        "data_wait_share": trained.data_wait_share,
        **meter.summary("posttrain", trained),
        "posttrain_flops": totals.get("flops", 0.0),
    }


posttrain.runs_together = True  # type: ignore[attr-defined]  # in all processes of a gang


def trunk(
    config: TrunkConfig,
    *,
    files: Mapping[str, Path],
    inputs: Mapping[str, Path],
    folder: Path,
    report: Callable[..., None],
) -> dict[str, Any]:
    """Step function: trains to where the largest budget's branch leaves, and keeps what each branch begins from."""
    run, prepared = config.run, Prepared(inputs["prepare"])
    engine = engine_for(run.batch)
    mesh = mesh_of(engine, run.batch)
    tokens_per_step, _ = mean_tokens(run, prepared)
    leaves = sorted({leaf_of(run, budget, tokens_per_step) for budget in config.budgets})
    batches = batches_of(run, prepared, engine)
    meter = meter_of(run, "trunk", engine, mesh, leaves[-1], tokens_per_step)
    told: dict[str, Any] = {"branches": len(leaves)}
    diverged = None
    try:
        trained = train(
            meter,
            first_state(run, mesh, inputs.get("begin")),
            batches,
            steps=leaves[-1],
            folder=folder,
            report=report,
            place=functools.partial(place_batch, mesh),
            keep=leaves,
            begin=Priming(run, prepared, engine, mesh, report),
            compiling=meter.compiling,
        )
        told |= {"trunk_steps": leaves[-1], "trunk_tokens": trained.totals.get("tokens", 0.0)}
        told |= meter.summary("trunk", trained)
    except DivergedError as error:
        diverged = error.step
        told |= {"diverged_at_step": diverged}
        if diverged < leaves[0]:
            return {"status": "diverged", **told}
    finally:
        batches.close()
    if is_first():
        (folder / TRUNK).write_text(json.dumps({"diverged_at_step": diverged}))
    return told


trunk.runs_together = True  # type: ignore[attr-defined]  # in all processes of a gang


def engine_for(batch: int) -> Engine:
    """How to compute, with a chunk that fits where larger ones did not."""
    engine = Engine.from_environment()
    shape = make_mesh(engine, batch).shape
    return engine.within_memory(batch, shape["data"] * shape["fsdp"])


def mesh_of(engine: Engine, batch: int) -> Mesh:
    """The mesh of a run; ValueError where its devices cannot share a chunk, whose rows would travel then."""
    mesh = make_mesh(engine, batch)
    rows = mesh.shape["data"] * mesh.shape["fsdp"]
    if engine.chunk % rows:
        raise ValueError(f"chunk: {engine.chunk} pairs cannot be shared evenly by {rows} devices; take a multiple")
    return mesh


def leaf_of(config: PosttrainConfig, budget: int, tokens_per_step: float) -> int:
    """Steps after which a budget's branch leaves its trunk; ValueError where there are none."""
    leaf = branch_point(round(budget / tokens_per_step))
    if leaf < 1:
        raise ValueError(f"budgets: {budget:,} tokens are too few steps of {tokens_per_step:,.0f} tokens for a branch")
    return leaf


def mean_tokens(config: PosttrainConfig, prepared: Prepared) -> tuple[float, float]:
    """(mean tokens of a step, by which the number of steps is fixed in advance; tokens of one pass over the mixture)."""
    patches = config.encoder.patches
    sizes = [prepared.tokens_per_pair(form, patches, actions=config.actions) for form in config.forms]
    weights = [form.weight for form in config.forms]
    mean = sum(w * tokens for w, (tokens, _) in zip(weights, sizes, strict=True)) / sum(weights)
    return mean * config.batch, sum(tokens * pairs for tokens, pairs in sizes)


def objective_of(config: PosttrainConfig, schedule: Schedule) -> Objective:
    """What of a run decides on what is compiled."""
    return Objective(
        loss=config.loss,
        symmetric=config.symmetric,
        augment_items=config.augment_items,
        dims=config.dims,
        ema=config.ema > 0,
        queue_from=config.queue_from,
        schedule=schedule,
        frozen=config.frozen,
        transfer=config.transfer,
    )


def first_state(config: PosttrainConfig, mesh: Mesh, begin: Path | None = None) -> dict[str, Any]:
    """The state before the first step; with the weights of an earlier step, and its temperature where it learned one."""
    objective = objective_of(config, config.schedule)
    state = build_initial(config.encoder, objective, mesh, config.batch, config.queue)(jnp.uint32(config.seed))
    if begin is None:
        return state
    encoder, temperature = load_parameters(begin, config.encoder)
    params = state["params"] | {"encoder": encoder}
    if temperature is not None:
        params["log_scale"] = jnp.float32(-math.log(temperature))
    began = {name: params for name in ("params", "ema") if name in state}
    # copies: a state is donated, and its average must not lie where its parameters do
    return state | jax.jit(lambda tree: jax.tree.map(jnp.copy, tree), out_shardings=param_shardings(mesh, began))(began)


def batches_of(config: PosttrainConfig, prepared: Prepared, engine: Engine, moved: int = 0) -> Any:
    """Endless batches in the order of the seed."""
    return training_batches(
        prepared,
        config.forms,
        config.batch,
        config.seed + moved,
        loaders=engine.loaders,
        hard=config.hard_negatives,
        actions=config.actions,
    )


def meter_of(
    config: PosttrainConfig, schedule: Schedule, engine: Engine, mesh: Mesh, steps: int, tokens_per_step: float
) -> Meter:
    """The training step of this run, (state, batch) -> (state, metrics, counts), under a meter.

    FLOPs are those of the same step without chunks, recomputation and tiles: no engine does more work than another.
    """
    warmup = 0.1  # of the budget
    if config.warmup_tokens is not None:
        warmup = max(1.0, round(config.warmup_tokens / tokens_per_step))  # steps
    hyper = {
        "steps": jnp.int32(steps),
        "warmup": jnp.float32(warmup),
        "peak_lr": jnp.float32(config.peak_lr),
        "num_negatives": jnp.int32(config.num_negatives or config.batch - 1),
        "ema": jnp.float32(config.ema),
    }
    objective = objective_of(config, schedule)
    update, counted = (
        build_update(config.encoder, objective, how, mesh) for how in (engine.on_device, Engine(form="dense"))
    )
    if str(loss_form(config, engine, mesh)) == "dense" and not engine.chunk and engine.remat == "none":
        counted = update  # traced once
    return Meter(
        lambda state, batch: update(state, batch, hyper),
        config.encoder.dtype,
        lambda state, batch: counted(state, batch, hyper),
    )


def evaluation_of(
    config: PosttrainConfig, prepared: Prepared, engine: Engine, mesh: Mesh
) -> Callable[[Any], dict[str, float]] | None:
    """state -> `valid_loss`, InfoNCE over one fixed batch of valid pairs of the first form that has some; else None.

    It is that of the parameters which would be saved: with an average, the average's.
    Fewer pairs than a batch are repeated: the loss masks what is of one product.
    """
    searches = (form for form in config.forms if form.search != OWN)
    asked = ((form, prepared.pairs_of(form.search, "valid", config.actions)) for form in searches)
    form, pairs = next(((form, pairs) for form, pairs in asked if len(pairs)), (None, ()))
    if form is None:
        return None
    chosen = np.resize(np.random.default_rng(0).permutation(len(pairs)), config.batch)
    index, count = jax.process_index(), jax.process_count()
    mine = chosen[index * config.batch // count : (index + 1) * config.batch // count]
    batch = place_batch(mesh, prepared.gather(form, pairs[mine]))
    evaluate, shown = build_evaluation(config.encoder, engine.on_device, mesh), "ema" if config.ema else "params"
    return lambda state: {"valid_loss": float(evaluate(state[shown], batch))}


class Priming:
    """state -> the state with its queue full: batches of an order of their own, through the encoder as it is."""

    def __init__(
        self, config: PosttrainConfig, prepared: Prepared, engine: Engine, mesh: Mesh, report: Callable[..., None]
    ):
        self.config, self.prepared, self.engine, self.mesh, self.report = config, prepared, engine, mesh, report
        self.pushes = config.queue // config.batch
        self.fill = build_filling(config.encoder, config.queue_from, engine.on_device, mesh)

    def __call__(self, state: Any) -> Any:
        with contextlib.closing(self.batches()) as batches:
            for done in range(self.pushes):
                self.report(done, self.pushes, doing="filling the queue")
                state = self.fill(state, place_batch(self.mesh, next(batches)))
        return state

    def flops(self, state: Any) -> dict[str, float]:
        """What filling costs, as a column of the results; nothing where there is no queue."""
        if not self.pushes:
            return {}
        with contextlib.closing(self.batches()) as batches:
            each = count_flops(self.fill, state, place_batch(self.mesh, next(batches)))
        return {"priming_flops": float(self.pushes * each)}

    def batches(self) -> Any:
        return batches_of(replace(self.config, hard_negatives=0), self.prepared, self.engine, PRIMING)


def queue_facts(config: PosttrainConfig, state: Any, totals: dict[str, float], steps: int) -> dict[str, float]:
    """Of a run with a queue: the share of its places that hold an item, and the mean age of its entries in steps."""
    if not config.queue:
        return {}
    filled = jnp.mean(jnp.any(state["queue"]["vectors"] != 0, axis=-1), dtype=jnp.float32)
    return {"queue_fill": float(filled), "queue_staleness": totals.get("queue_staleness", 0.0) / max(steps, 1)}


def loss_form(config: PosttrainConfig, engine: Engine, mesh: Mesh) -> Choice:
    """The form that the loss of this run takes, and its tiles."""
    return choose_form(
        config.batch,
        config.encoder.embedding,
        queue=config.queue,
        devices=mesh.size,
        itemsize=jnp.dtype(config.encoder.dtype).itemsize,
        form=engine.form,
        tile=engine.tile,
    )
