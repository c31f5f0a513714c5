"""The result of a test: all scores, and the numbers made of them; written, read, pooled and compared.

Shape letters: N videos, V views, K classes.
"""

import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from muybridge.config import ClipSpec, specs_digest
from muybridge.data.dataset import Broken
from muybridge.errors import ConfigError, DataError
from muybridge.evaluate import metrics
from muybridge.evaluate.scores_file import read_scores, write_scores
from muybridge.files import atomic_path
from muybridge.models.contract import Card
from muybridge.protocol import Protocol
from muybridge.types import Sample

__all__ = ["Evaluation", "compare_ready", "interval_text", "load_evaluation", "pool", "spec_text"]

NUMBERS_FILE = "evaluation.json"
SCORES_FILE = "scores.parquet"
MAX_LISTED = 3  # videos that one message names
FORMAT = 1  # of the two files; goes up when an older one can no longer be read


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """What a network says about a set of labelled videos. All numbers are made from the scores kept here.

    Attributes:
        protocol: which views were looked at.
        specs: how the network saw them.
        labels: class names, in the order of the scores.
        samples: the videos that were tested, in the order that was asked for.
        probabilities: float64 [N, K], of each video.
        logits: of each video, float32 [V, K]: of each view. Where the protocol slides, a longer video has
            more of them; where scores were fused, there is one row a video, the logarithm of its score.
        broken: the videos that could not be read; they are in no number.
        card: of the network; None for one that was never saved.
        fusion: how scores of several networks became these; "" where there is one network.
    """

    protocol: Protocol
    specs: tuple[ClipSpec, ...]
    labels: tuple[str, ...]
    samples: tuple[Sample, ...]
    probabilities: npt.NDArray[np.float64]
    logits: tuple[npt.NDArray[np.float32], ...]
    broken: tuple[Broken, ...] = ()
    card: Card | None = None
    fusion: str = ""

    def __post_init__(self) -> None:
        if not self.samples:
            raise DataError("an evaluation needs at least one video")
        videos, classes = len(self.samples), len(self.labels)
        if self.probabilities.shape != (videos, classes) or len(self.logits) != videos:
            raise DataError(
                f"{videos} videos and {classes} labels, but the probabilities are "
                f"{list(self.probabilities.shape)} and there are logits of {len(self.logits)} videos"
            )
        for sample, views in zip(self.samples, self.logits, strict=True):
            fits = len(views) == 1 if self.fusion else self.protocol.takes(len(views))
            if not fits or views.shape[1:] != (classes,):
                raise DataError(
                    f"{sample.path}: the logits are {list(views.shape)}, which the protocol "
                    f"'{self.protocol.name}' does not make of {classes} labels"
                )

    @property
    def views(self) -> str:
        """Digest of the temporal positions, crops and aggregation."""
        return self.protocol.digest()

    @property
    def spec(self) -> str:
        """Digest of the ClipSpecs."""
        return specs_digest(self.specs)

    @property
    def num_samples(self) -> int:
        """N, the videos that were tested."""
        return len(self.samples)

    @property
    def multi_label(self) -> bool:
        """Whether some video has several labels."""
        return any(len(sample.labels) > 1 for sample in self.samples)

    @cached_property
    def truth(self) -> npt.NDArray[np.bool_]:
        """Which classes each video has, [N, K]."""
        index_of = {label: index for index, label in enumerate(self.labels)}
        classes = [[index_of[label] for label in sample.labels] for sample in self.samples]
        return metrics.truth_matrix(classes, len(self.labels))

    @cached_property
    def correct(self) -> npt.NDArray[np.bool_]:
        """Whether the best label of each video is one of its own, [N]."""
        return metrics.hit_at(self.probabilities, self.truth, 1)

    @property
    def top1(self) -> float:
        """Accuracy: the part of the videos whose best label is right (with several labels each: hit@1)."""
        return float(self.correct.mean())

    @cached_property
    def top5(self) -> float:
        """The part of the videos with a right label among the best five (hit@5)."""
        return float(metrics.hit_at(self.probabilities, self.truth, 5).mean())

    @cached_property
    def clip_top1(self) -> float:
        """Accuracy of single views, before they are averaged."""
        truth = np.repeat(self.truth, [len(views) for views in self.logits], axis=0)
        return float(metrics.hit_at(np.concatenate(self.logits), truth, 1).mean())

    @property
    def has_views(self) -> bool:
        """Whether some video has several views, so that single ones may do worse."""
        return any(len(views) > 1 for views in self.logits)

    @cached_property
    def confusion(self) -> npt.NDArray[np.int64] | None:
        """Videos of each class (rows) by the class they were taken for, [K, K].

        None where videos have several labels.
        """
        if self.multi_label:
            return None
        return metrics.confusion_matrix(self.probabilities, self.truth.argmax(axis=1))

    @property
    def mean_class_accuracy(self) -> float | None:
        """Mean accuracy over the classes that are there; None with several labels a video."""
        return None if self.confusion is None else metrics.mean_class_accuracy(self.confusion)

    @cached_property
    def mean_average_precision(self) -> float:
        """The mAP over the classes that are there."""
        return metrics.mean_average_precision(self.probabilities, self.truth)

    @cached_property
    def interval95(self) -> tuple[float, float] | None:
        """95 % bootstrap interval of `top1`, groups drawn whole; None where all videos are of one group.

        A video without a group is a group by itself.
        """
        groups = [sample.group or ("", index) for index, sample in enumerate(self.samples)]
        return metrics.bootstrap_interval(self.correct, groups)

    @property
    def bounds_with_broken(self) -> tuple[float, float]:
        """`top1` if all videos that could not be read were wrong, and if all were right."""
        total = self.num_samples + len(self.broken)
        hits = int(self.correct.sum())
        return hits / total, (hits + len(self.broken)) / total

    @property
    def num_groups(self) -> int:
        """How many groups the videos are of; 0 where they have none."""
        return len({sample.group for sample in self.samples if sample.group})

    def numbers(self) -> dict[str, Any]:
        """All numbers as plain values, with what is needed to know what they mean."""
        return {
            "top1": self.top1,
            "interval95": list(self.interval95) if self.interval95 else None,
            "top5": self.top5,
            "mean_class_accuracy": self.mean_class_accuracy,
            "clip_top1": self.clip_top1,
            "mean_average_precision": self.mean_average_precision if self.multi_label else None,
            "num_samples": self.num_samples,
            "num_groups": self.num_groups,
            "num_broken": len(self.broken),
            "protocol": self.protocol.name,
            "views": self.views,
            "spec": self.spec,
            "fusion": self.fusion or None,
        }

    def text(self) -> str:
        """The numbers in a few lines for people, never without the digests."""
        first, fifth = ("hit@1", "hit@5") if self.multi_label else ("top-1", "top-5")
        parts = [f"{first} {self.top1:.3f}{interval_text(self.interval95)}"]
        if len(self.labels) > 5:
            parts.append(f"{fifth} {self.top5:.3f}")
        if self.mean_class_accuracy is not None:
            parts.append(f"mean class accuracy {self.mean_class_accuracy:.3f}")
        if self.multi_label:
            parts.append(f"mAP {self.mean_average_precision:.3f}")
        if self.has_views:
            parts.append(f"single views {self.clip_top1:.3f}")
        groups = f" of {self.num_groups} groups" if self.num_groups else ""
        lines = [
            ", ".join(parts),
            f"{self.num_samples} videos{groups}, {len(self.labels)} classes; "
            f"protocol {self.protocol.name} (views {self.views}, spec {self.spec})",
        ]
        if self.fusion:
            lines.append(self.fusion)
        if self.broken:
            low, high = self.bounds_with_broken
            lines.append(f"{self.broken_text()} With them {first} lies between {low:.3f} and {high:.3f}.")
        return "\n".join(lines)

    def broken_text(self) -> str:
        """How many videos are missing in the numbers, as a sentence."""
        if len(self.broken) == 1:
            return "1 video could not be read and is in no number."
        return f"{len(self.broken)} videos could not be read and are in no number."

    def __repr__(self) -> str:
        return f"Evaluation({self.num_samples} videos, {self.protocol.name}, top1 {self.top1:.3f})"

    def save(self, folder: Path | str) -> None:
        """Writes evaluation.json (numbers, digests, broken files) and scores.parquet (each video's scores).

        Raises:
            StorageError: the folder cannot be written; a file that stood there before is whole.
        """
        folder = Path(folder)
        with atomic_path(folder / SCORES_FILE) as temporary:
            write_scores(temporary, self.samples, self.probabilities, self.logits)
            digest = _file_digest(temporary)
        content = {
            "format": FORMAT,
            **self.numbers(),
            "labels": list(self.labels),
            "protocol_values": self.protocol.to_dict(),
            "specs": [spec.to_dict() for spec in self.specs],
            "confusion": None if self.confusion is None else self.confusion.tolist(),
            "broken": [{"path": one.path, "reason": one.reason, "index": one.index} for one in self.broken],
            "card": self.card.to_dict() if self.card else None,
            "scores_sha256": digest,  # tells the two files of a save that was cut off between them
        }
        with atomic_path(folder / NUMBERS_FILE) as temporary:
            temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def load_evaluation(folder: Path | str) -> Evaluation:
    """Reads what `Evaluation.save` wrote.

    Raises:
        DataError: no evaluation there, or its two files are not of one save.
    """
    folder = Path(folder)
    numbers, scores = folder / NUMBERS_FILE, folder / SCORES_FILE
    if not numbers.is_file() or not scores.is_file():
        raise DataError(
            f"{folder} holds no evaluation ({NUMBERS_FILE} and {SCORES_FILE}): make one with muybridge eval"
        )
    try:
        content = json.loads(numbers.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise DataError(
                f"{numbers} has format {content['format']}, this version reads {FORMAT}: test again"
            )
        if content["scores_sha256"] != _file_digest(scores):
            raise DataError(f"{numbers} and {SCORES_FILE} are not of one test: test again")
        samples, probabilities, logits = read_scores(scores)
        labels = tuple(content["labels"])
        return Evaluation(
            protocol=Protocol.from_dict(content["protocol_values"]),
            specs=tuple(ClipSpec.from_dict(spec) for spec in content["specs"]),
            labels=labels,
            samples=samples,
            probabilities=probabilities,
            logits=logits,
            broken=tuple(Broken(**one) for one in content["broken"]),
            card=Card.from_dict(content["card"]) if content["card"] else None,
            fusion=content.get("fusion") or "",
        )
    except (KeyError, TypeError, ValueError, ConfigError) as error:
        raise DataError(f"{numbers} cannot be read ({type(error).__name__}: {error}): test again") from error


def pool(evaluations: Sequence[Evaluation]) -> Evaluation:
    """One evaluation of several that share no video, such as the folds of leave-one-group-out.

    Raises:
        DataError: they differ in labels, protocol or spec, or a video is in two of them.
    """
    if not evaluations:
        raise DataError("no evaluations to pool")
    first = evaluations[0]
    for other in evaluations[1:]:
        for what in ("labels", "views", "spec", "fusion"):
            if getattr(other, what) != getattr(first, what):
                raise DataError(
                    f"the folds differ in {what}, {getattr(first, what)} and {getattr(other, what)}: "
                    "a mean over them would mean nothing"
                )
    samples = tuple(sample for one in evaluations for sample in one.samples)
    keys = [sample.key for sample in samples]
    if len(set(keys)) < len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise DataError(f"{twice} was tested in two folds: each video may count once")
    return replace(
        first,
        samples=samples,
        probabilities=np.concatenate([one.probabilities for one in evaluations]),
        logits=tuple(views for one in evaluations for views in one.logits),
        broken=tuple(broken for one in evaluations for broken in one.broken),
        card=None,  # several networks
    )


def compare_ready(
    first: Evaluation, second: Evaluation, *, names: tuple[str, str] = ("first", "second")
) -> str:
    """Makes sure that two evaluations can be compared video by video, and says how each network saw them.

    Args:
        first: one.
        second: the other.
        names: what to call them.

    Raises:
        DataError: they differ in labels, in views, or in the videos and their truth.
    """
    who = f"the two evaluations, {names[0]} and {names[1]},"
    if first.labels != second.labels:
        only = sorted(set(first.labels) ^ set(second.labels))
        what = f"only in one of them: {', '.join(only[:10])}" if only else "the same ones in another order"
        raise DataError(f"{who} have different labels, {what}: test both with the same classes")
    if first.views != second.views:
        raise DataError(
            f"{who} looked at different views, {first.protocol.name} ({first.views}) and "
            f"{second.protocol.name} ({second.views}): test both under one protocol"
        )
    truth = [{sample.key: tuple(sorted(sample.labels)) for sample in one.samples} for one in (first, second)]
    differing = {
        f"only in {names[0]}": truth[0].keys() - truth[1].keys(),
        f"only in {names[1]}": truth[1].keys() - truth[0].keys(),
        "with other labels": {
            key for key in truth[0].keys() & truth[1].keys() if truth[0][key] != truth[1][key]
        },
    }
    if any(differing.values()):
        found = "; ".join(f"{len(keys)} {what}: {_some(keys)}" for what, keys in differing.items() if keys)
        raise DataError(f"{who} are not of the same videos and labels; {found}; test both on the same list")
    if [sample.key for sample in first.samples] != [sample.key for sample in second.samples]:
        raise DataError(f"{who} have the same videos in another order: test both on the same list")
    lines = [
        f"{name}: {one.card.model if one.card else 'a network without a card'}, spec {one.spec}: "
        + "; ".join(spec_text(spec) for spec in one.specs)
        for name, one in zip(names, (first, second), strict=True)
    ]
    return "\n".join(lines)


def interval_text(interval: tuple[float, float] | None) -> str:
    """The interval behind a number, for people.

    >>> interval_text((0.81, 0.9)), interval_text(None)
    (' [0.810, 0.900]', ' (no interval: one group)')
    """
    return " (no interval: one group)" if interval is None else f" [{interval[0]:.3f}, {interval[1]:.3f}]"


def spec_text(spec: ClipSpec) -> str:
    """How a network sees a clip, for people.

    >>> spec_text(ClipSpec(num_frames=16, frame_stride=2, crop=112, resize=128))
    '16 frames of rgb, stride 2, 112 x 112 px'
    """
    stride = "spread over the video" if spec.frame_stride is None else f"stride {spec.frame_stride}"
    rate = f" at {spec.fps:g} fps" if spec.fps else ""
    segments = f"{spec.num_segments} x " if spec.num_segments > 1 else ""
    return (
        f"{segments}{spec.num_frames} frames of {spec.modality}, {stride}{rate}, {spec.crop} x {spec.crop} px"
    )


def _some(keys: Collection[str]) -> str:
    """The first of some videos, and how many more there are."""
    more = f" and {len(keys) - MAX_LISTED} more" if len(keys) > MAX_LISTED else ""
    return ", ".join(sorted(keys)[:MAX_LISTED]) + more


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
