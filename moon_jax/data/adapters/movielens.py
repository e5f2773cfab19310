"""MovieLens latest-small joined with posters: content and behaviour of the same items.

Clicks: a rating of at least 4, the last 20 % of each user by time as test. Text search: a title asks for its poster.
Item search: a movie asks for the movies that the same people like, learned from training ratings only.

Where: GroupLens (`ml-latest-small`) and any set of its posters. Licence: GroupLens research terms; the posters are the
studios'. Layout: `ratings.csv` (userId, movieId, rating, timestamp), `movies.csv` (movieId, title, genres) and
`posters/<movieId>.jpg`, a folder or a zip.
"""

import csv
import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from moon_jax.data.adapters.photos import photo_ids, read_photos
from moon_jax.data.contract import DataError, Dataset, refuse_existing, write_dataset
from moon_jax.data.quarantine import Quarantine

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

Number = TypeVar("Number", int, float)
LIKE = 4.0  # a rating of at least this is a click: 50.1 % of them
MIN_COLIKERS = 5
POSITIVES = 10
TEST_SHARE, VALID_SHARE = 5, 10  # one in five of a user's ratings, then one in ten of what is left
MOVIE_SPLITS = (("train", 0.60), ("valid", 0.70), ("test", 1.00))  # upper edges of the hash


@dataclass(frozen=True)
class Rating:
    """One line of ratings.csv; `timestamp` in seconds."""

    user_id: int
    timestamp: int
    movie_id: int
    rating: float


def import_movielens(source: Path, target: Path, *, progress: Callable[[int, int], None] | None = None) -> Dataset:
    """Imports the folder `source` (ratings.csv, movies.csv, posters/ or posters.zip) into the contract folder `target`.

    Items are the movies with a poster and a rating; whatever does not join is counted in `facts["left_out"]`.
    `progress(done, total)` counts posters. Raises DataError where a file, a column or a value is missing or unreadable.
    """
    source, target = Path(source), Path(target)
    refuse_existing(target)
    movies = {
        _number(row["movieId"], int, source / "movies.csv", line): (row["title"].strip(), row["genres"].split("|"))
        for line, row in _rows(source / "movies.csv", ("movieId", "title", "genres"))
    }
    ratings = read_ratings(source / "ratings.csv")
    rated = {rating.movie_id for rating in ratings} & set(movies)
    posters, absent, broken = read_photos(source, "posters", sorted(rated), progress)
    quarantine = Quarantine()
    for movie, reason in broken.items():
        quarantine.put("items", f"{movie}.jpg", [None], reason)
    quarantine.require_few("items", len(rated))
    joined = [rating for rating in ratings if rating.movie_id in posters]
    if not joined:
        raise DataError(f"{source}: no rated movie of movies.csv has a poster <movieId>.jpg; are the files of one set?")
    impressions = _impressions(joined)
    text_pairs = [(2 * movie, movie, movie_split(movie)) for movie in sorted(posters)]
    item_pairs = [(2 * movie + 1, other, split) for movie, other, split in colike_pairs(impressions)]
    unjoined = {"movies_without_poster": len(absent), "broken_posters": len(broken)}
    unjoined["posters_without_rated_movie"] = len(photo_ids(source, "posters") - rated)
    return write_dataset(
        target,
        name="movielens-posters",
        source="MovieLens latest-small (GroupLens) joined with posters",
        licence="GroupLens research terms; the posters are the studios': not to be redistributed",
        split_rule="impressions: last fifth of each user by (time, movie) is test, last tenth of the rest valid; "
        "queries: by SHA-256 of the movie id, 60/10/30 %; co-liking is counted on training impressions only",
        tables={
            "items": _items(movies, posters),
            "queries": _queries(movies, text_pairs, item_pairs),
            "pairs": _pairs(text_pairs + item_pairs),
            "events": _events(joined),
            "impressions": impressions,
        },
        simulated=dict.fromkeys(("items", "queries", "pairs", "events", "impressions"), False),
        forms={"text": "text->image", "item": "image+text->image+text"},
        quarantine=quarantine,
        facts={
            "items": len(posters),
            "users": len({rating.user_id for rating in joined}),
            "ratings": len(joined),
            "left_out": {**unjoined, "ratings_without_item": len(ratings) - len(joined)},
            "click": f"rating >= {LIKE:g}",
            "click_rate": round(sum(rating.rating >= LIKE for rating in joined) / len(joined), 6),
            "impressions": {split: impressions["split"].to_list().count(split) for split in ("train", "valid", "test")},
        },
    )


def read_ratings(path: Path) -> list[Rating]:
    """The ratings, sorted by user, time and movie; raises DataError with file and line for what is no number."""
    found = [
        Rating(
            user_id=_number(row["userId"], int, path, line),
            timestamp=_number(row["timestamp"], int, path, line),
            movie_id=_number(row["movieId"], int, path, line),
            rating=_number(row["rating"], float, path, line),
        )
        for line, row in _rows(path, ("userId", "movieId", "rating", "timestamp"))
    ]
    return sorted(found, key=lambda rating: (rating.user_id, rating.timestamp, rating.movie_id))


def movie_split(movie: int) -> str:
    """The split in which a movie may be a query: by SHA-256 of its id, so that it never moves."""
    share = int(hashlib.sha256(str(movie).encode()).hexdigest()[:12], 16) / 16**12
    return next(split for split, edge in MOVIE_SPLITS if share < edge)


def colike_pairs(impressions: "pl.DataFrame") -> list[tuple[int, int, str]]:
    """(movie, co-liked movie, split), at most 10 a movie, best first, by cosine of the users who clicked in training.

    At least 5 users must have liked both. A pair of the training split has both its movies there, so that no movie that
    is asked for in valid or test has been seen in a training pair on either side.
    """
    import numpy as np
    import polars as pl

    likes = impressions.filter((pl.col("split") == "train") & pl.col("clicked"))
    movies, columns = np.unique(likes["item_id"].to_numpy(), return_inverse=True)
    users, rows = np.unique(likes["user_id"].to_numpy(), return_inverse=True)
    liked_UxM = np.zeros((len(users), len(movies)), np.float32)
    liked_UxM[rows, columns] = 1
    both_MxM = liked_UxM.T @ liked_UxM
    count_M = np.diagonal(both_MxM).astype(np.float64)
    splits = np.array([movie_split(int(movie)) for movie in movies])
    pairs = []
    for index, movie in enumerate(movies):
        allowed = (both_MxM[index] >= MIN_COLIKERS) & (np.arange(len(movies)) != index)
        if splits[index] == "train":
            allowed &= splits == "train"
        others = np.flatnonzero(allowed)
        cosine = both_MxM[index, others] / np.sqrt(count_M[index] * count_M[others])
        best = others[np.lexsort((movies[others], -np.round(cosine, 9)))][:POSITIVES]
        pairs += [(int(movie), int(movies[other]), str(splits[index])) for other in best]
    return pairs


def _items(movies: Mapping[int, tuple[str, list[str]]], posters: Mapping[int, bytes]) -> "pl.DataFrame":
    import polars as pl

    ids = sorted(posters)
    genres = [[genre for genre in movies[movie][1] if genre != "(no genres listed)"] for movie in ids]
    return pl.DataFrame(
        {
            "item_id": ids,
            "title": [movies[movie][0] for movie in ids],
            "image": [posters[movie] for movie in ids],
            "category": [names[:1] for names in genres],
            "attributes": [[f"genre:{name}" for name in names] for names in genres],
            "product_id": ids,
        },
        schema_overrides={"category": pl.List(pl.String), "attributes": pl.List(pl.String)},
    )


def _queries(
    movies: Mapping[int, tuple[str, list[str]]],
    text_pairs: list[tuple[int, int, str]],
    item_pairs: list[tuple[int, int, str]],
) -> "pl.DataFrame":
    """Text queries have the id 2 x movie, item queries 2 x movie + 1."""
    import polars as pl

    ids = sorted({pair[0] for pair in text_pairs} | {pair[0] for pair in item_pairs})
    return pl.DataFrame(
        {
            "query_id": ids,
            "text": [None if query % 2 else movies[query // 2][0] for query in ids],
            "item_id": [query // 2 if query % 2 else None for query in ids],
        },
        schema={"query_id": pl.Int64, "text": pl.String, "item_id": pl.Int64},
    )


def _pairs(pairs: list[tuple[int, int, str]]) -> "pl.DataFrame":
    import polars as pl

    ordered = sorted(pairs, key=lambda pair: pair[0])  # stable: the best co-liked movie stays first
    frame = pl.DataFrame(ordered, schema=["query_id", "item_id", "split"], orient="row")
    return frame.select("query_id", "item_id", pl.lit("click").alias("action"), "split")


def _events(ratings: list[Rating]) -> "pl.DataFrame":
    import polars as pl

    return pl.DataFrame(
        {
            "user_id": [rating.user_id for rating in ratings],
            "item_id": [rating.movie_id for rating in ratings],
            "action": ["like" if rating.rating >= LIKE else "view" for rating in ratings],
            "timestamp": [rating.timestamp for rating in ratings],
        }
    )


def _impressions(ratings: list[Rating]) -> "pl.DataFrame":
    import numpy as np
    import polars as pl

    users = np.array([rating.user_id for rating in ratings])
    splits = np.concatenate([_split_of_ranks(int(count)) for count in np.unique(users, return_counts=True)[1]])
    return pl.DataFrame(
        {
            "impression_id": np.arange(len(ratings)),
            "user_id": users,
            "item_id": [rating.movie_id for rating in ratings],
            "timestamp": [rating.timestamp for rating in ratings],
            "clicked": [rating.rating >= LIKE for rating in ratings],
            "split": splits,
        }
    )


def _split_of_ranks(count: int) -> "np.ndarray":
    """The splits of a user's ratings, oldest first."""
    import numpy as np

    test = count // TEST_SHARE
    valid = (count - test) // VALID_SHARE
    return np.repeat(["train", "valid", "test"], [count - test - valid, valid, test])


def _rows(path: Path, needed: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
    """Lines of a CSV file with their number in the file."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            for column in needed:
                if column not in (reader.fieldnames or ()):
                    raise DataError(f"{path}, line 1: lacks column {column!r}")
            for row in reader:
                if any(row[column] is None for column in needed):
                    raise DataError(f"{path}, line {reader.line_num}: too few columns")
                yield reader.line_num, row
    except FileNotFoundError as error:
        raise DataError(f"{path}: missing; give the folder of the downloaded set") from error
    except (UnicodeDecodeError, OSError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as CSV ({error})") from error


def _number(text: str, kind: Callable[[str], Number], path: Path, line: int) -> Number:
    try:
        return kind(text.strip())  # one published timestamp carries a trailing space
    except ValueError as error:
        raise DataError(f"{path}, line {line}: {text!r} is not a number") from error
