"""exchange_rate: which versions it makes of which data, and what it says of planted ones."""

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest

from analysis.rates import VersionPoints
from experiments import exchange_rate
from experiments.exchange_rate import kinds_of, mean_alone
from moon_jax.data.contract import Dataset


def versions(slopes: Mapping[str, float], noise: float = 0.001, **more: Any) -> pl.DataFrame:
    """Twelve versions with two seeds whose GAUC follows the proxies with these slopes; proxies rise each by itself."""
    rng, rows = np.random.default_rng(0), []
    truth = {name: rng.uniform(0.1, 0.5, 12) for name in slopes}
    for version in range(12):
        for seed in (0, 1):
            measured = {name: truth[name][version] + noise * rng.normal() for name in slopes}
            gauc = 0.6 + sum(slope * truth[name][version] for name, slope in slopes.items()) + noise * rng.normal()
            rows.append({
                "version": f"v{version}", "kind": "both", "seed": seed, "status": "done", "gauc": gauc, "auc": gauc, **measured,
                **{name: function(measured) for name, function in more.items()},
            })  # fmt: skip
    return pl.DataFrame(rows)


@pytest.mark.parametrize(
    ("slopes", "said"),
    [
        (
            {"image_recall@10": 0.3, "text_recall@10": 0.0},
            "here? Yes: it ranks first and GAUC rises with it (P(best) = 1.00",
        ),
        ({"image_recall@10": 0.0, "text_recall@10": 0.3}, "here? No: no rise of GAUC with it is seen"),
        ({"image_recall@10": 0.1, "text_recall@10": 0.1}, "GAUC rises with it"),
        ({"text_recall@10": 0.3, "item_recall@10": 0.0}, "Nobody searches by photo"),
    ],
)
def test_whether_image_recall_deserves_its_title(slopes: dict[str, float], said: str) -> None:
    answer = " ".join(exchange_rate.read(versions(slopes)).answer)
    assert said in answer


def test_the_proxy_that_foretells_best_is_named_among_all() -> None:
    rows = versions(
        {"image_recall@10": 0.0, "text_recall@10": 0.3}, uniformity=lambda m: -m["image_recall@10"],
        **{"category_knn@10": lambda m: 0.5 + m["text_recall@10"] / 2},
    )  # fmt: skip
    reading = exchange_rate.read(rows)
    table = reading.tables["every proxy"]
    assert set(table["proxy"]) == {"image_recall@10", "text_recall@10", "uniformity", "category_knn@10"}
    assert "Of all 4 proxies" in " ".join(reading.answer)
    assert {"exchange", "proxies"} <= set(reading.figures)
    best = table.sort("loo_error")["proxy"][0]
    assert best in ("text_recall@10", "category_knn@10")


def test_stages_have_rates_of_their_own() -> None:
    rows = versions(
        {"image_recall@10": 0.3, "text_recall@10": 0.0},
        **{
            "retrieval_recall@100": lambda m: 0.1 + 0.5 * m["image_recall@10"],
            "relevance_ndcg@10": lambda m: m["text_recall@10"],
        },
    )
    stages = exchange_rate.read(rows).tables["into each stage of the funnel"]
    first = dict(stages.select("into", "proxy").iter_rows())
    assert first == {
        "retrieval_recall@100": "image_recall@10",
        "relevance_ndcg@10": "text_recall@10",
        "gauc": "image_recall@10",
    }


def test_the_mean_alone_is_what_leaving_one_out_gives() -> None:
    values = np.random.default_rng(0).normal(size=9)
    left = [values[k] - np.delete(values, k).mean() for k in range(9)]
    x, none = tuple(range(9)), float("nan")
    assert mean_alone(VersionPoints((), x, tuple(values), none, none)) == pytest.approx(
        np.sqrt(np.mean(np.square(left)))
    )
    groups = (0, 0, 0, 1, 1, 1, 1, 1, 2)  # the last is alone in its kind: nothing foretells it
    left = [values[k] - values[[j for j in range(9) if groups[j] == groups[k] and j != k]].mean() for k in range(8)]
    points = VersionPoints((), x, tuple(values), none, none, groups)
    assert mean_alone(points) == pytest.approx(np.sqrt(np.mean(np.square(left))))


def test_what_a_version_cannot_see_does_not_decide_the_rate() -> None:
    """Text only: the best GAUC and no recall of photos. Within each kind GAUC rises with it all the same."""
    rows = versions({"image_recall@10": 0.5, "text_recall@10": 0.0}).with_columns(
        kind=pl.Series([("images only", "text only", "both")[k // 2 % 3] for k in range(24)])
    )
    blind = pl.col("kind") == "text only"
    rows = rows.with_columns(
        **{"image_recall@10": pl.when(blind).then(pl.col("image_recall@10") * 1e-3).otherwise("image_recall@10")},
        gauc=pl.when(blind).then(0.9 + pl.col("image_recall@10") * 5e-4).otherwise("gauc"),
    )
    reading = exchange_rate.read(rows)
    assert reading.fits["rate"].interval[0] > 0
    assert reading.fits["rate-all-alike"].slope < 0
    assert "image_recall@10 ranks first at equal modalities" in reading.answer[0]
    assert any(line.startswith("Over all versions alike") for line in reading.answer)


def test_kinds_that_no_search_would_train_are_left_out(smoke_world: Dataset, tmp_path: Path) -> None:
    assert list(kinds_of(smoke_world)) == ["images only", "text only", "both"]
    photos: Any = SimpleNamespace(forms={"image": "image->image"}, folder=tmp_path, has=smoke_world.has)
    assert list(kinds_of(photos)) == ["images only"]
    films: Any = SimpleNamespace(forms={"text": "text->image", "item": "image+text->image+text"}, folder=tmp_path)
    assert list(kinds_of(films)) == ["images only", "text only", "both"]


def test_versions_that_differ_by_noise_alone_have_no_rate() -> None:
    rows = versions({"image_recall@10": 0.0, "text_recall@10": 0.0})
    rng = np.random.default_rng(1)
    rows = rows.with_columns(
        **{name: pl.Series(0.3 + 0.01 * rng.normal(size=24)) for name in ("image_recall@10", "text_recall@10")}
    )
    answer = " ".join(exchange_rate.read(rows).answer)
    assert "No rate can be given: the versions do not differ" in answer
    assert "nan" not in answer
