"""The numbers of a test, as pure functions of scores and truth. NumPy only.

Of equal scores the class with the lower index counts as the better one, so that every number is a function of
the scores alone. Classes that no video has are left out of means over classes.

Shape letters: N videos, K classes.
"""

from collections.abc import Hashable, Sequence

import numpy as np
import numpy.typing as npt

from muybridge.errors import DataError

__all__ = [
    "average_precision",
    "bootstrap_interval",
    "confusion_matrix",
    "hit_at",
    "mean_average_precision",
    "mean_class_accuracy",
    "per_class_accuracy",
    "predicted_classes",
    "truth_matrix",
]

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
RESAMPLES = 2000
RESAMPLES_AT_ONCE = 250  # bounds the memory of the bootstrap to so many numbers a group


def truth_matrix(classes: Sequence[Sequence[int]], num_classes: int) -> BoolArray:
    """Which classes each video has.

    Shape:
        output [N, K]

    >>> truth_matrix([[1], [0, 2]], 3).astype(int).tolist()
    [[0, 1, 0], [1, 0, 1]]
    """
    truth = np.zeros((len(classes), num_classes), dtype=bool)
    for row, columns in zip(truth, classes, strict=True):
        row[list(columns)] = True
    return truth


def predicted_classes(scores: npt.ArrayLike) -> IntArray:
    """The best class of each video; of equal ones the first.

    Shape:
        scores [N, K]
        output [N]

    >>> predicted_classes([[0.1, 0.9], [0.5, 0.5]])
    array([1, 0])
    """
    return np.asarray(_scores(scores).argmax(axis=1), dtype=np.int64)


def hit_at(scores: npt.ArrayLike, truth: npt.ArrayLike, k: int) -> BoolArray:
    """Whether one of a video's classes is among its k best: with one class a video, the top-k of its clips.

    Args:
        scores: the higher, the better.
        truth: which classes each video has.
        k: how many guesses a video has; with K of them or more every video is a hit.

    Shape:
        scores [N, K]
        truth [N, K]
        output [N]

    >>> scores, truth = [[0.5, 0.3, 0.2]] * 3, truth_matrix([[0], [1], [1, 2]], 3)
    >>> hit_at(scores, truth, 1), hit_at(scores, truth, 2)
    (array([ True, False, False]), array([ True,  True,  True]))
    """
    scores, truth = _checked(scores, truth)
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.asarray(np.take_along_axis(truth, best, axis=1).any(axis=1))


def confusion_matrix(scores: npt.ArrayLike, classes: npt.ArrayLike) -> IntArray:
    """Videos of each class (rows) by the class they were taken for (columns).

    Shape:
        scores [N, K]
        classes [N]
        output [K, K]

    >>> confusion_matrix([[1, 0], [1, 0], [0, 1]], [0, 1, 1]).tolist()
    [[1, 0], [1, 1]]
    """
    scores = _scores(scores)
    classes = np.asarray(classes, dtype=np.int64)
    size = scores.shape[1]
    cells = np.bincount(classes * size + predicted_classes(scores), minlength=size * size)
    return cells.reshape(size, size).astype(np.int64)


def per_class_accuracy(confusion: npt.ArrayLike) -> FloatArray:
    """The part of each class that is recognised; NaN for a class that no video has.

    Shape:
        confusion [K, K]
        output [K]

    >>> per_class_accuracy([[1, 1, 0], [0, 2, 0], [0, 0, 0]])
    array([0.5, 1. , nan])
    """
    confusion = np.asarray(confusion)
    counts = confusion.sum(axis=1)
    accuracy = np.full(len(confusion), np.nan)
    np.divide(np.diag(confusion), counts, out=accuracy, where=counts > 0)
    return accuracy


def mean_class_accuracy(confusion: npt.ArrayLike) -> float:
    """The mean over classes of the part that is recognised; classes that no video has are left out.

    >>> mean_class_accuracy([[1, 1, 0], [0, 2, 0], [0, 0, 0]])
    0.75
    """
    accuracy = per_class_accuracy(confusion)
    if np.isnan(accuracy).all():
        raise DataError("no videos to make a mean of: the set is empty")
    return float(np.nanmean(accuracy))


def average_precision(scores: npt.ArrayLike, positive: npt.ArrayLike) -> float:
    """Area under one class's curve of precision over recall, in steps: the mean precision at each positive.

    Videos of equal score enter the curve together, so the order of the videos does not matter.

    Shape:
        scores [N]
        positive [N]

    >>> average_precision([0.9, 0.8, 0.7, 0.6], [True, False, True, False])    # (1 / 1 + 2 / 3) / 2
    0.8333333333333333
    """
    scores = np.asarray(scores, dtype=np.float64)
    positive = np.asarray(positive, dtype=bool)
    if not positive.any():
        raise DataError("no video has this class: its average precision is not defined")
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(positive[order])
    last_of_equals = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    precision = hits[last_of_equals] / (last_of_equals + 1)
    new_hits = np.diff(hits[last_of_equals], prepend=0)
    return float((precision * new_hits).sum() / hits[-1])


def mean_average_precision(scores: npt.ArrayLike, truth: npt.ArrayLike) -> float:
    """mAP: the mean of `average_precision` over the classes that some video has.

    Shape:
        scores [N, K]
        truth [N, K]
    """
    scores, truth = _checked(scores, truth)
    present = np.flatnonzero(truth.any(axis=0))
    if not present.size:
        raise DataError("no videos to make a mean of: the set is empty")
    return float(np.mean([average_precision(scores[:, k], truth[:, k]) for k in present]))


def bootstrap_interval(
    values: npt.ArrayLike,
    groups: Sequence[Hashable],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    confidence: float = 0.95,
) -> tuple[float, float] | None:
    """Interval of a mean, from drawing whole groups with replacement.

    Clips of one person (of one source video) are alike, so they are drawn together: the interval says what
    other people would give, not other clips of the same ones.

    Args:
        values: one number a video, such as 1 for right and 0 for wrong.
        groups: which group each belongs to; all different makes it the plain bootstrap.
        resamples: how many sets are drawn.
        seed: of the drawing.
        confidence: part of the sets' means that lies inside.

    Returns:
        (low, high); None with fewer than two groups, which say nothing about others.

    Shape:
        values [N]

    >>> bootstrap_interval([1, 1, 0, 1], ["ann", "ann", "bob", "bob"])
    (0.5, 1.0)
    >>> bootstrap_interval([1, 0], ["ann", "ann"]) is None
    True
    """
    values = np.asarray(values, dtype=np.float64)
    index_of = {group: index for index, group in enumerate(sorted(set(groups), key=str))}
    members = np.array([index_of[group] for group in groups], dtype=np.int64)
    num_groups = len(index_of)
    if num_groups < 2:
        return None
    sums = np.bincount(members, weights=values, minlength=num_groups)
    counts = np.bincount(members, minlength=num_groups)
    rng = np.random.default_rng(seed)
    means = []
    for first in range(0, resamples, RESAMPLES_AT_ONCE):
        drawn = rng.integers(num_groups, size=(min(RESAMPLES_AT_ONCE, resamples - first), num_groups))
        means.append(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1))
    low, high = np.quantile(np.concatenate(means), [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def _scores(scores: npt.ArrayLike) -> FloatArray:
    scores = np.asarray(scores, dtype=np.float64)
    if scores.ndim != 2:
        raise ValueError(f"scores must be [N, K], got {list(scores.shape)}")
    if not np.isfinite(scores).all():
        raise DataError("a score is not a finite number: no accuracy can be made of it; test again")
    return scores


def _checked(scores: npt.ArrayLike, truth: npt.ArrayLike) -> tuple[FloatArray, BoolArray]:
    scores, truth = _scores(scores), np.asarray(truth, dtype=bool)
    if scores.shape != truth.shape:
        raise ValueError(f"scores are {list(scores.shape)}, but truth is {list(truth.shape)}")
    return scores, truth
