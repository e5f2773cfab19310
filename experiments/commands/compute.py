"""Compute: the best size at a budget, prediction in two steps, where the next compute pays, what a gain is worth in it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, UseAppendAction, arg

from experiments.commands.common import DONE
from experiments.commands.laws import pins


@dataclass
class IsoflopCommand:
    """The best model size (or tokens) at each compute budget, and the power law that the best ones follow.

    Example: moon isoflop sweep.csv --x params --y loss --budget flops --method interpolation --noise 0.002
    """

    table: Positional[Annotated[Path, arg(metavar="TABLE", help="CSV or Parquet, one row a run")]]
    x: str
    y: str
    budget: str
    """Column of the compute, equal to the last digit within a budget."""
    method: Literal["parabola", "interpolation"] = "parabola"
    noise: float | None = None
    """Standard deviation of y when a run is repeated with another seed."""
    draws: int = 1000
    seed: int = 0
    save: Path | None = None
    figure: Path | None = None

    def __call__(self) -> int:
        from analysis.surfaces import isoflop_command

        print(
            isoflop_command(
                self.table, x=self.x, y=self.y, budget=self.budget, method=self.method, noise=self.noise,
                draws=self.draws, seed=self.seed, save=self.save, figure=self.figure,
            )
        )  # fmt: skip
        return DONE


@dataclass
class TwoStepCommand:
    """Foretell a downstream metric by way of an intermediate one, the first step's uncertainty carried through.

    Example: moon twostep runs.csv --x N --x D --intermediate loss --y error --first chinchilla --test large.csv
    """

    table: Positional[Annotated[Path, arg(metavar="TABLE", help="CSV or Parquet, one row a run")]]
    x: UseAppendAction[tuple[str, ...]]
    intermediate: str
    y: str
    first: str = "power_floor"
    """Law of the intermediate metric (`moon laws`)."""
    second: Literal["exponential", "sigmoid", "line"] = "exponential"
    """Link from the intermediate to the downstream metric."""
    one_step: str | None = None
    """A law of y over x directly, to compare with."""
    transform: Literal["identity", "error"] = "identity"
    """error: foretell 1 - y."""
    second_table: Path | None = None
    """More runs or checkpoints for the second step."""
    test: Path | None = None
    """Runs that neither step has seen."""
    pin: UseAppendAction[tuple[str, ...]] = ()
    """NAME=VALUE holds a parameter of the link, e.g. its chance level eps."""
    cluster: str | None = None
    resamples: int = 2000
    seed: int = 0
    save: Path | None = None
    figure: Path | None = None

    def __call__(self) -> int:
        from analysis.surfaces import two_step_command

        print(
            two_step_command(
                self.table, x=self.x, intermediate=self.intermediate, y=self.y, first=self.first, second=self.second,
                one_step=self.one_step, transform=self.transform, second_path=self.second_table, test_path=self.test,
                pin=pins(self.pin), cluster=self.cluster, resamples=self.resamples, seed=self.seed, save=self.save,
                figure=self.figure,
            )
        )  # fmt: skip
        return DONE


@dataclass
class AllocateCommand:
    """Where the next GPU-hour pays: what 10 % more compute brings on each axis, and the best set-up for a budget.

    Examples: moon allocate --law tokens=tokens.json --law negatives=negatives.json --rate rate.json --at tokens=3e6
                  --at params=1e6 --at negatives=255 --at tokens_per_pair=40 --at embedding=64
              moon allocate --joint chinchilla.json --cost "6 * N * D" --at N=1e9 --at D=2e10 --budget 1e21
    """

    law: UseAppendAction[tuple[str, ...]] = ()
    """AXIS=FILE, a saved fit (`moon fit --save`) over one axis."""
    joint: Path | None = None
    """A saved fit over several axes, instead."""
    at: UseAppendAction[tuple[str, ...]] = ()
    """NAME=VALUE, where the set-up stands; without --cost also what FLOPs follow from (tokens, params,
    tokens_per_pair, embedding; negatives, length, batch, impressions, event_flops)."""
    cost: str | None = None
    """Arithmetic over the axes, in any unit."""
    budget: float | None = None
    """In the unit of the cost; without it what the set-up costs now, spent better."""
    bound: UseAppendAction[tuple[str, ...]] = ()
    """AXIS=LOW:HIGH."""
    rate: Path | None = None
    """A saved exchange rate (`moon exchange --save`)."""
    share: float = 0.10
    """More compute on one axis alone, as a share of what the set-up costs."""
    better: Literal["higher", "lower"] | None = None
    seed: int = 0
    save: Path | None = None
    figure: Path | None = None

    def __call__(self) -> int:
        from analysis.surfaces import allocate_command
        from analysis.table import TableError

        if bool(self.law) == (self.joint is not None):
            raise TableError("give laws over one axis, --law AXIS=FILE, or one over several, --joint FILE")
        print(
            allocate_command(
                self.joint or _files(self.law), at=pins(self.at, "--at"), cost=self.cost, budget=self.budget,
                bounds=_bounds(self.bound), rate_path=self.rate, share=self.share, better=self.better, seed=self.seed,
                save=self.save, figure=self.figure,
            )
        )  # fmt: skip
        return DONE


@dataclass
class EquivalentCommand:
    """How many times more tokens (or FLOPs) a base model would need to match a better one, or a gain.

    Examples: moon equivalent base.json --better better.json
              moon equivalent base.json --gain 0.01 --rate rate.json   (a gain in GAUC)
    """

    base: Positional[Annotated[Path, arg(metavar="FIT", help="saved by `moon fit --save`")]]
    better: Path | None = None
    gain: float | None = None
    """A change of the metric; with --rate of what the rate leads into."""
    at: UseAppendAction[tuple[str, ...]] = ()
    """AXIS=VALUE, where the base stands; by default the largest that it was fitted on."""
    axis: str | None = None
    rate: Path | None = None
    save: Path | None = None

    def __call__(self) -> int:
        from analysis.surfaces import equivalent_command

        print(
            equivalent_command(
                self.base, better_path=self.better, gain=self.gain, at=pins(self.at, "--at"), axis=self.axis,
                rate_path=self.rate, save=self.save,
            )
        )  # fmt: skip
        return DONE


def _files(given: tuple[str, ...]) -> dict[str, str]:
    """`("tokens=fit.json",)` as {"tokens": "fit.json"}."""
    from analysis.table import TableError

    out = {}
    for text in given:
        name, equals, path = text.partition("=")
        if not equals:
            raise TableError(f"--law {text}: write it as AXIS=FILE, e.g. tokens=fit.json")
        out[name] = path
    return out


def _bounds(given: tuple[str, ...]) -> dict[str, tuple[float, float]]:
    """`("tokens=1e5:1e9",)` as {"tokens": (1e5, 1e9)}."""
    from analysis.table import TableError

    out = {}
    for text in given:
        name, _, ends = text.partition("=")
        try:
            low, high = map(float, ends.split(":"))
        except ValueError:
            raise TableError(f"--bound {text}: write it as AXIS=LOW:HIGH, e.g. tokens=1e5:1e9") from None
        out[name] = (low, high)
    return out
