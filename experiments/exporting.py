"""`moon export`: encoder, tokenizer, card and vectors out of a finished step."""

import json
import os
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.question import QuestionError


@dataclass(frozen=True)
class Source:
    """A finished step ("this") and the steps that it needs, by name: what each is called, its folder, config, and metrics."""

    names: dict[str, str]
    folders: dict[str, Path]
    configs: dict[str, Any]
    metrics: dict[str, dict[str, Any]]

    @property
    def encoder(self) -> str:
        """Which of them holds the encoder."""
        return next(need for need in ("this", "posttrain") if (self.folders[need] / "encoder.safetensors").exists())

    @property
    def tokens(self) -> int | None:
        """Post-training tokens of the encoder; None of one that was not post-trained here."""
        return self.metrics[self.encoder].get("tokens")


def export(step: Path, to: Path, *, dim: int | None = None, int8: bool = False) -> Path:
    """Writes the folder `to`, whole or not at all: weights, config, tokenizer and card; of an embed step the items' vectors
    besides, as `embeddings.parquet`.

    Raises:
        QuestionError: the step holds no encoder, is not finished, or `to` is not empty.
        DataError: a dimension that there is not.
    """
    source = source_of(step)
    require_new(to)
    with_vectors = (source.folders["this"] / "items.npy").exists()
    if (dim or int8) and not with_vectors:
        raise QuestionError(f"{step}: only an embed step has vectors to cut or to quantise; leave out --dim and --int8")
    to.parent.mkdir(parents=True, exist_ok=True)
    made = to.with_name(f".{to.name}.{uuid.uuid4().hex[:12]}")
    made.mkdir()
    try:
        shutil.copy2(source.folders[source.encoder] / "encoder.safetensors", made / "encoder.safetensors")
        described = json.loads((source.folders[source.encoder] / "encoder.json").read_text())
        described["resample"] = source.configs["prepare"].resample
        (made / "encoder.json").write_text(json.dumps(described, indent=1))
        write_tokenizer(source, made / "tokenizer.json")
        if with_vectors:
            write_vectors(source, made / "embeddings.parquet", dim, int8)
        (made / "README.md").write_text(card(source, dim, int8), encoding="utf-8")
        if to.exists():
            to.rmdir()
        os.rename(made, to)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise
    return to


def require_new(to: Path) -> None:
    """QuestionError where there is something already: asked before long work, too."""
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise QuestionError(f"{to}: not empty; give a new folder")


def source_of(step: Path) -> Source:
    """The step and its needs; QuestionError where it is no finished step with an encoder."""
    from sweeps import Ledger

    step = step.absolute()
    if not (step / "step.json").exists():
        raise QuestionError(f"{step}: not a step folder (it has no step.json)")
    ledger = Ledger(step.parents[1], create=False)
    if ledger.result(step.name) is None:
        raise QuestionError(f"{step}: the step has no result yet")
    names = {"this": step.name, **ledger.record(step.name).needs}
    folders = {need: ledger.folder(name) for need, name in names.items()}
    held = any((folders.get(need, step) / "encoder.safetensors").exists() for need in ("this", "posttrain"))
    if not held or "prepare" not in names:
        raise QuestionError(f"{step}: the step holds no encoder; give a pretrain, posttrain or embed step")
    configs = {need: ledger.record(name).rebuilt_config() for need, name in names.items()}
    metrics = {need: (ledger.result(name) or {}).get("metrics", {}) for need, name in names.items()}
    return Source(names, folders, configs, metrics)


def write_tokenizer(source: Source, path: Path) -> None:
    """The tokenizer, which cuts texts as they were cut when the encoder was measured."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(source.folders["prepare"] / "tokenizer.json"))
    tokenizer.enable_truncation(source.configs["prepare"].text_length)
    tokenizer.save(str(path))


def write_vectors(source: Source, path: Path, dim: int | None, int8: bool) -> None:
    """`embeddings.parquet` in the form of the data contract."""
    import numpy as np

    from moon_jax.data.representations import embeddings_table

    ids = np.load(source.folders["prepare"] / "item_ids.npy", allow_pickle=False)
    vectors = np.load(source.folders["this"] / "items.npy", allow_pickle=False)
    embeddings_table(ids, vectors, dim=dim, int8=int8).write_parquet(path)


def card(source: Source, dim: int | None, int8: bool) -> str:
    """README.md of the folder: what it is, how it was made, how good it was, how to use it."""
    encoder = json.loads((source.folders[source.encoder] / "encoder.json").read_text())["config"]
    measured, trained = source.metrics["this"], source.metrics[source.encoder]
    shape = f"images of {encoder['height']} x {encoder['width']} pixels in patches of {encoder['patch']}"
    lines = [
        "# A multimodal encoder trained with moon-jax",
        "",
        f"{encoder['backbone']} backbone, size {encoder['size']}, {shape}, vectors of {encoder['embedding']} dimensions.",
        "",
        "## How it was made",
        f"- steps: {', '.join(source.names.values())}",
    ]
    told = {"tokens": "post-training tokens", "passes": "passes over the pairs", "params": "parameters"}
    lines += [f"- {words}: {trained[name]:,.4g}" for name, words in told.items() if name in trained]
    if forms := getattr(source.configs[source.encoder], "forms", ()):
        lines.append(f"- forms: {', '.join(f'{form} ({form.search}, {form.weight:g})' for form in forms)}")
    recalls = {name: value for name, value in measured.items() if "recall@" in name and not name.startswith("valid_")}
    if recalls:
        lines += ["", "## How good it was on the test split", f"Gallery of {measured['gallery']:,} items.", ""]
        lines += ["| metric | value |", "|---|---|", *(f"| {name} | {value:.4f} |" for name, value in recalls.items())]
    lines += ["", "## How to use it", "```python", "from moon_jax.inference import load", ""]
    lines += [
        'embedder = load("FOLDER")',
        'vectors = embedder.embed(images=["photo.jpg"], texts=["a title"])  # or one of them',
    ]
    lines += ["```"]
    if (source.folders["this"] / "items.npy").exists():
        kept = f"the first {dim} dimensions" if dim else "all dimensions"
        form = "int8 with a scale a vector" if int8 else "float16"
        lines += ["", f"`embeddings.parquet`: item_id and embedding of every item of the catalogue, {kept}, {form}."]
    return "\n".join(lines) + "\n"
