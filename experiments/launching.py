"""Where and how the steps of questions are run: on this machine, as jobs of SLURM, as actors of Ray."""

import contextlib
import math
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sweeps.errors import SweepError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sweeps import Ledger, Snapshot

    Tick = Callable[[Snapshot], None]


@dataclass(frozen=True)
class Launch:
    """Where and how steps are run: the options of `moon run`."""

    launcher: Literal["local", "slurm", "ray", "none"] = "local"
    workers: int | None = None
    resources: tuple[str, ...] = ()
    retry: tuple[str, ...] = ()
    hours: float | None = None
    track: Literal["tensorboard", "wandb"] | None = None
    run: str = field(
        default_factory=lambda: uuid.uuid4().hex
    )  # one for all rounds of a run: tries are counted within it

    @contextlib.contextmanager
    def curves(self, ledger: "Ledger", questions: Sequence[str]) -> "Iterator[Callable[[Tick], Tick]]":
        """What is done beside a tick: following the curves, where they are tracked."""
        if self.track is None:
            yield lambda tick: tick
            return
        from experiments.tracking import Curves

        with Curves(ledger, questions, self.track) as curves:
            yield curves.beside

    def __call__(
        self,
        ledger: "Ledger",
        questions: Sequence[str],
        env: Mapping[str, str],
        on_tick: "Callable[[Snapshot], None]",
    ) -> "Snapshot":
        """Run the questions' plans; the last snapshot."""
        from sweeps.outcomes import FAILURES, Rules

        retry = tuple(status for status in self.retry if status in FAILURES) if self.retry else FAILURES
        rules = Rules(run=self.run, retry=retry, seconds=3600 * self.hours if self.hours else math.inf)
        workers = default_workers() if self.workers is None else self.workers
        if self.launcher == "local":
            if self.resources:
                raise SweepError(
                    "--resources are of --launcher slurm and ray; local workers share this machine's cores"
                )
            from sweeps import run_local

            return run_local(ledger, questions, workers=workers, env=env, on_tick=on_tick, rules=rules)
        given: dict[str, Any] = {
            "resources": resources_of(self.resources),
            "setup": "moon_jax.distributed:join",
            "env": env,
        }
        if self.launcher == "slurm":
            from sweeps.launchers.slurm import run_slurm as run
        else:
            from sweeps.launchers.ray import run_ray as run
        return run(ledger, questions, workers=workers, on_tick=on_tick, rules=rules, **given)


def resources_of(given: tuple[str, ...]) -> dict[str, int | float | str]:
    """NAME=VALUE as a mapping, numbers as numbers; SweepError for anything else."""
    out: dict[str, int | float | str] = {}
    for part in given:
        name, equals, value = part.partition("=")
        if not (name and equals and value):
            raise SweepError(f"--resources {part!r}: write NAME=VALUE, as in gpus_per_node=1")
        for kind in (int, float, str):
            with contextlib.suppress(ValueError):
                out[name] = kind(value)
                break
    return out


def default_workers() -> int:
    """One a core; on an accelerator one in all, since a worker takes its whole memory."""
    from sweeps.launchers.cores import usable_cores

    return 1 if accelerator() else len(usable_cores())


def accelerator() -> bool:
    """Whether an NVIDIA or TPU device file is there (asking JAX would take the device)."""
    return any(Path(device).exists() for device in ("/dev/nvidia0", "/dev/accel0", "/dev/vfio/0"))
