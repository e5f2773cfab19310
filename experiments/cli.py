"""The command line `moon`. Heavy imports happen inside the commands: `moon --help` starts at once."""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional, UseAppendAction, arg, subcommand

OUT = Path("runs")
BAD_INPUT, SOME_FAILED, DONE = 2, 1, 0

QuestionName = Positional[
    Annotated[
        str,
        arg(
            metavar="QUESTION",
            help="training_tokens, negatives, sequence_length, exchange_rate, pixel_floor, all, or a .py file",
        ),
    ]
]


@dataclass
class PlanCommand:
    """What a question would cost, and the smallest difference it could detect. Runs nothing.

    Example: moon plan training_tokens --preset gpu
    """

    question: QuestionName
    preset: str = "demo"
    """smoke (seconds), demo (minutes on 2 cores), gpu (one accelerator), paper (a cluster)."""
    data: Path | None = None
    """A contract directory; without it the planted world."""
    out: Path = OUT
    workers: int | None = None

    def __call__(self) -> int:
        from experiments import planning
        from experiments.running import cells_of, open_data, questions_for
        from sweeps import Ledger

        questions = questions_for(self.question)
        dataset = open_data(self.data, self.preset, say)
        planned = cells_of(questions, self.preset, dataset, say)
        ledger = Ledger(self.out)
        workers = default_workers() if self.workers is None else self.workers
        for name, cells in planned.items():
            print("\n".join(planning.lines(name, planning.plan(ledger, cells, dataset, workers))))
        if len(planned) > 1:
            print("questions share steps: run together they cost less than the sum")
        return DONE


@dataclass
class RunCommand:
    """Run a question's cells that are not done yet, then read the results and write the report.

    Interrupt it (Ctrl-C, or worse) and run it again: it finishes what is left, nothing is done twice.

    Examples: moon run training_tokens --preset demo
              moon run sequence_length --data my/dataset --workers 2
              moon run published_laws --data DIR (your copy of the public scaling-law files)
    """

    question: QuestionName
    preset: str = "demo"
    """smoke (seconds), demo (minutes on 2 cores), gpu (one accelerator), paper (a cluster)."""
    data: Path | None = None
    """A contract directory (see `moon data`); without it a planted world is made once and cached."""
    out: Path = OUT
    workers: int | None = None
    """Worker processes; by default one a core (one in all where JAX sees an accelerator)."""
    launcher: Literal["local"] = "local"
    """Where the workers run; anything else (SLURM, Ray, cron) can start `moon worker` on the same folder."""
    stale: Literal["keep", "rerun"] | None = None
    """What to do with results that other source code computed; without it they are refused."""

    def __call__(self) -> int:
        if self.question == "published_laws":  # published numbers beside ours: nothing is trained
            from experiments import published_laws

            published_laws.run(self.data, self.out, say)
            return DONE
        from experiments import running
        from sweeps import Ledger, run_local
        from sweeps.progress import view

        questions = running.questions_for(self.question)
        dataset = running.open_data(self.data, self.preset, say)
        ledger = Ledger(self.out)
        running.require_sound_once(dataset, self.out)
        planned = running.cells_of(questions, self.preset, dataset, say)
        for name in planned:
            running.refuse_other_data(self.out, name, dataset)
        running.settle_stale(ledger, planned, self.stale)
        for name, cells in planned.items():
            ledger.write_plan(name, cells)
            running.save_about(self.out, name, dataset, self.preset)
        tables = running.Tables(ledger, planned)
        with view() as on_tick:
            snapshot = run_local(
                ledger,
                list(planned),
                workers=default_workers() if self.workers is None else self.workers,
                env=running.worker_environment(),
                on_tick=tables.beside(on_tick),
            )
        failed = running.failures(snapshot) > 0
        unread = 0
        for question in questions:
            if question.name not in planned:
                continue
            try:
                answer(self.out, question.name, question, planned[question.name])
            except ValueError as error:  # the other questions can still be read
                if not _is_users(error):
                    raise
                unread += 1
                say(f"\n{question.name.replace('_', ' ')}\n  no answer: {error}")
        return SOME_FAILED if failed else BAD_INPUT if unread else DONE


@dataclass
class StatusCommand:
    """How far the questions of a folder are, during and after a run.

    Example: moon status --out runs
    """

    out: Path = OUT

    def __call__(self) -> int:
        from rich.console import Console

        from sweeps import Ledger
        from sweeps.progress import status_table

        Console().print(status_table(Ledger(self.out, create=False)))
        return DONE


@dataclass
class ReportCommand:
    """Read the results so far and write figures, fits and report.html; works while the sweep still runs.

    Example: moon report training_tokens
    """

    question: QuestionName
    out: Path = OUT

    def __call__(self) -> int:
        from experiments.running import questions_for
        from sweeps import Ledger

        ledger = Ledger(self.out, create=False)
        for question in questions_for(self.question):
            if self.question == "all" and question.name not in ledger.questions():
                say(f"skipping {question.name}: it has not been run in {self.out}")
                continue
            answer(self.out, question.name, question, ledger.read_plan(question.name).cells)
        return DONE


@dataclass
class WorkerCommand:
    """Work on whatever is planned in a folder until nothing is left; any number may run, on any host that sees it.

    Example: moon worker --out /shared/runs
    """

    out: Path = OUT

    def __call__(self) -> int:
        from experiments.running import worker_environment
        from sweeps import Ledger, work

        os.environ.update({k: v for k, v in worker_environment().items() if k not in os.environ})
        stopped = not work(self.out)
        ledger = Ledger(self.out, create=False)
        return SOME_FAILED if stopped or ledger.pending(ledger.planned()) else DONE


@dataclass
class GcCommand:
    """List the steps that no question's plan refers to; with --delete, remove them.

    Example: moon gc --delete
    """

    out: Path = OUT
    delete: bool = False

    def __call__(self) -> int:
        import shutil

        from sweeps import Ledger

        ledger = Ledger(self.out, create=False)
        orphans = sorted(set(ledger.steps()) - set(ledger.planned(ledger.questions())))
        for name in orphans:
            print(ledger.step_folder(name))
            if self.delete:
                shutil.rmtree(ledger.step_folder(name))
        print(f"{len(orphans)} steps {'removed' if self.delete else 'would be removed (--delete does it)'}")
        return DONE


@dataclass
class ExportCommand:
    """Copy an encoder out of a finished step: weights (safetensors), config and tokenizer.

    Example: moon export runs/steps/posttrain-0a1b2c3d4e5f --to my-encoder
    """

    step: Positional[Annotated[Path, arg(metavar="STEP_DIR")]]
    to: Path

    def __call__(self) -> int:
        from experiments.exporting import export

        print(f"exported to {export(self.step, self.to)}")
        return DONE


@dataclass
class FitCommand:
    """Fit a law to a table of your own and say how sure it is.

    Examples: moon fit runs.csv --x tokens --y recall --transform error --cluster run --figure fit.png
              moon fit runs.csv --x tokens --y loss --law auto --holdout largest
              moon fit sweep.csv --x N --x D --y loss --law chinchilla --loss huber --delta 1e-3 --bootstrap cases
    """

    table: Positional[Annotated[Path, arg(metavar="TABLE", help="CSV or Parquet")]]
    x: UseAppendAction[tuple[str, ...]]
    y: str
    law: str = "power_floor"
    """See `moon laws`; auto compares those on one axis by what they foretell."""
    transform: Literal["identity", "error"] = "identity"
    """error: fit 1 - y."""
    cluster: str | None = None
    """Column of the independent unit that is resampled, e.g. run."""
    holdout: Literal["largest"] | None = None
    """largest: fit without the largest x and say how it was foretold."""
    loss: Literal["squares", "huber", "lad"] = "squares"
    delta: float | None = None
    """Huber's, in the residual space: a modelling choice."""
    weights: str | None = None
    """Column of row weights, in proportion to 1 / variance."""
    trials: str | None = None
    """Column with the test queries behind each recall: binomial weights and a least noise."""
    pin: UseAppendAction[tuple[str, ...]] = ()
    """NAME=VALUE holds a parameter; the fit is labelled so."""
    group: str | None = None
    """Fit each value of this column on its own."""
    bootstrap: Literal["residuals", "cases"] = "residuals"
    resamples: int = 2000
    seed: int = 0
    profile: bool = False
    """Profile-likelihood intervals beside the bootstrap."""
    save: Path | None = None
    figure: Path | None = None

    def __call__(self) -> int:
        from analysis.surfaces import fit_command

        print(
            fit_command(
                self.table, x=self.x, y=self.y, law=self.law, transform=self.transform, cluster=self.cluster,
                holdout=self.holdout, loss=self.loss, delta=self.delta, weights=self.weights, trials=self.trials,
                pin=pins(self.pin), group=self.group, bootstrap=self.bootstrap, resamples=self.resamples, seed=self.seed,
                profile=self.profile, save=self.save, figure=self.figure,
            )
        )  # fmt: skip
        return DONE


@dataclass
class LawsCommand:
    """The laws that `moon fit` knows; with a table, how those on one axis compare on it.

    Examples: moon laws
              moon laws runs.csv --x tokens --y recall --transform error
    """

    table: Positional[Annotated[Path | None, arg(metavar="[TABLE]", help="CSV or Parquet")]] = None
    x: str | None = None
    y: str | None = None
    transform: Literal["identity", "error"] = "identity"
    """error: fit 1 - y."""

    def __call__(self) -> int:
        from analysis.surfaces import laws_command, laws_table
        from analysis.table import TableError

        if self.table is None:
            print(laws_table())
            return DONE
        if self.x is None or self.y is None:
            raise TableError(f"{self.table}: say which columns to compare laws on, --x COLUMN --y COLUMN")
        print(laws_command(self.table, x=self.x, y=self.y, transform=self.transform))
        return DONE


@dataclass
class ExchangeCommand:
    """The exchange rate of an offline metric into a downstream one, over versions; several proxies are ranked.

    Example: moon exchange versions.csv --of image_recall@10 --of text_recall@10 --into gauc
    """

    table: Positional[Annotated[Path, arg(metavar="TABLE", help="CSV or Parquet")]]
    of: UseAppendAction[tuple[str, ...]]
    into: str
    cluster: str = "version"
    save: Path | None = None
    figure: Path | None = None

    def __call__(self) -> int:
        from analysis.surfaces import exchange_command

        text = exchange_command(
            self.table, of=self.of, into=self.into, cluster=self.cluster, save=self.save, figure=self.figure
        )
        print(text)
        return DONE


@dataclass
class WorldCommand:
    """Make a planted world: rendered products, searches and clicks whose probabilities are known.

    Example: moon data world data/text-world --drives text
    """

    folder: Positional[Annotated[Path, arg(metavar="DIR")]]
    drives: Literal["visual", "text", "id"] = "visual"
    """What clicks follow: what only images show, what only titles show, or neither."""
    preset: str = "demo"

    def __call__(self) -> int:
        from experiments.running import require_preset
        from experiments.worlds import world_for
        from moon_jax.data.world import make_world

        require_preset(self.preset)
        with bar("rendering") as progress:
            dataset = make_world(self.folder, world_for(self.preset, self.drives), progress=progress)
        return told(dataset)


@dataclass
class ImportCommand:
    """Turn a public set, as you downloaded it, into a contract directory.

    Examples: moon data import fashion fashion-product-images-small data/fashion
              moon data import movielens movielens-posters data/movielens
    """

    name: Positional[Annotated[str, arg(metavar="NAME", help="fashion or movielens")]]
    source: Positional[Annotated[Path, arg(metavar="SOURCE")]]
    folder: Positional[Annotated[Path, arg(metavar="DIR")]]

    def __call__(self) -> int:
        import importlib

        from moon_jax.data.adapters import ADAPTERS
        from moon_jax.data.contract import DataError

        if self.name not in ADAPTERS:
            raise DataError(f"unknown set {self.name!r}; there are {', '.join(ADAPTERS)}")
        module, function = ADAPTERS[self.name].split(":")
        with bar("importing") as progress:
            dataset = getattr(importlib.import_module(module), function)(self.source, self.folder, progress=progress)
        return told(dataset)


@dataclass
class SimulateCommand:
    """Simulate behaviour over a real catalogue (labelled simulated everywhere): events, impressions, known clicks.

    Example: moon data simulate data/fashion data/fashion-behaviour --by colour articleType
    """

    catalogue: Positional[Annotated[Path, arg(metavar="CATALOGUE")]]
    folder: Positional[Annotated[Path, arg(metavar="DIR")]]
    by: tuple[str, ...] = ("colour", "category")
    """Attributes whose combination drives clicks."""

    def __call__(self) -> int:
        from moon_jax.data.behaviour import simulate_behaviour

        return told(simulate_behaviour(self.catalogue, self.folder, by=self.by))


@dataclass
class CheckCommand:
    """Check a contract directory; every fault with file, row and reason. Exit 2 if there is any.

    Example: moon data check data/fashion
    """

    folder: Positional[Annotated[Path, arg(metavar="DIR")]]
    show: int = 50
    """Faults to print."""

    def __call__(self) -> int:
        from moon_jax.data.contract import check, open_dataset

        with bar("checking") as progress:
            faults = check(self.folder, progress=progress)
        for fault in faults[: self.show]:
            print(fault, file=sys.stderr)
        if len(faults) > self.show:
            print(f"... and {len(faults) - self.show} more", file=sys.stderr)
        return BAD_INPUT if faults else told(open_dataset(self.folder))


@dataclass
class DataCommand:
    """Make, import and check datasets."""

    do: tyro.conf.OmitSubcommandPrefixes[
        Annotated[WorldCommand, subcommand("world")]
        | Annotated[ImportCommand, subcommand("import")]
        | Annotated[SimulateCommand, subcommand("simulate")]
        | Annotated[CheckCommand, subcommand("check")]
    ]

    def __call__(self) -> int:
        return self.do()


Command = (
    Annotated[PlanCommand, subcommand("plan")]
    | Annotated[RunCommand, subcommand("run")]
    | Annotated[StatusCommand, subcommand("status")]
    | Annotated[ReportCommand, subcommand("report")]
    | Annotated[WorkerCommand, subcommand("worker")]
    | Annotated[GcCommand, subcommand("gc")]
    | Annotated[ExportCommand, subcommand("export")]
    | Annotated[FitCommand, subcommand("fit")]
    | Annotated[LawsCommand, subcommand("laws")]
    | Annotated[ExchangeCommand, subcommand("exchange")]
    | Annotated[DataCommand, subcommand("data")]
)


def pins(given: tuple[str, ...]) -> dict[str, float]:
    """`("E=0.1",)` as {"E": 0.1}."""
    from analysis.table import TableError

    out = {}
    for text in given:
        name, equals, value = text.partition("=")
        try:
            out[name] = float(value)
        except ValueError:
            equals = ""
        if not equals:
            raise TableError(f"--pin {text}: write it as NAME=VALUE, e.g. E=0.1")
    return out


def say(text: str) -> None:
    print(text, flush=True)


def default_workers() -> int:
    """One a core; on an accelerator one in all, since a worker takes its whole memory."""
    from sweeps.launchers.cores import usable_cores

    return 1 if accelerator() else len(usable_cores())


def accelerator() -> bool:
    """Whether an NVIDIA or TPU device file is there (asking JAX would take the device)."""
    return any(Path(device).exists() for device in ("/dev/nvidia0", "/dev/accel0", "/dev/vfio/0"))


def bar(what: str) -> "BarContext":
    return BarContext(what)


class BarContext:
    """A rich progress bar as a callback (done, total)."""

    def __init__(self, what: str):
        from rich.progress import Progress

        self.progress, self.what = Progress(transient=True), what

    def __enter__(self) -> Callable[[int, int], None]:
        self.progress.start()
        task = self.progress.add_task(self.what, total=None)
        return lambda done, total: self.progress.update(task, completed=done, total=total)

    def __exit__(self, *error: object) -> None:
        self.progress.stop()


def told(dataset) -> int:  # type: ignore[no-untyped-def]
    rows = ", ".join(f"{count:,} {file}" for file, count in dataset.rows.items())
    simulated = [file for file, flag in dataset.simulated.items() if flag]
    say(f"{dataset.folder}: {dataset.name}; {rows}" + (f"; simulated: {', '.join(simulated)}" if simulated else ""))
    return DONE


def answer(out: Path, name: str, question, cells) -> None:  # type: ignore[no-untyped-def]
    """Collect, read, write, and print the answer."""
    from experiments import running
    from sweeps import Ledger

    table = running.collect(Ledger(out, create=False), name, cells)
    reading = running.reading_of(question, table)
    path = running.write_reading(out, question, reading, table, running.load_about(out, name))
    say(f"\n{name.replace('_', ' ')}")
    for sentence in reading.answer:
        say(f"  {sentence}")
    for sentence in reading.notes:
        say(f"  {sentence}")
    for sentence in reading.weak:
        say(f"  weak: {sentence}")
    say(f"  {path}")


def main() -> None:
    """Entry point: exit 0 done, 1 some cells failed, 2 bad input with one clear line."""
    try:
        sys.exit(tyro.cli(Command, prog="moon", description=DESCRIPTION)())
    except ValueError as error:
        if not _is_users(error):
            raise
        print(f"moon: {error}", file=sys.stderr)
        sys.exit(BAD_INPUT)
    except BrokenPipeError:  # whoever read our output has read enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(SOME_FAILED)
    except OSError as error:
        if error.filename is None:
            raise
        print(f"moon: {error.filename}: {(error.strerror or str(error)).lower()}", file=sys.stderr)
        sys.exit(BAD_INPUT)
    except KeyboardInterrupt:
        print("moon: stopped; run it again to finish what is left", file=sys.stderr)
        sys.exit(130)
    except BaseException as error:
        if type(error).__name__ != "Preempted":
            raise
        print("moon: stopped; run it again to finish what is left", file=sys.stderr)
        sys.exit(143)


def _is_users(error: ValueError) -> bool:
    """The floors' own errors for what a user gave; anything else is ours and keeps its traceback."""
    return any(k.__name__ in ("DataError", "TableError", "SweepError", "QuestionError") for k in type(error).__mro__)


DESCRIPTION = """How do multimodal embeddings scale, and what is a better offline metric worth in CTR?

Start with `moon run training_tokens` (the planted world, minutes), `moon plan all --preset gpu` (what would it cost?), \
`moon data import fashion SRC DIR` (real products) or `moon fit runs.csv --x tokens --y loss` (a law for your own table)."""

if __name__ == "__main__":
    main()
