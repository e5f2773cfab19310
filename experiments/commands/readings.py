"""What is made of results: reports, tables that are kept and drawn again, encoders and vectors."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from experiments.commands.common import DONE, OUT, QuestionName, say
from experiments.commands.rounds import answer, tell_suite


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
