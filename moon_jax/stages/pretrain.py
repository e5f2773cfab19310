"""Pretraining: domain knowledge by question answering over product photos (arXiv 2511.11305, Figs 1 and 3).

Next tokens of the answers alone, with causal attention; the questions come out of the catalogue (`data.questions`).
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh

from moon_jax.data.augment import draw_views, show
from moon_jax.data.contract import DataError, read_table
from moon_jax.data.loading import Batches, Prepared
from moon_jax.data.questions import MIX, Instance, Mix, Product, draw, products_of, require_mix
from moon_jax.distributed import is_first
from moon_jax.engine import Engine
from moon_jax.meter import Meter
from moon_jax.models.decoding import answer_logits
from moon_jax.models.encoder import EncoderConfig
from moon_jax.optimisation import descend, learning_rate, optimiser
from moon_jax.sharding import make_mesh, param_shardings, place_batch, replicated
from moon_jax.stages.contrastive_step import graph_of, shares_of, still
from moon_jax.stages.prepare import END
from moon_jax.training import DivergedError, train
from moon_jax.weights import load_parameters, save_encoder

Array = np.ndarray
COLUMNS = ["title", "category", "attributes"]
ENDS = (END, "<|im_end|>", "<|endoftext|>", "</s>")  # tokens that end an answer: ours, or that of an adopted tokenizer


@dataclass(frozen=True)
class PretrainConfig:
    """One pretraining run.

    Attributes:
        encoder: the model's shape, "generative"; its pool and attention are read by post-training alone.
        tokens: budget: ViT patches + text tokens of questions and answers.
        batch: questions a step, over all devices.
        peak_lr: learning rate at the end of the warm-up, a tenth of the budget; then a cosine.
        mix: (task, ratio), some of `questions.TASKS`.
        question, answer: most tokens of each; a longer answer is cut, a longer title before a question, too.
        frozen, transfer: as in `PosttrainConfig`.
        seed: of initialisation, questions, order and augmentation.
    """

    encoder: EncoderConfig
    tokens: int
    batch: int = 64
    peak_lr: float = 2e-3
    mix: Mix = MIX
    question: int = 32
    answer: int = 16
    frozen: tuple[str, ...] = ()
    transfer: str = "mup"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.encoder.backbone != "generative":
            raise ValueError("encoder: two towers write no text; pretraining needs the generative backbone")
        require_mix(self.mix)


def pretrain(
    config: PretrainConfig,
    *,
    files: Mapping[str, Path],
    inputs: Mapping[str, Path],
    folder: Path,
    report: Callable[..., None],
) -> dict[str, Any]:
    """Step function: prepared arrays + the items' texts -> `encoder.safetensors`, whose head is not trained yet.

    Trains on items that no evaluation asks about; `pretrain_valid_loss` is that of items of the valid split, in nats a
    token. With an input "begin" it starts from those weights. A run that diverges returns status "diverged".

    Raises:
        DataError: the arrays were prepared without questions, or a question does not fit.
    """
    prepared, engine = Prepared(inputs["prepare"]), Engine.from_environment()
    mesh = make_mesh(engine, config.batch)
    asking = Asking.of(config, prepared, files["items"])
    tokens_per_step = asking.mean_tokens() * config.batch
    steps = round(config.tokens / tokens_per_step)
    state = build_initial(config.encoder, config.frozen, mesh)(jnp.uint32(config.seed))
    if "begin" in inputs:
        params = {"encoder": load_parameters(inputs["begin"], config.encoder)[0]}
        state |= {"params": jax.device_put(params, param_shardings(mesh, params))}
    update = build_update(config.encoder, config.answer, config.frozen, config.transfer, engine.on_device, mesh)
    hyper = {"steps": jnp.int32(steps), "peak_lr": jnp.float32(config.peak_lr)}
    meter = Meter(lambda state, batch: update(state, batch, hyper), config.encoder.dtype)
    batches = questions_and_answers(asking, config.batch, config.seed)
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
        return {"status": "diverged", "diverged_at_step": error.step, "last_good_checkpoint": error.checkpoint}
    finally:
        batches.close()
    kept = jax.jit(lambda tree: tree, out_shardings=replicated(mesh))(trained.state["params"])
    if is_first():
        save_encoder(folder, config.encoder, kept["encoder"], None)
    return {
        "pretrain_params": config.encoder.parameters(),
        "pretrain_tokens": trained.totals.get("tokens", 0.0),
        "pretrain_steps": steps,
        "pretrain_passes": steps * config.batch / len(asking.rows),
        "pretrain_valid_loss": held_out_loss(config, asking, trained.state["params"], engine, mesh),
        "pretrain_data_wait_share": trained.data_wait_share,
        **meter.summary("pretrain", trained),
    }


pretrain.runs_together = True  # type: ignore[attr-defined]  # in all processes of a gang


@dataclass(frozen=True)
class Asking:
    """Items to be asked about: their rows, what is known of them, their photos, and the tokenizer."""

    config: PretrainConfig
    prepared: Prepared
    products: list[Product]
    rows: Array
    tokenizer: Any

    @classmethod
    def of(cls, config: PretrainConfig, prepared: Prepared, items: Path, split: str = "train") -> "Asking":
        """Items of a split: for "train" those of no evaluation. Those that there is nothing to ask about are left out."""
        tokenizer = tokenizer_of(prepared.folder)
        products = products_of(read_table(items, COLUMNS))
        rows = prepared.own_items if split == "train" else held_items(prepared, split)
        tasks = {task for task, _ in config.mix}
        rows = np.array([row for row in rows.tolist() if tasks & set(products[row].answers())], np.int64)
        if split == "train" and rows.size < config.batch:
            raise DataError(f"{items}: {rows.size} items can be asked about, fewer than a batch of {config.batch}")
        return cls(config, prepared, products, rows, tokenizer)

    def draw(self, rows_B: Array, seed: int, places_B: Array) -> list[Instance]:
        return draw([self.products[row] for row in rows_B.tolist()], self.config.mix, seed, places_B)

    def encode(self, rows_B: Array, instances: Sequence[Instance]) -> dict[str, Array]:
        """A batch: uint8 photos, text int32 B x (question + answer + 1), where the answer starts and ends, int32 B."""
        text, start, end = lay_out(self.tokenizer, instances, self.config.question, self.config.answer)
        return {"images": self.prepared.item_images[rows_B], "text": text, "start": start, "end": end}

    def mean_tokens(self, sample: int = 2048) -> float:
        """Mean tokens of a question with its photo and answer, over some drawn from all rows."""
        places = np.arange(sample)
        rows = self.rows[places * len(self.rows) // sample]
        text, _, _ = lay_out(self.tokenizer, self.draw(rows, 0, places), self.config.question, self.config.answer)
        return self.config.encoder.patches + float(np.count_nonzero(text) / sample)


def tokenizer_of(folder: Path) -> Any:
    """The tokenizer of prepared arrays; DataError where it does not end answers."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    if not any(tokenizer.token_to_id(token) for token in ENDS):
        raise DataError(f"{folder / 'tokenizer.json'}: has no {END}; prepare the arrays with questions=True")
    return tokenizer


def end_of(tokenizer: Any) -> int:
    """The id that ends an answer."""
    return next(number for token in ENDS if (number := tokenizer.token_to_id(token)))


def held_items(prepared: Prepared, split: str) -> Array:
    """Item rows that are answers of this split, one a product, in order."""
    held = np.unique(prepared.pairs[prepared.pair_split == ("train", "valid", "test").index(split), 1])
    _, first = np.unique(prepared.product_ids[held], return_index=True)
    return held[np.sort(first)]


def lay_out(tokenizer: Any, instances: Sequence[Instance], question: int, answer: int) -> tuple[Array, Array, Array]:
    """(text int32 B x (question + answer + 1): question, answer, end, padding; start and end of each answer, int32 B).

    Of a question that is too long the beginning is cut, which is the title's; of an answer the end.
    """
    asked = tokenizer.encode_batch([instance.question for instance in instances])
    told = tokenizer.encode_batch([instance.answer for instance in instances])
    text = np.zeros((len(instances), question + answer + 1), np.int32)
    start, end = np.zeros(len(instances), np.int32), np.zeros(len(instances), np.int32)
    stop = end_of(tokenizer)
    for row, (ask, tell) in enumerate(zip(asked, told, strict=True)):
        ids = [*ask.ids[-question:], *tell.ids[:answer], stop]
        start[row], end[row] = len(ask.ids[-question:]), len(ids)
        text[row, : len(ids)] = ids
    return text, start, end


def questions_and_answers(asking: Asking, batch: int, seed: int) -> Batches:
    """Endless batches: items shuffled anew every pass, each asked something else; resumable by place."""
    index, count = jax.process_index(), jax.process_count()
    part = slice(index * batch // count, (index + 1) * batch // count)
    rows = grain.MapDataset.source(asking.rows).seed(seed).shuffle().repeat()
    made = rows.batch(batch, drop_remainder=True).map_with_index(_Ask(asking, part, seed))
    return iter(made.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=2)))


class _Ask(grain.experimental.MapWithIndexTransform):
    def __init__(self, asking: Asking, part: slice, seed: int):
        self.asking, self.part, self.seed = asking, part, seed

    def map_with_index(self, index: int, element: Any) -> dict[str, Array]:
        places = (index * len(element) + np.arange(len(element)))[self.part]
        rows = element[self.part]
        return self.asking.encode(rows, self.asking.draw(rows, self.seed, places))


@functools.cache
def build_initial(config: EncoderConfig, frozen: tuple[str, ...], mesh: Mesh) -> Callable[[jax.Array], Any]:
    """seed -> the state before the first step."""

    def make(seed: jax.Array) -> Any:
        params = {"encoder": nnx.split(config.build(seed))[1]}
        key = jax.random.key_data(jax.random.key(seed))
        return {"params": params, "opt": optimiser(frozen=frozen).init(params), "step": jnp.int32(0), "key": key}

    return jax.jit(make, out_shardings=param_shardings(mesh, jax.eval_shape(make, jnp.uint32(0))))


def loss_of(
    params: Any, batch: dict[str, jax.Array], graph: nnx.GraphDef, answer: int, remat: str = "none"
) -> jax.Array:
    """Mean cross-entropy of the answers' tokens, their ends included, in nats a token."""
    encoder = nnx.merge(graph, params["encoder"])
    logits_BxAxV = answer_logits(encoder, batch["images"], batch["text"], batch["start"], answer + 1, remat=remat)
    at_BxA = batch["start"][:, None] + jnp.arange(answer + 1)[None]
    told_BxA = jnp.take_along_axis(batch["text"], jnp.minimum(at_BxA, batch["text"].shape[1] - 1), axis=1)
    losses_BxA = optax.softmax_cross_entropy_with_integer_labels(logits_BxAxV, told_BxA)
    counted_BxA = at_BxA < batch["end"][:, None]
    return jnp.sum(losses_BxA * counted_BxA) / jnp.sum(counted_BxA)


@functools.cache
def build_update(
    config: EncoderConfig, answer: int, frozen: tuple[str, ...], transfer: str, engine: Engine, mesh: Mesh
) -> Callable[..., Any]:
    """The jitted training step (state, batch, hyper) -> (state, metrics, counts); it donates the state."""
    graph, adam = graph_of(config), optimiser(frozen=frozen)

    def loss(params: Any, batch: dict[str, jax.Array]) -> jax.Array:
        return loss_of(still(params, frozen), batch, graph, answer, engine.remat)

    @functools.partial(jax.jit, donate_argnums=0)
    def update(state: Any, batch: dict[str, jax.Array], hyper: dict[str, jax.Array]) -> Any:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            key = jax.random.fold_in(jax.random.wrap_key_data(state["key"]), state["step"])
            size = batch["images"].shape[0]
            seen = batch | {"images": show(batch["images"], draw_views(size, key))}
            value, gradients = jax.value_and_grad(loss)(state["params"], seen)
            rate = learning_rate(state["step"], hyper["steps"], hyper["peak_lr"])
            shares = shares_of(config, state["params"], transfer)
            moved = descend(state, gradients, rate=rate, adam=adam, shares=shares)
            moved = jax.lax.with_sharding_constraint(moved, param_shardings(mesh, moved))
        tokens = size * config.patches + jnp.count_nonzero(batch["text"])
        counts = {"tokens": jnp.asarray(tokens, jnp.int32)}
        return moved, {"loss": value, "lr": rate, "grad_norm": optax.tree.norm(gradients)}, counts

    return update


def held_out_loss(config: PretrainConfig, asking: Asking, params: Any, engine: Engine, mesh: Mesh) -> float:
    """The loss over 8 fixed batches of questions about items of the valid split; nan where there are none."""
    rows = held_items(asking.prepared, "valid")
    tasks = {task for task, _ in config.mix}
    rows = np.array([row for row in rows.tolist() if tasks & set(asking.products[row].answers())], np.int64)
    if not rows.size:
        return float("nan")
    evaluate, total = _evaluation(config.encoder, config.answer, mesh), 0.0
    index, count = jax.process_index(), jax.process_count()
    part = slice(index * config.batch // count, (index + 1) * config.batch // count)
    for number in range(8):
        places = number * config.batch + np.arange(config.batch)
        chosen = rows[places % rows.size]
        batch = asking.encode(chosen[part], asking.draw(chosen[part], 0, places[part]))
        total += float(evaluate(params, place_batch(mesh, batch))) / 8
    return total


@functools.cache
def _evaluation(config: EncoderConfig, answer: int, mesh: Mesh) -> Callable[..., jax.Array]:
    graph = graph_of(config)

    def evaluate(params: Any, batch: dict[str, jax.Array]) -> jax.Array:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return loss_of(params, batch, graph, answer)

    return jax.jit(evaluate, out_shardings=replicated(mesh))
