"""Steps of the questions: which function, which version, which files, which needs. Versions are raised here."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from experiments.recipes import Recipe
from moon_jax.data.contract import Dataset
from moon_jax.data.forms import OWN, Form
from moon_jax.data.processing import Transformation
from moon_jax.data.tables import read_schema
from moon_jax.models.behaviour import MODULES
from moon_jax.models.encoder import EncoderConfig
from moon_jax.stages.adopt import AdoptConfig
from moon_jax.stages.answers import AnswersConfig
from moon_jax.stages.application import ApplicationConfig
from moon_jax.stages.compare import CompareConfig
from moon_jax.stages.contrast import ContrastConfig
from moon_jax.stages.embed import EmbedConfig
from moon_jax.stages.floors import ClearanceConfig, FloorsConfig
from moon_jax.stages.posttrain import PosttrainConfig, TrunkConfig
from moon_jax.stages.prepare import PrepareConfig
from moon_jax.stages.pretrain import PretrainConfig
from moon_jax.stages.process import ProcessConfig, RepresentConfig
from moon_jax.stages.relevance import RelevanceConfig
from moon_jax.stages.retrieval import RetrievalConfig
from sweeps import DataFile, Step

VERSIONS = {
    "prepare": 2,
    "adopt": 1,
    "floors": 2,
    "pretrain": 1,
    "answers": 1,
    "posttrain": 3,
    "trunk": 2,
    "embed": 6,
    "application": 7,
    "compare": 2,
    "retrieval": 1,
    "relevance": 1,
    "clearance": 1,
    "process": 1,
    "represent": 1,
    "contrast": 3,
}

PRETRAIN_RATE = 3.0  # times that of post-training: `moon run pretraining` tries a third and three times it


HOMES = {
    "trunk": "posttrain",
    "clearance": "floors",
    "represent": "process",
}  # modules of another name than their function


def function_of(stage: str) -> str:
    """The step function of a stage, as "package.module:function"."""
    return f"moon_jax.stages.{HOMES.get(stage, stage)}:{stage}"


def _step(stage: str, config: object, files: dict[str, DataFile] | None = None, /, **needs: Step) -> Step:
    return Step(function_of(stage), VERSIONS[stage], config, files=files or {}, needs=needs)


def _files(dataset: Dataset, *names: str) -> dict[str, DataFile]:
    return {name: DataFile(dataset.path(name), dataset.digests[name]) for name in names}


def adopt(
    recipe: Recipe, *, vision: Path | None, language: Path | None, digest: Callable[[Path], str], seed: int = 0
) -> Step:
    """Open weights to begin from: folders of a SigLIP model, of a Qwen3 model, or of both, which go by their digest."""
    given = {name: folder for name, folder in (("vision", vision), ("language", language)) if folder is not None}
    files = {name: DataFile(folder.resolve(), digest(folder)) for name, folder in given.items()}
    return _step("adopt", AdoptConfig(encoder(recipe), seed), files)


def prepare(dataset: Dataset, recipe: Recipe, processed: Step | None = None) -> Step:
    """The arrays of a dataset, or of its tables as a process step left them, with the same tokenizer then.

    Where the recipe begins from adopted weights with a tokenizer, that one is taken.
    """
    config = PrepareConfig(
        recipe.height,
        recipe.width,
        recipe.text_length,
        recipe.vocabulary,
        recipe.images,
        rich_length=recipe.rich_length,
        questions=recipe.questions,
        resample=recipe.resample,
    )
    if processed is not None:
        return _step("prepare", config, process=processed, tokenizer=prepare(dataset, recipe))
    words = {} if recipe.adopted is None or "language" not in recipe.adopted.files else {"tokenizer": recipe.adopted}
    hard = ("hard_negatives",) if dataset.has("hard_negatives") else ()
    return _step("prepare", config, _files(dataset, "items", "queries", "pairs", *hard), **words)


def process(dataset: Dataset, *transformations: Transformation, vectors: Step | None = None) -> Step:
    """Transformations of a dataset's tables, in order; `vectors` is a represent step for those that read one."""
    shown = (
        ("impressions",) if dataset.has("impressions") and any(t.name == "exposure" for t in transformations) else ()
    )
    needs = {} if vectors is None else {"vectors": vectors}
    files = _files(dataset, "items", "queries", "pairs", *shown)
    return _step("process", ProcessConfig(transformations), files, **needs)


def represent(dataset: Dataset, run: Step, searches: tuple[Form, ...], item: tuple[str, ...]) -> Step:
    """Items and training queries under the encoder of a post-training run, for transformations that read them."""
    needs = {"prepare": run.needs["prepare"], "posttrain": run}
    files = _files(dataset, "queries")
    return _step("represent", RepresentConfig(searches, item), files, **needs)


def floors(dataset: Dataset, recipe: Recipe) -> Step:
    return _step("floors", FloorsConfig(), prepare=prepare(dataset, recipe))


def clearance(dataset: Dataset, recipe: Recipe, embedded: Step) -> Step:
    """How far an embed step's image search stands above the floors, paired over queries."""
    needs = {"embed": embedded, "floors": floors(dataset, recipe)}
    return _step("clearance", ClearanceConfig(), **needs)


def encoder(recipe: Recipe, **changes: Any) -> EncoderConfig:
    """The recipe's encoder; `changes` are further fields of `EncoderConfig` (backbone, causal, pool)."""
    if recipe.shape is not None:
        return replace(recipe.shape, **changes)
    return EncoderConfig(
        size=recipe.size,
        height=recipe.height,
        width=recipe.width,
        patch=recipe.patch,
        embedding=recipe.embedding,
        vocabulary=recipe.vocabulary,
        dtype=recipe.dtype,
        **changes,
    )


def pretrain(dataset: Dataset, recipe: Recipe, *, tokens: int, seed: int, lr: float = 1.0, **changes: Any) -> Step:
    """A pretraining run on the catalogue's questions; `lr` multiplies three times the recipe's rate.

    `changes` are further fields of `PretrainConfig`.
    """
    recipe = replace(recipe, questions=True)
    config = PretrainConfig(
        encoder=encoder(recipe),
        tokens=tokens,
        batch=recipe.batch,
        peak_lr=PRETRAIN_RATE * recipe.lr * lr,
        frozen=recipe.frozen,
        seed=seed,
        **changes,
    )
    begin = {} if recipe.adopted is None else {"begin": recipe.adopted}
    return _step("pretrain", config, _files(dataset, "items"), prepare=prepare(dataset, recipe), **begin)


def answers(dataset: Dataset, run: Step, **changes: Any) -> Step:
    """What a pretraining run says about products that it has not seen."""
    config = AnswersConfig(**changes)
    return _step("answers", config, _files(dataset, "items"), prepare=run.needs["prepare"], pretrain=run)


def posttrain(
    dataset: Dataset,
    recipe: Recipe,
    *,
    forms: tuple[Form, ...],
    tokens: int,
    seed: int,
    lr: float = 1.0,
    num_negatives: int | None = None,
    processed: Step | None = None,
    branches: tuple[int, ...] = (),
    begin: Step | None = None,
    shape: EncoderConfig | None = None,
    **changes: Any,
) -> Step:
    """A post-training run, on the tables of a process step if one is given; `lr` multiplies the recipe's rate.

    0 tokens is the untrained encoder. With `branches` (token budgets) the run is a branch of the trunk that all these
    budgets share: constant rate, and a decay of its own over the last fifth. It starts from the weights of `begin`
    (pretraining, an earlier post-training) where one is given, else from open weights where the recipe adopts some.
    `shape` is another encoder than the recipe's. `changes` are further fields of `PosttrainConfig` (queue,
    hard_negatives, loss, ...).
    """
    if num_negatives == recipe.batch - 1:
        num_negatives = None  # all there are: the same run as that of other questions
    if recipe.own_weight and forms[0].search != OWN and "image" in forms[0].query and "image" in forms[0].item:
        forms = (*forms, replace(forms[0], search=OWN, weight=recipe.own_weight))
    config = PosttrainConfig(
        encoder=shape or encoder(recipe),
        forms=forms,
        tokens=tokens,
        batch=recipe.batch,
        num_negatives=num_negatives,
        peak_lr=recipe.lr * lr,
        augment_items=recipe.augment_items,
        frozen=recipe.frozen,
        seed=seed,
        **changes,
    )
    needs: dict[str, Any] = {"prepare": prepare(dataset, recipe, processed)}
    if (start := begin or recipe.adopted) is not None:
        needs["begin"] = start
    if not branches or not tokens:
        return _step("posttrain", config, **needs)
    # The warm-up of the smallest branch is that of all; the trunk's own budget is none.
    config = replace(config, schedule="wsd", warmup_tokens=min(branches) // 10)
    shared = TrunkConfig(replace(config, tokens=max(branches)), branches)
    return _step("posttrain", config, trunk=_step("trunk", shared, **needs), **needs)


def embed(
    dataset: Dataset,
    recipe: Recipe,
    run: Step,
    searches: tuple[Form, ...],
    item: tuple[str, ...],
    dims: tuple[int, ...] = (),
) -> Step:
    """Vectors and search metrics of a run, over the arrays that it was trained on; of nested `dims`, too."""
    config = EmbedConfig(searches, item, dims=dims, queries=asks(dataset))
    return _step("embed", config, _files(dataset, "items"), prepare=run.needs["prepare"], posttrain=run)


def asks(dataset: Dataset) -> bool:
    """Whether behaviour names queries: as events, or as what impressions answer."""
    return dataset.has("queries") and any(
        "query_id" in read_schema(dataset.path(name)) for name in ("events", "impressions") if dataset.has(name)
    )


def application(
    dataset: Dataset,
    recipe: Recipe,
    *,
    length: int,
    seed: int,
    embedded: Step | None,
    modules: tuple[str, ...] = ("attention", "simtier"),
    lr: float = 1.0,
    **changes: Any,
) -> Step:
    """A CTR run on the representations of an embed step, or on the dataset's own `embeddings.parquet` where none is given.

    Where no module reads representations it runs on IDs alone. `lr` multiplies the recipe's rate.
    `changes` are further fields of `ApplicationConfig`; with `features` of users their table is read, where there is one.
    """
    given = {"examples": recipe.examples, "peak_lr": recipe.ctr_lr * lr} | changes
    config = ApplicationConfig(length=length, modules=modules, batch=min(512, recipe.examples // 4), seed=seed, **given)
    names = ["items", "impressions", *(name for name in ("events", "truth") if dataset.has(name))]
    if "user" in config.features and dataset.has("users"):
        names.append("users")
    needs = {}
    if any(MODULES[name].reads_content for name in modules):
        names += ["queries"] if asks(dataset) else []
        if embedded is not None:
            needs["embed"] = embedded
        else:
            names.append("embeddings")
    return _step("application", config, _files(dataset, *names), **needs)


def retrieval(dataset: Dataset, embedded: Step | None, *, ann: bool) -> Step:
    """What users click found by what they did, on an embed step's representations or `embeddings.parquet`."""
    names = ["items", "impressions", *(("events",) if dataset.has("events") else ())]
    needs = {} if embedded is None else {"embed": embedded}
    names += ["embeddings"] if embedded is None else []
    return _step("retrieval", RetrievalConfig(ann=ann), _files(dataset, *names), **needs)


def relevance(dataset: Dataset, embedded: Step, form: Form) -> Step:
    """How an embed step's representations order the judged pairs of `relevance.parquet`."""
    needs = {"prepare": embedded.needs["prepare"], "posttrain": embedded.needs["posttrain"], "embed": embedded}
    return _step("relevance", RelevanceConfig(form), _files(dataset, "queries", "relevance"), **needs)


def compare(run: Step, baseline: Step) -> Step:
    return _step("compare", CompareConfig(), application=run, baseline=baseline)


def contrast(embedded: Step, baseline: Step) -> Step:
    """How far an embed step's image search stands above another's, paired over queries."""
    needs = {"embed": embedded, "baseline": baseline}
    needs |= {"prepare": embedded.needs["prepare"], "baseline_prepare": baseline.needs["prepare"]}
    return _step("contrast", ContrastConfig(), **needs)
