"""The adapters: what public sets hold arrives whole, what cannot be used is counted, splits leak nothing."""

import io
import shutil
import zipfile
from importlib import import_module
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from moon_jax.data.adapters import ADAPTERS
from moon_jax.data.adapters.fashion import import_fashion, read_styles
from moon_jax.data.adapters.groups import split_titles
from moon_jax.data.adapters.movielens import colike_pairs, import_movielens, movie_split
from moon_jax.data.contract import DataError, Dataset, check
from moon_jax.metrics.ranking import auc, gauc

REDUCED = "id,masterCategory,subCategory,articleType,baseColour,usage,productDisplayName"
FULL = "id,gender,masterCategory,subCategory,articleType,baseColour,season,year,usage,productDisplayName"


def jpeg(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (6, 8), (shade % 256, 90, 90)).save(buffer, "JPEG")
    return buffer.getvalue()


def write_images(source: Path, name: str, photos: dict[int, bytes], *, zipped: bool, inner: str = "") -> None:
    if not zipped:
        (source / name).mkdir(parents=True)
        for number, content in photos.items():
            (source / name / f"{number}.jpg").write_bytes(content)
        return
    with zipfile.ZipFile(source / f"{name}.zip", "w") as archive:
        for number, content in photos.items():
            archive.writestr(f"{inner}{number}.jpg", content)


def fashion_source(source: Path, *, zipped: bool, full: bool = False, groups: int = 16, broken: int = 0) -> Path:
    """Three items for each of `groups` titles and twenty items alone; titles of the full form hold commas."""
    source.mkdir()
    lines = [FULL if full else REDUCED]
    photos = {}
    for number in range(1, 3 * groups + 21):
        title = f"Nike Shoe {number % groups}, wide" if number <= 3 * groups else f"Lone {number}"
        middle = ["Footwear", "Shoes", "Sports Shoes", "Red"]
        cells = [str(number), *middle, "Sports", title]
        if full:
            cells = [str(number), "Men", *middle, "Summer", "2012", "Sports", title]
        lines.append(",".join(cells))
        photos[number] = jpeg(number) if number > broken else b"\xff\xd8 broken"
    (source / "styles.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    write_images(source, "images", photos, zipped=zipped, inner="images/")
    return source


def test_every_listed_adapter_exists() -> None:
    for address in ADAPTERS.values():
        module, function = address.split(":")
        assert callable(getattr(import_module(module), function))


def test_fashion_is_the_same_from_folder_and_zip(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    one = import_fashion(
        fashion_source(tmp_path / "a", zipped=False), tmp_path / "one", progress=lambda *at: told.append(at)
    )
    two = import_fashion(fashion_source(tmp_path / "b", zipped=True), tmp_path / "two")
    archive = Path(shutil.make_archive(str(tmp_path / "download"), "zip", tmp_path / "a"))
    whole = import_fashion(archive, tmp_path / "three")
    assert one.digests == two.digests == whole.digests
    assert told[-1] == (68, 68)
    assert check(one.folder) == []
    assert not any(one.simulated.values())
    assert one.forms == {"image": "image->image"}


def test_fashion_takes_the_full_form_with_its_commas(tmp_path: Path) -> None:
    dataset = import_fashion(fashion_source(tmp_path / "a", zipped=False, full=True), tmp_path / "set")
    first = dataset.read("items").row(0, named=True)
    assert first["title"] == "Nike Shoe 1, wide"
    assert first["category"] == ["Footwear", "Shoes", "Sports Shoes"]
    assert first["attributes"] == ["colour:Red", "usage:Sports", "gender:Men", "season:Summer", "year:2012"]


def test_styles_as_they_come(tmp_path: Path) -> None:
    path = tmp_path / "styles.csv"
    lines = [
        REDUCED,
        '7,A,B,C,Red,Sports,"He said ""hi"", twice"',
        "8,A,B",
        "x,A,B,C,Red,Sports,T",
        "7,A,B,C,Red,,Again",
    ]
    path.write_text("\r\n".join(lines))
    products, unread = read_styles(tmp_path)
    assert [(product.item_id, product.title) for product in products] == [(7, 'He said "hi", twice')]
    assert unread == {3: "malformed_line", 4: "malformed_line", 5: "duplicate_id"}
    path.write_text("id,masterCategory\n")
    with pytest.raises(DataError, match="line 1: lacks column 'subCategory'"):
        read_styles(tmp_path)


def assert_title_groups_stay_apart(dataset: Dataset) -> None:
    """No title is in two splits, queries find only their own title, and evaluation asks for a whole group."""
    items, pairs = dataset.read("items", ["item_id", "title", "product_id"]), dataset.read("pairs")
    queries = dataset.read("queries", ["query_id", "item_id"]).rename({"item_id": "asking"})
    asking = items.rename({"item_id": "asking", "title": "asked", "product_id": "group"})
    joined = pairs.join(queries, on="query_id").join(items, on="item_id").join(asking, on="asking")
    assert joined.height == pairs.height
    assert (joined["title"] == joined["asked"]).all()
    assert (joined["item_id"] != joined["asking"]).all()
    assert (joined["product_id"] == joined["group"]).all()
    assert joined.group_by("title").agg(pl.col("split").n_unique())["split"].max() == 1
    held = joined.filter(pl.col("split") != "train")
    sizes = items.group_by("title").len().rename({"len": "size"})
    asked = held.group_by("query_id", "title").len().join(sizes, on="title")
    assert (asked["len"] == asked["size"] - 1).all()
    assert asked["title"].is_unique().all()
    assert joined.filter(pl.col("split") == "train").group_by("query_id").len()["len"].max() <= 4  # type: ignore[operator]


def test_fashion_splits_by_title(tmp_path: Path) -> None:
    dataset = import_fashion(fashion_source(tmp_path / "a", zipped=True), tmp_path / "set")
    assert dataset.facts["groups"] == {"train": 10, "valid": 2, "test": 4}
    assert dataset.rows == {"items": 68, "queries": 36, "pairs": 10 * 3 * 2 + 6 * 2}
    assert_title_groups_stay_apart(dataset)


def test_a_title_keeps_its_side_of_the_order() -> None:
    titles = [f"title {number}" for number in range(5000)]
    splits = split_titles(titles)
    assert [list(splits.values()).count(split) for split in ("test", "valid", "train")] == [1200, 600, 3200]
    assert split_titles(titles[::-1]) == splits
    with pytest.raises(DataError, match="too few"):
        split_titles(["a", "b"])


def test_fashion_counts_what_it_leaves_out(tmp_path: Path) -> None:
    source = fashion_source(tmp_path / "a", zipped=False, broken=1)
    (source / "images" / "2.jpg").unlink()
    dataset = import_fashion(source, tmp_path / "set")
    assert dataset.facts["left_out"] == {"malformed_line": 0, "duplicate_id": 0, "no_image": 1, "broken": 1}
    assert dataset.read("items")["item_id"].min() == 3
    assert_title_groups_stay_apart(dataset)


@pytest.mark.parametrize("zipped", [True, False])
def test_fashion_refuses_a_half_download(tmp_path: Path, zipped: bool) -> None:
    with pytest.raises(DataError, match=r"more than 5 % of 68 items cannot be used \(broken 10\)"):
        import_fashion(fashion_source(tmp_path / "a", zipped=zipped, broken=10), tmp_path / "set")
    assert not (tmp_path / "set").exists()


def test_a_wrong_source_is_one_clear_line(tmp_path: Path) -> None:
    for adapter, file in ((import_fashion, "styles.csv"), (import_movielens, "movies.csv")):
        with pytest.raises(DataError, match=f"{file}: missing"):
            adapter(tmp_path, tmp_path / "set")
    source = fashion_source(tmp_path / "a", zipped=False)
    shutil.rmtree(source / "images")
    with pytest.raises(DataError, match=r"neither a folder images/ nor images\.zip"):
        import_fashion(source, tmp_path / "set")
    (source / "images.zip").write_bytes(b"PK not a zip")
    with pytest.raises(DataError, match="not a readable zip"):
        import_fashion(source, tmp_path / "set")


def test_a_zip_cannot_write_outside(tmp_path: Path) -> None:
    """A member's path is only a name: nothing is extracted."""
    source = fashion_source(tmp_path / "a", zipped=False)
    photos = {number: jpeg(number) for number in range(1, 69)}
    shutil.rmtree(source / "images")
    write_images(source, "images", photos, zipped=True, inner="../../escaped/")
    assert import_fashion(source, tmp_path / "set").rows["items"] == 68
    assert not list(tmp_path.parent.rglob("escaped"))


def movielens_source(source: Path, *, line: str | None = None) -> Path:
    """Forty users each rate thirty of sixty movies, in a few instants; movie 60 has no poster, poster 99 no movie."""
    source.mkdir()
    rng = np.random.default_rng(0)
    movies = [f'{movie},"Movie, The {movie} (1990)",Comedy|Drama' for movie in range(1, 61)]
    (source / "movies.csv").write_text("\n".join(["movieId,title,genres", *movies]) + "\n")
    lines = ["userId,movieId,rating,timestamp"]
    for user in range(1, 41):
        for movie in sorted(rng.choice(60, 30, replace=False) + 1):
            lines.append(f"{user},{movie},{rng.integers(1, 11) / 2},{1000 + rng.integers(0, 8)}")
    lines[5] += " "
    (source / "ratings.csv").write_text("\r\n".join([*lines, *([line] if line else [])]) + "\r\n")
    write_images(source, "posters", {movie: jpeg(movie) for movie in [*range(1, 60), 99]}, zipped=True)
    return source


def assert_movies_leak_nothing(dataset: Dataset) -> None:
    """Impressions in each user's order; a movie asked for in valid or test stands in no training pair."""
    shown = dataset.read("impressions")
    order = shown.with_columns(rank=pl.col("split").replace_strict({"train": 0, "valid": 1, "test": 2}))
    ordered = order.sort("user_id", "timestamp", "item_id", maintain_order=True)
    assert ordered["impression_id"].equals(shown["impression_id"])
    assert order.with_columns(step=pl.col("rank").diff().over("user_id"))["step"].drop_nulls().min() >= 0  # type: ignore[operator]
    pairs, queries = dataset.read("pairs"), dataset.read("queries").rename({"item_id": "asking"})
    joined = pairs.join(queries, on="query_id")
    asked = pl.coalesce("asking", pl.col("query_id") // 2)
    held = set(joined.filter(pl.col("split") != "train").select(asked).to_series())
    train = joined.filter(pl.col("split") == "train")
    assert held
    assert not held & (set(train.select(asked).to_series()) | set(train["item_id"]))
    text = joined.filter(pl.col("text").is_not_null())
    assert (text["item_id"] * 2 == text["query_id"]).all()
    named = text.join(dataset.read("items", ["item_id", "title"]), on="item_id")
    assert (named["text"] == named["title"]).all()


def test_movielens_joins_and_counts(tmp_path: Path) -> None:
    dataset = import_movielens(movielens_source(tmp_path / "a"), tmp_path / "set")
    assert check(dataset.folder) == []
    assert dataset.rows["items"] == 59
    assert dataset.facts["left_out"]["movies_without_poster"] == 1
    assert dataset.facts["left_out"]["posters_without_rated_movie"] == 1
    assert dataset.read("items").row(0, named=True)["title"] == "Movie, The 1 (1990)"
    assert dataset.read("items").row(0, named=True)["attributes"] == ["genre:Comedy", "genre:Drama"]
    assert_movies_leak_nothing(dataset)


def test_movielens_names_a_bad_line(tmp_path: Path) -> None:
    source = movielens_source(tmp_path / "a", line="1,2,good,1000")
    with pytest.raises(DataError, match=r"ratings\.csv, line 1202: 'good' is not a number"):
        import_movielens(source, tmp_path / "set")


def test_coliked_movies_come_from_training_clicks_only() -> None:
    """Six users like 1 and 2 together; others like 1 and 3 together only outside training, 1 and 4 without a click."""
    rows = [(user, movie, "train", True) for user in range(6) for movie in (1, 2)]
    rows += [(user, 3, "test", True) for user in range(6)]
    rows += [(user, 4, "train", False) for user in range(6)]
    shown = pl.DataFrame(rows, schema=["user_id", "item_id", "split", "clicked"], orient="row")
    pairs = colike_pairs(shown)
    assert {movie for pair in pairs for movie in pair[:2]} <= {1, 2}
    splits = {movie: movie_split(movie) for movie in (1, 2)}
    # Each asks for the other, unless it is of training and the other is held out.
    expected = {(a, b, splits[a]) for a, b in ((1, 2), (2, 1)) if splits[a] != "train" or splits[b] == "train"}
    assert set(pairs) == expected
    assert not colike_pairs(shown.filter(pl.col("user_id") < 4))


@pytest.mark.real_data
def test_real_fashion(real_data: Path, tmp_path: Path) -> None:
    dataset = import_fashion(real_data / "fashion-product-images-small", tmp_path / "set")
    assert dataset.rows["items"] == 44_072
    assert dataset.facts["groups"] == {"train": 3_289, "valid": 600, "test": 1_200}  # 5,089 titles
    assert sum(dataset.facts["left_out"].values()) == 0
    groups = dataset.read("items", ["title"]).group_by("title").len().filter(pl.col("len") > 1)
    assert groups["len"].sum() == 18_360
    assert_title_groups_stay_apart(dataset)
    assert check(dataset.folder) == []


@pytest.mark.real_data
def test_real_movielens_has_the_measured_floors(real_data: Path, tmp_path: Path) -> None:
    """The smoothed item mean as measured elsewhere: AUC .6934, GAUC .6780; the user's mean moves only the first."""
    dataset = import_movielens(real_data / "movielens-posters", tmp_path / "set")
    assert (dataset.rows["items"], dataset.rows["events"]) == (2_859, 58_380)
    counts = dataset.facts["impressions"]
    assert (counts["train"] + counts["valid"], counts["test"]) == (46_949, 11_431)
    assert dataset.facts["click_rate"] == pytest.approx(0.501, abs=5e-4)
    assert_movies_leak_nothing(dataset)
    assert check(dataset.folder) == []
    shown = dataset.read("impressions")
    past, test = shown.filter(pl.col("split") != "test"), shown.filter(pl.col("split") == "test")
    mean = float(past["clicked"].mean())  # type: ignore[arg-type]
    smoothed = (pl.col("clicked").sum() + 5 * mean) / (pl.len() + 5)
    test = test.join(past.group_by("item_id").agg(item=smoothed), on="item_id", how="left", maintain_order="left")
    test = test.join(past.group_by("user_id").agg(user=smoothed), on="user_id", how="left", maintain_order="left")
    test = test.with_columns(pl.col("item", "user").fill_null(mean))
    clicked, users = test["clicked"].to_numpy(), test["user_id"].to_numpy()
    item, both = test["item"].to_numpy(), (test["item"] + test["user"]).to_numpy()
    assert auc(clicked, item) == pytest.approx(0.6934, abs=6e-5)
    assert gauc(clicked, item, users)[0] == pytest.approx(0.6780, abs=6e-5)
    assert auc(clicked, both) == pytest.approx(0.7772, abs=1e-3)  # how the two were joined there is not recorded
    assert gauc(clicked, both, users)[0] == pytest.approx(gauc(clicked, item, users)[0], abs=1e-9)
