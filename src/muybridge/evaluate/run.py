"""Tests a network on labelled videos under a named protocol: a few lines over `run_views`."""

import difflib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from muybridge.config import ClipSpec
from muybridge.data.cache import FrameCache
from muybridge.errors import DataError
from muybridge.evaluate.result import Evaluation
from muybridge.evaluate.tasks import in_own_task
from muybridge.flow.source import FlowStore
from muybridge.models.contract import VideoModel
from muybridge.predict import Broken, VideoScores, card_of, run_views, specs_of
from muybridge.protocol import Protocol, get_protocol
from muybridge.types import Sample
from muybridge.weights.store import load

__all__ = ["evaluate"]

MAX_LISTED = 20  # labels or files that one message names


def evaluate(
    model: VideoModel | Path | str,
    samples: Sequence[Sample],
    *,
    protocol: str | Protocol = "center",
    labels: Sequence[str] | None = None,
    specs: tuple[ClipSpec, ...] | None = None,
    device: torch.device | str | None = None,
    batch_size: int = 8,
    num_workers: int = 1,
    skip_broken: bool = False,
    cache: FrameCache | None = None,
    flow: FlowStore | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Shows a network every view of every video and keeps all scores.

    Where a network has classifiers of several data sets, a video is judged among the classes of its own.

    Args:
        model: a network, a checkpoint or a run folder.
        samples: labelled videos.
        protocol: a protocol or its name.
        labels: class names in the order of the logits; None takes those of the network's card.
        specs: how the network sees a clip, one spec a modality; None takes those of its card, or its own.
        device: moves the network there first; None leaves it where it is.
        batch_size: views that go through the network at once.
        num_workers: threads that decode; 0 decodes between two batches.
        skip_broken: list the videos that cannot be read, instead of raising.
        cache: decoded clips on disk; None decodes each time.
        flow: stored flow, for networks that look at it; None computes that of each view.
        on_progress: called with the number of videos done and of all videos.

    Raises:
        DataError: no samples, one without a label or with one that the network does not know, or one that
            comes twice; or no video could be read.
        VideoError: a video cannot be read, and `skip_broken` is not set.
        WeightsError: no labels are given, and the network carries none.
        ConfigError: no such protocol.
    """
    if isinstance(model, str | Path):
        model = load(model)
    labels = tuple(card_of(model).labels if labels is None else labels)
    if len(labels) != model.num_classes:
        raise DataError(f"{len(labels)} labels for the {model.num_classes} outputs of {model.name}")
    check_samples(samples, labels)
    protocol = get_protocol(protocol)
    specs = protocol.seen(specs or specs_of(model))
    results = list(
        run_views(
            model,
            samples,
            protocol,
            specs=specs,
            device=device,
            batch_size=batch_size,
            num_workers=num_workers,
            skip_broken=skip_broken,
            cache=cache,
            flow=flow,
            on_progress=on_progress,
        )
    )
    scores = [
        in_own_task(one, model, [labels.index(one.sample.labels[0])])
        for one in results
        if isinstance(one, VideoScores)
    ]
    broken = tuple(one for one in results if isinstance(one, Broken))
    if not scores:
        raise DataError(f"no video of {len(samples)} can be read; the first: {broken[0].reason}")
    return Evaluation(
        protocol=protocol,
        specs=specs,
        labels=labels,
        samples=tuple(one.sample for one in scores),
        probabilities=np.stack([one.probabilities for one in scores]),
        logits=tuple(one.logits for one in scores),
        broken=broken,
        card=model.card,
    )


def check_samples(samples: Sequence[Sample], labels: Sequence[str]) -> None:
    """Before hours of testing: every video has a label that the network knows, and none comes twice.

    Raises:
        DataError: one does not; names the video, the label and the labels that there are.
    """
    if not samples:
        raise DataError("no videos to test: the list of samples is empty")
    seen: set[str] = set()
    for sample in samples:
        if not sample.labels:
            raise DataError(f"{sample.path} has no label: a test needs the truth; to name it use recognize")
        if sample.key in seen:
            raise DataError(f"{sample.key} is in the list twice: each video may count once")
        seen.add(sample.key)
    unknown = sorted({label for sample in samples for label in sample.labels} - set(labels))
    if unknown:
        first = next(sample for sample in samples if unknown[0] in sample.labels)
        close = difflib.get_close_matches(unknown[0], labels, n=1)
        hint = f"; did you mean '{close[0]}'?" if close else "."
        more = f" {len(unknown)} labels are unknown: {_listed(unknown)}." if len(unknown) > 1 else ""
        raise DataError(
            f"{first.path}: the network has no class '{unknown[0]}'{hint}{more} "
            f"It knows {len(labels)}: {_listed(labels)}"
        )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    return ", ".join(names[:MAX_LISTED]) + more
