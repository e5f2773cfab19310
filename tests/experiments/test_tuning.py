"""What questions say of learning rates: chosen on valid, reported as chosen, and where they were not looked at."""

import math

import polars as pl
import pytest

from experiments.tuning import FARTHEST, Known, Trial, bests, choose_rates, settle, try_rates, tune, vertex
from sweeps import Step

VALID = "valid_log_loss"
AXIS = (1 / 3, 1.0, 3.0)


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


def test_seeds_that_ran_at_the_chosen_rate_alone_are_fitted_and_do_not_choose() -> None:
    table = results({(10, 1.0): (0.2,), (10, 3.0): (0.1, 0.9)})
    rows, said, _ = choose_rates(table, "budget", "image")
    assert rows.select("lr", "seed").rows() == [(3.0, 0), (3.0, 1)]
    assert "x1 0.200, x3 0.100; x3 chosen" in said[0]


@pytest.mark.parametrize("lr", [0.3, 3.0])
def test_points_without_the_recipes_own_rate_wait(lr: float) -> None:
    rows, _, _ = choose_rates(results({(10, lr): (0.5,), (20, 1.0): (0.1,)}), "budget", "image")
    assert set(rows["budget"]) == {20}


def grid(known: Known) -> tuple[list, dict[int, float]]:
    """Budgets 10 and 20 by two seeds."""

    def run(budget: int, seed: int, lr: float) -> dict[str, Step]:
        return {"embed": Step("moon_jax.stages.embed:embed", 1, {"budget": budget, "seed": seed, "lr": lr})}

    rows, rates = tune((10, 20), seeds=(0, 1), axis=AXIS, run=run, by="valid_image_entropy", known=known)
    return [row[:3] for row in rows], rates


def test_the_first_seed_tries_the_rates_and_the_others_wait() -> None:
    assert grid(Known()) == ([(budget, 0, lr) for budget in (10, 20) for lr in AXIS], {})
    rows, rates = grid(Known(assume=True))
    assert rates == {10: 1.0, 20: 1.0}
    assert {row for row in rows if row[1] == 1} == {(10, 1, 1.0), (20, 1, 1.0)}


def test_each_point_of_a_grid_has_a_best_rate_of_its_own() -> None:
    def result_of(step: Step) -> dict[str, object]:
        best = {10: 12.0, 20: 1.0}[step.config["budget"]]
        return {"status": "done", "valid_image_entropy": abs(math.log(step.config["lr"] / best))}

    rows, rates = grid(Known(result_of))
    assert rates == {10: 9.0, 20: 1.0}
    assert {lr for budget, seed, lr in rows if (budget, seed) == (10, 0)} == {1 / 3, 1.0, 3.0, 9.0, 27.0}
    assert [row for row in rows if row[1] == 1] == [(10, 1, 9.0), (20, 1, 1.0)]


@pytest.mark.parametrize("optimum", [0.7, 1.0, 1.5])
def test_a_parabola_in_the_log_of_the_rate_finds_its_least(optimum: float) -> None:
    losses = {rate: 2.0 + 0.3 * math.log(rate / optimum) ** 2 for rate in (1 / 3, 1.0, 3.0)}
    assert vertex(losses) == pytest.approx(optimum)
    assert math.isnan(vertex({1.0: 1.0, 3.0: 2.0}))


def test_a_rate_between_is_told() -> None:
    _, said, _ = choose_rates(results({(10, 0.3): (3.0,), (10, 1.0): (2.0,), (10, 3.0): (2.5,)}), "budget", "image")
    assert "a parabola in the log of the rate has its least at x1.2" in said[0]


def run_at(lr: float) -> dict[str, Step]:
    return {"application": Step("moon_jax.stages.application:application", 1, {"lr": lr})}


def knowing(losses: dict[float, float | str]) -> Known:
    """Losses by rate; a word is a status. Rates that are not named have not finished."""

    def result_of(step: Step) -> dict[str, object] | None:
        value = next((value for lr, value in losses.items() if step.config["lr"] == pytest.approx(lr)), None)
        if value is None:
            return None
        return {"status": value} if isinstance(value, str) else {"status": "done", VALID: value}

    return Known(result_of)


def tried(known: Known, axis: tuple[float, ...] = AXIS) -> Trial:
    return try_rates("DIN", VALID, axis, run_at, known)


def test_a_trial_waits_for_all_its_rates() -> None:
    for known in (Known(), knowing({1 / 3: 0.5, 1.0: 0.4})):
        trial = tried(known)
        assert trial.best is None
        assert list(trial.runs) == list(AXIS)
    assert bests({"DIN": tried(Known())}) == {}


def test_a_bracketed_best_is_chosen() -> None:
    trial = tried(knowing({1 / 3: 0.5, 1.0: 0.4, 3.0: 0.6}))
    assert trial.best == 1.0
    assert list(trial.runs) == list(AXIS)


def test_a_best_at_an_end_widens_the_trial_until_it_is_bracketed() -> None:
    waiting = tried(knowing({1 / 3: 0.5, 1.0: 0.4, 3.0: 0.3}))
    assert waiting.best is None
    assert list(waiting.runs) == pytest.approx([1 / 3, 1, 3, 9])
    assert tried(knowing({1 / 3: 0.5, 1.0: 0.4, 3.0: 0.3, 9.0: 0.35})).best == 3.0
    below = tried(knowing({1 / 9: 0.3, 1 / 3: 0.2, 1.0: 0.4, 3.0: 0.5}))
    assert below.best == pytest.approx(1 / 3)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_search_without_end_ends(sign: float) -> None:
    rates = [3.0**k for k in range(-6, 7)]
    trial = tried(knowing({lr: sign * math.log(lr) for lr in rates}))
    assert trial.best == pytest.approx(FARTHEST**-sign)
    assert len(trial.runs) == 5


def test_a_rate_that_diverges_is_worst_and_no_choice_on_valid_leaves_the_recipes_own() -> None:
    assert tried(knowing({1 / 3: 0.5, 1.0: 0.4, 3.0: "diverged"})).best == 1.0
    assert tried(knowing(dict.fromkeys(AXIS, "done"))).best == 1.0
    assert tried(knowing(dict.fromkeys(AXIS, "diverged"))).best == 1.0


def test_a_point_whose_own_rate_diverged_is_fitted_at_the_best_of_the_others() -> None:
    table = results({(10, 1 / 9): (0.6,), (10, 1 / 3): (0.5, 0.4), (10, 1.0): (math.nan,)})
    table = table.with_columns(
        pl.col("valid_image_entropy").fill_nan(None),
        status=pl.when(pl.col("lr") == 1.0).then(pl.lit("diverged")).otherwise(pl.lit("done")),
    )
    rows, said, weak = choose_rates(table, "budget", "image")
    assert rows.select("lr", "seed").rows() == [(1 / 3, 0), (1 / 3, 1)]
    assert not rows["lr_at_edge"].any()  # one that diverged is an end, too
    assert "x0.33 chosen" in said[0]
    assert weak == []


def test_one_rate_leaves_nothing_to_try_and_a_plan_assumes_the_recipes_own() -> None:
    alone = tried(Known(), (1.0,))
    assert (alone.best, alone.cells(seed=0)) == (1.0, [])
    assert tried(Known(assume=True)).best == 1.0


def test_trials_are_told_and_taken_out_of_the_rows() -> None:
    cells = tried(knowing({1 / 3: 0.5, 1.0: 0.4, 3.0: 0.6})).cells(seed=0, L=64)
    rows = [{**cell.coordinates, VALID: loss} for cell, loss in zip(cells, (0.5, 0.4, 0.6), strict=True)]
    rows += [{"trial": "CUBE", "by": VALID, "lr": lr, "seed": 0, "L": 64, VALID: 1 / lr} for lr in AXIS]
    rows += [{"trial": "", "lr": 1.0, "seed": 1, "L": 64, VALID: 0.1}]
    results = pl.DataFrame(rows, infer_schema_length=None).with_columns(status=pl.lit("done"))
    rest, table, said, weak = settle(results)
    assert rest["seed"].to_list() == [1]
    assert table.filter("chosen").select("trial", "rate").rows() == [("DIN", 1.0), ("CUBE", 3.0)]
    assert "DIN x1, CUBE x3" in said[0]
    assert weak == ["learning rate of CUBE: the best lies at an end of what was tried"]
    failed = (
        pl.when((pl.col("trial") == "CUBE") & (pl.col("lr") == 3.0)).then(pl.lit("crashed")).otherwise(pl.lit("done"))
    )
    _, _, said, weak = settle(results.with_columns(status=failed))
    assert "CUBE" not in said[0]
    assert weak == ["learning rate of CUBE: not all that were tried have finished"]


def test_without_trials_the_one_rate_is_a_weak_point() -> None:
    for table in (pl.DataFrame({"seed": [0]}), pl.DataFrame({"seed": [0], "trial": [""]})):
        rows, tried_rates, said, weak = settle(table)
        assert rows.height == 1
        assert tried_rates.is_empty()
        assert said == []
        assert "one learning rate for everything" in weak[0]
