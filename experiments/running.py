"""From a question to its results: data, plan, run, collect. `answering.py` reads them."""

import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.question import GROUPS, Question, QuestionError, load_question
from experiments.recipes import PRESETS
from experiments.tuning import ASSUMED, Known, asked

if TYPE_CHECKING:
    import polars as pl

    from moon_jax.data.contract import Dataset
    from sweeps import Cell, Ledger, Snapshot, Step

SCHEMA = "1"
_OF_TRAINING = ("params", "tokens", "unique_tokens", "passes")
UNITS = {
    "tokens": "ViT patches + non-padding text tokens, both sides of every pair",
    "flops": "FLOP, matrix products of training, all stages of the cell",
    "posttrain_flops": "FLOP, matrix products, loss included",
    "application_flops": "FLOP, matrix products",
    "posttrain_tokens_per_second": "tokens/s without compilation",
    "seconds": "s, sum over the cell's steps (shared steps counted in each)",
    "image_entropy": "nats, over 256 fixed candidates",
    "text_entropy": "nats, over 256 fixed candidates",
    "item_entropy": "nats, over 256 fixed candidates",
    "log_loss": "nats",
    "peak_memory": "bytes, largest resident set of the worker so far, mapped files included",
}


def cache_folder() -> Path:
    """Where planted worlds and compiled programs are kept: $MOON_CACHE, or ~/.cache/moon-jax."""
    return Path(os.environ.get("MOON_CACHE") or Path.home() / ".cache" / "moon-jax")


def require_preset(preset: str) -> None:
    """QuestionError for a preset that there is not; asked before any world is made."""
    if preset not in PRESETS:
        raise QuestionError(f"unknown preset {preset!r}; there are {', '.join(PRESETS)}")


def open_data(folder: Path | None, preset: str, say: Any) -> "Dataset":
    """The user's dataset, or the planted world of the preset, made once and cached."""
    from moon_jax.data.contract import open_dataset

    require_preset(preset)
    if folder is not None:
        return open_dataset(folder)
    from experiments.worlds import world_for
    from moon_jax.data.world import make_world
    from sweeps import canonical
    from sweeps.sources import source_digest

    config = world_for(preset)
    # The code that makes it is part of its name: a world outlives no change of its generator.
    made_by = source_digest("moon_jax.data.world:make_world")
    name = hashlib.sha256(f"{canonical(config)} {made_by}".encode()).hexdigest()[:12]
    home = cache_folder() / "worlds" / name
    if home.is_dir():
        return open_dataset(home)
    say(f"making the planted world once: {home}")
    return make_world(home, config)


def require_sound_once(dataset: "Dataset", out: Path) -> None:
    """Check the contract, once for each content; DataError at the first fault."""
    from moon_jax.data.checking import require_sound

    mark = out / "checked" / f"{fingerprint(dataset)}.json"
    if mark.exists():
        return
    require_sound(dataset.folder)
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.write_text(json.dumps({"name": dataset.name, "digests": dict(dataset.digests)}))


def questions_for(name: str) -> list[Question]:
    """One question, or those of a group: "core" (what `make demo` runs), "all"."""
    return [load_question(each) for each in GROUPS.get(name, (name,))]


def cells_of(
    questions: Sequence[Question],
    preset: str,
    dataset: "Dataset",
    say: Any,
    *,
    trunk: bool = False,
    known: Known = ASSUMED,
) -> "dict[str, list[Cell]]":
    """Cells of each question; of several, those that the data cannot answer are skipped, visibly.

    trunk: questions over token budgets branch them off one trunk; the others have no such budgets. known: what finished
    steps measured, for questions whose cells depend on it.
    """
    from moon_jax.data.contract import DataError
    from sweeps import Cell

    out = {}
    for question in questions:
        try:
            branching = trunk and "trunk" in signature(question.cells).parameters
            if trunk and not branching and len(questions) == 1:
                raise QuestionError(f"{question.name}: it has no token budgets that could branch off a trunk")
            cells = asked(question.cells, preset, dataset, known, **({"trunk": True} if branching else {}))
        except (QuestionError, DataError) as error:
            if len(questions) == 1:
                raise
            say(f"skipping {question.name}: {error}")
            continue
        if not (isinstance(cells, list) and cells and all(isinstance(cell, Cell) for cell in cells)):
            raise QuestionError(f"{question.name}: cells() must return a list of at least one sweeps.Cell")
        out[question.name] = cells
    if not out:
        raise QuestionError(f"{dataset.folder}: it can answer none of these questions")
    return out


def known_in(ledger: "Ledger", *, assume: bool = False) -> Known:
    """What the steps of a folder have measured."""

    def result_of(step: "Step") -> dict[str, Any] | None:
        result = ledger.result(step)
        if result is None:  # what needs a diverged step gets no result of its own
            return {"status": "diverged"} if ledger.state(step) == "diverged" else None
        return {**result["metrics"], "status": result["status"]}

    return Known(result_of, assume)


def settle_stale(ledger: "Ledger", planned: "dict[str, list[Cell]]", stale: str | None) -> bool:
    """Refuse results of other source code unless told to keep or rerun them; whether some were taken back."""
    names = ledger.stale([step for cells in planned.values() for cell in cells for step in cell.steps.values()])
    if not names:
        return False
    if stale is None:
        raise QuestionError(
            f"{len(names)} finished steps were computed by other source code (first: {names[0]}); "
            "say --stale keep to use them or --stale rerun to compute them again"
        )
    if stale == "rerun":
        for name in names:
            ledger.discard(name)
    return stale == "rerun"


def discard_diverged(ledger: "Ledger", planned: "dict[str, list[Cell]]") -> None:
    """Take back the results that say that a step diverged, so that it runs again."""
    from sweeps.step import in_order

    for step in in_order([cell for cells in planned.values() for cell in cells]):
        result = ledger.result(step)
        if result is not None and result["status"] == "diverged":
            ledger.discard(step)


def refuse_other_data(out: Path, question: str, dataset: "Dataset") -> None:
    """QuestionError where the folder holds the question's answer on other data: it would be written over."""
    held = load_about(out, question).get("fingerprint")
    if held is not None and held != fingerprint(dataset):
        name = load_about(out, question)["data"]
        raise QuestionError(f"{out / question} holds the answer on other data ({name}); give another --out")


def fingerprint(dataset: "Dataset") -> str:
    """A name for the content of all files of a dataset."""
    return hashlib.sha256(json.dumps(dict(dataset.digests), sort_keys=True).encode()).hexdigest()[:16]


def worker_environment() -> dict[str, str]:
    """Compiled programs are shared by all workers and runs; large arrays lie in huge pages where the system has them.

    glibc reads its variable when a process starts: a tenth of a step of a model of 22 million parameters on two cores was
    page faults without it.
    """
    tunables = [os.environ.get("GLIBC_TUNABLES", ""), "glibc.malloc.hugetlb=1"]
    return {
        "JAX_COMPILATION_CACHE_DIR": str(cache_folder() / "xla"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
        "GLIBC_TUNABLES": ":".join(filter(None, tunables)),
    }


def engine_environment(text: str) -> dict[str, str]:
    """What tells workers how to compute; QuestionError where the text is none. Empty leaves it to the environment."""
    from moon_jax.engine import VARIABLE, Engine

    try:
        if text:
            Engine.parse(text)
            return {VARIABLE: text}
        Engine.from_environment()
    except ValueError as error:
        raise QuestionError(f"--engine {error}" if text else str(error)) from None
    return {}


def collect(ledger: "Ledger", question: str, cells: "Sequence[Cell]") -> "pl.DataFrame":
    """`results.parquet` of a question: one row a cell, schema version and units in its metadata."""
    import polars as pl

    table = pl.DataFrame(ledger.rows(cells), infer_schema_length=None)
    table = table.with_columns(pl.col(c).cast(pl.Float64) for c, t in table.schema.items() if t == pl.Null)
    simulated = load_about(ledger.root, question).get("simulated", {})
    table = table.with_columns(simulated=pl.lit(any(simulated.values())))
    spent = [name for name in table.columns if name.endswith("_flops")]
    table = table.with_columns(flops=pl.sum_horizontal(spent) if spent else pl.lit(0.0))
    # What the contract of results promises for every question, where the cell's own coordinates do not say it.
    trained = [name for name in ("posttrain_step", "application_step") if name in table.columns]
    given = {"run": pl.col(trained[0]) if trained else pl.lit(None, pl.String)}
    given |= {"version": pl.col("run")} | {name: pl.lit(None, pl.Float64) for name in _OF_TRAINING}
    for name, value in given.items():
        if name not in table.columns:
            table = table.with_columns(value.alias(name))
    units = {column: unit for column, unit in UNITS.items() if column in table.columns}
    target = ledger.root / question / "results.parquet"
    part = target.with_suffix(f".{os.getpid()}.part")
    table.write_parquet(part, metadata={"schema_version": SCHEMA, "units": json.dumps(units)})
    part.replace(target)
    return table


class Tables:
    """Keeps `results.parquet` of the questions up to date while they run, so that they can be read meanwhile."""

    EVERY = 20.0  # seconds, or
    TIMES = 50.0  # the time that it takes, where that is longer: the workers need the cores

    def __init__(self, ledger: "Ledger", planned: "dict[str, list[Cell]]"):
        self._ledger, self._planned = ledger, planned
        self._finished, self._next = -1, 0.0

    def beside(self, shown: "Callable[[Snapshot], None]") -> "Callable[[Snapshot], None]":
        """What a tick of a run does: the view, and then the tables."""

        def tick(now: "Snapshot") -> None:
            shown(now)
            self.refresh(now)

        return tick

    def refresh(self, now: "Snapshot") -> None:
        """Write the tables anew if steps have finished since, at most every so many seconds."""
        if len(now.finished) == self._finished or time.monotonic() < self._next:
            return
        began = time.monotonic()
        for question, cells in self._planned.items():
            collect(self._ledger, question, cells)
        took = time.monotonic() - began
        self._finished, self._next = len(now.finished), time.monotonic() + max(self.EVERY, self.TIMES * took)


def save_about(out: Path, question: str, dataset: "Dataset", preset: str) -> dict[str, Any]:
    """What a later `moon report` needs to know of a run: data, licence, what is simulated, preset."""
    about = {
        "data": dataset.name,
        "fingerprint": fingerprint(dataset),
        "source": dataset.source,
        "licence": dataset.licence,
        "simulated": dict(dataset.simulated),
        "preset": preset,
    }
    from sweeps.files import write_json

    write_json(out / question / "about.json", about)
    return about


def load_about(out: Path, question: str) -> dict[str, Any]:
    path = out / question / "about.json"
    return json.loads(path.read_text()) if path.exists() else {}


def failures(snapshot: "Snapshot") -> int:
    """Steps that ended without a result."""
    return len(snapshot.failed)
