"""The benchmark scripts run, say clearly what is missing, and their automatic forecast never reads a test point."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import analysis
from experiments.learning_curves import CURVES, OFFICIAL, ours, read_curves

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def script(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(BENCHMARKS / name), *map(str, arguments)], capture_output=True, text=True, check=False
    )


def curve(points: int = 30, E: float = 0.2, noise: float = 0.005) -> pl.DataFrame:
    """An error that leaves chance in a bend, then falls to a floor."""
    x = np.geomspace(1e5, 3e8, points)
    rng = np.random.default_rng(0)
    error = E + (0.95 - E) * (1 + x / 2e6) ** -0.4
    return pl.DataFrame({"seen": x, "error": error * np.exp(noise * rng.normal(size=points))})


@pytest.mark.parametrize("name", ["vision_curves.py", "chinchilla_fit.py"])
def test_a_missing_folder_is_one_clear_line_and_2(name, tmp_path):
    done = script(name, tmp_path / "nowhere")
    assert done.returncode == 2
    assert "nowhere: no such file or folder" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    done = script(name, tmp_path)  # a folder without the file
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)


@pytest.mark.parametrize("name", ["vision_curves.py", "chinchilla_fit.py", "coverage.py"])
def test_help(name):
    done = script(name, "--help")
    assert done.returncode == 0
    assert "--quick" in done.stdout


def test_quick_coverage():
    done = script("coverage.py", "--quick")
    assert done.returncode == 0, done.stderr
    assert "bounded_power" in done.stdout
    assert "of OLS, %" in done.stdout


@pytest.mark.real_data
def test_quick_curves_and_chinchilla(real_data):
    done = script("vision_curves.py", real_data / "scaling", "--quick")
    assert done.returncode == 0, done.stderr
    assert "ours: analysis.extrapolate" in done.stdout
    done = script("chinchilla_fit.py", real_data / "scaling", "--quick")
    assert done.returncode == 0, done.stderr
    assert "0.0010182740" in done.stdout


@pytest.mark.real_data
def test_the_automatic_choice_never_reads_test_points(real_data):
    table, official = (pl.read_csv(real_data / "scaling" / name) for name in (CURVES, OFFICIAL))
    held = pl.col("Training") == 0
    test = table.filter(held)
    shuffled = test.with_columns(pl.Series("Loss", np.random.default_rng(0).permutation(test["Loss"].to_numpy())))
    curves = read_curves(table, official)
    others = read_curves(pl.concat([table.filter(~held), shuffled]), official)
    assert len(curves) == len(others) == 72
    assert 30 <= sum(one.developed_on for one in curves) <= 42
    for one, other in list(zip(curves, others, strict=True))[:4]:
        assert one.name == other.name
        x = one.test["seen"].to_numpy()
        assert not one.test["error"].equals(other.test["error"])
        np.testing.assert_array_equal(ours(one.train, x), ours(other.train, x))


def test_a_forecast_beats_the_line_and_knows_no_units_and_no_order():
    table = curve()
    made = analysis.extrapolate(table, x="seen", y="error")
    far = np.array([1e9, 3e9])
    truth = 0.2 + 0.75 * (1 + far / 2e6) ** -0.4
    line = analysis.fit(table, x="seen", y="error", law="power", resamples=0).predict(far)
    assert np.all(np.abs(made.predict(far) / truth - 1) < 0.05)
    assert np.abs(made.predict(far) / truth - 1).max() < 0.3 * np.abs(line / truth - 1).max()
    shares = made.table()
    assert shares["law"].to_list() == ["m4", "broken_power", "power_floor", "power_floor"]
    assert shares["weight"].sum() == pytest.approx(1)
    assert (made.n, made.predict(1e9).shape) == (30, ())
    mixed = analysis.extrapolate(table.sample(fraction=1, shuffle=True, seed=1), x="seen", y="error")
    np.testing.assert_array_equal(mixed.predict(far), made.predict(far))
    scaled = table.with_columns(pl.col("seen") * 1e-6, pl.col("error") * 100)
    np.testing.assert_allclose(
        analysis.extrapolate(scaled, x="seen", y="error").predict(far * 1e-6), 100 * made.predict(far), rtol=1e-4
    )
    as_recall = table.with_columns(recall=1 - pl.col("error"))
    again = analysis.extrapolate(as_recall, x="seen", y="recall", transform="error")
    np.testing.assert_allclose(again.predict(far), made.predict(far), rtol=1e-4)


def test_few_points_leave_members_out_and_too_few_are_refused():
    few = analysis.extrapolate(curve(7), x="seen", y="error")
    assert {member.law.name for member in few.members} == {"power_floor"}
    with pytest.raises(analysis.TableError, match="too few for any of m4"):
        analysis.extrapolate(curve(4), x="seen", y="error")
    with pytest.raises(analysis.TableError, match="leave none to judge"):
        analysis.extrapolate(curve(1), x="seen", y="error")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (pl.col("error") * 0, "'error' must be above 0"),
        (pl.col("error") * float("nan"), "error"),
        (pl.col("seen") - 1e5, "'seen' must be above 0"),
    ],
)
def test_bad_columns_are_refused(change, message):
    with pytest.raises(analysis.TableError, match=message):
        analysis.extrapolate(curve().with_columns(change), x="seen", y="error")


def test_predict_refuses_what_is_no_x():
    made = analysis.extrapolate(curve(), x="seen", y="error")
    for x in (0.0, -1.0, float("nan")):
        with pytest.raises(analysis.TableError, match="finite and above 0"):
            made.predict(x)
    with pytest.raises(analysis.TableError, match="no transform"):
        analysis.extrapolate(curve(), x="seen", y="error", transform="square")  # type: ignore[arg-type]
