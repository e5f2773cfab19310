"""Questions: what they would cost, running them, how far they are, reading them."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from experiments.commands.common import BAD_INPUT, DONE, OUT, SOME_FAILED, is_users, say
from experiments.launching import Launch, default_workers

QuestionName = Positional[
    Annotated[
        str,
        arg(
            metavar="QUESTION",
            help="training_tokens, negatives, sequence_length, exchange_rate, funnel, next_gpu_hour (these are `core`), "
            "model_size, compute_optimal, ablations, iterations (with these `all`), ctr_model, pixel_floor, processing, "
            "pretraining, embedding, size_ladder, published_laws, or a .py file",
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
    trunk: bool = False
    """As of `moon run`."""

    def __call__(self) -> int:
        from experiments import planning
        from experiments.running import cells_of, known_in, open_data, questions_for
        from sweeps import Ledger

        questions = questions_for(self.question)
        dataset = open_data(self.data, self.preset, say)
        ledger = Ledger(self.out)
        known = known_in(ledger, assume=True)
        planned = cells_of(questions, self.preset, dataset, say, trunk=self.trunk, known=known)
        workers = default_workers() if self.workers is None else self.workers
        for name, cells in planned.items():
            print("\n".join(planning.lines(name, planning.plan(ledger, cells, dataset, workers))))
        if planned != cells_of(questions, self.preset, dataset, silent, trunk=self.trunk, known=known_in(ledger)):
            print(
                "learning rates are still to be chosen: the recipe's is taken for the best; one at an end of its axis adds a run"
            )
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
              moon run all --launcher slurm --workers 16 --resources partition=gpu gpus_per_node=1 timeout_min=240
              moon run negatives --launcher slurm --resources nodes=2 tasks_per_node=8 gpus_per_node=8 (gangs of 16 processes)
              moon run all --launcher ray --workers 8 --resources num_gpus=1 address=auto
    """

    question: QuestionName
    preset: str = "demo"
    """smoke (seconds), demo (minutes on 2 cores), gpu (one accelerator), paper (a cluster)."""
    data: Path | None = None
    """A contract directory (see `moon data`); without it a planted world is made once and cached."""
    out: Path = OUT
    workers: int | None = None
    """Worker processes; by default one a core, or one in all on accelerators: several there share the NVIDIA devices evenly."""
    launcher: Literal["local", "slurm", "ray", "none"] = "local"
    """Where the workers run; "none" only writes the plan: anything that can start `moon worker` on the same folder runs it."""
    resources: tuple[str, ...] = ()
    """NAME=VALUE of one worker: as submitit names them (SLURM: partition, timeout_min, gpus_per_node, tasks_per_node, slurm_...),
    or as Ray does (num_cpus, num_gpus, your own; address of the cluster)."""
    retry: tuple[Literal["oom", "preempted", "crashed", "bad_input", "timed_out", "diverged", "nothing"], ...] = ()
    """Of what failed in earlier runs, what is tried anew (all but diverged if left out); "diverged" discards such results."""
    hours: float | None = None
    """That one attempt at a step may work; beyond, it is stopped and has timed out."""
    stale: Literal["keep", "rerun"] | None = None
    """What to do with results that other source code computed; without it they are refused."""
    engine: str = ""
    """How to compute, not what: "fsdp=4,chunk=256,remat=dots,loaders=4,form=ring" (see moon_jax/engine.py)."""
    trunk: bool = False
    """Token budgets branch off one trunk of constant rate (WSD) instead of running each by itself: cheaper, one run a seed and
    learning rate."""
    track: Literal["tensorboard", "wandb"] | None = None
    """Show training curves there while it runs (extra `track`); `moon track` does it later."""

    def __call__(self) -> int:
        from experiments import running

        if self.question == "published_laws":  # published numbers beside ours: nothing is trained
            from experiments import published_laws

            published_laws.run(self.data, self.out, say)
            return DONE
        questions = running.questions_for(self.question)
        launch = Launch(self.launcher, self.workers, self.resources, self.retry, self.hours, self.track)
        return run_questions(questions, self.preset, self.data, self.out, launch, self.stale, self.engine, self.trunk)


def run_questions(  # type: ignore[no-untyped-def]
    questions,
    preset: str,
    data: Path | None,
    out: Path,
    launch: Launch,
    stale: Literal["keep", "rerun"] | None,
    engine: str,
    trunk: bool = False,
) -> int:
    """Plans the questions, runs what is not done, reads the results and writes the reports; returns the exit code.

    Cells may depend on what others measured (learning rates are tried before systems are compared): as long as the questions
    ask for more than was planned they are planned and run again.
    """
    from experiments import running
    from sweeps import Ledger
    from sweeps.progress import view

    dataset = running.open_data(data, preset, say)
    ledger = Ledger(out)
    running.require_sound_once(dataset, out)

    def ask(told):  # type: ignore[no-untyped-def]
        return running.cells_of(questions, preset, dataset, told, trunk=trunk, known=running.known_in(ledger))

    planned = ask(say)
    for name in planned:
        running.refuse_other_data(out, name, dataset)
    while running.settle_stale(ledger, planned, stale):
        planned = ask(silent)
    if "diverged" in launch.retry:
        running.discard_diverged(ledger, planned)
        planned = ask(silent)
    env = running.worker_environment() | running.engine_environment(engine)
    with launch.curves(ledger, list(planned)) as beside:
        while True:
            for name, cells in planned.items():
                ledger.write_plan(name, cells)
                running.save_about(out, name, dataset, preset)
            if launch.launcher == "none":
                break
            with view() as on_tick:
                snapshot = launch(ledger, list(planned), env, running.Tables(ledger, planned).beside(beside(on_tick)))
            more = ask(silent)
            while running.settle_stale(ledger, more, stale):
                more = ask(silent)
            if more == planned:
                break
            say("learning rates are chosen: going on with what was waiting for them")
            planned = more
    if launch.launcher == "none":
        say(f"planned in {out}; `moon worker --out {out}` runs it, `moon report QUESTION --out {out}` reads it")
        known = running.known_in(ledger, assume=True)
        if planned != running.cells_of(questions, preset, dataset, silent, trunk=trunk, known=known):
            say(
                "some cells wait for learning rates to be chosen: once these steps are done, plan again with the same command"
            )
        return DONE
    failed = running.failures(snapshot) > 0
    unread = 0
    for question in questions:
        if question.name not in planned:
            continue
        try:
            answer(out, question.name, question, planned[question.name])
        except ValueError as error:  # the other questions can still be read
            if not is_users(error):
                raise
            unread += 1
            say(f"\n{question.name.replace('_', ' ')}\n  no answer: {error}")
    tell_suite(out)
    return SOME_FAILED if failed else BAD_INPUT if unread else DONE


def silent(message: str) -> None:
    """What was said before is not said again."""


@dataclass
class EmbedCommand:
    """Train an encoder on a catalogue and embed its items: `moon run embedding`, with a budget of your own and open weights to
    begin from.

    Examples: moon embed data/shop
              moon embed data/shop --tokens 3000000 --to shop-vectors --dim 64 --int8
              moon embed data/shop --vision SIGLIP_DIR --language QWEN3_DIR --freeze vision
    """

    data: Positional[Annotated[Path, arg(metavar="DIR")]]
    """A contract directory; `moon data import table` makes one of your CSV and images."""
    to: Path | None = None
    """A new folder for vectors, weights, tokenizer and card; `moon export` does it later, too."""
    paradigm: Literal["plain", "whole"] = "plain"
    """One stage on the catalogue's searches; or the whole of the paper's, with pretraining and two stages, which needs scale."""
    tokens: int | None = None
    """Post-training tokens; the preset's largest budget if left out."""
    vision: Path | None = None
    """Folder of a SigLIP or SigLIP 2 model to begin from (config.json, *.safetensors)."""
    language: Path | None = None
    """Folder of a Qwen3 model to begin from (config.json, *.safetensors, tokenizer.json)."""
    freeze: tuple[Literal["vision", "projector", "tokens", "decoder"], ...] = ()
    """Parts that keep the weights that they begin with."""
    dim: int | None = None
    """As of `moon export`."""
    int8: bool = False
    """As of `moon export`."""
    preset: str = "demo"
    out: Path = OUT
    workers: int | None = None
    stale: Literal["keep", "rerun"] | None = None
    engine: str = ""

    def __call__(self) -> int:
        import functools
        from dataclasses import replace

        from experiments.exporting import export, require_new
        from experiments.question import load_question
        from sweeps import Ledger

        if self.to is not None:
            require_new(self.to)
        question = load_question("embedding")
        asked = {
            "paradigm": self.paradigm,
            "tokens": self.tokens,
            "vision": self.vision,
            "language": self.language,
            "freeze": self.freeze,
        }
        question = replace(question, cells=functools.partial(question.cells, **asked))
        launch = Launch(workers=self.workers)
        code = run_questions([question], self.preset, self.data, self.out, launch, self.stale, self.engine)
        if code == DONE and self.to is not None:
            cell = Ledger(self.out, create=False).read_plan(question.name).cells[0]
            step = cell.steps["embed"]
            folder = self.out / "steps" / (step if isinstance(step, str) else step.name)
            say(f"exported to {export(folder, self.to, dim=self.dim, int8=self.int8)}")
        return code


@dataclass
class TrackCommand:
    """Show the training curves of a folder's steps in TensorBoard or Weights & Biases.

    Examples: moon track --to tensorboard --out runs       (then: tensorboard --logdir runs/tensorboard)
              WANDB_MODE=offline moon track --to wandb     (then: wandb sync runs/wandb/offline-*)
    """

    to: Literal["tensorboard", "wandb"]
    out: Path = OUT

    def __call__(self) -> int:
        from experiments.tracking import Curves
        from sweeps import Ledger

        ledger = Ledger(self.out, create=False)
        with Curves(ledger, ledger.questions(), self.to) as curves:
            shown = curves.refresh()
        say(f"curves of {shown} steps are in {self.to}")
        return DONE


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

    Examples: moon report training_tokens
              moon report training_tokens --against runs-before      (which cells differ, and by how much)
    """

    question: QuestionName
    out: Path = OUT
    against: Path | None = None
    """Another folder of runs that holds the same question: its cells beside these, in `against.html`."""

    def __call__(self) -> int:
        from experiments.question import GROUPS
        from experiments.running import questions_for
        from sweeps import Ledger

        ledger = Ledger(self.out, create=False)
        if self.against is not None:
            from experiments.comparing import compare_folders

            for line in compare_folders(self.question, self.out, self.against):
                say(line)
            return DONE
        for question in questions_for(self.question):
            if self.question in GROUPS and question.name not in ledger.questions():
                say(f"skipping {question.name}: it has not been run in {self.out}")
                continue
            answer(self.out, question.name, question, ledger.read_plan(question.name).cells)
        tell_suite(self.out)
        return DONE


@dataclass
class KeepCommand:
    """Keep questions' tables with their provenance, small enough for a repository; `moon redraw` makes all else of them again.

    Examples: moon keep training_tokens exchange_rate --out runs-fashion --to results/fashion
              moon keep my_question.py --to results/shop        (the file is kept with it)
    """

    questions: Positional[Annotated[tuple[str, ...], arg(metavar="QUESTION [QUESTION ...]")]]
    to: Path
    out: Path = OUT

    def __call__(self) -> int:
        from experiments.keeping import keep

        for question in self.questions:
            say(f"kept {keep(self.out, question, self.to)}")
        return DONE


@dataclass
class RedrawCommand:
    """Make answers, fits, figures and reports of kept tables again, and a page for each set of them. No step is run.

    Example: moon redraw results
    """

    folder: Positional[Annotated[Path, arg(metavar="DIR", help="holds folders that `moon keep` made")]] = Path(
        "results"
    )

    def __call__(self) -> int:
        from experiments.keeping import redraw

        redraw(self.folder, told=lambda page: say(f"  {page}"))
        return DONE


@dataclass
class WorkerCommand:
    """Work on whatever is planned in a folder until nothing is left; any number may run, on any host that sees it.

    Example: moon worker --out /shared/runs
    """

    out: Path = OUT

    def __call__(self) -> int:
        from experiments.running import worker_environment
        from moon_jax.distributed import join
        from sweeps import Ledger, work

        os.environ.update({k: v for k, v in worker_environment().items() if k not in os.environ})
        join()  # where this is one of several processes that are one worker
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
    """Take an encoder out of a finished step: weights (safetensors), config, tokenizer and card; of an embed step the vectors
    of all items besides, as `embeddings.parquet`.

    Examples: moon export runs/steps/posttrain-0a1b2c3d4e5f --to my-encoder
              moon export runs/steps/embed-5e4d3c2b1a0f --to my-vectors --dim 64 --int8
    """

    step: Positional[Annotated[Path, arg(metavar="STEP_DIR")]]
    to: Path
    """A new folder; `moon_jax.inference.load` reads it."""
    dim: int | None = None
    """Keep the first so many dimensions of each vector, at unit length again (Matryoshka)."""
    int8: bool = False
    """Vectors as int8 with a scale each, instead of float16."""

    def __call__(self) -> int:
        from experiments.exporting import export, source_of

        say(f"exported to {export(self.step, self.to, dim=self.dim, int8=self.int8)}")
        if source_of(self.step).tokens == 0:
            say("note: no post-training token went into this encoder; it is the one that others are compared with")
        return DONE


def answer(out: Path, name: str, question, cells) -> None:  # type: ignore[no-untyped-def]
    """Collect, read, write, and print the answer."""
    from experiments import answering, running
    from sweeps import Ledger

    table = running.collect(Ledger(out, create=False), name, cells)
    reading = answering.reading_of(question, table, out)
    path = answering.write_reading(out, question, reading, table, running.load_about(out, name))
    say(f"\n{name.replace('_', ' ')}")
    for sentence in reading.answer:
        say(f"  {sentence}")
    for sentence in reading.notes:
        say(f"  {sentence}")
    for sentence in reading.weak:
        say(f"  weak: {sentence}")
    say(f"  {path}")


def tell_suite(out: Path) -> None:
    """Write the page over all answers of the folder, and say where it is."""
    from experiments.suite_page import write_suite

    if (page := write_suite(out)) is not None:
        say(f"\nall questions of this folder: {page}")
