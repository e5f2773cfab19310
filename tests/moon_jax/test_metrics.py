"""Metrics equal the field's references."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moon_jax.metrics import auc, contrastive_entropy, ece, gauc, hit_rate_at_k, log_loss, ndcg_at_k, recall_at_k, top_k
from moon_jax.metrics.paired import paired_gauc


@st.composite
def impressions(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, scores with many ties, users with tiny and one-class groups."""
    size = draw(st.integers(1, 120))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    labels = rng.integers(0, 2, size) if draw(st.booleans()) else (rng.random(size) < 0.05).astype(int)
    scores = rng.integers(0, draw(st.integers(1, 12)), size) / 7 if draw(st.booleans()) else rng.normal(size=size)
    return labels, scores, rng.integers(0, draw(st.integers(1, 30)), size)


def reference_gauc(labels: np.ndarray, scores: np.ndarray, users: np.ndarray) -> tuple[float, int]:
    """FuxiCTR's definition, written with scikit-learn: users of one class out, weights = impressions."""
    from sklearn.metrics import roc_auc_score

    kept, left_out = [], 0
    for user in np.unique(users):
        mine = users == user
        if len(np.unique(labels[mine])) < 2:
            left_out += 1
            continue
        kept.append((roc_auc_score(labels[mine], scores[mine]), mine.sum()))
    if not kept:
        return float("nan"), left_out
    values, weights = zip(*kept, strict=True)
    return float(np.average(values, weights=weights)), left_out


def compare_auc_and_gauc(case: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    from sklearn.metrics import roc_auc_score

    labels, scores, users = case
    if len(np.unique(labels)) == 2:
        assert auc(labels, scores) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    else:
        assert np.isnan(auc(labels, scores))
    value, left_out = gauc(labels, scores, users)
    expected, expected_left_out = reference_gauc(labels, scores, users)
    assert left_out == expected_left_out
    assert value == pytest.approx(expected, abs=1e-12, nan_ok=True)


def compare_ndcg(case: tuple[np.ndarray, np.ndarray, np.ndarray], k: int) -> None:
    from sklearn.metrics import ndcg_score

    labels, scores, queries = case
    grades = labels * (1 + np.arange(labels.size) % 3)
    kept, left_out = [], 0
    for query in np.unique(queries):
        mine = queries == query
        if not grades[mine].any():
            left_out += 1
        else:
            kept.append(1.0 if mine.sum() == 1 else ndcg_score([grades[mine]], [scores[mine]], k=k))
    value, found_left_out = ndcg_at_k(grades, scores, queries, k)
    assert found_left_out == left_out
    assert value == pytest.approx(np.mean(kept) if kept else np.nan, abs=1e-12, nan_ok=True)


def compare_log_loss(case: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    import sklearn.metrics

    labels, scores, _ = case
    probabilities = 1 / (1 + np.exp(-scores))
    expected = sklearn.metrics.log_loss(labels, probabilities, labels=[0, 1])
    assert log_loss(labels, probabilities) == pytest.approx(expected, abs=1e-12)


@settings(max_examples=300, deadline=None)
@given(impressions(), st.integers(1, 15))
def test_metrics_equal_the_references(case: tuple[np.ndarray, np.ndarray, np.ndarray], k: int) -> None:
    compare_auc_and_gauc(case)
    compare_ndcg(case, k)
    compare_log_loss(case)


@pytest.mark.proof
@settings(max_examples=10_000, deadline=None)
@given(impressions(), st.integers(1, 15))
def test_metrics_equal_the_references_ten_thousand_times(case: tuple[np.ndarray, ...], k: int) -> None:
    compare_auc_and_gauc(case)  # type: ignore[arg-type]
    compare_ndcg(case, k)  # type: ignore[arg-type]
    compare_log_loss(case)  # type: ignore[arg-type]


def test_calibration_error_is_the_distance_within_bins_of_equal_mass() -> None:
    rng = np.random.default_rng(0)
    p = rng.random(100_000)
    labels = (rng.random(100_000) < p).astype(int)
    assert ece(labels, p) < 0.006  # of chance alone: about sqrt(.17 / 5,000) x .8 a bin
    assert ece(labels, np.clip(p * 0.8, 0, 1)) == pytest.approx(0.1, abs=0.01)
    # two bins by hand: |1/2 - .15| and |1 - .65|, half of the weight each
    assert ece([0, 1, 1, 1], [0.1, 0.2, 0.6, 0.7], bins=2) == pytest.approx(0.35)
    assert np.isnan(ece([], []))


def test_ndcg_refuses_negative_grades_and_depth_zero() -> None:
    with pytest.raises(ValueError, match="no grade below 0"):
        ndcg_at_k([1.0, -1.0], [0.1, 0.2], [0, 0], 5)
    with pytest.raises(ValueError, match="at least 1"):
        ndcg_at_k([1.0, 0.0], [0.1, 0.2], [0, 0], 0)


def test_gauc_on_a_large_array_with_ties_and_one_class_users() -> None:
    rng = np.random.default_rng(3)
    users = rng.integers(0, 300, 4000)
    labels = (rng.random(4000) < 0.3).astype(int)
    labels[users < 81] = 0
    scores = np.round(rng.random(4000), 2)
    value, left_out = gauc(labels, scores, users)
    expected, expected_left_out = reference_gauc(labels, scores, users)
    assert (value, left_out) == (pytest.approx(expected, abs=1e-12), expected_left_out)
    assert left_out >= 81


def test_a_constant_added_per_user_moves_auc_but_not_gauc() -> None:
    rng = np.random.default_rng(0)
    users, scores = rng.integers(0, 40, 1000), rng.normal(size=1000)
    labels = (rng.random(1000) < 1 / (1 + np.exp(-scores))).astype(int)
    moved = scores + rng.normal(size=40)[users] * 5
    assert gauc(labels, moved, users)[0] == pytest.approx(gauc(labels, scores, users)[0], abs=1e-12)
    assert abs(auc(labels, moved) - auc(labels, scores)) > 0.01


@pytest.mark.parametrize(
    ("labels", "scores", "message"),
    [([0, 1], [0.1, np.nan], "not finite"), ([0, 2], [0.1, 0.2], "only 0 and 1"), ([0, 1], [0.1], "one length")],
)
def test_bad_arrays_are_refused(labels: list, scores: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        auc(labels, scores)


def test_paired_difference_is_exact_and_its_error_matches_a_bootstrap_over_users() -> None:
    rng = np.random.default_rng(1)
    users = rng.integers(0, 200, 5000)
    good = rng.normal(size=5000)
    labels = (rng.random(5000) < 1 / (1 + np.exp(-good))).astype(int)
    poor = good + rng.normal(size=5000) * 2
    difference, error = paired_gauc(labels, good, poor, users)
    assert difference == pytest.approx(gauc(labels, good, users)[0] - gauc(labels, poor, users)[0], abs=1e-12)
    draws = []
    for _ in range(300):
        rows = [np.flatnonzero(users == user) for user in rng.integers(0, 200, 200)]
        fresh = np.repeat(np.arange(200), [len(r) for r in rows])
        at = np.concatenate(rows)
        draws.append(gauc(labels[at], good[at], fresh)[0] - gauc(labels[at], poor[at], fresh)[0])
    assert error == pytest.approx(np.std(draws), rel=0.2)


def test_retrieval_metrics_on_a_gallery_small_enough_to_count_by_hand() -> None:
    gallery = np.eye(4, dtype=np.float32)
    queries = np.array([[0.9, 0.5, 0.1, 0.0], [0.0, 0.1, 0.5, 0.9]], np.float32)
    top = top_k(queries, gallery, 3)
    assert top.tolist() == [[0, 1, 2], [3, 2, 1]]
    relevant = [np.array([1, 3]), np.array([3])]
    assert recall_at_k(top, relevant, 1) == 0.5
    assert recall_at_k(top, relevant, 2) == 0.75
    assert hit_rate_at_k(top, relevant, 2) == 1.0
    assert top_k(queries, gallery, 3, exclude_Q=np.array([0, -1])).tolist() == [[1, 2, 3], [3, 2, 1]]


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 30), st.integers(1, 9))
def test_top_k_is_the_stable_sort(seed: int, items: int, chunk: int) -> None:
    rng = np.random.default_rng(seed)
    queries, gallery = rng.integers(-2, 3, (7, 3)), rng.integers(-2, 3, (items, 3))  # integers: many ties
    k = int(rng.integers(1, items + 1))
    top = top_k(queries, gallery, k, chunk=chunk)
    scores = queries.astype(np.float32) @ gallery.astype(np.float32).T
    expected = np.sort(-scores, axis=1)[:, :k]
    np.testing.assert_array_equal(np.take_along_axis(-scores, top, axis=1), expected)


def test_contrastive_entropy_of_nothing_known_is_log_of_the_candidates() -> None:
    queries, gallery = np.ones((5, 2)) / 2**0.5, np.ones((9, 2)) / 2**0.5
    candidates = np.tile(np.arange(1, 9), (5, 1))
    assert contrastive_entropy(queries, gallery, np.zeros(5, int), candidates, 0.07) == pytest.approx(np.log(9))
