"""`moon export`: an encoder out of a finished step."""

import json
import shutil
from pathlib import Path

from experiments.question import QuestionError


def export(step: Path, to: Path) -> Path:
    """Copies weights, config and tokenizer; QuestionError where the step holds no encoder or `to` is not empty."""
    from sweeps import Ledger

    step = step.absolute()
    if not (step / "step.json").exists():
        raise QuestionError(f"{step}: not a step folder (it has no step.json)")
    ledger = Ledger(step.parents[1], create=False)
    if ledger.result(step.name) is None:
        raise QuestionError(f"{step}: the step has no result yet")
    published = ledger.folder(step.name)
    if not (published / "encoder.safetensors").exists():
        raise QuestionError(f"{step}: the step holds no encoder; give a posttrain step")
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise QuestionError(f"{to}: not empty; give a new folder")
    needed = json.loads((step / "step.json").read_text())["needs"]["prepare"]
    to.mkdir(parents=True, exist_ok=True)
    for file in ("encoder.safetensors", "encoder.json"):
        shutil.copy2(published / file, to / file)
    shutil.copy2(ledger.folder(_name_of(ledger, needed)) / "tokenizer.json", to / "tokenizer.json")
    return to


def _name_of(ledger, needed: str) -> str:  # type: ignore[no-untyped-def]
    return next(name for name in ledger.steps() if name == needed or needed.startswith(name.rsplit("-", 1)[1]))
