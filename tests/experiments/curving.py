"""A step function with a curve, for the tests of tracking."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def curve(
    config: Mapping[str, int],
    *,
    files: Mapping[str, Path],
    inputs: Mapping[str, Path],
    folder: Path,
    report: Callable[..., None],
) -> dict[str, Any]:
    rows = [{"step": step, "loss": 1.0 / (step + config["seed"] + 1), "lr": None} for step in range(config["steps"])]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 9')
    return {"loss": rows[-1]["loss"]}
