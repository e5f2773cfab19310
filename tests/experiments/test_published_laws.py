"""Published numbers on the public files: what agrees, what does not, what is written; and the rules of agreement."""

import json
import shutil
import sys
from functools import partial
from pathlib import Path

import polars as pl
import pytest

import analysis
from experiments import cli, conformance, learning_curves, published_laws
from experiments.keeping import keep, redraw
from experiments.published_fits import broken, chinchilla, gadre, openclip, porian, vision

FEW = 200  # resamples: enough to run, too few to compare the ends of intervals
# Published as r over 121 models; neither the log errors (.965) nor the accuracies (.972) of the file give it.
MISSED = {"exchange rate, any training data: r"}


@pytest.fixture(scope="module")
def answered(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder that a run wrote, and what it said."""
    said: list[str] = []
    out = tmp_path_factory.mktemp("published")
    few = (partial(chinchilla, resamples=FEW), openclip, gadre, porian, broken, partial(vision, forecast=False))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(published_laws, "PARTS", few)
        published_laws.run(real_data / "scaling", out, said.append)
    return out / "published_laws", "\n".join(said)


@pytest.mark.real_data
def test_published_numbers_are_found_again(answered: tuple[Path, str]) -> None:
    table = pl.read_parquet(answered[0] / "results.parquet")
    fixed = table.filter(~pl.col("name").str.contains("interval"))
    assert set(fixed.filter(~pl.col("agrees"))["name"]) == MISSED
    counts = dict(table.group_by("source").len().iter_rows())
    assert {source.split(":")[0]: count for source, count in counts.items()} == {
        "Chinchilla": 31, "OpenCLIP": 21, "Over-training": 8, "IsoFLOP": 5, "Broken law": 2,
        "Learning curves": 9,
    }  # fmt: skip


@pytest.mark.real_data
def test_it_is_said_printed_and_written(answered: tuple[Path, str]) -> None:
    home, said = answered
    assert "of 76 published numbers agree with ours" in said
    row = next(line for line in said.splitlines() if "Huber 1e-3, polished: B " in line)
    assert row.split()[3:7] == ["B", "2143.42", "2143.42", "yes"]
    missed = next(line for line in said.splitlines() if "any training data: r" in line)
    assert " no " in missed
    assert "0.964747" in (home / "report.html").read_text()
    answer = json.loads((home / "answer.json").read_text())["answer"]
    assert "of 76 published numbers agree with ours" in answer[0]
    assert any("any training data: r is published as .940, ours is 0.964747" in line for line in answer[1:])


@pytest.mark.real_data
def test_it_is_kept_and_drawn_again_from_its_table(answered: tuple[Path, str], tmp_path: Path) -> None:
    keep(answered[0].parent, "published_laws", tmp_path / "published")
    (again,) = (path for path in redraw(tmp_path) if path.parent.name == "published_laws")
    for name in ("answer.json", "figures/agreement.svg"):
        assert (again.parent / name).read_bytes() == (answered[0] / name).read_bytes(), name


def test_what_is_used_of_a_rule_is_one_at_its_limit() -> None:
    assert conformance.digits("s", "n", ".940", 0.9405).used == pytest.approx(1)
    assert conformance.same_optimum("s", "n", "2000", 2001).used == pytest.approx(0.5)
    assert conformance.inside("s", "n", ".5", (0.3, 0.6), 0.4, (0.3, 0.7)).used == pytest.approx(0.5)
    assert conformance.inside("s", "n", ".5", (0.3, 0.6), 0.6, (0.3, 0.7)).used == pytest.approx(1)
    assert conformance.same_ends("s", "n", (0.0, 1.0), (0.05, 1.0)).used == pytest.approx(0.5)


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):  # type: ignore[no-untyped-def]
    """The one line of a `moon run published_laws` that ends with code 2 and writes nothing."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["moon", "run", "published_laws", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        told = capsys.readouterr()
        assert ended.value.code == 2, told.err
        assert told.err.count("\n") == 1
        assert told.out == ""
        assert not (tmp_path / "runs").exists()
        return str(told.err)

    return call


def test_a_missing_folder_or_file_is_one_clear_line(refused, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    assert "say where it is, --data DIR" in refused()
    assert "there is no such folder" in refused("--data", "nowhere")
    assert "chinchilla_svg_extracted.csv: no such file" in refused("--data", tmp_path)
    (tmp_path / "chinchilla_svg_extracted.csv").write_text("Model Size,Training FLOP,los\n1,2,3\n")
    told = refused("--data", tmp_path)
    assert "chinchilla_svg_extracted.csv: no column 'loss'; closest: los" in told


@pytest.mark.real_data
def test_another_file_than_the_published_one_is_refused(real_data: Path, tmp_path: Path) -> None:
    for name in ("gadre_runs.csv", "porian_isoflop_points.csv", "porian_published_fits.csv"):
        shutil.copyfile(real_data / "scaling" / name, tmp_path / name)
    runs = pl.read_csv(tmp_path / "gadre_runs.csv", infer_schema_length=None)
    runs.filter(pl.col("model") != "open_lm_7b").write_csv(tmp_path / "gadre_runs.csv")
    with pytest.raises(analysis.TableError, match="not the published RedPajama runs"):
        gadre(tmp_path)
    fits = pl.read_csv(tmp_path / "porian_published_fits.csv")
    fits.head(4).write_csv(tmp_path / "porian_published_fits.csv")
    with pytest.raises(analysis.TableError, match="4 set-ups"):
        porian(tmp_path)


@pytest.mark.real_data
def test_other_curves_than_the_published_ones_are_refused(real_data: Path, tmp_path: Path) -> None:
    for name in (learning_curves.CURVES, learning_curves.OFFICIAL):
        shutil.copyfile(real_data / "scaling" / name, tmp_path / name)
    official = pl.read_csv(tmp_path / learning_curves.OFFICIAL)
    official.filter(pl.col("task") != "bird_10").write_csv(tmp_path / learning_curves.OFFICIAL)
    with pytest.raises(analysis.TableError, match="not the published 72 curves, 40 of them"):
        vision(tmp_path)


@pytest.mark.proof
@pytest.mark.real_data
def test_the_automatic_forecast_is_no_worse_than_the_best_published_method(real_data: Path) -> None:
    rows = {row.name: row for row in vision(real_data / "scaling") if row.name.startswith("ours")}
    assert len(rows) == 2
    assert all(row.agrees for row in rows.values()), rows
    for row in rows.values():  # on the half that was not looked at, too
        assert float(row.note.rpartition(" ")[2]) <= float(row.published.removeprefix("<= "))


def test_printed_digits_decide() -> None:
    for published, ours, agrees in (
        (".766", 0.76584, True), (".766", 0.7666, False), ("-.1114", -0.111388, True), ("6.0e-4", 5.96e-4, True),
        ("6.0e-4", 6.06e-4, False), ("1.09e-2", 0.010949, True), ("80.47", 80.4751, False),
    ):  # fmt: skip
        assert conformance.digits("s", "n", published, ours).agrees is agrees, (published, ours)


def test_the_other_rules() -> None:
    assert conformance.same_optimum("s", "n", "2143.86", 2143.42).agrees
    assert not conformance.same_optimum("s", "n", "2143.86", 2085.43).agrees
    assert conformance.at_most("s", "n", "0.00101827402", 0.001018274018).agrees
    assert not conformance.at_most("s", "n", "0.00101827402", 0.00101827403).agrees
    assert conformance.at_most("s", "n", "0.0482", 0.03057814).ours == "0.0305781"
    assert conformance.inside("s", "n", ".5", (0.4, 0.6), 0.59, (0.3, 0.7)).agrees
    assert not conformance.inside("s", "n", ".5", (0.4, 0.6), 0.61, (0.3, 0.7)).agrees
    assert conformance.same_ends("s", "n", (0.0, 1.0), (0.09, 1.09)).agrees
    assert not conformance.same_ends("s", "n", (0.0, 1.0), (0.0, 1.11)).agrees
