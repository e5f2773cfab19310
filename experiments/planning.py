"""What a run would cost, before it runs: steps, parameters, tokens, FLOPs, memory, time, and what it could detect."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from experiments.question import QuestionError
from moon_jax.meter import matmul_peak
from moon_jax.optimisation import DECAY
from moon_jax.stages.application import ApplicationConfig
from moon_jax.stages.posttrain import PosttrainConfig, TrunkConfig
from moon_jax.stages.pretrain import PretrainConfig
from sweeps.progress import duration

if TYPE_CHECKING:
    from moon_jax.data.contract import Dataset
    from sweeps import Cell, Ledger, Step

ASSUMED_SHARE = 0.3  # of the matmul peak, where nothing has been measured yet
OVERHEAD = 5.0  # seconds a step, likewise: loading, compiling, measuring


@dataclass(frozen=True)
class Plan:
    """Totals over the steps still to run, and per kind of step how many are to run and how many are done."""

    cells: int
    to_run: Counter
    done: Counter
    params: int
    tokens: float
    flops: float
    memory: float
    seconds: float
    measured: bool
    detectable: str


def plan(ledger: "Ledger", cells: "Sequence[Cell]", dataset: "Dataset", workers: int) -> Plan:
    """Estimate a question's cost; the time rests on this ledger's own finished steps where there are any."""
    steps = _closure(cells)
    waiting = [step for step in steps if ledger.result(step) is None]
    kinds = [step.function.partition(":")[2] for step in waiting]
    done = Counter(step.function.partition(":")[2] for step in steps if ledger.result(step) is not None)
    posttrain = [step.config for step in steps if isinstance(step.config, PosttrainConfig)]
    trained = [step.config for step in steps if isinstance(step.config, PosttrainConfig | PretrainConfig)]
    if workers < 1:
        raise QuestionError(f"{workers} workers can do nothing; give at least 1")
    seconds, measured = _seconds(ledger, steps, waiting)
    return Plan(
        cells=len(cells),
        to_run=Counter(kinds),
        done=done,
        params=max((config.encoder.parameters() for config in trained), default=0),
        tokens=float(
            sum(step.config.tokens for step in waiting if isinstance(step.config, PosttrainConfig | PretrainConfig))
        ),
        flops=sum(_flops(step) for step in waiting),
        memory=max((_memory(config) for config in posttrain), default=0.0),
        seconds=seconds / workers,
        measured=measured,
        detectable=_detectable(dataset, cells),
    )


def _closure(cells: "Iterable[Cell]") -> "list[Step]":
    seen: dict[str, Any] = {}

    def visit(step: "Step") -> None:
        if step.name not in seen:
            for needed in step.needs.values():
                visit(needed)
            seen[step.name] = step

    for cell in cells:
        for step in cell.steps.values():
            visit(step)
    return list(seen.values())


def _flops(step: "Step") -> float:
    """6 FLOPs a parameter and token, and 6 D a logit of the loss; a CTR example costs about its attention."""
    config = step.config
    if isinstance(config, TrunkConfig):
        return (1 - DECAY) * _training_flops(replace(config.run, tokens=max(config.budgets)))
    if isinstance(config, PosttrainConfig):
        return _training_flops(config) * (DECAY if "trunk" in step.needs else 1.0)
    if isinstance(config, PretrainConfig):
        body = config.encoder.parameters() - config.encoder.vocabulary * config.encoder.decoder_shape.width
        return config.tokens * 6.0 * body
    if isinstance(config, ApplicationConfig):
        return config.examples * 6.0 * (config.length * 600 + 20_000)
    return 0.0


def _training_flops(config: PosttrainConfig) -> float:
    """Hard negatives are encoded, but are no tokens of the budget."""
    encoder = config.encoder
    body = encoder.parameters() - encoder.vocabulary * encoder.decoder_shape.width
    per_pair = 2 * encoder.patches  # a lower bound of a pair's tokens
    encoded = 6.0 * body * (1 + config.hard_negatives / 2)
    return config.tokens * (encoded + 6.0 * (config.batch + config.queue) * encoder.embedding / per_pair)


def _memory(config: PosttrainConfig) -> float:
    """Bytes: weights, gradients and two moments in float32, activations of a step, and the logits (an estimate)."""
    encoder = config.encoder
    tokens = (2 + config.hard_negatives) * config.batch * (encoder.patches + 16)
    return (
        16.0 * encoder.parameters()
        + 4.0 * tokens * 16 * sum(t.width * t.depth for t in (encoder.vision_shape, encoder.decoder_shape))
        + (12.0 * config.batch * (config.batch + config.queue) + 4.0 * config.queue * encoder.embedding)
    )


def _seconds(ledger: "Ledger", steps: "Sequence[Step]", waiting: "Sequence[Step]") -> tuple[float, bool]:
    """(seconds of one worker for what is waiting, whether all of it rests on this folder's own finished steps).

    By kind of step: where there are FLOPs to count, seconds a FLOP; else the mean. A kind that never ran here is
    assumed to take its FLOPs at a share of the matmul peak and a few seconds besides.
    """
    known: dict[str, list[tuple[float, float]]] = {}
    for step in steps:
        result = ledger.result(step)
        if result is not None:
            known.setdefault(step.function, []).append((_flops(step), result["seconds"]))
    total, measured, peak = 0.0, True, 0.0
    for step in waiting:
        cost, seen = _flops(step), known.get(step.function)
        if not seen:
            measured = False
            peak = peak or matmul_peak()
            total += cost / (ASSUMED_SHARE * peak) + OVERHEAD
            continue
        flops, seconds = (sum(part) for part in zip(*seen, strict=True))
        total += cost * seconds / flops if cost and flops else seconds / len(seen)
    return total, measured


def _detectable(dataset: "Dataset", cells: "Sequence[Cell]") -> str:
    """The smallest true difference seen with 80 % power at the 5 % level (2.8 standard errors), between two points."""
    seeds = len({cell.coordinates.get("seed", 0) for cell in cells}) or 1
    said = []
    if dataset.has("pairs"):
        import polars as pl

        queries = dataset.read("pairs", ["query_id", "split"]).filter(pl.col("split") == "test")["query_id"].n_unique()
        a_search = max(1, queries // max(len(dataset.forms), 1))
        bound = 2.8 * math.sqrt(0.25 / a_search)
        said.append(f"recall: {bound:.3f} (about {a_search} test queries a search, unpaired bound at recall .5)")
    if dataset.has("impressions") and any("application" in cell.steps for cell in cells):
        import polars as pl

        users = (
            dataset.read("impressions", ["user_id", "split"]).filter(pl.col("split") == "test")["user_id"].n_unique()
        )
        said.append(f"GAUC: {2.8 * 0.10 / math.sqrt(users):.4f} ({users} test users, paired, users' sd taken as .10)")
    return "; ".join(said) + f"; {seeds} seeds"


def lines(name: str, made: Plan) -> list[str]:
    """The plan of a question as text."""
    kinds = sorted(made.to_run.keys() | made.done.keys())
    work = ", ".join(f"{kind} {made.to_run[kind]} to run / {made.done[kind]} done" for kind in kinds)
    source = "from this folder's finished steps"
    if not made.measured:
        source = f"assuming {ASSUMED_SHARE:.0%} of matmul peak where nothing is known from this folder's finished steps"
    return [
        f"{name}: {made.cells} cells; {work}",
        f"  encoder {made.params:,} parameters; {made.tokens:,.0f} tokens to train; {made.flops:.3g} FLOPs; "
        f"about {made.memory / 2**20:,.0f} MiB a worker (estimate)",
        f"  about {duration(made.seconds)} ({source})",
        f"  smallest difference it can detect: {made.detectable}",
    ]
