"""The ladder's reading: planted valleys are found, and their shift and its interval are those that were planted."""

import math

import numpy as np
import polars as pl
import pytest

from experiments.size_ladder import RATES, exponent, optimum, read

BASE = 2e-3


def runs(size: str, rule: str, batch: int, best: float, rng: np.random.Generator, noise: float = 0.01) -> list[dict]:
    """Losses on a parabola in the log of the rate, lowest at `best`."""
    return [
        {
            "size": size,
            "rule": rule,
            "batch": batch,
            "lr": lr,
            "seed": seed,
            "peak_lr": BASE * lr,
            "params": 1,
            "tokens": 1000.0,
            "status": "done",
            "valid_image_entropy": 3 + 0.1 * math.log2(BASE * lr / best) ** 2 + rng.normal(0, noise),
            "image_recall@10": 0.2,
        }
        for lr in RATES
        for seed in (0, 1)
    ]


def table(rng: np.random.Generator, shift: float = 8.0) -> pl.DataFrame:
    """Under muP the best rate stays, without it falls by `shift` over the ladder; it goes as the square root of the batch."""
    rows = runs("nano", "mup", 64, BASE, rng)
    for k, size in enumerate(("micro", "tiny"), start=1):
        rows += runs(size, "mup", 64, BASE, rng)
        rows += runs(size, "none", 64, BASE * shift ** (-k / 2), rng)
    for batch in (32, 128, 256):
        rows += runs("nano", "mup", batch, BASE * (batch / 64) ** 0.5, rng)
    return pl.DataFrame(rows)


def test_a_planted_shift_is_found() -> None:
    reading = read(table(np.random.default_rng(0)))
    mup, none, batch = reading.answer
    assert mup.startswith("With rates of kernels x 64 / width the best rate of tiny is ")
    assert float(mup.split(" is ")[1].split(" ")[0]) == pytest.approx(1, rel=0.1)
    assert float(none.split(" is ")[1].split(" ")[0]) == pytest.approx(1 / 8, rel=0.25)
    assert float(batch.split("batch^")[1].split(" ")[0]) == pytest.approx(0.5, abs=0.1)
    assert set(reading.figures) == {"ladder", "batches"}


def test_the_interval_of_an_optimum_covers_it_as_often_as_it_says() -> None:
    rng, covered = np.random.default_rng(1), 0
    for _ in range(200):
        found = optimum(pl.DataFrame(runs("nano", "mup", 64, 1.3 * BASE, rng, 0.05)), "valid_image_entropy")
        covered += abs(found.log2_rate - math.log2(1.3 * BASE)) <= 1.96 * found.error
    assert 174 <= covered <= 200


def test_an_optimum_at_the_edge_is_called_one() -> None:
    rng = np.random.default_rng(2)
    found = optimum(pl.DataFrame(runs("nano", "mup", 64, 100 * BASE, rng)), "valid_image_entropy")
    assert not found.inside
    flat = pl.DataFrame(runs("nano", "mup", 64, BASE, rng)).with_columns(
        valid_image_entropy=-(pl.col("peak_lr").log(2) ** 2)
    )
    assert math.isinf(optimum(flat, "valid_image_entropy").error)


def test_the_exponent_of_the_batch_is_that_of_the_optima() -> None:
    rng = np.random.default_rng(3)
    best = {
        b: optimum(pl.DataFrame(runs("nano", "mup", b, BASE * b / 64, rng)), "valid_image_entropy")
        for b in (32, 64, 128)
    }
    slope, error = exponent(best)
    assert slope == pytest.approx(1, abs=0.15)
    assert 0 < error < 0.2
