"""What launchers start: a worker as a program, with the modules that this process finds."""

import math
import os
import sys
from collections.abc import Sequence

from sweeps.ledger import Ledger
from sweeps.outcomes import Rules


def program(ledger: Ledger, questions: Sequence[str], patience: float, rules: Rules) -> list[str]:
    """The command line of a worker on these questions."""
    plans = [argument for question in questions for argument in ("--plan", question)]
    command = [sys.executable, "-m", "sweeps.worker", "--out", str(ledger.root), *plans]
    command += ["--patience", str(patience), "--run", rules.run, "--retry", *rules.retry]
    return command if rules.seconds == math.inf else [*command, "--seconds", str(rules.seconds)]


def same_modules() -> dict[str, str]:
    """Environment in which a worker finds the same modules as this process, whatever has been added to its path."""
    return {"PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path)}
