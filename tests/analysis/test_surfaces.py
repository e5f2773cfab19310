"""What the command line calls: text out, files on request, errors that name the file; and quick imports."""

import doctest
import importlib
import json
import pkgutil
import subprocess
import sys

import polars as pl
import pytest
from planted import runs, versions

import analysis
from analysis.surfaces import exchange_command, fit_command, laws_table


def test_a_fit_from_a_csv_prints_saves_and_draws(tmp_path):
    path = tmp_path / "t.csv"
    runs().write_csv(path)
    text = fit_command(
        path, x="tokens", y="recall", transform="error", cluster="run", holdout="largest",
        save=tmp_path / "fit.json", figure=tmp_path / "fit.png",
    )  # fmt: skip
    assert "alpha" in text
    assert "within the 95% prediction interval" in text
    assert json.loads((tmp_path / "fit.json").read_text())["law"] == "power_floor"
    assert (tmp_path / "fit.png").stat().st_size > 0
    assert (tmp_path / "fit.svg").stat().st_size > 0


def test_rolling_predictions_units_and_known_noise(tmp_path):
    path = tmp_path / "t.parquet"
    runs(budgets=6).write_parquet(path, metadata={"units": json.dumps({"tokens": "M"})})
    text = fit_command(
        path, x="tokens", y="recall", transform="error", cluster="run", rolling=True, noise=0.2, resamples=200,
        units={"recall": "share"}, figure=tmp_path / "fit.png",
    )  # fmt: skip
    assert "x = tokens (M)" in text
    assert "y = 1 - recall (share)" in text
    assert "noise of one run: 20 % (from what was told)" in text
    head = next(line for line in text.splitlines() if "last value" in line)
    assert head.split()[:2] == ["fitted", "to"]
    assert (tmp_path / "fit-rolling.svg").stat().st_size > 0


def test_known_noise_widens_but_never_narrows():
    quiet = runs(noise=0.002)
    columns = {"x": "tokens", "y": "error", "cluster": "run", "resamples": 300}

    def width(**told):
        low, high = analysis.fit(quiet, **columns, **told).predict(1e8, interval=0.95)[1:]
        return float(high - low)

    assert width(noise=0.05) > 10 * width()
    assert width(noise=1e-5) == width()
    with pytest.raises(analysis.TableError, match="noise is a standard deviation"):
        width(noise=-0.1)


def test_a_rate_from_a_csv_prints_saves_and_draws(tmp_path):
    path = tmp_path / "t.csv"
    versions().write_csv(path)
    text = exchange_command(
        path, of=["text_recall", "image_recall"], into="gauc", save=tmp_path / "r.json", figure=tmp_path / "r.svg"
    )
    assert "best proxy: image_recall" in text
    assert analysis.Rate.load(tmp_path / "r.json").of == "image_recall"
    assert (tmp_path / "r.png").stat().st_size > 0


def test_errors_name_the_file(tmp_path):
    path = tmp_path / "t.csv"
    runs().write_csv(path)
    with pytest.raises(analysis.TableError, match=rf"{path}: no column 'recal'; closest: recall"):
        fit_command(path, x="tokens", y="recal")
    with pytest.raises(analysis.TableError, match=rf"{path}: no column 'gauc'"):
        exchange_command(path, of="recall", into="gauc", cluster="run")


def test_the_table_of_laws_has_a_line_for_each():
    named = [line.split()[0] for line in laws_table().splitlines() if not line.startswith(" ")]
    assert sorted(named) == sorted(analysis.LAWS)
    assert named[0] == "log_line"  # simple ones first


def test_importing_loads_nothing_heavy():
    code = "import sys, analysis; print(*[m for m in ('jax', 'scipy', 'matplotlib', 'polars') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


MODULES = sorted(module.name for module in pkgutil.walk_packages(analysis.__path__, "analysis."))


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples_run(name):
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert result.failed == 0


def test_what_users_call_has_an_example():
    called = [analysis.fit, analysis.isoflop, analysis.two_step, analysis.allocate, analysis.marginal_table]
    called += [analysis.compute_equivalent, analysis.profile_intervals, analysis.exchange_rate, analysis.rank_proxies]
    called += [analysis.compare_laws, analysis.leave_largest_out, analysis.extrapolate, analysis.register]
    assert [function.__name__ for function in called if ">>>" not in (function.__doc__ or "")] == []


def test_groups_share_no_file_and_must_not_all_be_poor(tmp_path):
    path = tmp_path / "t.csv"
    both = pl.concat([runs().with_columns(kind=pl.lit(kind)) for kind in ("a/b", "a:b")])
    both.write_csv(path)
    columns = {"x": "tokens", "y": "error", "cluster": "run", "resamples": 0}
    with pytest.raises(analysis.TableError, match=r"groups a/b, a:b would be saved under one name"):
        fit_command(path, group="kind", save=tmp_path / "fit.json", **columns)
    assert not list(tmp_path.glob("*.json"))
    assert fit_command(path, group="kind", **columns).count("kind = a") == 2
    with pytest.raises(analysis.TableError, match=r"t\.csv: no column 'sort'"):
        fit_command(path, group="sort", **columns)
    with pytest.raises(analysis.TableError, match="no law 'nosuch'"):
        fit_command(path, group="kind", law="nosuch", **columns)


def test_too_few_draws_for_an_interval_are_refused():
    for count in (-5, 1, 39):
        with pytest.raises(analysis.TableError, match=f"resamples is {count}: give 0 for no interval, or at least 40"):
            analysis.fit(runs(), x="tokens", y="error", resamples=count)
        with pytest.raises(analysis.TableError, match="give 0 for no interval"):
            analysis.exchange_rate(versions(), of="image_recall", into="gauc", resamples=count)
    with pytest.raises(analysis.TableError, match="seed must be 0 or above"):
        analysis.fit(runs(), x="tokens", y="error", seed=-1)


@pytest.mark.parametrize("kind", [analysis.Fit, analysis.Rate, analysis.Allocation, analysis.IsoFlop, analysis.TwoStep])
def test_a_damaged_file_is_one_clear_line(kind, tmp_path):
    from analysis.fitted import FORMAT

    path = tmp_path / "bad.json"
    path.write_text(json.dumps({"format": getattr(kind, "FORMAT", FORMAT)}))
    with pytest.raises(analysis.TableError, match=r"bad\.json: damaged, or saved by another version"):
        kind.load(path)


def test_the_profile_knows_the_noise_that_was_told():
    law = {"x": "tokens", "y": "error", "law": "power", "cluster": "run", "resamples": 400}
    fit = analysis.fit(runs(budgets=10, seeds=2, noise=0.002, E=0.0), noise=0.05, **law)
    for name, (low, high) in analysis.profile_intervals(fit).items():
        ends = fit.intervals()[name]
        assert high - low == pytest.approx(ends[1] - ends[0], rel=0.2)
