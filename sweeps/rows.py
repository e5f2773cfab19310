"""From steps to the row of a cell: what `results.parquet` is made of."""

from typing import TYPE_CHECKING, Any

from sweeps.errors import SweepError
from sweeps.outcomes import plain_scalar
from sweeps.step import Cell, Step

if TYPE_CHECKING:
    from sweeps.ledger import Ledger

_WORST_FIRST = ("diverged", "bad_input", "crashed", "timed_out", "oom", "preempted", "running", "pending", "done")


def row_of(ledger: "Ledger", cell: Cell) -> dict[str, Any]:
    """The row of a cell: coordinates, metrics, status, steps, seconds and provenance.

    SweepError for conflicting names.
    """
    row: dict[str, Any] = {
        name: plain_scalar(value, f"coordinate {name!r}") for name, value in cell.coordinates.items()
    }
    given_by = dict.fromkeys(row, "the coordinates")
    results: dict[str, dict[str, Any]] = {}
    for key, step in cell.steps.items():
        result = ledger.result(step)
        if result is not None:
            results[key] = result
            _merge(row, given_by, result["metrics"], key)
    own = {
        "status": min((ledger.state(step) for step in cell.steps.values()), key=_WORST_FIRST.index, default="done"),
        **{f"{key}_step": step.name if isinstance(step, Step) else step for key, step in cell.steps.items()},
        **{f"{key}_seconds": results[key]["seconds"] if key in results else None for key in cell.steps},
        "seconds": sum(result["seconds"] for result in results.values()),
        **_provenance(list(results.values())),
    }
    for name in own.keys() & row.keys():
        raise SweepError(
            f"{name!r} is given by {given_by[name]}, but the ledger writes a column of that name; call it otherwise"
        )
    return {**row, **own}


def _merge(row: dict[str, Any], given_by: dict[str, str], metrics: dict[str, Any], key: str) -> None:
    for name, value in metrics.items():
        if name in row:
            same_as_asked = given_by[name] == "the coordinates" and row[name] == value
            if not same_as_asked:
                raise SweepError(
                    f"{name!r} is given by {given_by[name]} and by step {key!r}; call one of them otherwise"
                )
        row[name], given_by[name] = value, key


def _provenance(results: list[dict[str, Any]]) -> dict[str, str | int | None]:
    """One string each; where the steps of a cell differ, all that occurred, so that a mixture is seen."""
    versions: dict[str, set[str]] = {}
    for result in results:
        known = {"python": result["provenance"]["python"], **result["provenance"]["versions"]}
        for package, version in known.items():
            versions.setdefault(package, set()).add(version)
    listed = [f"{package} {'|'.join(sorted(found))}" for package, found in sorted(versions.items())]
    return {
        "versions": ", ".join(listed) or None,
        "device": _joined(results, "device"),
        "commit": _joined(results, "commit"),
        "shrunk": max((result.get("shrunk", 0) for result in results), default=0),
        "peak_memory": max((result["provenance"].get("peak_memory", 0) for result in results), default=0) or None,
    }


def _joined(results: list[dict[str, Any]], key: str) -> str | None:
    return " | ".join(sorted({result["provenance"][key] for result in results} - {None})) or None
