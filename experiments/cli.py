"""The command line `moon`: its commands stand in `experiments/commands/`."""

import os
import sys
from collections.abc import Callable
from typing import Annotated

import tyro
from tyro.conf import subcommand

from experiments.commands import data
from experiments.commands.common import BAD_INPUT, SOME_FAILED, is_users
from experiments.commands.compute import AllocateCommand, EquivalentCommand, IsoflopCommand, TwoStepCommand
from experiments.commands.data import DataCommand, DataCommands
from experiments.commands.laws import ExchangeCommand, FitCommand, LawsCommand
from experiments.commands.readings import ExportCommand, KeepCommand, RedrawCommand, ReportCommand
from experiments.commands.runs import (
    EmbedCommand,
    GcCommand,
    PlanCommand,
    RunCommand,
    StatusCommand,
    TrackCommand,
    WorkerCommand,
)
from experiments.commands.sizes import SizesCommand

Command = (
    Annotated[PlanCommand, subcommand("plan")]
    | Annotated[RunCommand, subcommand("run")]
    | Annotated[StatusCommand, subcommand("status")]
    | Annotated[TrackCommand, subcommand("track")]
    | Annotated[ReportCommand, subcommand("report")]
    | Annotated[KeepCommand, subcommand("keep")]
    | Annotated[RedrawCommand, subcommand("redraw")]
    | Annotated[WorkerCommand, subcommand("worker")]
    | Annotated[GcCommand, subcommand("gc")]
    | Annotated[EmbedCommand, subcommand("embed")]
    | Annotated[ExportCommand, subcommand("export")]
    | Annotated[SizesCommand, subcommand("sizes")]
    | Annotated[FitCommand, subcommand("fit")]
    | Annotated[LawsCommand, subcommand("laws")]
    | Annotated[ExchangeCommand, subcommand("exchange")]
    | Annotated[TwoStepCommand, subcommand("twostep")]
    | Annotated[IsoflopCommand, subcommand("isoflop")]
    | Annotated[AllocateCommand, subcommand("allocate")]
    | Annotated[EquivalentCommand, subcommand("equivalent")]
    | Annotated[DataCommands, subcommand("data")]
)


def parsed(arguments: list[str]) -> Callable[[], int]:
    """The command that was asked for. Those of `moon data` are a program of their own: one level reads better than two."""
    if arguments[:1] == ["data"]:
        return tyro.cli(DataCommand, prog="moon data", description=data.DESCRIPTION, args=arguments[1:])
    return tyro.cli(Command, prog="moon", description=DESCRIPTION, args=arguments)


def main() -> None:
    """Entry point: exit 0 done, 1 some cells failed, 2 bad input with one clear line."""
    try:
        sys.exit(parsed(sys.argv[1:])())
    except ValueError as error:
        if not is_users(error):
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


DESCRIPTION = """How do multimodal embeddings scale, and what is a better offline metric worth in CTR?

Start with `moon run training_tokens` (the planted world, minutes), `moon plan all --preset gpu` (what would it cost?), \
`moon data import fashion SRC DIR` (real products) or `moon fit runs.csv --x tokens --y loss` (a law for your own table)."""

if __name__ == "__main__":
    main()
