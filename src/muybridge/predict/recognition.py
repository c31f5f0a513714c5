"""Names the action in a video."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, cast, overload

import numpy as np
import torch

from muybridge.data.dataset import Broken
from muybridge.errors import WeightsError
from muybridge.models.contract import VideoModel
from muybridge.predict.loop import VideoScores, run_views
from muybridge.protocol import Protocol
from muybridge.types import Prediction, Sample
from muybridge.video.source import Source
from muybridge.weights.store import Card, load

__all__ = ["card_of", "recognize", "recognize_each", "to_prediction"]


def recognize_each(
    videos: Iterable[Sample | Source],
    model: VideoModel | Path | str,
    *,
    protocol: str | Protocol = "center",
    top: int = 5,
    device: torch.device | str | None = None,
    batch_size: int = 8,
    num_workers: int = 1,
    skip_broken: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> Iterator[Prediction | Broken]:
    """As `recognize` for many videos: each answer as soon as it is there, in order."""
    if isinstance(model, str | Path):
        model = load(model)
    card = card_of(model)
    for scores in run_views(
        model,
        videos,
        protocol,
        device=device,
        batch_size=batch_size,
        num_workers=num_workers,
        skip_broken=skip_broken,
        on_progress=on_progress,
    ):
        yield scores if isinstance(scores, Broken) else to_prediction(scores, card.labels, top=top)


@overload
def recognize(  # type: ignore[overload-overlap]  # str and bytes are sequences too, but one source
    sources: Sample | Source,
    model: VideoModel | Path | str,
    *,
    protocol: str | Protocol = ...,
    top: int = ...,
    device: torch.device | str | None = ...,
    batch_size: int = ...,
    skip_broken: bool = ...,
) -> Prediction: ...
@overload
def recognize(
    sources: Sequence[Sample | Source],
    model: VideoModel | Path | str,
    *,
    protocol: str | Protocol = ...,
    top: int = ...,
    device: torch.device | str | None = ...,
    batch_size: int = ...,
    skip_broken: Literal[False] = ...,
) -> list[Prediction]: ...
@overload
def recognize(
    sources: Sequence[Sample | Source],
    model: VideoModel | Path | str,
    *,
    protocol: str | Protocol = ...,
    top: int = ...,
    device: torch.device | str | None = ...,
    batch_size: int = ...,
    skip_broken: bool,
) -> list[Prediction | Broken]: ...
def recognize(
    sources: Sample | Source | Sequence[Sample | Source],
    model: VideoModel | Path | str,
    *,
    protocol: str | Protocol = "center",
    top: int = 5,
    device: torch.device | str | None = None,
    batch_size: int = 8,
    skip_broken: bool = False,
) -> Prediction | list[Prediction] | list[Prediction | Broken]:
    """Names the action in a video, or in each of a list of videos.

    Args:
        sources: a path, bytes, a file object, decoded frames (uint8 [T, H, W, 3]) or a sample; or a list or
            tuple of these.
        model: a network that carries its labels, a checkpoint or a run folder.
        protocol: which views to look at: "center" is one; see `muybridge.protocol`.
        top: labels to give, best first.
        device: moves the network there first; None leaves it where it is.
        batch_size: views that go through the network at once.
        skip_broken: in a list, `Broken` stands for a video that cannot be read, instead of an error.

    Returns:
        One prediction for one video, a list for a list.

    Raises:
        VideoError: a video cannot be read.
        WeightsError: the network carries no labels.
    """
    many = isinstance(sources, list | tuple)
    found = list(
        recognize_each(
            cast(Sequence[Sample | Source], sources) if many else [cast(Source, sources)],
            model,
            protocol=protocol,
            top=top,
            device=device,
            batch_size=batch_size,
            skip_broken=skip_broken and many,
        )
    )
    return found if many else cast(Prediction, found[0])


def to_prediction(scores: VideoScores, labels: Sequence[str], *, top: int = 5) -> Prediction:
    """The best labels of a video; equal scores keep the order of the labels."""
    if top < 1:
        raise ValueError(f"top must be at least 1, got {top}")
    probabilities = scores.probabilities
    best = np.argsort(-probabilities, kind="stable")[:top]
    return Prediction(
        path=str(scores.sample.path),
        labels=tuple(labels[k] for k in best),
        scores=tuple(float(probabilities[k]) for k in best),
        protocol=scores.protocol.name,
        views=scores.protocol.digest(),
        spec=scores.spec,
        num_views=len(scores.views),
    )


def card_of(model: VideoModel) -> Card:
    """The card of a network: its labels and specs.

    Raises:
        WeightsError: it has none, or one that names other than K labels.
    """
    if model.card is None:
        raise WeightsError(
            f"this {model.name} does not say what its outputs mean: it was built, not loaded. Give a "
            "checkpoint made by `muybridge train`, or one that muybridge.weights.store.save wrote"
        )
    if len(model.card.labels) != model.num_classes:
        raise WeightsError(
            f"the card of this {model.name} names {len(model.card.labels)} labels, but it has "
            f"{model.num_classes} outputs: save it again with one label for each"
        )
    return model.card
