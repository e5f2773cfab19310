"""Questions: what they would cost, running them, how far they are."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from experiments.commands.common import DONE, OUT, SOME_FAILED, QuestionName, say
from experiments.commands.rounds import run_questions, silent
from experiments.launching import Launch, default_workers


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
