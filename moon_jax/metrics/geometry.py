"""What the geometry of vectors says without a search: alignment, uniformity, and whether neighbours share a category."""

import numpy as np

Array = np.ndarray


def alignment(queries_QxD: Array, positives_QxD: Array) -> float:
    """Mean squared distance of a query and its positive: Wang and Isola (2020), equation 4 with alpha = 2.

    Args:
        queries_QxD, positives_QxD: unit vectors, float.

    Returns:
        0 (all pairs coincide) to 4; lower is better.
    """
    apart_QxD = queries_QxD.astype(np.float64) - positives_QxD.astype(np.float64)
    return float(np.mean(np.sum(apart_QxD**2, axis=1)))


def uniformity(vectors_NxD: Array) -> float:
    """Log of the mean of exp(-2 |u - v|^2) over all pairs of different rows: Wang and Isola (2020), equation 5 with t = 2.

    Args:
        vectors_NxD: unit vectors, N >= 2; memory is N x N.

    Returns:
        0 (all coincide) down to about -4 (spread over the sphere); lower is better.

    Raises:
        ValueError: fewer than two rows.
    """
    count = vectors_NxD.shape[0]
    if count < 2:
        raise ValueError("uniformity needs two vectors at least")
    vectors_NxD = vectors_NxD.astype(np.float64)
    squared_NxN = np.maximum(2 - 2 * (vectors_NxD @ vectors_NxD.T), 0)
    kernel = np.exp(-2 * squared_NxN)
    return float(np.log((kernel.sum() - np.trace(kernel)) / (count * (count - 1))))


def neighbour_accuracy(classes_QxK: Array, class_Q: Array) -> float:
    """Accuracy of a k-nearest-neighbour classifier: the commonest class among a row's neighbours, ties to the nearest of them.

    Args:
        classes_QxK: int, class of each of the K neighbours, nearest first.
        class_Q: int, the true class.

    Raises:
        ValueError: no row, or no neighbour.
    """
    if not classes_QxK.size:
        raise ValueError("neighbour_accuracy: no neighbours")
    votes_QxK = (classes_QxK[:, :, None] == classes_QxK[:, None, :]).sum(axis=2)
    elected_Q = classes_QxK[np.arange(len(class_Q)), votes_QxK.argmax(axis=1)]
    return float(np.mean(elected_Q == class_Q))
