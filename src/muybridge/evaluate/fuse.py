"""Late fusion: the stored scores of several networks become one score a video.

Where to find the papers here:
    Two-Stream (arXiv:1406.2199), Sec. 2: the mean of the softmax scores         "average"
    Two-Stream, Sec. 2: a linear SVM on stacked, L2-normalised softmax scores    "svm"
    TSN (arXiv:1608.00859), its test: a weighted mean in front of the softmax    "logits"

Deviation: the SVM of Two-Stream's fusion is one against the rest, as all SVMs here; the paper's is that of
    Crammer and Singer.

Shape letters: N videos, V views, K classes, P networks.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from muybridge.errors import ConfigError, DataError
from muybridge.evaluate.descriptors import Descriptors, descriptor, side_by_side
from muybridge.evaluate.result import Evaluation, compare_ready, load_evaluation
from muybridge.evaluate.svm import check_parts, fit_and_test
from muybridge.protocol import aggregate, softmax

__all__ = ["METHODS", "fuse"]

METHODS = {
    "average": "mean of the probabilities",
    "logits": "mean of the logits",
    "svm": "linear SVM on the probabilities",
}

SMALLEST_PROBABILITY = 1e-30  # of a logarithm

FloatArray = npt.NDArray[np.float64]


def fuse(
    parts: Sequence[Evaluation | Path | str],
    *,
    method: str = "average",
    weights: Sequence[float] | None = None,
    train: Sequence[Evaluation | Path | str] = (),
) -> Evaluation:
    """One evaluation of the scores of several networks on the same videos, under the same protocol.

    Args:
        parts: evaluations, or folders that `muybridge eval --out` wrote.
        method: "average" is the mean of the videos' probabilities; "logits" the mean of the logits of each
            view, of which the protocol then makes a score; "svm" a linear SVM on the probabilities, each
            network's made as long as 1.
        weights: of each network in a mean; None is 1 each.
        train: of "svm", what the same networks said of the training videos, in the same order.

    Returns:
        Its logits are the logarithms of the scores, one row a video; of "svm" the decisions, of which the
        softmax stands for probabilities: their order means something, their size does not.

    Raises:
        DataError: the evaluations are not of the same videos, labels and views.
        ConfigError: no such method, or weights or training scores that do not go with it.
    """
    tests, names = _loaded(parts), _names(parts)
    training = _loaded(train)
    factors = _check(method, len(tests), weights, len(training))
    for other, name in zip(tests[1:], names[1:], strict=True):
        compare_ready(tests[0], other, names=(names[0], name))
    if method == "svm":
        return _by_svm(tests, names, training, _names(train))
    probabilities = _mean_probabilities(tests, factors) if method == "average" else _of_logits(tests, factors)
    shares = (f"{factor:g} x {_network(one)}" for factor, one in zip(factors, tests, strict=True))
    return _fused(
        tests,
        labels=tests[0].labels,
        probabilities=probabilities,
        logits=np.log(probabilities.clip(SMALLEST_PROBABILITY)),
        how=f"fused: {METHODS[method]} of {', '.join(shares)}",
    )


def _mean_probabilities(parts: Sequence[Evaluation], weights: Sequence[float]) -> FloatArray:
    """The weighted mean of the scores of each video.

    Shape:
        output [N, K]
    """
    return np.average([one.probabilities for one in parts], axis=0, weights=weights)


def _of_logits(parts: Sequence[Evaluation], weights: Sequence[float]) -> FloatArray:
    """The score that the protocol makes of the weighted mean logits of each view.

    Shape:
        output [N, K]
    """
    rows = []
    for of_video in zip(*(one.logits for one in parts), strict=True):
        # Where a window slides, clips of more frames fit in less often at a video's end.
        count = min(len(views) for views in of_video)
        mean = np.average([views[:count].astype(np.float64) for views in of_video], axis=0, weights=weights)
        rows.append(aggregate(mean, parts[0].protocol))
    return np.stack(rows)


def _by_svm(
    tests: Sequence[Evaluation],
    names: Sequence[str],
    training: Sequence[Evaluation],
    train_names: Sequence[str],
) -> Evaluation:
    for test, name, train, train_name in zip(tests, names, training, train_names, strict=True):
        _check_pair(test, name, train, train_name)
    for other, name in zip(training[1:], train_names[1:], strict=True):
        compare_ready(training[0], other, names=(train_names[0], name))
    check_parts(training[0].samples, tests[0].samples)
    result = fit_and_test(_stacked(training), _stacked(tests))
    networks = ", ".join(map(_network, tests))
    return _fused(
        tests,
        labels=result.labels,
        probabilities=softmax(result.decisions),
        logits=result.decisions,
        how=f"fused: {METHODS['svm']} of {networks}; {result.how}",
    )


def _stacked(parts: Sequence[Evaluation]) -> Descriptors:
    """The probabilities of each network, made as long as 1, side by side.

    Shape:
        values [N, P K]
    """
    return side_by_side(
        [
            Descriptors(
                samples=one.samples,
                values=np.stack([descriptor(row[None]) for row in one.probabilities]),
                layers=(f"{_network(one)} softmax",),
                protocol=one.protocol,
                specs=one.specs,
                broken=one.broken,
            )
            for one in parts
        ]
    )


def _fused(
    parts: Sequence[Evaluation],
    *,
    labels: tuple[str, ...],
    probabilities: FloatArray,
    logits: FloatArray,
    how: str,
) -> Evaluation:
    return Evaluation(
        protocol=parts[0].protocol,
        specs=tuple(spec for one in parts for spec in one.specs),
        labels=labels,
        samples=parts[0].samples,
        probabilities=probabilities,
        logits=tuple(logits[:, None].astype(np.float32)),
        broken=parts[0].broken,
        fusion=how,
    )


def _check(method: str, num_parts: int, weights: Sequence[float] | None, num_train: int) -> tuple[float, ...]:
    """The weight of each network."""
    if method not in METHODS:
        raise ConfigError(f"no fusion '{method}'; there are {', '.join(METHODS)}")
    if num_parts < 2:
        raise ConfigError(f"fusion takes the scores of two networks at least, got {num_parts}")
    if method != "svm" and num_train:
        raise ConfigError(
            f"scores of training videos are for the fusion 'svm', not for '{method}': leave them out"
        )
    if method == "svm" and weights is not None:
        raise ConfigError("the fusion 'svm' learns what each network counts: leave the weights out")
    if method == "svm" and num_train != num_parts:
        raise ConfigError(
            f"the fusion 'svm' learns from training videos: give the scores of each of the {num_parts} "
            f"networks on them, in the same order, got {num_train}"
        )
    factors = tuple(weights) if weights is not None else (1.0,) * num_parts
    if len(factors) != num_parts or min(factors) < 0 or not sum(factors):
        found = ", ".join(f"{factor:g}" for factor in factors)
        raise ConfigError(
            f"weights must be {num_parts} numbers, one a network, none below 0 and one above, got {found}"
        )
    return factors


def _check_pair(test: Evaluation, name: str, train: Evaluation, train_name: str) -> None:
    for what in ("labels", "views", "spec"):
        if getattr(test, what) != getattr(train, what):
            raise DataError(
                f"{train_name} and {name} differ in {what}: give, of each network in turn, scores of "
                "training and of test videos under one protocol"
            )
    if test.card and train.card and test.card != train.card:
        raise DataError(
            f"{train_name} and {name} are of different networks: give the training scores in the order of "
            "the others"
        )


def _loaded(parts: Sequence[Evaluation | Path | str]) -> list[Evaluation]:
    return [one if isinstance(one, Evaluation) else load_evaluation(one) for one in parts]


def _names(parts: Sequence[Evaluation | Path | str]) -> list[str]:
    """What errors call them."""
    return [
        f"number {n}" if isinstance(one, Evaluation) else str(one) for n, one in enumerate(parts, start=1)
    ]


def _network(evaluation: Evaluation) -> str:
    return evaluation.card.model if evaluation.card else "a network without a card"
