"""Figures hold what they promise, come out the same every time, and reports stand alone."""

import itertools
import re
import xml.dom.minidom

import numpy as np
import polars as pl
import pytest
from planted import runs, versions

import analysis
from analysis.axes import short_count, spread_out
from analysis.figures import exchange_figure, line_figure, new_figure, save_figure, scaling_figure, svg_text
from analysis.report import Section, fit_section, rate_section, write_report

COLUMNS = {"x": "tokens", "y": "recall", "transform": "error", "cluster": "run"}
FLOORS = {"chance": 0.0002, "untrained": 0.09, "pixels": 0.22, "pixels + colour": 0.225}


@pytest.fixture(scope="module")
def fit():
    return analysis.fit(runs().with_columns(passes=pl.col("tokens") / 2e6), holdout="largest", resamples=200, **COLUMNS)


@pytest.fixture(scope="module")
def rate():
    return analysis.exchange_rate(versions(), of=["text_recall", "image_recall"], into="gauc", resamples=200)


def texts(figure):
    from matplotlib.text import Text

    return [text.get_text() for text in figure.findobj(Text)]


@pytest.mark.parametrize("log_y", [False, True])
def test_a_scaling_figure_names_its_floors_and_their_labels_do_not_overlap(fit, log_y):
    figure = scaling_figure(fit, floors=FLOORS, title="Recall", log_y=log_y)
    figure.draw_without_rendering()
    labels = [t for t in figure.axes[0].texts if any(t.get_text().startswith(name) for name in FLOORS)]
    assert len(labels) == len(FLOORS)
    boxes = sorted((label.get_window_extent() for label in labels), key=lambda box: box.y0)
    assert all(lower.y1 <= upper.y0 + 1 for lower, upper in itertools.pairwise(boxes))
    width = figure.get_window_extent().x1
    assert all(box.x1 <= width for box in boxes)
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert any("held out" in text for text in legend)
    assert any("passes > 1" in text for text in legend)


def test_an_error_is_drawn_as_the_metric(fit):
    ax = scaling_figure(fit).axes[0]
    assert ax.get_ylabel() == "recall"
    assert max(ax.get_ylim()) < 1
    assert scaling_figure(fit, log_y=True).axes[0].get_ylabel() == "1 - recall"


def test_a_fit_and_a_rate_draw_themselves_onto_given_axes(fit, rate):
    for result in (fit, rate, analysis.fit(runs(), resamples=0, **COLUMNS)):
        ax = new_figure().add_subplot()
        result.plot(ax)
        assert ax.lines


def test_the_same_figure_gives_the_same_bytes(fit, tmp_path):
    first = save_figure(scaling_figure(fit, floors=FLOORS), tmp_path / "a")
    second = save_figure(scaling_figure(fit, floors=FLOORS), tmp_path / "b")
    assert [path.suffix for path in first] == [".png", ".svg"]
    for one, two in zip(first, second, strict=True):
        assert one.read_bytes() == two.read_bytes()


def test_a_line_figure_shows_every_series_its_interval_and_the_reference():
    rng = np.random.default_rng(0)
    rows = [
        {"length": length, "model": model, "gauc": 0.6 + gain * np.log1p(length) + 0.003 * rng.normal()}
        for length in (0, 4, 16, 64) for model, gain in (("MOON", 0.03), ("ID only", 0.01)) for _ in range(3)
    ]  # fmt: skip
    reference = {"Bayes": ([0, 64], [0.62, 0.76])}
    figure = line_figure(
        pl.DataFrame(rows), x="length", y="gauc", series="model", reference=reference, floors={"chance": 0.5}
    )
    legend = {text.get_text() for text in figure.legends[0].get_texts()}
    assert legend == {"MOON", "ID only", "Bayes"}
    assert "chance 0.5" in texts(figure)
    with pytest.raises(analysis.TableError, match="no column 'modle'"):
        line_figure(pl.DataFrame(rows), x="length", y="gauc", series="modle")


def test_an_exchange_figure_has_a_panel_for_each_proxy_best_first(rate):
    figure = exchange_figure(rate, title="Worth", groups={f"v{k:02d}": ("image", "text")[k % 2] for k in range(12)})
    assert [ax.get_xlabel() for ax in figure.axes] == ["image_recall", "text_recall"]
    assert any("P(best)" in text for text in texts(figure))
    assert len(exchange_figure(rate.ranking).axes) == 2
    nothing_known = analysis.exchange_rate(versions().filter(pl.col("seed") == 0), of="image_recall", into="gauc")
    assert len(exchange_figure(nothing_known).axes) == 1


def test_counts_are_short_and_touching_labels_are_spread():
    assert [short_count(v) for v in (0.5, 20, 1000, 2.5e6, 3e9)] == ["0.5", "20", "1k", "2.5M", "3B"]
    placed = spread_out([0.1, 0.11, 0.12, 0.9], 0.05)
    assert np.all(np.diff(placed) >= 0.05 - 1e-12)
    assert np.mean(placed[:3]) == pytest.approx(0.11)
    assert placed[3] == 0.9


def test_a_report_stands_alone_and_puts_the_answer_first(tmp_path, fit, rate):
    path = write_report(
        tmp_path / "deep" / "report.html",
        title="Does <recall> grow?",
        answer=["It grows & bends.", "One point of recall is worth a tenth of a point of GAUC."],
        sections=[
            fit_section("Tokens", fit, scaling_figure(fit, floors=FLOORS)),
            rate_section("Worth", rate, exchange_figure(rate)),
            Section("Rest", text="One.\n\nTwo.", table=[{"a": 1, "b": "<x>"}], figure=svg_text(scaling_figure(fit))),
        ],
        provenance={"simulated": {"clicks": True, "images": False}, "commit": "abc", "missing": None},
    )
    page = path.read_text()
    assert page.index("It grows &amp; bends.") < page.index("<svg")
    assert "Does &lt;recall&gt; grow?" in page
    assert "<x>" not in page
    assert "simulated: clicks<" in page
    for warning in fit.warnings:
        assert warning.replace(">", "&gt;") in page
    pictures = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    assert len(pictures) == 3
    for picture in pictures:
        xml.dom.minidom.parseString(picture)
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    used = set(re.findall(r"url\(#([^)]+)\)", page)) | set(re.findall(r'href="#([^"]+)"', page))
    assert used <= set(ids)
    assert not re.findall(r'(?:src|href)="(?!#)', page)
    assert "<script" not in page
