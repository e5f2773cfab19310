"""A training step on CPU beside open_clip: the same two towers, batch and threads, in turns.

    pip install -e '.[bench]'
    python benchmarks/train_step.py [--rounds 7] [--save JSON] [--figure PNG] [--quick]

Both sides: images and texts through two transformer towers, symmetric InfoNCE over all pairs of the batch with a learned
temperature, backward, AdamW, in float32. Ours clips gradients too, open_clip does not unless told. Parameters and matrix
FLOPs of both are printed: they agree within a few percent. Each side is a process of its own that stays; in each round
each takes its turn alone: its own matmul peak, some steps, the peak again. What is compared: steps a second (raw), and
the share of its own peak that each side reaches, for the two multiply matrices at different speeds. Compilation is left
out and printed; so is the loss, to show that both train. Ours runs as it ships (one device that uses all cores), and with
its batch split over two simulated devices; open_clip with torch's threads and OMP_NUM_THREADS set, eager (as it ships)
and, with --compiled, by torch.compile (its --torchcompile).
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from importlib.util import find_spec
from pathlib import Path

from measuring import Results, TakingTurns, told
from step_ours import Shape

from experiments.running import worker_environment

HERE = Path(__file__).resolve().parent
RAW, FLOPS_APART = 1.3, 0.05
ONE, TWO, PEER, COMPILED = "ours, 1 device", "ours, 2 devices", "open_clip", "open_clip, compiled"


class Side(TakingTurns):
    """One that trains and answers how long its steps took."""

    def __init__(self, name: str, arguments: list[str], shape: Shape):
        # both sides get what our workers get: parts of it (memory allocation) would serve torch, too
        environment = (
            os.environ
            | worker_environment()
            | {"OMP_NUM_THREADS": str(shape.threads), "MKL_NUM_THREADS": str(shape.threads)}
        )
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(HERE.parent), os.environ.get("PYTHONPATH"))))
        super().__init__(name, [str(HERE / arguments[0]), shape.line(), *arguments[1:]], environment)

    def seconds(self) -> list[float]:
        """Of a step, the median of each round."""
        return [statistics.median(one["seconds"]) for one in self.rounds]

    def rates(self) -> list[float]:
        """FLOP/s of each round."""
        return [self.facts["flops"] / seconds for seconds in self.seconds()]

    def shares(self) -> list[float]:
        """Of this side's own matmul peak, measured in the same turn."""
        return [rate / one["peak"] for rate, one in zip(self.rates(), self.rounds, strict=True)]

    def row(self, peer: Side, batch: int) -> tuple[str, ...]:
        ratios = [theirs / own for theirs, own in zip(peer.seconds(), self.seconds(), strict=True)]
        return (
            self.name,
            told([1e3 * s for s in self.seconds()], ",.0f"),
            f"{batch / statistics.median(self.seconds()):,.1f}",
            told(ratios),
            f"{statistics.median(self.rates()) / 1e9:,.0f}",
            f"{statistics.median(one['peak'] for one in self.rounds) / 1e9:,.0f}",
            told(self.shares(), ".0%"),
            f"{statistics.median(one['cpu'] for one in self.rounds):.2f}",
        )


def measure(sides: list[Side], rounds: int, steps: int) -> None:
    for turn in range(rounds):
        for side in sides if turn % 2 == 0 else sides[::-1]:
            side.take_turn(steps)


def tell(sides: list[Side], shape: Shape, results: Results) -> dict[str, float]:
    """Prints both tables; returns of each of our ways the median ratio to the peer."""
    peer = next(side for side in sides if side.name == PEER)
    results.table(
        f"What each side computes in a step: {shape}",
        ("side", "parameters", "matrix GFLOP", "compiling, s", "loss first", "loss last"),
        [
            (
                side.name,
                f"{side.facts['parameters']:,}",
                f"{side.facts['flops'] / 1e9:,.1f}",
                f"{side.facts['compile_seconds']:.0f}" if side.name != PEER else "-",
                f"{side.facts['first_loss']:.2f}",
                f"{side.rounds[-1]['loss']:.2f}",
            )
            for side in sides
        ],
    )
    header = (
        "side",
        "ms a step",
        "pairs/s",
        "open_clip's time / its own",
        "GFLOP/s",
        "own matmul peak",
        "share of peak",
    )
    results.table(
        f"Steps in turns, {len(peer.rounds)} rounds: medians (lowest to highest round)",
        (*header, "cores used"),
        [side.row(peer, shape.batch) for side in sides],
    )
    results.others = [one["others"] for side in sides for one in side.rounds]
    results.data = {side.name: {"facts": side.facts, "rounds": side.rounds} for side in sides}
    return {
        side.name: statistics.median(t / o for t, o in zip(peer.seconds(), side.seconds(), strict=True))
        for side in sides
        if side.name in (ONE, TWO)
    }


def judge(sides: list[Side], ratios: dict[str, float], results: Results) -> bool:
    """The goals, for what a user gets without asking: one device."""
    by_name = {side.name: side for side in sides}
    ours, peer = by_name[ONE], by_name[PEER]
    apart = abs(ours.facts["flops"] / peer.facts["flops"] - 1)
    own, theirs = (statistics.median(side.shares()) for side in (ours, peer))
    if COMPILED in by_name:
        seconds = zip(by_name[COMPILED].seconds(), ours.seconds(), strict=True)
        results.note(f"beside torch.compile: {statistics.median(t / o for t, o in seconds):.2f} times as fast")
    return all(
        [
            results.goal(
                f"both compute the same: matrix FLOPs differ by {apart:.1%}", apart <= FLOPS_APART, timing=False
            ),
            results.goal(f"at least {RAW} times as fast as open_clip: {ratios[ONE]:.2f}", ratios[ONE] >= RAW),
            results.goal(
                f"share of its own matmul peak at least open_clip's: {own:.0%} and {theirs:.0%}", own >= theirs
            ),
        ]
    )


def draw(sides: list[Side], shape: Shape, path: Path) -> None:
    """Steps a second of every round, and the share of the own peak."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 2.6), layout="constrained", sharey=True)
    places = range(len(sides))
    for axis, values, label in (
        (left, [[shape.batch / s for s in side.seconds()] for side in sides], "pairs a second"),
        (right, [side.shares() for side in sides], "share of its own matmul peak"),
    ):
        axis.barh(places, [statistics.median(v) for v in values], color="0.8")
        for place, some in zip(places, values, strict=True):
            axis.plot(some, [place] * len(some), "|", color="C3" if "open_clip" in sides[place].name else "C0", ms=12)
        axis.set_xlabel(label)
        axis.set_xlim(left=0)
    left.set_yticks(places, [side.name for side in sides])
    left.invert_yaxis()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=64, help="pairs a step")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=3, help="of each side in a round")
    parser.add_argument(
        "--compiled", action="store_true", help="open_clip by torch.compile, too (needs a C++ compiler)"
    )
    parser.add_argument("--save", type=Path, help="write results as JSON")
    parser.add_argument("--figure", type=Path, help="write a PNG")
    parser.add_argument("--quick", action="store_true", help="tiny towers, one round: shows that the script runs")
    given = parser.parse_args()
    if find_spec("open_clip") is None or find_spec("torch") is None:
        print("train_step.py: open_clip is not installed: pip install -e '.[bench]'", file=sys.stderr)
        return 2
    threads = len(os.sched_getaffinity(0))
    shape, rounds, steps = Shape(batch=given.batch, threads=threads), given.rounds, given.steps
    if given.quick:
        shape, rounds, steps = Shape(64, 1, 16, 8, 8, 64, 32, 8, threads), 1, 2
    results = Results("train_step.py", threads=threads)
    ways = [(ONE, ["step_ours.py", "1"]), (TWO, ["step_ours.py", "2"]), (PEER, ["step_open_clip.py", "eager"])]
    if given.quick:
        ways = ways[::2]
    if given.compiled:
        ways.append((COMPILED, ["step_open_clip.py", "compiled"]))
    sides: list[Side] = []
    try:
        for name, arguments in ways:
            sides.append(Side(name, arguments, shape))
        measure(sides, rounds, steps)
    finally:
        for side in sides:
            side.close()
    ratios = tell(sides, shape, results)
    if given.figure is not None:
        draw(sides, shape, given.figure)
    if given.quick:
        print("quick: too little to judge by")
        return 0
    reached = judge(sides, ratios, results)
    results.finish(given.save)
    return 0 if reached else 1


if __name__ == "__main__":
    raise SystemExit(main())
