"""A linear SVM on the descriptors of videos, as C3D is tested (Tran et al. 2015, Sec. 4).

The features come through the one inference loop; only the SVM is trained here.

Shape letters: N videos, D features, K classes.
"""

import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from muybridge.config import specs_digest
from muybridge.data.annotations import label_names
from muybridge.data.cache import FrameCache
from muybridge.data.dataset import Broken, class_indices
from muybridge.errors import DataError
from muybridge.evaluate import metrics
from muybridge.evaluate.descriptors import SLIDING, Descriptors, describe, side_by_side
from muybridge.evaluate.result import interval_text
from muybridge.evaluate.run import check_samples
from muybridge.models.contract import VideoModel
from muybridge.protocol import Protocol
from muybridge.types import Sample
from muybridge.weights.store import load

__all__ = ["SvmResult", "check_parts", "choose_c", "evaluate_svm", "fit_and_test"]

CS = (0.01, 0.1, 1.0, 10.0, 100.0)
C_UNCHOSEN = 1.0
FOLDS = 5
MAX_ITERATIONS = 20_000

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class SvmResult:
    """What a linear SVM on descriptors says about labelled videos that it was not trained on.

    Attributes:
        labels: class names, in the order of the decisions.
        samples: the videos that were tested.
        decisions: float64 [N, K], on which side of each class's plane a video lies and how far; the largest
            one is the answer.
        c: of the SVM.
        chosen_by: accuracy at each C in cross-validation of the training videos; empty where they did not
            allow one, and C is then 1.
        num_train: videos that the SVM was trained on.
        descriptors: of the tested videos: which features, which views.
        broken: the videos that could not be read, in training or testing.
    """

    labels: tuple[str, ...]
    samples: tuple[Sample, ...]
    decisions: FloatArray
    c: float
    chosen_by: dict[float, float]
    num_train: int
    descriptors: Descriptors
    broken: tuple[Broken, ...] = ()

    @cached_property
    def classes(self) -> IntArray:
        """The true class of each video, [N]."""
        return _classes(self.samples, self.labels)

    @cached_property
    def correct(self) -> npt.NDArray[np.bool_]:
        """Whether the answer is right, [N]."""
        return np.asarray(metrics.predicted_classes(self.decisions) == self.classes)

    @property
    def top1(self) -> float:
        """Accuracy."""
        return float(self.correct.mean())

    @cached_property
    def mean_class_accuracy(self) -> float:
        """The mean over the classes that are there of the part that is recognised."""
        return metrics.mean_class_accuracy(metrics.confusion_matrix(self.decisions, self.classes))

    @cached_property
    def interval95(self) -> tuple[float, float] | None:
        """95 % bootstrap interval of `top1`, groups drawn whole; None where all videos are of one group."""
        groups = [sample.group or ("", index) for index, sample in enumerate(self.samples)]
        return metrics.bootstrap_interval(self.correct, groups)

    @property
    def num_groups(self) -> int:
        """How many groups the tested videos are of; 0 where they have none."""
        return len({sample.group for sample in self.samples if sample.group})

    @property
    def how(self) -> str:
        """What it was trained on and how C was chosen, for people."""
        if self.chosen_by:
            why = f"chosen by group cross-validation, {self.chosen_by[self.c]:.3f} right,"
        else:
            why = "not chosen, for want of two groups with two classes,"
        return f"C {self.c:g}, {why} on {self.num_train} training videos"

    def numbers(self) -> dict[str, Any]:
        """All numbers as plain values, with what is needed to know what they mean."""
        return {
            "top1": self.top1,
            "interval95": list(self.interval95) if self.interval95 else None,
            "mean_class_accuracy": self.mean_class_accuracy,
            "num_samples": len(self.samples),
            "num_groups": self.num_groups,
            "num_train": self.num_train,
            "num_broken": len(self.broken),
            "features": list(self.descriptors.layers),
            "num_features": self.descriptors.values.shape[1],
            "c": self.c,
            "cross_validation": {f"{c:g}": accuracy for c, accuracy in self.chosen_by.items()},
            "protocol": self.descriptors.protocol.name,
            "views": self.descriptors.protocol.digest(),
            "spec": specs_digest(self.descriptors.specs),
        }

    def text(self) -> str:
        """The numbers in a few lines for people, never without the digests."""
        found = self.numbers()
        groups = f" of {self.num_groups} groups" if self.num_groups else ""
        lines = [
            f"top-1 {self.top1:.3f}{interval_text(self.interval95)}, "
            f"mean class accuracy {self.mean_class_accuracy:.3f}",
            f"{len(self.samples)} videos{groups}, {len(self.labels)} classes; "
            f"protocol {found['protocol']} (views {found['views']}, spec {found['spec']})",
            f"linear SVM on {found['num_features']} features ({' + '.join(found['features'])}); " + self.how,
        ]
        if self.broken:
            lines.append(f"videos that could not be read and are in no number: {len(self.broken)}")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"SvmResult({len(self.samples)} videos, C {self.c:g}, top1 {self.top1:.3f})"


def evaluate_svm(
    models: Sequence[VideoModel | Path | str],
    train: Sequence[Sample],
    test: Sequence[Sample],
    *,
    layer: str | None = None,
    protocol: str | Protocol = SLIDING,
    device: torch.device | str | None = None,
    batch_size: int = 8,
    num_workers: int = 1,
    skip_broken: bool = False,
    cache: FrameCache | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> SvmResult:
    """Trains a linear SVM on the descriptors of some videos and tests it on others.

    Args:
        models: networks, checkpoints or run folders; the descriptors of several stand side by side.
        train: labelled videos; C is chosen among these alone.
        test: labelled videos of the same classes.
        layer: whose features, such as "fc6"; None takes what the head takes.
        protocol: a protocol or its name; its views are averaged before the SVM.
        device: moves the networks there first; None leaves them where they are.
        batch_size: views that go through a network at once.
        num_workers: threads that decode; 0 decodes between two batches.
        skip_broken: leave out the videos that cannot be read, and list them, instead of raising.
        cache: decoded clips on disk; None decodes each time.
        on_progress: called with the number of videos done and of all videos, for each network anew.

    Raises:
        DataError: a video without exactly one label, or that comes twice; a class that training lacks; fewer
            than two classes; nothing to train or to test on.
        VideoError: a video cannot be read, and `skip_broken` is not set.
        WeightsError: all features of a video are zero.
    """
    check_parts(train, test)
    every = [
        describe(
            load(model) if isinstance(model, str | Path) else model,
            (*train, *test),
            layer=layer,
            protocol=protocol,
            device=device,
            batch_size=batch_size,
            num_workers=num_workers,
            skip_broken=skip_broken,
            cache=cache,
            on_progress=on_progress,
        )
        for model in models
    ]
    joined = side_by_side(every)
    return fit_and_test(joined.of(train), joined.of(test))


def choose_c(
    values: FloatArray, classes: IntArray, groups: Sequence[str]
) -> tuple[float, dict[float, float]]:
    """The C of the best accuracy in cross-validation over groups; of equal ones the smallest.

    A class that is in no other group counts as wrong where it is held out, at every C alike.

    Args:
        values: descriptors of training videos.
        classes: of each video.
        groups: of each video; a group is never on both sides.

    Returns:
        C, and the accuracy at each one that was tried; 1 and nothing where there are fewer than two groups,
        or no two classes remain when one is held out.

    Shape:
        values [N, D]
        classes [N]
    """
    from sklearn.model_selection import StratifiedGroupKFold

    num_folds = min(FOLDS, len(set(groups)), max(Counter(classes.tolist()).values()))
    if num_folds < 2:
        return C_UNCHOSEN, {}
    with warnings.catch_warnings():
        # A class with few videos is then not in every fold; that is no mistake.
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        folds = list(StratifiedGroupKFold(num_folds).split(values, classes, groups))
    folds = [(fit, held) for fit, held in folds if len(set(classes[fit])) > 1 and len(held)]
    if not folds:
        return C_UNCHOSEN, {}
    accuracy = {}
    for c in CS:
        answers = [_fitted(values[fit], classes[fit], c).predict(values[held]) for fit, held in folds]
        truth = [classes[held] for _, held in folds]
        accuracy[c] = float((np.concatenate(answers) == np.concatenate(truth)).mean())
    return max(CS, key=lambda c: (accuracy[c], -c)), accuracy


def fit_and_test(train: Descriptors, test: Descriptors) -> SvmResult:
    """Trains the SVM on some descriptors and tests it on others.

    Raises:
        DataError: there are none of them, or training lacks a class.
    """
    for part, what in ((train, "train"), (test, "test")):
        if not part.samples:
            raise DataError(
                f"none of the videos to {what} on can be read; the first: {part.broken[0].reason}"
            )
    labels = label_names(train.samples)
    if unread := sorted(set(label_names(test.samples)) - set(labels)):
        raise DataError(
            f"no training video of the class '{unread[0]}' can be read: mend or leave out its videos"
        )
    classes = _classes(train.samples, labels)
    groups = [sample.group or f"file {sample.path.as_posix()}" for sample in train.samples]
    c, chosen_by = choose_c(train.values, classes, groups)
    decisions = _fitted(train.values, classes, c).decision_function(test.values)
    if decisions.ndim == 1:  # of two classes the second one's alone
        decisions = np.stack([-decisions, decisions], axis=1)
    return SvmResult(
        labels=labels,
        samples=test.samples,
        decisions=decisions,
        c=c,
        chosen_by=chosen_by,
        num_train=len(train.samples),
        descriptors=test,
        broken=test.broken,
    )


def _fitted(values: FloatArray, classes: IntArray, c: float) -> Any:
    from sklearn.svm import LinearSVC

    return LinearSVC(C=c, dual="auto", max_iter=MAX_ITERATIONS, random_state=0).fit(values, classes)


def _classes(samples: Sequence[Sample], labels: tuple[str, ...]) -> IntArray:
    return np.array([row[0] for row in class_indices(samples, labels)], dtype=np.int64)


def check_parts(train: Sequence[Sample], test: Sequence[Sample]) -> None:
    """Before anything is computed: whether an SVM can learn from some videos what others are.

    Raises:
        DataError: a video without exactly one label, or that comes twice; a class that training lacks; fewer
            than two classes; nothing to train or to test on.
    """
    labels = label_names(train)
    for part, what in ((train, "train"), (test, "test")):
        if not part:
            raise DataError(f"no videos to {what} on: the list of samples is empty")
    for sample in (*train, *test):
        if len(sample.labels) != 1:
            found = " and ".join(sample.labels) or "none"
            raise DataError(f"{sample.path} needs exactly one label for an SVM, it has {found}")
    if len(labels) < 2:
        raise DataError(f"an SVM needs two classes at least, training has {', '.join(labels)}")
    class_indices(test, labels)
    check_samples((*train, *test), labels)
