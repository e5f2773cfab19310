"""What questions say of learning rates: chosen on valid, reported as chosen, and where they were not looked at."""

import math

import polars as pl
import pytest

from experiments.tuning import choose_rates, tune, vertex


def results(valid: dict[tuple[int, float], tuple[float, ...]]) -> pl.DataFrame:
    """valid: (budget, lr) -> valid entropy of seeds 0, 1, ...; on test it is the other way round."""
    return pl.DataFrame(
        {"budget": budget, "lr": lr, "seed": seed, "valid_image_entropy": entropy, "image_entropy": -entropy}
        for (budget, lr), entropies in valid.items()
        for seed, entropy in enumerate(entropies)
    )


def test_the_best_on_valid_is_fitted_whatever_test_says() -> None:
    table = results({(10, 0.3): (3.1, 3.1), (10, 1.0): (2.2, 2.3), (10, 3.0): (2.2, 2.6), (20, 1.0): (1.4, 1.5)})
    rows, said, weak = choose_rates(table, "budget", "image")
    assert rows.select("budget", "lr", "seed").rows() == [(10, 1.0, 0), (10, 1.0, 1), (20, 1.0, 0), (20, 1.0, 1)]
    assert rows["lr_checked"].to_list() == [True, True, False, False]
    assert not rows["lr_at_edge"].any()
    assert "x1 chosen" in said[0]
    assert weak == ["learning rate: x1 is used unchecked at budget 20"]


def test_an_optimum_at_the_edge_is_chosen_and_said() -> None:
    rows, said, weak = choose_rates(results({(10, 1.0): (2.5, 2.5), (10, 3.0): (2.7, 2.2)}), "budget", "image")
    assert set(rows["lr"]) == {3.0}
    assert rows["lr_at_edge"].all()
    assert "x3 chosen" in said[0]
    assert "edge of the axis" in weak[0]


def test_a_rate_that_lacks_a_seed_is_no_candidate() -> None:
    rows, said, _ = choose_rates(results({(10, 1.0): (0.1, 0.1), (10, 3.0): (0.01,)}), "budget", "image")
    assert set(rows["lr"]) == {1.0}
    assert said == []


@pytest.mark.parametrize("lr", [0.3, 3.0])
def test_points_without_the_recipes_own_rate_wait(lr: float) -> None:
    rows, _, _ = choose_rates(results({(10, lr): (0.5,), (20, 1.0): (0.1,)}), "budget", "image")
    assert set(rows["budget"]) == {20}


def test_a_grid_has_the_axis_where_it_is_asked_for() -> None:
    points = tune((0, 10, 20), seeds=(0, 1), axis=(1 / 3, 1.0, 3.0), at=(10,))
    assert points == sorted(points)
    assert {(p, lr) for p, _, lr in points} == {(0, 1.0), (10, 1 / 3), (10, 1.0), (10, 3.0), (20, 1.0)}
    assert len(points) == len(set(points)) == 10


@pytest.mark.parametrize("optimum", [0.7, 1.0, 1.5])
def test_a_parabola_in_the_log_of_the_rate_finds_its_least(optimum: float) -> None:
    losses = {rate: 2.0 + 0.3 * math.log(rate / optimum) ** 2 for rate in (1 / 3, 1.0, 3.0)}
    assert vertex(losses) == pytest.approx(optimum)
    assert math.isnan(vertex({1.0: 1.0, 3.0: 2.0}))


def test_a_rate_between_is_told() -> None:
    _, said, _ = choose_rates(results({(10, 0.3): (3.0,), (10, 1.0): (2.0,), (10, 3.0): (2.5,)}), "budget", "image")
    assert "a parabola in the log of the rate has its least at x1.2" in said[0]
