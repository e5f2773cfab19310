"""The Chinchilla fit by PyPI's `chinchilla` (K. Takano), one fit without bootstrap. Prints one line of JSON.

It is given the paper's loss at delta 1e-3 (its own default for `log_huber` is 1) and a grid of SIDE^5 starts.

    python benchmarks/chinchilla_pypi.py DIR SIDE
"""

from __future__ import annotations

import json
import sys
import tempfile
from functools import partial
from pathlib import Path

import matplotlib
import numpy as np
from chinchilla_ours import RUNS, read_runs


def main() -> None:
    matplotlib.use("Agg")
    from chinchilla import Chinchilla
    from chinchilla._metrics import log_huber

    folder, side = Path(sys.argv[1]), int(sys.argv[2])
    runs = read_runs(folder / RUNS)
    ends = {"e": (0.0, 1.5), "a": (0.0, 25.0), "b": (0.0, 25.0), "alpha": (0.1, 1.5), "beta": (0.1, 1.5)}
    grid = {name: np.linspace(*pair, side) for name, pair in ends.items()}
    with tempfile.TemporaryDirectory() as place:
        fit = Chinchilla(place, param_grid=grid, loss_fn=partial(log_huber, delta=1e-3), log_level=50)
        for N, D, loss in runs.select("N", "D", "loss").iter_rows():
            fit.database.append(N=N, D=D, loss=loss)
        fit.fit(parallel=True)
    params = {name: float(getattr(fit, name)) for name in ("E", "A", "alpha", "B", "beta")}
    N, D, seen = (runs[name].to_numpy() for name in ("N", "D", "loss"))
    fitted = params["E"] + params["A"] * N ** -params["alpha"] + params["B"] * D ** -params["beta"]
    r = np.abs(np.log(fitted) - np.log(seen))
    objective = float(np.sum(np.where(r <= 1e-3, 0.5 * r * r, 1e-3 * (r - 0.5e-3))))
    print(json.dumps({"objective": objective, "params": params, "starts": side**5}))


if __name__ == "__main__":
    main()
