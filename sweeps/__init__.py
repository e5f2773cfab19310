"""How work is run: content-addressed steps, grids, a ledger with safe publication, workers and launchers.

It runs any step function and knows nothing of what the steps compute:

    def measure(config, *, files, inputs, folder, report):
        report(1, 2, loss=0.7)      # progress; raises Preempted when the step should save itself and stop
        return {"error": 0.5}       # flat metrics; "status": "diverged" makes that the result

    ledger = Ledger("runs")
    cells = [Cell(point, {"measure": Step("my.module:measure", 1, Config(**point))}) for point in grid(x=(1, 2))]
    ledger.write_plan("demo", cells)
    run_local(ledger, ["demo"], workers=2)
    rows = ledger.rows(cells)

A step function gets its config (a frozen dataclass), the paths of its declared `files`, the published folders of the
steps it needs (`inputs`), the `folder` to write in, which may hold `checkpoints/` of an attempt that was cut short, and
`report`.
"""

from typing import TYPE_CHECKING, Any

from sweeps.errors import Preempted, SweepError
from sweeps.grid import grid
from sweeps.identity import canonical
from sweeps.launchers.local import run_local
from sweeps.ledger import Ledger, StepRecord
from sweeps.plans import Plan
from sweeps.snapshots import Snapshot
from sweeps.step import Cell, DataFile, Step

if TYPE_CHECKING:
    from sweeps.worker import work

__all__ = [
    "Cell",
    "DataFile",
    "Ledger",
    "Plan",
    "Preempted",
    "Snapshot",
    "Step",
    "StepRecord",
    "SweepError",
    "canonical",
    "grid",
    "run_local",
    "work",
]


def __getattr__(name: str) -> Any:
    """`work` loads when asked for: its module is also a program, `python -m sweeps.worker`, to be loaded once."""
    if name == "work":
        from sweeps.worker import work

        return work
    raise AttributeError(f"module 'sweeps' has no attribute {name!r}")
