"""Datasets: make, import, simulate, check."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional, arg, subcommand

from experiments.commands.common import BAD_INPUT, DONE, bar, say


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


def told(dataset) -> int:  # type: ignore[no-untyped-def]
    rows = ", ".join(f"{count:,} {file}" for file, count in dataset.rows.items())
    simulated = [file for file, flag in dataset.simulated.items() if flag]
    say(f"{dataset.folder}: {dataset.name}; {rows}" + (f"; simulated: {', '.join(simulated)}" if simulated else ""))
    return DONE
