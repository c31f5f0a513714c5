"""The only inference loop: the logits of every view of each video, or the features of one layer.

Shape letters: B batch, V views, K classes, D features.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from muybridge.config import ClipSpec, specs_digest
from muybridge.data.cache import FrameCache
from muybridge.data.dataset import Broken
from muybridge.errors import ConfigError, VideoError, WeightsError
from muybridge.flow.source import FlowStore
from muybridge.models.contract import VideoModel
from muybridge.predict.loading import Inputs, Job, load_clips
from muybridge.protocol import Protocol, aggregate, get_protocol
from muybridge.types import Sample, View
from muybridge.video.source import Source

__all__ = ["VideoFeatures", "VideoScores", "run_features", "run_views", "specs_of"]

FloatArray = npt.NDArray[np.float32]
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class VideoScores:
    """What a network says about every view of one video.

    Attributes:
        sample: the video.
        index: its position in what was asked for.
        views: what was looked at.
        logits: float32 [V, K], one row a view.
        protocol: which views these are, and how their scores become one.
        spec: digest of the ClipSpecs.
    """

    sample: Sample
    index: int
    views: tuple[View, ...]
    logits: FloatArray
    protocol: Protocol
    spec: str

    @property
    def probabilities(self) -> npt.NDArray[np.float64]:
        """The video's score of each class, [K]."""
        return aggregate(self.logits, self.protocol)

    def __repr__(self) -> str:
        views, classes = self.logits.shape
        return f"VideoScores({self.sample.path.name}: {views} views, {classes} classes)"


@dataclass(frozen=True, kw_only=True)
class VideoFeatures:
    """What a layer of a network gives of every view of one video.

    Attributes:
        sample: the video.
        index: its position in what was asked for.
        views: what was looked at.
        features: float32 [V, D], one row a view.
    """

    sample: Sample
    index: int
    views: tuple[View, ...]
    features: FloatArray

    def __repr__(self) -> str:
        views, size = self.features.shape
        return f"VideoFeatures({self.sample.path.name}: {views} views, {size} features)"


def run_views(
    model: VideoModel,
    videos: Iterable[Sample | Source],
    protocol: str | Protocol = "center",
    *,
    specs: tuple[ClipSpec, ...] | None = None,
    device: torch.device | str | None = None,
    batch_size: int = 8,
    num_workers: int = 1,
    skip_broken: bool = False,
    cache: FrameCache | None = None,
    flow: FlowStore | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Iterator[VideoScores | Broken]:
    """Shows a network every view of every video; yields the videos' scores in order.

    Views are decoded in the background while the network works, and those of several videos share a batch.
    At most about three batches of clips are in memory, however many videos and views there are. The network
    is in eval mode until the iterator ends, then in the modes it had.

    Args:
        model: the network.
        videos: samples, paths, bytes, file objects or arrays.
        protocol: a protocol or its name.
        specs: how the network sees a clip, one spec a modality; None takes those of its card, or its own.
        device: moves the network there first; None leaves it where it is.
        batch_size: views that go through the network at once. Scores depend on it only by float rounding.
        num_workers: threads that decode; 0 decodes between two batches.
        skip_broken: yield `Broken` for a video that cannot be read, instead of raising.
        cache: decoded clips on disk; None decodes each time.
        flow: stored flow, for networks that look at it; None computes that of each view.
        on_progress: called with the number of videos done and of all videos, each time one is done.

    Raises:
        VideoError: a video cannot be read; the message names it.
        ConfigError: no such protocol, or not one spec a modality.
        WeightsError: the network's answer is not finite.
    """
    question = _Question("scores", model, _scores)
    jobs = _jobs(model, videos, get_protocol(protocol), specs, cache, flow)
    return _start(model, question, jobs, device, batch_size, num_workers, skip_broken, on_progress)


def run_features(
    model: VideoModel,
    videos: Iterable[Sample | Source],
    protocol: str | Protocol = "center",
    *,
    layer: str | None = None,
    specs: tuple[ClipSpec, ...] | None = None,
    device: torch.device | str | None = None,
    batch_size: int = 8,
    num_workers: int = 1,
    skip_broken: bool = False,
    cache: FrameCache | None = None,
    flow: FlowStore | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Iterator[VideoFeatures | Broken]:
    """As `run_views`, the same loop, for the features of a layer.

    Args:
        model: the network.
        videos: as for `run_views`.
        protocol: a protocol or its name.
        layer: a module's name, such as "fc6"; None is what the head takes: `VideoModel.embed`.
        specs: as for `run_views`.
        device: as for `run_views`.
        batch_size: views that go through the network at once.
        num_workers: threads that decode; 0 decodes between two batches.
        skip_broken: yield `Broken` for a video that cannot be read, instead of raising.
        cache: decoded clips on disk; None decodes each time.
        flow: stored flow, for networks that look at it; None computes that of each view.
        on_progress: called with the number of videos done and of all videos.

    Raises:
        VideoError: a video cannot be read; the message names it.
        ConfigError: no such protocol or layer, or not one spec a modality.
        WeightsError: the features are not finite.
    """
    question = _Question("features", partial(model.embed, layer=layer), _features)
    jobs = _jobs(model, videos, get_protocol(protocol), specs, cache, flow)
    return _start(model, question, jobs, device, batch_size, num_workers, skip_broken, on_progress)


def specs_of(model: VideoModel) -> tuple[ClipSpec, ...]:
    """How the network sees a clip: as its card says, or as its paper does where it has none."""
    return model.card.specs if model.card else model.default_specs


@dataclass(frozen=True)
class _Question(Generic[Result]):
    """What the loop asks a network, and what it makes of the rows of a finished video."""

    what: str
    ask: Callable[..., Tensor]
    result: Callable[[Job, FloatArray], Result]


def _jobs(
    model: VideoModel,
    videos: Iterable[Sample | Source],
    protocol: Protocol,
    specs: tuple[ClipSpec, ...] | None,
    cache: FrameCache | None,
    flow: FlowStore | None,
) -> list[Job]:
    specs = protocol.seen(specs or specs_of(model))
    if len(specs) != len(model.modalities):
        raise ConfigError(
            f"{model.name} looks at {', '.join(model.modalities)}: give one spec for each, got {len(specs)}"
        )
    return [Job(index, video, protocol, specs, cache, flow) for index, video in enumerate(videos)]


def _start(
    model: VideoModel,
    question: _Question[Result],
    jobs: list[Job],
    device: torch.device | str | None,
    batch_size: int,
    num_workers: int,
    skip_broken: bool,
    on_progress: Callable[[int, int], None] | None,
) -> Iterator[Result | Broken]:
    """Checks at once, not when the first result is asked for."""
    if batch_size < 1 or num_workers < 0:
        raise ValueError(f"batch_size must be at least 1 and num_workers 0, got {batch_size}, {num_workers}")
    if device is not None:
        model.to(device)
    return _run(model, question, jobs, batch_size, num_workers, skip_broken, on_progress)


def _run(
    model: VideoModel,
    question: _Question[Result],
    jobs: list[Job],
    batch_size: int,
    num_workers: int,
    skip_broken: bool,
    on_progress: Callable[[int, int], None] | None,
) -> Iterator[Result | Broken]:
    waiting = deque(jobs)

    def finished() -> Iterator[Result | Broken]:
        while waiting and waiting[0].done:
            result = _result(waiting.popleft(), question)
            if on_progress:
                on_progress(len(jobs) - len(waiting), len(jobs))
            yield result

    try:
        with _evaluating(model), closing(load_clips(jobs, batch_size, num_workers)) as loaded:
            for batch in _batches(_views(loaded, skip_broken), batch_size):
                for (job, _), row in zip(batch, _forward(model, question, batch), strict=True):
                    job.rows.append(row)
                yield from finished()
            yield from finished()
    finally:
        for job in jobs:
            job.close()


def _result(job: Job, question: _Question[Result]) -> Result | Broken:
    """What the iterator yields for a video; the job forgets its rows."""
    if job.error is not None:
        return Broken(str(job.sample.path), " ".join(str(job.error).split()), job.index)
    rows, job.rows = np.stack(job.rows), []
    return question.result(job, rows)


def _features(job: Job, rows: FloatArray) -> VideoFeatures:
    return VideoFeatures(sample=job.sample, index=job.index, views=job.views, features=rows)


def _scores(job: Job, rows: FloatArray) -> VideoScores:
    return VideoScores(
        sample=job.sample,
        index=job.index,
        views=job.views,
        logits=rows,
        protocol=job.protocol,
        spec=specs_digest(job.specs),
    )


def _views(
    loaded: Iterable[tuple[Job, list[Inputs] | VideoError]], skip_broken: bool
) -> Iterator[tuple[Job, Inputs]]:
    for job, views in loaded:
        if isinstance(views, VideoError):
            if not skip_broken:
                raise views
            job.error = job.error or views
        elif job.error is None:
            yield from ((job, inputs) for inputs in views)


def _batches(views: Iterable[tuple[Job, Inputs]], batch_size: int) -> Iterator[list[tuple[Job, Inputs]]]:
    """Views of the same shapes, one batch after another; the videos they belong to do not matter."""
    batch: list[tuple[Job, Inputs]] = []
    for job, inputs in views:
        full = len(batch) == batch_size
        if full or (batch and [x.shape for x in inputs] != [x.shape for x in batch[0][1]]):
            yield batch
            batch = []
        batch.append((job, inputs))
    if batch:
        yield batch


@torch.inference_mode()
def _forward(model: VideoModel, question: _Question[Result], batch: list[tuple[Job, Inputs]]) -> FloatArray:
    """Logits or features of a batch of views.

    Shape:
        output [B, K] or [B, D]
    """
    device = next(model.parameters()).device
    inputs = [torch.stack(tensors).to(device) for tensors in zip(*(one for _, one in batch), strict=True)]
    rows: FloatArray = question.ask(*inputs).float().cpu().numpy()
    if not np.isfinite(rows).all():
        row = int(np.flatnonzero(~np.isfinite(rows).all(axis=1))[0])
        raise WeightsError(
            f"{batch[row][0].sample.path}: the {question.what} of {model.name or type(model).__name__} are "
            "not all finite: its weights are damaged or its training diverged; take another checkpoint"
        )
    return rows


@contextmanager
def _evaluating(model: VideoModel) -> Iterator[None]:
    """Eval mode inside; afterwards each part is in the mode it had (a frozen BatchNorm stays frozen)."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
