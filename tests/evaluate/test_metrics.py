import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from muybridge.errors import DataError
from muybridge.evaluate import metrics

#            scores of 3 classes   truth
TABLE = [
    ([0.7, 0.2, 0.1], 0),  # right
    ([0.2, 0.5, 0.3], 0),  # taken for 1; the truth comes third
    ([0.1, 0.8, 0.1], 1),  # right
    ([0.4, 0.4, 0.2], 1),  # a tie: class 0 comes first
    ([0.3, 0.4, 0.3], 0),  # the truth ties for second place with class 2, and comes before it
]
SCORES = np.array([scores for scores, _ in TABLE])
CLASSES = np.array([truth for _, truth in TABLE])
TRUTH = metrics.truth_matrix([[k] for k in CLASSES], 3)


def random_case(seed: int, *, videos: int = 60, classes: int = 8) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 12, size=(videos, classes)) / 12  # many ties
    return scores, rng.integers(0, classes, size=videos)


def test_the_table_by_hand():
    assert metrics.predicted_classes(SCORES).tolist() == [0, 1, 1, 0, 1]
    assert metrics.hit_at(SCORES, TRUTH, 1).tolist() == [True, False, True, False, False]
    assert metrics.hit_at(SCORES, TRUTH, 2).tolist() == [True, False, True, True, True]
    assert metrics.hit_at(SCORES, TRUTH, 3).all()
    assert metrics.hit_at(SCORES, TRUTH, 5).all()
    confusion = metrics.confusion_matrix(SCORES, CLASSES)
    assert confusion.tolist() == [[1, 2, 0], [1, 1, 0], [0, 0, 0]]
    assert metrics.per_class_accuracy(confusion)[:2] == pytest.approx([1 / 3, 1 / 2])
    assert np.isnan(metrics.per_class_accuracy(confusion)[2])
    assert metrics.mean_class_accuracy(confusion) == pytest.approx((1 / 3 + 1 / 2) / 2)  # class 2 is absent


def test_a_hit_needs_one_of_several_labels():
    truth = metrics.truth_matrix([[1, 2], [2], [0]], 3)
    scores = [[0.1, 0.5, 0.4], [0.5, 0.3, 0.2], [0.1, 0.2, 0.7]]
    assert metrics.hit_at(scores, truth, 1).tolist() == [True, False, False]
    assert metrics.hit_at(scores, truth, 2).tolist() == [True, False, False]


def test_average_precision_by_hand():
    # positives come 1st, 3rd and 4th: (1/1 + 2/3 + 3/4) / 3
    positive = [True, False, True, True, False]
    found = metrics.average_precision([0.9, 0.8, 0.7, 0.6, 0.5], positive)
    assert found == pytest.approx((1 + 2 / 3 + 3 / 4) / 3)
    assert (
        metrics.average_precision([0.5] * 4, [True, False, False, False]) == 0.25
    )  # all equal: the base rate


@pytest.mark.parametrize("seed", range(5))
def test_against_scikit_learn(seed):
    from sklearn.metrics import average_precision_score, balanced_accuracy_score, confusion_matrix

    scores, classes = random_case(seed)
    truth = metrics.truth_matrix([[k] for k in classes], 8)
    confusion = metrics.confusion_matrix(scores, classes)
    guessed = metrics.predicted_classes(scores)
    assert confusion.tolist() == confusion_matrix(classes, guessed, labels=range(8)).tolist()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that a class was guessed that no video has
        assert metrics.mean_class_accuracy(confusion) == pytest.approx(
            balanced_accuracy_score(classes, guessed)
        )
    several = truth | (np.random.default_rng(seed).random(truth.shape) < 0.2)
    several[:, 3] = False  # a class that no video has
    present = [k for k in range(8) if k != 3]
    expected = [average_precision_score(several[:, k], scores[:, k]) for k in present]
    assert [metrics.average_precision(scores[:, k], several[:, k]) for k in present] == pytest.approx(
        expected
    )
    assert metrics.mean_average_precision(scores, several) == pytest.approx(np.mean(expected))


@pytest.mark.parametrize("seed", range(3))
def test_against_torchmetrics(seed):
    from torchmetrics.functional.classification import multiclass_accuracy, multilabel_average_precision

    rng = np.random.default_rng(seed)
    scores = rng.permuted(
        np.arange(1, 481).reshape(60, 8) / 481, axis=1
    )  # no ties: it breaks them its own way
    classes = rng.integers(0, 8, size=60)
    truth = metrics.truth_matrix([[k] for k in classes], 8)
    for k in (1, 5):
        expected = multiclass_accuracy(
            torch.from_numpy(scores), torch.from_numpy(classes), num_classes=8, average="micro", top_k=k
        )
        assert metrics.hit_at(scores, truth, k).mean() == pytest.approx(float(expected))
    expected = multilabel_average_precision(
        torch.from_numpy(scores), torch.from_numpy(truth).long(), num_labels=8
    )
    assert metrics.mean_average_precision(scores, truth) == pytest.approx(float(expected), abs=1e-6)


def test_perfect_scores_give_one():
    truth = metrics.truth_matrix([[k % 4] for k in range(12)], 6)
    scores = truth.astype(float)
    confusion = metrics.confusion_matrix(scores, truth.argmax(1))
    assert metrics.hit_at(scores, truth, 1).all()
    assert metrics.mean_class_accuracy(confusion) == 1
    assert metrics.mean_average_precision(scores, truth) == 1
    assert metrics.bootstrap_interval(np.ones(12), range(12)) == (1, 1)


def test_constant_scores_give_one_in_c():
    truth = metrics.truth_matrix([[k % 5] for k in range(50)], 5)
    scores = np.full((50, 5), 0.2)
    assert metrics.hit_at(scores, truth, 1).mean() == 1 / 5
    assert metrics.mean_class_accuracy(metrics.confusion_matrix(scores, truth.argmax(1))) == 1 / 5
    assert metrics.mean_average_precision(scores, truth) == pytest.approx(1 / 5)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_the_order_of_the_videos_does_not_matter(seed):
    scores, classes = random_case(seed, videos=20, classes=5)
    truth = metrics.truth_matrix([[k] for k in classes], 5)
    order = np.random.default_rng(seed).permutation(20)
    for k in (1, 3):
        assert (
            metrics.hit_at(scores[order], truth[order], k).tolist()
            == metrics.hit_at(scores, truth, k)[order].tolist()
        )
    confusion = metrics.confusion_matrix(scores, classes)
    assert (metrics.confusion_matrix(scores[order], classes[order]) == confusion).all()
    assert metrics.mean_average_precision(scores[order], truth[order]) == pytest.approx(
        metrics.mean_average_precision(scores, truth), rel=1e-12
    )


def test_the_bootstrap_draws_groups_whole():
    values = np.repeat([1, 0, 1, 0, 1, 1, 0, 1], 25)
    clustered = metrics.bootstrap_interval(values, np.repeat(np.arange(8), 25).tolist())
    plain = metrics.bootstrap_interval(values, range(200))
    assert clustered is not None
    assert plain is not None
    # All clips of a group agree here, so 200 clips say no more than 8 do.
    assert clustered == metrics.bootstrap_interval(values[::25], range(8))
    assert plain[1] - plain[0] < (clustered[1] - clustered[0]) / 3


def test_the_bootstrap_has_the_width_that_theory_says():
    values = np.arange(2000) % 10 < 8
    low, high = metrics.bootstrap_interval(values, range(2000)) or (0, 0)
    half = 1.96 * np.sqrt(0.8 * 0.2 / 2000)
    assert (low, high) == pytest.approx((0.8 - half, 0.8 + half), abs=0.15 * half)


def test_the_bootstrap_weighs_groups_by_their_size():
    low, high = metrics.bootstrap_interval([1] * 9 + [0], ["a"] * 9 + ["b"]) or (0, 0)
    assert (low, high) == (0, 1)
    values = [1] * 30 + [0] * 10
    groups = ["a"] * 30 + ["b"] * 10
    means = {0.0, 0.75, 1.0}  # of bb, ab, aa
    assert set(metrics.bootstrap_interval(values, groups) or ()) <= means


def test_the_bootstrap_is_seeded_and_needs_two_groups():
    values, groups = [1, 0, 1, 1], ["a", "b", "c", "d"]
    assert metrics.bootstrap_interval(values, groups) == metrics.bootstrap_interval(values, groups)
    assert metrics.bootstrap_interval(values, ["a"] * 4) is None
    assert metrics.bootstrap_interval([1, 0], [("", 0), "a"]) is not None


def test_bad_scores_are_refused():
    with pytest.raises(DataError, match="a score is not a finite number"):
        metrics.hit_at([[0.1, np.nan]], [[True, False]], 1)
    with pytest.raises(ValueError, match=r"scores are \[1, 2\], but truth is \[1, 3\]"):
        metrics.hit_at([[0.1, 0.9]], [[True, False, False]], 1)
    with pytest.raises(ValueError, match=r"scores must be \[N, K\], got \[2\]"):
        metrics.predicted_classes([0.1, 0.9])
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        metrics.hit_at([[0.1]], [[True]], 0)
    with pytest.raises(DataError, match="no video has this class"):
        metrics.average_precision([0.1], [False])
    with pytest.raises(DataError, match="the set is empty"):
        metrics.mean_average_precision(np.zeros((0, 3)), np.zeros((0, 3)))
    with pytest.raises(DataError, match="the set is empty"):
        metrics.mean_class_accuracy(np.zeros((3, 3)))
