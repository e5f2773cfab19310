"""Laws and exchange rates of a user's own table."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, UseAppendAction, arg

from experiments.commands.common import DONE


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
    rolling: bool = False
    """Foretell every larger x from the smaller ones, beside the last value and a line in log x."""
    noise: float | None = None
    """Standard deviation of a run known from elsewhere, in the residual space (0.02 = 2 % for laws fitted in logs)."""
    unit: UseAppendAction[tuple[str, ...]] = ()
    """COLUMN=UNIT, for summary and figure; results.parquet tells its own."""
    save: Path | None = None
    figure: Path | None = None

    def __call__(self) -> int:
        from analysis.surfaces import fit_command

        print(
            fit_command(
                self.table, x=self.x, y=self.y, law=self.law, transform=self.transform, cluster=self.cluster,
                holdout=self.holdout, loss=self.loss, delta=self.delta, weights=self.weights, trials=self.trials,
                noise=self.noise, units=_units(self.unit), pin=pins(self.pin), group=self.group,
                bootstrap=self.bootstrap, resamples=self.resamples, seed=self.seed, profile=self.profile,
                rolling=self.rolling, save=self.save, figure=self.figure,
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

    Examples: moon exchange versions.csv --of image_recall@10 --of text_recall@10 --into gauc
              moon exchange versions.csv --of image_recall@10 --into gauc --within modality
    """

    table: Positional[Annotated[Path, arg(metavar="TABLE", help="CSV or Parquet")]]
    of: UseAppendAction[tuple[str, ...]]
    into: str
    cluster: str = "version"
    within: str | None = None
    """A column of kinds of version, each with a level of its own: the rate at equal kind. Where some versions cannot be good at
    the metric, for they do not see what it needs, the line over all says which kind pays, not what a better metric is worth."""
    save: Path | None = None
    figure: Path | None = None

    def __call__(self) -> int:
        from analysis.surfaces import exchange_command

        text = exchange_command(
            self.table,
            of=self.of,
            into=self.into,
            cluster=self.cluster,
            within=self.within,
            save=self.save,
            figure=self.figure,
        )
        print(text)
        return DONE


def _units(given: tuple[str, ...]) -> dict[str, str]:
    """`("tokens=M",)` as {"tokens": "M"}."""
    from analysis.table import TableError

    if wrong := [text for text in given if "=" not in text]:
        raise TableError(f"--unit {wrong[0]}: write it as COLUMN=UNIT, e.g. seconds=s")
    pairs = (text.partition("=") for text in given)
    return {name: unit for name, _, unit in pairs}


def pins(given: tuple[str, ...], option: str = "--pin") -> dict[str, float]:
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
            raise TableError(f"{option} {text}: write it as NAME=VALUE, e.g. E=0.1")
    return out
