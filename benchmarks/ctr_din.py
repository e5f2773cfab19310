"""Training DIN on CPU beside FuxiCTR: the same model, log, batch and threads, in turns.

    pip install -e '.[bench]'
    python benchmarks/ctr_din.py [--lengths 50 200 1000] [--rounds 5] [--save JSON] [--figure PNG] [--quick]

Both sides train [e_t; DIN's interest] -> MLP (512, 128, 64) -> click with an activation unit of 64, D = 16, batch 1,024, on
a log of 200,000 impressions: FuxiCTR (model_zoo/LongCTR/DIN, its loader, its step) as shipped, and once more with glibc's
allocator told to keep its memory, a fairer opponent; ours as the application stage trains, its batch split over two
devices (as many as there are cores) and on one. "naive" is our stage with DIN's mathematics as FuxiCTR writes it (four
widths, all L at once): what it is slower than ours is mathematics, what it is faster than FuxiCTR is the framework and the
reading of histories. Each side is a process of its own that stays; what is compared is the time of some steps, histories
read included, turn by turn. Peak memory is that of the process (of FuxiCTR's without its loader, which is another).
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from importlib.util import find_spec
from pathlib import Path

from ctr_step_ours import Shape
from measuring import Results, TakingTurns, told, versions

from experiments.running import worker_environment

HERE = Path(__file__).resolve().parent
OURS, ONE, NAIVE, SHIPPED, TUNED = "ours", "ours, 1 device", "naive, in JAX", "FuxiCTR", "FuxiCTR, tuned"
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**34), "MALLOC_ARENA_MAX": "2"}
AS_SHIPPED, AS_TUNED, MEMORY = {50: 3, 200: 9, 1000: 18}, {50: 3, 200: 4, 1000: 5}, 8
STEPS = {50: 20, 200: 8, 1000: 2}  # of a turn; FuxiCTR's own as shipped take seconds at L = 1,000


class Side(TakingTurns):
    """One that trains and answers how long its steps took."""

    def __init__(self, name: str, shape: Shape):
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "XLA_", "JAX_"))}
        environment |= {"OMP_NUM_THREADS": str(shape.threads), "MKL_NUM_THREADS": str(shape.threads)}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(HERE.parent), os.environ.get("PYTHONPATH"))))
        command = [str(HERE / "ctr_step_fuxictr.py"), shape.line()]
        if name not in (SHIPPED, TUNED):
            devices = 1 if name == ONE else shape.threads
            environment |= worker_environment() | {"JAX_PLATFORMS": "cpu"}
            environment["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
            way = "naive" if name == NAIVE else "fused"
            command = [str(HERE / "ctr_step_ours.py"), shape.line(), way]
        if name == TUNED:
            environment |= ALLOCATOR
        self.shape = shape
        super().__init__(name, command, environment)

    def rates(self) -> list[float]:
        """Samples a second of each round."""
        return [self.shape.batch / one["seconds"] for one in self.rounds]

    def peak(self) -> float:
        """GiB."""
        return max(one["peak"] for one in self.rounds) / 2**30


def measure(shape: Shape, names: list[str], rounds: int, steps: int) -> dict[str, Side]:
    sides: dict[str, Side] = {}
    try:
        for name in names:
            sides[name] = Side(name, shape)
        for side in sides.values():
            side.take_turn(2)  # warm: FuxiCTR's loader starts, both allocate
            side.rounds.clear()
        for turn in range(rounds):
            for side in list(sides.values())[:: 1 if turn % 2 == 0 else -1]:
                side.take_turn(steps)
    finally:
        for side in sides.values():
            side.close()
    return sides


def ratios(ours: Side, other: Side) -> list[float]:
    return [a / b for a, b in zip(ours.rates(), other.rates(), strict=True)]


def tell(shape: Shape, sides: dict[str, Side], results: Results) -> None:
    ours = sides[OURS]
    results.table(
        f"L = {shape.length}, {len(ours.rounds)} rounds in turns: medians (lowest to highest round)",
        ("side", "samples/s", "ours / it", "peak memory, GiB", "cores used", "first loss"),
        [
            (
                name,
                told(side.rates(), ",.0f"),
                told(ratios(ours, side)),
                f"{side.peak():.2f}",
                f"{statistics.median(one['cpu'] for one in side.rounds):.2f}",
                f"{side.facts['first_loss']:.3f}",
            )
            for name, side in sides.items()
        ],
    )
    results.others += [
        one["others"] for name, side in sides.items() if name in (OURS, ONE, NAIVE) for one in side.rounds
    ]
    results.data[str(shape.length)] = {
        name: {"facts": side.facts, "rounds": side.rounds} for name, side in sides.items()
    }


def judge(length: int, sides: dict[str, Side], results: Results) -> bool:
    """The goals at one length."""
    ours, reached = sides[OURS], []
    for name, goals in ((SHIPPED, AS_SHIPPED), (TUNED, AS_TUNED)):
        if length in goals:
            ratio = statistics.median(ratios(ours, sides[name]))
            what = f"L = {length}: at least {goals[length]} times {name}'s samples a second: {ratio:.1f}"
            reached.append(results.goal(what, ratio >= goals[length]))
    if length == max(AS_SHIPPED):
        share = sides[SHIPPED].peak() / ours.peak()
        what = f"L = {length}: peak memory at most an {MEMORY}th of FuxiCTR's as shipped: 1 / {share:.1f}"
        reached.append(results.goal(what, share >= MEMORY, timing=False))
    mathematics = statistics.median(ratios(ours, sides[NAIVE]))
    framework = statistics.median(ratios(sides[NAIVE], sides[SHIPPED]))
    results.note(
        f"L = {length}: {mathematics:.2f} times by mathematics (fused first layer, some rows at a time), {framework:.2f} times "
        "by framework and reading, against FuxiCTR as shipped"
    )
    return all(reached)


def draw(by_length: dict[int, dict[str, Side]], path: Path) -> None:
    """Samples a second against L, a line a side."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
    lengths = list(by_length)
    for name in next(iter(by_length.values())):
        sides = [by_length[length][name] for length in lengths]
        style = {"ls": "--" if "FuxiCTR" in name else "-", "marker": "o", "ms": 4, "label": name}
        left.plot(lengths, [statistics.median(side.rates()) for side in sides], **style)
        right.plot(lengths, [side.peak() for side in sides], **style)
    for axis, label in ((left, "samples a second"), (right, "peak memory, GiB")):
        axis.set(xscale="log", yscale="log", xlabel="L, behaviours read", ylabel=label)
        axis.set_xticks(lengths, [f"{length:,}" for length in lengths])
    left.legend(frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[50, 200, 1000])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--save", type=Path, help="write results as JSON")
    parser.add_argument("--figure", type=Path, help="write a PNG")
    parser.add_argument("--quick", action="store_true", help="a tiny log, one round: shows that the script runs")
    given = parser.parse_args()
    if find_spec("fuxictr") is None or find_spec("torch") is None:
        print("ctr_din.py: fuxictr is not installed: pip install -e '.[bench]'", file=sys.stderr)
        return 2
    threads, small = len(os.sched_getaffinity(0)), {}
    lengths, rounds = given.lengths, given.rounds
    if given.quick:
        lengths, rounds, small = [5, 10], 1, {"batch": 32, "rows": 400, "items": 50, "users": 20, "top": (8,)}
    results = Results("ctr_din.py", threads=threads)
    results.provenance["versions"] |= versions("fuxictr")
    names, by_length = [OURS, NAIVE, SHIPPED] if given.quick else [OURS, ONE, NAIVE, SHIPPED, TUNED], {}
    for length in lengths:
        shape = Shape(length, threads=threads, **small)
        by_length[length] = measure(shape, names, rounds, 2 if given.quick else STEPS.get(length, 4))
        tell(shape, by_length[length], results)
    if given.figure is not None:
        draw(by_length, given.figure)
    if given.quick:
        print("quick: too little to judge by")
        return 0
    reached = [judge(length, sides, results) for length, sides in by_length.items()]
    results.finish(given.save)
    return 0 if all(reached) else 1


if __name__ == "__main__":
    raise SystemExit(main())
